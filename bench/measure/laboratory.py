"""Laboratory: the machine as its first workers find it, before anything is measured."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from bench import record
from bench.device import Absence
from bench.errors import UserError
from bench.measure import choice, environment, messages, plan, preflight
from bench.measure.process import START_LIMIT_S, WorkerDied, WorkerHung, WorkerProcess, allocator_settings
from bench.record import Idle, Speeds

# What a worker may take beyond the rests themselves, its first context included.
REST_SLACK_S = 60.0

Reply = TypeVar("Reply", bound=messages.Reply)


@dataclass(kw_only=True)
class Laboratory:
    """The machine as the first worker found it."""

    specs: list[str]
    devices: list[record.DeviceFacts]
    speeds: list[Speeds]
    absences: dict[str, Absence]  # vendors that torch can use nothing of
    host: record.Host
    software: dict[str, str]
    findings: list[record.Finding]
    start_s: float  # of one worker, from nothing to its first answer
    look_s: float = 0.0  # what all of the look at the machine took
    periods_s: list[dict[str, float]] = field(default_factory=list)  # how often each board publishes power and energy
    mistaken: list[str] = field(default_factory=list)  # why the sensors found are not those of the device, or nothing
    idle: list[Idle] = field(default_factory=list)
    why_no_idle: str = "only measured where energies are asked for"

    @property
    def metered(self) -> list[bool]:
        """Which devices tell power or energy."""
        return [bool({"energy_j", "power_w", "power_average_w"} & facts.readings.keys()) for facts in self.devices]


def look(device: str, seed: int, *, measure_speeds: bool = True) -> Laboratory:
    """Starts workers to find out what is here. Raises UserError where `device` names nothing, or torch is missing."""
    threads = environment.usable_threads()
    started = time.monotonic()
    first = WorkerProcess(device, threads, seed)
    with contextlib.closing(first):
        described = ask(first, messages.Describe(), messages.Described)
        start_s = time.monotonic() - started
        probed = [_probe(first)] if measure_speeds else []
    for spec in described.specs[1:] if measure_speeds else []:
        other = WorkerProcess(spec, threads, seed)
        with contextlib.closing(other):
            probed.append(_probe(other))
    host = environment.host(threads)
    host = msgspec.structs.replace(host, settings={**host.settings, **allocator_settings()})
    seen = [_as_seen(*pair) for pair in zip(described.facts, probed, strict=True)] if probed else described.facts
    return Laboratory(
        specs=described.specs,
        devices=seen,
        speeds=[one.speeds for one in probed],
        periods_s=[one.periods_s for one in probed],
        mistaken=[one.mistaken for one in probed],
        absences=described.absences,
        host=host,
        software=described.software,
        findings=preflight.findings(host, seen, described.absences),
        start_s=start_s,
    )


def _as_seen(facts: record.DeviceFacts, probed: messages.Probed) -> record.DeviceFacts:
    """With how often the board publishes; without any reading where these are another board's."""
    if probed.mistaken:
        refused = dict.fromkeys(facts.capabilities, probed.mistaken)
        return msgspec.structs.replace(facts, readings={}, capabilities=refused)
    return msgspec.structs.replace(
        facts,
        readings=facts.readings | probed.periods_s,
        capabilities=facts.capabilities | dict.fromkeys(probed.periods_s, "ok"),
    )


def remember_speeds(laboratory: Laboratory, folders: list[Path]) -> Laboratory:
    """The same, with the speeds of this machine's earlier runs in `folders` where the new ones confirm them."""
    earlier: dict[str, list[Speeds]] = {}
    for path in [path for folder in folders for path in sorted(folder.glob("*.jsonl"), reverse=True)[:20]]:
        with contextlib.suppress(UserError):
            session = record.read(path).session
            for facts, speeds in zip(session.devices, session.speeds, strict=False):
                if session.software.get("torch") == laboratory.software.get("torch"):
                    earlier.setdefault(same_device(facts), []).append(speeds)
    kept = [
        choice.settled(speeds, earlier.get(same_device(facts), []))
        for facts, speeds in zip(laboratory.devices, laboratory.speeds, strict=True)
    ]
    return replace(laboratory, speeds=kept)


def rested(laboratory: Laboratory, planned: plan.Plan, seed: int) -> Laboratory:
    """The same, with the power of each device at rest where the plan asks for energies and the device tells power."""
    if not any(planned.protocols[one.protocol].energy_s for one in planned.cases) or not any(laboratory.metered):
        return laboratory
    idle, reasons = [], []
    for spec, metered in zip(laboratory.specs, laboratory.metered, strict=True):
        if not metered:
            idle.append(Idle(without_context_w=None, with_context_w=None, temperature_c=None))
            reasons.append(f"{spec} tells no power")
            continue
        process = WorkerProcess(spec, laboratory.host.threads, seed)
        try:
            with contextlib.closing(process):
                limit_s = 2 * (plan.REST_S + plan.REST_QUIET_S) + REST_SLACK_S
                found = ask(process, messages.Rest(seconds=plan.REST_S), messages.Rested, limit_s)
        except UserError as error:  # what is only known less of must not end the run
            found = messages.Rested(Idle(without_context_w=None, with_context_w=None, temperature_c=None), str(error))
        idle.append(found.idle)
        reasons += [f"{spec}: {found.reason}"] if found.reason else []
    return replace(laboratory, idle=idle, why_no_idle=", ".join(reasons))


def ask(process: WorkerProcess, order: messages.Order, kind: type[Reply], limit_s: float = START_LIMIT_S) -> Reply:
    """A worker's answer of that kind to `order`. Raises UserError when it cannot even start."""
    with _as_advice():
        process.ask(order)
    return answer(process, kind, limit_s)


def answer(process: WorkerProcess, kind: type[Reply], limit_s: float = START_LIMIT_S) -> Reply:
    """A further answer of that kind. Raises UserError when there is none."""
    with _as_advice():
        reply = process.answer(limit_s)
    assert isinstance(reply, kind)
    return reply


@contextlib.contextmanager
def _as_advice() -> Iterator[None]:
    """Says what a worker's end means to the user."""
    try:
        yield
    except (WorkerDied, WorkerHung) as error:
        if "No module named 'torch'" in str(error):
            raise UserError("torch is not installed here: start scripts/accelmark, which sets it up") from None
        raise UserError(f"no measurement is possible here: {error}") from None


def _probe(process: WorkerProcess) -> messages.Probed:
    return ask(process, messages.Probe(), messages.Probed)


def same_device(facts: record.DeviceFacts) -> str:
    """What says that two files speak of the same device."""
    return f"{facts.vendor} {facts.name} {facts.uuid_hash}"

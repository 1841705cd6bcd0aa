"""Observed: what one machine measured, as plain rows for fitting: each case once, with its time, cost and facts.

Rows come from result files, of several sessions where there are: a machine is one kind of device with one torch and one
number of threads, because each of these changes times. What was not measured properly is left out, and counted.
"""

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from bench import stats, workload
from bench.cost import Cost
from bench.errors import UserError
from bench.record import METHOD, Key, Record, ResultFile, Session


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One kind of device, as a stack drives it."""

    name: str
    vendor: str
    chip: str | None
    memory_bytes: int | None
    cache_bytes: int | None
    threads: int
    torch: str
    asynchronous: bool  # whether launches overlap with the device's work

    @property
    def is_cpu(self) -> bool:
        """Whether the work is done in the call itself, in the host's memory."""
        return self.vendor == "cpu"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One case: the median over sessions of the median over rounds, because now and then a session is disturbed."""

    workload: str
    params: dict[str, Any]
    launch: str  # eager, graph or queued
    step_s: float
    num_rounds: int
    spread: float  # standard deviation of the logarithm between rounds; 0 where there is only one
    cost: Cost
    facts: dict[str, Any]  # shares of kinds of operations, kernels
    peak_memory_bytes: int | None
    power_w: float | None

    @property
    def noise(self) -> float:
        """By how much the time may be off for what its rounds show, as a standard deviation of the logarithm."""
        return self.spread / math.sqrt(self.num_rounds)

    @property
    def label(self) -> str:
        """The case as people read it."""
        return workload.label(self.workload, self.params) + ("" if self.launch == "eager" else f" [{self.launch}]")

    @property
    def dtype(self) -> str:
        """Of its products."""
        return str(self.params["dtype"])


@dataclass(frozen=True, kw_only=True)
class Observations:
    """All rows of a machine."""

    machine: Machine
    rows: tuple[Observed, ...]
    sessions: tuple[str, ...]
    idle_w: float | None
    left_out: dict[str, int] = field(default_factory=dict)  # cases by the reason for which they were left out

    def of(self, *workloads: str, launch: str | None = "eager") -> list[Observed]:
        """The rows of some workloads; `launch` None: in every mode."""
        return [one for one in self.rows if one.workload in workloads and launch in (None, one.launch)]


def machines(files: Iterable[ResultFile], in_quarantine: Container[Key] = ()) -> list[Observations]:
    """One for each machine in the files, the one with the most rows first. Raises UserError where there is none.

    `in_quarantine`: the cases that `check` found something wrong with, which are no evidence.
    """
    found: dict[Machine, list[tuple[Session, Record]]] = {}
    alike: dict[Machine, Machine] = {}  # but for what their kernels reserve of the memory
    seen: set[str] = set()
    for file in files:
        if file.session.id not in seen:
            seen.add(file.session.id)
            for record in file.records:
                machine = _machine(file.session, record)
                rounded = replace(machine, memory_bytes=round((machine.memory_bytes or 0) / 2**30))
                found.setdefault(alike.setdefault(rounded, machine), []).append((file.session, record))
    made = [_observations(machine, records, in_quarantine) for machine, records in found.items()]
    useful = [one for one in made if one.rows]
    if not useful:
        reasons = dict.fromkeys(reason for one in made for reason in one.left_out)
        why = (
            f"nothing in these files is evidence: {'; '.join(reasons)}"
            if reasons
            else "nothing was measured in these files"
        )
        raise UserError(f"{why}: `accelmark run --suite quick` measures what is needed")
    return sorted(useful, key=lambda one: (-len(one.rows), one.machine.name))


def _machine(session: Session, record: Record) -> Machine:
    facts = session.devices[record.device]
    return Machine(
        name=facts.name,
        vendor=facts.vendor,
        chip=facts.chip,
        memory_bytes=facts.memory_bytes,
        cache_bytes=facts.last_level_cache_bytes,
        threads=session.host.threads,
        torch=session.software.get("torch", ""),
        asynchronous=facts.vendor != "cpu",
    )


def _observations(
    machine: Machine, records: list[tuple[Session, Record]], in_quarantine: Container[Key]
) -> Observations:
    groups: dict[str, dict[str, list[Record]]] = {}
    left_out: dict[str, set[tuple[str, str]]] = {}
    for session, record in records:
        reason = _unfit(session, record, in_quarantine)
        if reason:
            left_out.setdefault(reason, set()).add((session.id, record.key()))
        else:
            groups.setdefault(record.key(), {}).setdefault(session.id, []).append(record)
    rows = tuple(_row(list(sessions.values())) for _, sessions in sorted(groups.items()))
    idle = [one.with_context_w for session, _ in records for one in session.idle if one.with_context_w is not None]
    return Observations(
        machine=machine,
        rows=rows,
        sessions=tuple(sorted({session.id for session, _ in records})),
        idle_w=stats.median(idle) if idle else None,
        left_out={reason: len(cases) for reason, cases in left_out.items()},
    )


def _unfit(session: Session, record: Record, in_quarantine: Container[Key]) -> str:
    """Why a record is no evidence; empty where it is."""
    if session.harness.method != METHOD:
        return f"measured by method {session.harness.method}, this is {METHOD}"
    if record.status != "ok":
        return record.status
    if not record.valid:
        return "a flag that forbids to use it"
    if (session.id, record.device, record.key()) in in_quarantine:
        return "in quarantine, `accelmark check` says why"
    try:
        if workload.find(record.workload).version != record.version:
            return "another version of its workload"
    except UserError:
        return "a workload that is not known here"
    return ""


def _row(sessions: list[list[Record]]) -> Observed:
    rounds = [[stats.median(record.samples_s) for record in session] for session in sessions]
    single = [math.log(time) for times in rounds for time in times]
    mean = math.fsum(single) / len(single)
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in single) / (len(single) - 1)) if len(single) > 1 else 0.0
    records = [record for session in sessions for record in session]
    first = records[0]
    peaks = [record.peak_memory_bytes for record in records if record.peak_memory_bytes]
    powers = [power for record in records if (power := _power_w(record)) is not None]
    return Observed(
        workload=first.workload,
        params=dict(first.params),
        launch=first.identity.launch,
        step_s=stats.median([stats.median(times) for times in rounds]),
        num_rounds=len(single),
        spread=spread,
        cost=first.work.cost(),
        facts=_facts(records),
        peak_memory_bytes=max(peaks, default=None),
        power_w=stats.median(powers) if powers else None,
    )


def _facts(records: list[Record]) -> dict[str, Any]:
    """Facts of all records; of numbers that differ the median."""
    values: dict[str, list[Any]] = {}
    for record in records:
        for name, value in record.extras.items():
            values.setdefault(name, []).append(value)
    return {
        name: stats.median(found) if all(isinstance(one, int | float) for one in found) else found[0]
        for name, found in values.items()
    }


def _power_w(record: Record) -> float | None:
    """Of the board under this load: from its energy where that was metered, else the mean of what it told."""
    if record.energy and record.energy.window_s:
        return record.energy.joules / record.energy.window_s
    series = record.telemetry.series if record.telemetry else {}
    told = series.get("power_w") or series.get("power_average_w")
    return math.fsum(told.values) / len(told.values) if told and told.values else None

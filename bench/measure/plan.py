"""Plan: the chosen cases on devices, in how many rounds, within which time. Pure arithmetic; nothing is run here."""

import bisect
import math
from dataclasses import dataclass, field, replace
from typing import cast

import msgspec

from bench import units
from bench.errors import UserError
from bench.measure import choice
from bench.measure.choice import Refused, Request
from bench.measure.timer import HOLD_S
from bench.record import Protocol, Speeds
from bench.workload import Workload

MOST_ROUNDS = 10
# Of a process that a workload starts for itself, with its import of torch.
START_S = 5.0
# What a worker does at first use, once, beyond its start: torch's compiler, which its optimizers import, takes two
# seconds on a CPU; a look at how evenly the host runs, half a one.
FIRST_USE_S = 2.5
# What torch.compile takes: a chain of small operations 10 s, a training step of eight layers 38 s, on two cores.
COMPILE_S = {"micro": 10.0, "macro": 40.0}
# At rest a device is watched for so long, with and without a context on it, after some quiet each time.
REST_S, REST_QUIET_S = 5.0, 5.0
# Until the energy counter has ticked at both ends of a window.
TICKS_S = 0.3
SHORTEST_WINDOW = 0.25  # of the suite's own
LONGEST_WINDOW = 10.0


@dataclass(frozen=True, kw_only=True)
class PlannedCase:
    """One case on one device, with a guess of its time."""

    case: Workload
    device: int
    protocol: str  # its name
    fixed_s: float  # preparing, settling, checking: what no budget can shorten
    window_s: float
    energy_s: float = 0.0  # by which the first round's window is longer, for its energy
    compile_s: float = 0.0  # in the first round; the next find on disk what was compiled

    @property
    def estimate_s(self) -> float:
        """Seconds in one round."""
        return self.fixed_s + self.window_s


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run sets out to do."""

    suite: str
    rounds: int
    timeout_s: float
    protocols: dict[str, Protocol]
    cases: list[PlannedCase]
    start_s: float  # of one worker
    skipped: list[tuple[PlannedCase, str]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    left_s: float | None = None  # of a budget, once the look at the machine is taken off: no case begins after it

    @property
    def num_workers(self) -> int:
        """Fresh processes that will be started."""
        return self.rounds * len({planned.device for planned in self.cases})

    @property
    def worker_s(self) -> float:
        """Seconds of a worker beside its cases."""
        return self.start_s + FIRST_USE_S

    @property
    def estimate_s(self) -> float:
        """Seconds in all."""
        return (
            self.num_workers * self.worker_s
            + self.rounds * sum(planned.estimate_s for planned in self.cases)
            + self.energy_s
            + self.compile_s
        )

    @property
    def compile_s(self) -> float:
        """Seconds that torch.compile takes."""
        return sum(planned.compile_s for planned in self.cases)

    @property
    def energy_s(self) -> float:
        """Seconds that energies take beyond the timing, rests included."""
        metered = {planned.device for planned in self.cases if planned.energy_s}
        rests_s = len(metered) * (self.start_s + 2 * (REST_S + REST_QUIET_S))
        return rests_s + sum(planned.energy_s for planned in self.cases)


def validate(request: Request) -> None:
    """Raises UserError for what no device could make right, before anything is started."""
    _, entries = choice.chosen_entries(request)
    nowhere = Speeds(flops_per_s={"float32": 1.0}, bytes_per_s=1.0, free_bytes=1, launch_s=1.0)
    refused: list[Refused] = []
    _check_refused({case.name for one in entries for case in choice.cases_of(one, request, nowhere, refused)}, refused)


def make(
    request: Request,
    speeds: list[Speeds],
    start_s: float,
    metered: list[bool] | None = None,
    spent_s: float = 0.0,
) -> Plan:
    """The plan for devices of these speeds; `metered` says which of them tell power or energy, `spent_s` what of a
    budget is gone already. Raises UserError for anything that is not as the workloads have it.
    """
    suite, entries = choice.chosen_entries(request)
    refused: list[Refused] = []
    planned = _unique([
        planned_case(
            part, device, device_speeds, suite.protocols, entry.protocol, metered=bool(metered and metered[device])
        )
        for entry in entries
        for device, device_speeds in enumerate(speeds)
        for case in choice.cases_of(entry, request, device_speeds, refused)
        for part in choice.parts(case, device_speeds)
    ])  # fmt: skip
    _check_refused({one.case.name for one in planned}, refused)
    _check_types(planned, request, speeds)
    # Not even the smallest rung fits, or the user asked for too much: on a shared host it would end others' programs.
    too_large = {id(one): _missing_memory(one, speeds[one.device]) for one in planned}
    plan = Plan(
        suite=choice.suite_name(request),
        rounds=request.rounds or suite.rounds,
        timeout_s=request.timeout_s or suite.timeout_s,
        protocols=suite.protocols,
        cases=[one for one in planned if not too_large[id(one)]],
        start_s=start_s,
        skipped=[(one, too_large[id(one)]) for one in planned if too_large[id(one)]],
        refused=[one for place, one in enumerate(refused) if one not in refused[:place]],
    )
    if request.budget_s is None:
        return plan
    fitted = fit(plan, request.budget_s, spent_s=spent_s, rounds_fixed=request.rounds is not None)
    return replace(fitted, left_s=request.budget_s - spent_s)


def fit(plan: Plan, budget_s: float, *, spent_s: float = 0.0, rounds_fixed: bool = False) -> Plan:
    """The plan for that much time, of which `spent_s` is gone. More time buys rounds first, because rounds are the
    evidence, then longer windows; less time leaves out the energies, shortens windows, then rounds, and at last leaves
    out cases, from the end.
    """
    if plan.energy_s and plan.estimate_s > budget_s - spent_s:
        plan = _without_energies(plan)
    usable_s = 0.9 * budget_s - spent_s  # an estimate that runs over by a tenth still keeps the promise
    if not plan.cases:
        return plan
    offered = [plan.rounds] if rounds_fixed else range(MOST_ROUNDS, 0, -1)
    reason = f"left out to fit into {budget_s:.0f} s"

    def with_cases(count: int) -> Plan | None:
        left_out = [(planned, reason) for planned in plan.cases[count:]]
        smaller = replace(plan, cases=plan.cases[:count], skipped=[*left_out, *plan.skipped])
        for rounds in offered:
            scale = _window_scale(smaller, rounds, usable_s)
            # Rounds beyond the suite's own are bought with time left over, never with shorter windows.
            if scale >= (1.0 if rounds > plan.rounds else SHORTEST_WINDOW):
                return _stretched(replace(smaller, rounds=rounds), min(scale, LONGEST_WINDOW))
        # One case is always measured.
        return None if count > 1 else _stretched(replace(smaller, rounds=offered[-1]), SHORTEST_WINDOW)

    # What fits with so many cases fits with fewer.
    most = bisect.bisect_left(range(1, len(plan.cases) + 1), True, key=lambda count: with_cases(count) is None)
    return cast(Plan, with_cases(most))


def _check_refused(possible: set[str], refused: list[Refused]) -> None:
    """What a user makes of a workload may be no case now and then; where it is none at all, it is a mistake."""
    for one in refused:
        if one.workload not in possible:
            raise UserError(one.reason)


def _check_types(planned: list[PlannedCase], request: Request, speeds: list[Speeds]) -> None:
    """A type that the user asked for and that no device multiplies is refused before anything is measured."""
    if "dtype" not in request.settings or any(one.case.dtype in speeds[one.device].flops_per_s for one in planned):
        return
    known = dict.fromkeys(dtype for one in speeds for dtype in one.flops_per_s)
    wanted = ", ".join(request.settings["dtype"])
    raise UserError(f"no device of this run multiplies matrices of type {wanted}: there is {', '.join(known)}")


def _missing_memory(planned: PlannedCase, speeds: Speeds) -> str:
    """Why a case is not even tried, or nothing."""
    needed = planned.case.memory_bytes()
    if needed <= speeds.free_bytes:
        return ""
    say = f"needs about {units.gibibytes(needed)}, {units.gibibytes(speeds.free_bytes)} is free"
    if stack := choice.smallest_stack(planned.case):
        room = units.gibibytes(choice.MEMORY_SHARE * speeds.free_bytes)
        least = units.gibibytes(stack.memory_bytes())
        say += f"; {stack.params()['layers']} layers, the fewest that could stand for it, need {least}, and have {room}"
    return say


def planned_case(
    case: Workload,
    device: int,
    speeds: Speeds,
    protocols: dict[str, Protocol],
    name: str = "",
    *,
    metered: bool = False,
) -> PlannedCase:
    """The case with a guess of its time on a device of these speeds, by the protocol of that name or of its scale."""
    name = name or case.scale
    protocol = protocols[name]
    step_s = choice.predicted_s(case, speeds)
    # Filling buffers with data and checking the output take about 45 times as long as reading the buffers once.
    prepare_s = 0.1 + 45 * case.memory_bytes() / speeds.bytes_per_s + case.starts * START_S
    least_s = (protocol.settle_steps + 3) * step_s  # the first call, settling, checking
    window_s = max(protocol.max_time_s, step_s)
    held = metered and protocol.energy_s and case.duty != "burst"
    return PlannedCase(
        case=case,
        device=device,
        protocol=name,
        fixed_s=prepare_s + max(protocol.settle_s, least_s, HOLD_S if case.duty == "held" else 0.0),
        window_s=window_s,
        energy_s=max(0.0, protocol.energy_s - window_s) + TICKS_S if held else 0.0,
        compile_s=COMPILE_S[case.scale] if getattr(case, "compiled", False) else 0.0,
    )


def _unique(planned: list[PlannedCase]) -> list[PlannedCase]:
    seen: dict[tuple[str, int], PlannedCase] = {}
    for one in planned:
        seen.setdefault((one.case.label(), one.device), one)
    return list(seen.values())


def _window_scale(plan: Plan, rounds: int, usable_s: float) -> float:
    """How much longer than the suite's own the windows may be."""
    devices = len({planned.device for planned in plan.cases})
    fixed_s = rounds * (devices * plan.worker_s + sum(planned.fixed_s for planned in plan.cases))
    windows_s = rounds * sum(planned.window_s for planned in plan.cases)
    return (usable_s - fixed_s - plan.energy_s - plan.compile_s) / windows_s if windows_s else math.inf


def _without_energies(plan: Plan) -> Plan:
    protocols = {name: msgspec.structs.replace(one, energy_s=0.0) for name, one in plan.protocols.items()}
    return replace(plan, protocols=protocols, cases=[replace(planned, energy_s=0.0) for planned in plan.cases])


def _stretched(plan: Plan, scale: float) -> Plan:
    protocols = {
        name: msgspec.structs.replace(
            protocol, min_time_s=protocol.min_time_s * scale, max_time_s=protocol.max_time_s * scale
        )
        for name, protocol in plan.protocols.items()
    }
    return replace(
        plan,
        protocols=protocols,
        cases=[replace(planned, window_s=planned.window_s * scale) for planned in plan.cases],
    )

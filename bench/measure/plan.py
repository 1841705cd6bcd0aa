"""Plan: which cases, on which devices, in how many rounds, within which time. Pure arithmetic; nothing is run here.

A suite offers fixed rungs of sizes for each workload. Which rung a device gets follows from its memory and from a first
rough measurement of its speed, so a laptop is not asked for 8192^3 and equal rungs on two machines compare.
"""

import bisect
import itertools
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import msgspec

from bench import model, units, workload
from bench.errors import UserError
from bench.measure.timer import HOLD_S
from bench.record import Protocol, Speeds
from bench.workload import Scalar, Workload

_SUITES = Path(__file__).resolve().parent.parent.parent / "workloads" / "suites"
# Of free memory; the rest is for the allocator's slack, the context and everybody else.
MEMORY_SHARE = 0.7
# A narrower type must multiply this much faster than float32 to count as the fast one.
FAST_GAIN = 1.25
# Speeds of an earlier run are kept unless the machine has changed by more than this: on the edge between two rungs,
# noise would otherwise choose another rung each time, and nothing could be compared.
SAME_SPEED = 2.0
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


class Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One workload in a suite."""

    workload: str
    rungs: list[dict[str, Scalar]]  # from small to large
    set: dict[str, Scalar | list[Scalar]] = {}
    step_s: float | None = None  # the largest rung is taken whose predicted step stays below
    take: int = 1  # how many rungs, from that one downward
    protocol: str = ""  # instead of that of the workload's scale


class Suite(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A suite's file."""

    summary: str
    rounds: int
    timeout_s: float
    protocols: dict[str, Protocol]  # by scale, micro and macro, and others that entries name
    cases: list[Entry]


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
class Refused:
    """One combination of a sweep that is no case of its workload, such as a number of heads that does not divide."""

    workload: str
    params: dict[str, Scalar]
    reason: str


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
    refused: list["Refused"] = field(default_factory=list)

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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for."""

    workloads: tuple[str, ...] = ()
    suite: str | None = None
    settings: dict[str, list[str]] = field(default_factory=dict)  # parameter -> values as written
    model: str | None = None
    rounds: int | None = None
    budget_s: float | None = None
    timeout_s: float | None = None


def suites() -> dict[str, str]:
    """Every suite and its summary."""
    return {path.stem: load_suite(path.stem).summary for path in sorted(_SUITES.glob("*.toml"))}


def load_suite(name: str) -> Suite:
    """The suite of that name. Raises UserError when there is none, or when its file is wrong."""
    path = _SUITES / f"{name}.toml"
    if not name.isidentifier() or not path.is_file():
        known = sorted(path.stem for path in _SUITES.glob("*.toml"))
        raise UserError(f"no suite is named '{name}': there are {', '.join(known)}")
    try:
        suite = msgspec.toml.decode(path.read_bytes(), type=Suite)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UserError(f"{path.name}: {error}") from None
    for entry in suite.cases:
        if entry.protocol and entry.protocol not in suite.protocols:
            raise UserError(f"{path.name}: {entry.workload} names a protocol '{entry.protocol}' that is not there")
    return suite


def validate(request: Request) -> None:
    """Raises UserError for what no device could make right, before anything is started."""
    _, entries = _chosen(request)
    nowhere = Speeds(flops_per_s={"float32": 1.0}, bytes_per_s=1.0, free_bytes=1, launch_s=1.0)
    refused: list[Refused] = []
    _check_refused({case.name for one in entries for case in _cases(one, request, nowhere, refused)}, refused)


def make(request: Request, speeds: list[Speeds], start_s: float, metered: list[bool] | None = None) -> Plan:
    """The plan for devices of these speeds; `metered` says which of them tell power or energy. Raises UserError for
    anything that is not as the workloads have it.
    """
    suite, entries = _chosen(request)
    refused: list[Refused] = []
    planned = _unique([
        planned_case(
            part, device, device_speeds, suite.protocols, entry.protocol, metered=bool(metered and metered[device])
        )
        for entry in entries
        for device, device_speeds in enumerate(speeds)
        for case in _cases(entry, request, device_speeds, refused)
        for part in _parts(case, device_speeds)
    ])  # fmt: skip
    _check_refused({one.case.name for one in planned}, refused)
    _check_types(planned, request, speeds)
    # Not even the smallest rung fits, or the user asked for too much: on a shared host it would end others' programs.
    too_large = {id(one): _missing_memory(one, speeds[one.device]) for one in planned}
    plan = Plan(
        suite=_suite_name(request),
        rounds=request.rounds or suite.rounds,
        timeout_s=request.timeout_s or suite.timeout_s,
        protocols=suite.protocols,
        cases=[one for one in planned if not too_large[id(one)]],
        start_s=start_s,
        skipped=[(one, too_large[id(one)]) for one in planned if too_large[id(one)]],
        refused=[one for place, one in enumerate(refused) if one not in refused[:place]],
    )
    return plan if request.budget_s is None else fit(plan, request.budget_s, rounds_fixed=request.rounds is not None)


def fit(plan: Plan, budget_s: float, *, rounds_fixed: bool = False) -> Plan:
    """The plan for that much time. More time buys rounds first, because rounds are the evidence, then longer windows;
    less time leaves out the energies, shortens windows, then rounds, and at last leaves out cases, from the end.
    """
    if plan.energy_s and plan.estimate_s > budget_s:
        plan = _without_energies(plan)
    usable_s = 0.9 * budget_s  # an estimate that runs over by a tenth still keeps the promise
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


def settled(current: Speeds, earlier: list[Speeds]) -> Speeds:
    """The first of the `earlier` speeds of this machine that the current ones confirm, else the current ones."""
    for speeds in earlier:
        if speeds.flops_per_s.keys() == current.flops_per_s.keys() and all(
            1 / SAME_SPEED < before / now < SAME_SPEED
            for before, now in (
                (speeds.bytes_per_s, current.bytes_per_s),
                *((speeds.flops_per_s[dtype], current.flops_per_s[dtype]) for dtype in current.flops_per_s),
            )
        ):
            return msgspec.structs.replace(speeds, free_bytes=current.free_bytes)
    return current


def fast_dtype(speeds: Speeds) -> str:
    """The type that multiplies matrices fastest here; bfloat16 before float16 when they are close."""
    measured = {dtype: speeds.flops_per_s[dtype] for dtype in workload.FLOATS if dtype in speeds.flops_per_s}
    rates = {dtype: rate * (1.0 if dtype == "bfloat16" else 0.8) for dtype, rate in measured.items()}
    rates["float32"] = FAST_GAIN * speeds.flops_per_s.get("float32", 0.0)
    return max(rates, key=rates.__getitem__)


def _suite_name(request: Request) -> str:
    """Named workloads are looked at more closely than everything at once."""
    return request.suite or ("standard" if request.workloads else "quick")


def _chosen(request: Request) -> tuple[Suite, list[Entry]]:
    """The suite, and those of its entries that were asked for."""
    suite = load_suite(_suite_name(request))
    entries = [] if request.workloads else [one for one in suite.cases if _is_for_model(one.workload, request.model)]
    for wanted in request.workloads:
        if short := re.fullmatch(r"(pp|tg)(\d+)", wanted):
            entries = [*entries, _short_name(suite, short[1], int(short[2]))]
            continue
        workload.find(wanted)
        entries = [*entries, *([one for one in suite.cases if one.workload == wanted] or [_own_entry(wanted)])]
    _check_settings(entries, request)
    return suite, _undecided(entries, request)


def _undecided(entries: list[Entry], request: Request) -> list[Entry]:
    """The entries that the user's values leave a size to choose; where they leave none the first entry of a workload
    says the rest, because who asks for one size wants it once and not in every variant of a suite.
    """
    own = {*request.settings, "dtype", *(["model"] if request.model else [])}
    decided: set[str] = set()
    kept = []
    for entry in entries:
        required = set(workload.required(workload.find(entry.workload)))
        sizes = {key for rung in entry.rungs for key in rung} | (required & entry.set.keys())
        if sizes <= own:
            if entry.workload in decided:
                continue
            decided.add(entry.workload)
        kept.append(entry)
    return kept


def _is_for_model(name: str, wanted: str | None) -> bool:
    """Whether a workload takes the kind of model that the user gave, dense or of experts; true where it has none."""
    kind = workload.find(name)
    if wanted is None or not hasattr(kind, "experts"):
        return True
    return bool(model.find(model.adopt(wanted)).num_experts) == bool(kind.experts)


def _short_name(suite: Suite, kind: str, count: int) -> Entry:
    """`pp512` and `tg128` as llama-bench means them: a prompt of 512 tokens, and 128 tokens written one by one from an
    empty cache, whose mean context is half of that; both for one user.
    """
    name, length = ("prefill", {"prompt": count}) if kind == "pp" else ("decode", {"context": max(1, count // 2)})
    models = dict.fromkeys(rung["model"] for one in suite.cases if one.workload == name for rung in one.rungs)
    step_s = max(one.step_s or 0.0 for one in suite.cases if one.workload == name)
    return Entry(
        workload=name,
        rungs=[{"model": model} for model in models],
        set={"batch": 1, "dtype": "fast", **length},
        step_s=step_s,
    )


def _cases(entry: Entry, request: Request, speeds: Speeds, refused: list[Refused]) -> list[Workload]:
    """The cases of one entry on one device: its crossed settings, each on the rungs that suit. What the user's values
    make that is no case is `refused`.
    """
    kind = workload.find(entry.workload)
    fields = workload.parameters(kind)
    own: dict[str, list[Scalar]] = {
        key: [workload.parse(entry.workload, key, text) for text in texts]
        for key, texts in request.settings.items()
        if key in fields
    }
    if request.model and "model" in fields:
        own["model"] = [model.adopt(request.model)]
    crossed: dict[str, list[Scalar]] = {
        key: value if isinstance(value, list) else [value] for key, value in entry.set.items()
    } | own
    # What the user set is no longer a rung's to choose, and no prediction's to refuse: only memory may do that.
    rungs: list[dict[str, Scalar]] = []
    for rung in entry.rungs:
        rest = {key: value for key, value in rung.items() if key not in own}
        if rest not in rungs:
            rungs.append(rest)
    crossed = {key: _dtypes(values, kind, speeds) if key == "dtype" else values for key, values in crossed.items()}
    chosen: list[Workload] = []
    for values in itertools.product(*crossed.values()):
        params = dict(zip(crossed, values, strict=True))
        try:
            offered = _offered(entry.workload, [{**rung, **params} for rung in rungs or [{}]])
        except UserError as error:
            refused.append(Refused(workload=entry.workload, params=params, reason=str(error)))
        else:
            chosen += _suitable(offered, entry, speeds)
    return chosen


def _dtypes(wanted: list[Scalar], kind: type[Workload], speeds: Speeds) -> list[Scalar]:
    """`fast` is the type that multiplies matrices fastest here; `others` are all further ones, beside it and float32,
    that both the device and the workload know.
    """
    fast = fast_dtype(speeds)
    others = [dtype for dtype in kind.dtypes if dtype in speeds.flops_per_s and dtype not in ("float32", fast)]
    named: dict[Scalar, list[Scalar]] = {"fast": [fast], "others": [*others]}
    return list(dict.fromkeys(dtype for one in wanted for dtype in named.get(one, [one])))


def _parts(case: Workload, speeds: Speeds) -> list[Workload]:
    """The case itself, or where its model does not fit two stacks of fewer layers, from which the whole one follows.

    The difference between a stack and one of half as many layers is the time of a layer. Both must have layers in the
    proportion in which the whole has them.
    """
    params = case.params()
    if params.get("layers") != 0 or case.memory_bytes() <= speeds.free_bytes:
        return [case]
    shape = model.find(str(params["model"]))
    period = shape.full_attention_every or 1
    for count in range(shape.num_hidden_layers - 1, 1, -1):
        half = count // 2
        if count % 2 or half % period or (shape.num_dense_layers and half <= shape.num_dense_layers):
            continue
        stack = workload.case(case.name, {**params, "layers": count})
        if stack.memory_bytes() <= MEMORY_SHARE * speeds.free_bytes:
            return [workload.case(case.name, {**params, "layers": half}), stack]
    return [case]


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


def _offered(name: str, rungs: list[dict[str, Scalar]]) -> list[Workload]:
    """The rungs that make a case. One that is too long for the model asked for is none; UserError when none is left."""
    cases, refusals = [], []
    for params in rungs:
        try:
            cases.append(workload.case(name, params))
        except UserError as error:
            refusals.append(error)
    if not cases:
        raise refusals[0]
    return cases


def _suitable(offered: list[Workload], entry: Entry, speeds: Speeds) -> list[Workload]:
    """The largest rungs that fit; the smallest where none does, so that every workload has a record."""
    room = MEMORY_SHARE * speeds.free_bytes
    fitting = [
        case
        for case in offered
        if case.memory_bytes() <= room and (entry.step_s is None or predicted_s(case, speeds) <= entry.step_s)
    ]
    return fitting[-entry.take :] if fitting else offered[:1]


def _missing_memory(planned: PlannedCase, speeds: Speeds) -> str:
    """Why a case is not even tried, or nothing."""
    needed = planned.case.memory_bytes()
    if needed <= speeds.free_bytes:
        return ""
    return f"needs about {units.gibibytes(needed)}, {units.gibibytes(speeds.free_bytes)} is free"


def predicted_s(case: Workload, speeds: Speeds) -> float:
    """A step's time at the roofline of the rough speeds, with its launches: for choosing sizes, not an estimate."""
    cost = case.cost()
    flops_per_s = speeds.flops_per_s.get(case.dtype) or min(speeds.flops_per_s.values(), default=1e9)
    return cost.least_s(flops_per_s, speeds.bytes_per_s) + cost.launches * speeds.launch_s


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
    step_s = predicted_s(case, speeds)
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


def _check_settings(entries: list[Entry], request: Request) -> None:
    """Every `--set` and `--model` must mean something to some workload of the run."""
    fields = {key for entry in entries for key in workload.parameters(workload.find(entry.workload))}
    for key in [*request.settings, *(["model"] if request.model else [])]:
        if key not in fields:
            raise UserError(f"no workload of this run has a parameter '{key}': there are {', '.join(sorted(fields))}")


def _own_entry(name: str) -> Entry:
    """A workload that no suite has, in its smallest case."""
    return Entry(workload=name, rungs=[dict(workload.find(name).smoke)])


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

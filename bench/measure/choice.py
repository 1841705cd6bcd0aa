"""Choice: which cases of a suite, and in which sizes, suit what was asked and a device of some speed.

A suite offers fixed rungs of sizes for each workload. Which rung a device gets follows from its memory and from a first
rough measurement of its speed, so a laptop is not asked for 8192^3 and equal rungs on two machines compare.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench import model, workload
from bench.errors import UserError
from bench.record import Protocol, Speeds
from bench.workload import Scalar, Workload

_SUITES = Path(__file__).resolve().parent.parent.parent / "workloads" / "suites"
# Of free memory; the rest is for the allocator's slack, the context and everybody else.
MEMORY_SHARE = 0.7
# A narrower type must multiply this much faster than float32 to count as the fast one.
FAST_GAIN = 1.25
# Speeds of an earlier run are kept unless a new look is so much faster, or slower: on the edge between two rungs, noise
# would otherwise choose another rung each time, and nothing could be compared. Other programs make a look slower only.
FASTER, SLOWER = 2.0, 4.0


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
class Request:
    """What the user asked for."""

    workloads: tuple[str, ...] = ()
    suite: str | None = None
    settings: dict[str, list[str]] = field(default_factory=dict)  # parameter -> values as written
    model: str | None = None
    rounds: int | None = None
    budget_s: float | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """One combination of a sweep that is no case of its workload, such as a number of heads that does not divide."""

    workload: str
    params: dict[str, Scalar]
    reason: str


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


def suite_name(request: Request) -> str:
    """Named workloads are looked at more closely than everything at once."""
    return request.suite or ("standard" if request.workloads else "quick")


def chosen_entries(request: Request) -> tuple[Suite, list[Entry]]:
    """The suite, and those of its entries that were asked for."""
    suite = load_suite(suite_name(request))
    entries = [] if request.workloads else [one for one in suite.cases if _is_for_model(one.workload, request.model)]
    for wanted in request.workloads:
        if short := re.fullmatch(r"(pp|tg)(\d+)", wanted):
            entries = [*entries, _short_name(suite, short[1], int(short[2]))]
            continue
        workload.find(wanted)
        entries = [*entries, *([one for one in suite.cases if one.workload == wanted] or [_own_entry(wanted)])]
    _check_settings(entries, request)
    return suite, _undecided(entries, request)


def cases_of(entry: Entry, request: Request, speeds: Speeds, refused: list[Refused]) -> list[Workload]:
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


def parts(case: Workload, speeds: Speeds) -> list[Workload]:
    """The case itself, or where its model does not fit two stacks of fewer layers, from which the whole one follows.

    The difference between a stack and one of half as many layers is the time of a layer. Both must have layers in the
    proportion in which the whole has them.
    """
    if case.memory_bytes() <= speeds.free_bytes:
        return [case]
    for half, stack in _stacks(case):
        if stack.memory_bytes() <= MEMORY_SHARE * speeds.free_bytes:
            return [half, stack]
    return [case]


def smallest_stack(case: Workload) -> Workload | None:
    """The stack of the fewest layers that could stand for the whole model; None where the case is of no whole model."""
    found = list(_stacks(case))
    return found[-1][1] if found else None


def _stacks(case: Workload) -> Iterator[tuple[Workload, Workload]]:
    """Half a stack and the stack, from most layers to fewest."""
    params = case.params()
    if params.get("layers") != 0:
        return
    shape = model.find(str(params["model"]))
    period = shape.full_attention_every or 1
    for count in range(shape.num_hidden_layers - 1, 1, -1):
        half = count // 2
        if count % 2 or half % period or (shape.num_dense_layers and half <= shape.num_dense_layers):
            continue
        few, many = (workload.case(case.name, {**params, "layers": layers}) for layers in (half, count))
        yield few, many


def settled(current: Speeds, earlier: list[Speeds]) -> Speeds:
    """The first of the `earlier` speeds of this machine that the current ones confirm, else the current ones."""
    for speeds in earlier:
        if speeds.flops_per_s.keys() == current.flops_per_s.keys() and all(
            1 / FASTER < before / now < SLOWER
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


def predicted_s(case: Workload, speeds: Speeds) -> float:
    """A step's time at the roofline of the rough speeds, with its launches: for choosing sizes, not an estimate."""
    cost = case.cost()
    flops_per_s = speeds.flops_per_s.get(case.dtype) or min(speeds.flops_per_s.values(), default=1e9)
    return cost.least_s(flops_per_s, speeds.bytes_per_s) + cost.launches * speeds.launch_s


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


def _own_entry(name: str) -> Entry:
    """A workload that no suite has, in its smallest case."""
    return Entry(workload=name, rungs=[dict(workload.find(name).smoke)])


def _check_settings(entries: list[Entry], request: Request) -> None:
    """Every `--set` and `--model` must mean something to some workload of the run."""
    fields = {key for entry in entries for key in workload.parameters(workload.find(entry.workload))}
    for key in [*request.settings, *(["model"] if request.model else [])]:
        if key not in fields:
            raise UserError(f"no workload of this run has a parameter '{key}': there are {', '.join(sorted(fields))}")


def _dtypes(wanted: list[Scalar], kind: type[Workload], speeds: Speeds) -> list[Scalar]:
    """`fast` is the type that multiplies matrices fastest here; `others` are all further ones, beside it and float32,
    that both the device and the workload know.
    """
    fast = fast_dtype(speeds)
    others = [dtype for dtype in kind.dtypes if dtype in speeds.flops_per_s and dtype not in ("float32", fast)]
    named: dict[Scalar, list[Scalar]] = {"fast": [fast], "others": [*others]}
    return list(dict.fromkeys(dtype for one in wanted for dtype in named.get(one, [one])))


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

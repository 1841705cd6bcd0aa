"""Estimates of single operations, one for each row with the columns of results/published/micro.csv.

An operation is estimated from

- the curve of the same source and chip, or of the user's own rows: L0 within the sizes that were measured, else L1;
- else the curves that others measured on the same chip, as their geometric mean: L1;
- else the fractions of the datasheet that relatives reach, of which those of the same generation weigh 4, of the same
  vendor 2, any others 1: L2 with a relative of the same generation, L3 without.

Fractions carry over because kernels are written for what a sheet says: so many units, so many bytes a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.chip import Chip
from bench.estimate import micro_attention
from bench.estimate.curves import Attention, BandwidthCurve, CollectiveTable, Gemm, GemmCurve, Pass
from bench.estimate.curves.gemm import GemmLaw
from bench.estimate.micro_evidence import DEFAULT_UNITS, Evidences, Profile, key_of, published
from bench.estimate.micro_tasks import Exchange, Task, task_of
from bench.estimate.prediction import Evidence, Interval, Prediction, refused
from bench.estimate.published import Row

# Standard deviations of log(time) that each step away from a measurement adds; the quantiles of back-tests scale them.
STEP_SIGMA: dict[Evidence, float] = {"L0": 0.0, "L1": 0.15, "L2": 0.2, "L3": 0.35}
NORMAL = (1.2816, 1.6449)
# Between machines of one kind, and between repeats: how far a few rows of one's own shift an estimate from elsewhere.
_MACHINE_SD, _ROW_SD = 0.2, 0.15


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Seconds, how sure, and why."""

    seconds: float
    sigma: float
    evidence: Evidence
    basis: str
    profile: Profile | None = None  # of the same machine: its own quantiles give the interval


def predict(rows: Sequence[Row], local: Sequence[Row]) -> list[Prediction]:
    """A prediction for each row, in order; `local` are rows with figures, of the same machines."""
    evidence = published().with_local(local) if local else published()
    return [_predict(row, evidence) for row in rows]


def _predict(row: Row, evidence: Evidences) -> Prediction:
    task = task_of(row)
    if isinstance(task, str):
        return refused(task)
    answer = answer_of(task, evidence)
    if isinstance(answer, str):
        return refused(answer)
    return Prediction(
        values={"pred_value": task.unit.value(answer.seconds)},
        main="pred_value",
        interval=interval_of(task, answer, evidence),
        evidence=answer.evidence,
        basis=answer.basis,
    )


def answer_of(task: Task, evidence: Evidences) -> Answer | str:
    """The time of one operation, or why nothing can be said of it."""
    own = evidence.by_key.get(key_of(task))
    if own is not None and task.family != "peak":
        return _from_own(task, own)
    answer = _from_elsewhere(task, evidence)
    anchors = evidence.anchors.get(key_of(task))
    return answer if isinstance(answer, str) or not anchors else _anchored(answer, anchors, evidence)


def _from_own(task: Task, profile: Profile) -> Answer:
    seconds, sigma = _seconds(profile, task)
    goodness = profile.curve.goodness
    shape = task.shape
    inside = (
        goodness.covers(bytes=shape.bytes) if isinstance(shape, Pass | Exchange) else goodness.covers(**vars(shape))
    )
    whose = "your own rows" if profile.local else f"published rows of {profile.source}"
    return Answer(
        seconds=seconds,
        sigma=sigma,
        evidence="L0" if inside else "L1",
        basis=f"{_count(goodness.num_points, 'shape')} of {profile.chip.name} among {whose}; "
        f"rows left out were {goodness.loo_median:.0%} off at the median"
        + ("" if inside else "; this one lies beyond what was measured"),
        profile=profile,
    )


def _from_elsewhere(task: Task, evidence: Evidences) -> Answer | str:
    if isinstance(task.shape, Exchange):
        return _collective(task, task.shape, evidence)
    if isinstance(task.shape, Attention):
        return _attention(task, task.shape)
    profiles = [
        profile
        for profile in evidence.profiles
        if profile.family == ("pass" if isinstance(task.shape, Pass) else "gemm")
    ]
    if task.family == "peak":
        return _peak(task, profiles)
    same = [p for p in profiles if _same_chip(p.chip, task.chip) and p.dtype == task.dtype and _knows(p, task)]
    if same:
        found = [_seconds(profile, task) for profile in same]
        seconds = math.exp(sum(math.log(value) for value, _ in found) / len(found))
        return Answer(
            seconds=seconds,
            sigma=math.hypot(sum(sigma for _, sigma in found) / len(found), STEP_SIGMA["L1"]),
            evidence="L1",
            basis=f"{_names(same)} measured {task.chip.name}, with another software or machine",
        )
    related = _related(task, profiles)
    if not related:
        return f"nothing like this has been measured on any chip: measure it on {task.chip.name}"
    return _by_fractions(task, related)


def _attention(task: Task, shape: Attention) -> Answer | str:
    peak = task.peak_flops_per_s
    if peak is None:
        return f"no peak of {task.chip.name} is known for {task.dtype}"
    seconds = micro_attention.seconds(shape, task.chip, peak, task.words)
    if isinstance(seconds, str):
        return seconds
    return Answer(seconds=seconds, sigma=STEP_SIGMA["L3"], evidence="L3", basis=micro_attention.SOURCES)


def _by_fractions(task: Task, related: list[tuple[Profile, float]]) -> Answer | str:
    """From datasheet figures times what relatives reach of theirs."""
    best = max(weight for _, weight in related)
    level: Evidence = "L2" if any(_generation(p.chip, task.chip) for p, _ in related) else "L3"
    basis = (
        f"no {task.chip.name} among the rows of this kind: its datasheet, times what "
        f"{_chips([p for p, weight in related if weight == best])} reached of theirs"
    )
    if isinstance(task.shape, Pass):
        seconds = _pooled_pass(task.shape, task.chip, related)
    else:
        assert isinstance(task.shape, Gemm)
        law = pooled_law(task, related)
        if law is None:
            return f"no peak of {task.chip.name} is known for {task.dtype}"
        seconds = float(law.seconds(_sizes(task.shape))[0])
    return Answer(seconds=seconds, sigma=STEP_SIGMA[level], evidence=level, basis=basis)


def pooled_law(task: Task, related: Sequence[tuple[Profile, float]]) -> GemmLaw | None:
    """Coefficients that the chip would have with its relatives' fractions."""
    if task.peak_flops_per_s is None:
        return None
    laws: list[tuple[GemmLaw, float, float, float]] = []
    for profile, weight in related:
        peak = replace(task, chip=profile.chip, dtype=profile.dtype).peak_flops_per_s
        if isinstance(profile.curve, GemmCurve) and peak:
            law = profile.curve.law
            laws.append((law, weight, law.flops_per_s / peak, law.bytes_per_s / profile.chip.memory_bytes_per_s))
    if not laws:
        return None
    return GemmLaw(
        flops_per_s=task.peak_flops_per_s * _mean([(share, weight) for _, weight, share, _ in laws]),
        bytes_per_s=task.chip.memory_bytes_per_s * _mean([(share, weight) for _, weight, _, share in laws]),
        launch_s=_mean([(law.launch_s, weight) for law, weight, _, _ in laws]),
        k_half=_mean([(law.k_half, weight) for law, weight, _, _ in laws]),
        split=_mean([(law.split, weight) for law, weight, _, _ in laws]),
        edge=_mean([(law.edge, weight) for law, weight, _, _ in laws]),
        overlap=_mean([(law.overlap, weight) for law, weight, _, _ in laws]),
        num_units=task.chip.num_sms or DEFAULT_UNITS,
        bytes_per_element=task.bytes_per_element,
    )


def _pooled_pass(shape: Pass, chip: Chip, related: Sequence[tuple[Profile, float]]) -> float:
    shares, fixed = [], []
    for profile, weight in related:
        curve = profile.curve
        assert isinstance(curve, BandwidthCurve)
        fixed_s, bytes_per_s = curve.law_of(_known_op(curve, shape.op))
        shares.append((bytes_per_s / profile.chip.memory_bytes_per_s, weight))
        fixed.append((fixed_s, weight))
    return _mean(fixed) + shape.bytes / (chip.memory_bytes_per_s * _mean(shares))


def _peak(task: Task, profiles: Sequence[Profile]) -> Answer | str:
    """The best rate of a search over shapes: the best that anybody measured on the chip, or relatives' share of peak."""
    assert isinstance(task.shape, Gemm)
    products = [(p, max(s.flops / t for s, t, _ in p.curve.points)) for p in profiles if isinstance(p.curve, GemmCurve)]
    same = [(p, best) for p, best in products if _same_chip(p.chip, task.chip) and p.dtype == task.dtype]
    if same:
        rate = max(best for _, best in same)
        return Answer(
            seconds=task.shape.flops / rate,
            sigma=STEP_SIGMA["L1"],
            evidence="L1",
            basis=f"the best rate of {_names([p for p, _ in same])} on {task.chip.name}",
        )
    peak, best_of = task.peak_flops_per_s, {id(p): best for p, best in products}
    related = _related(task, [p for p, _ in products])
    shares = []
    for profile, weight in related:
        own = replace(task, chip=profile.chip, dtype=profile.dtype).peak_flops_per_s
        if own:
            shares.append((best_of[id(profile)] / own, weight))
    if not peak or not shares:
        return f"no peak of {task.chip.name} is known for {task.dtype}"
    level: Evidence = "L2" if any(_generation(p.chip, task.chip) for p, _ in related) else "L3"
    return Answer(
        seconds=task.shape.flops / (peak * _mean(shares)),
        sigma=STEP_SIGMA[level],
        evidence=level,
        basis=f"the datasheet of {task.chip.name}, times the share of theirs that {_chips([p for p, _ in related])} reached",
    )


def _collective(task: Task, shape: Exchange, evidence: Evidences) -> Answer | str:
    """From tables of other topologies: those most alike in chip, links, nodes and ranks."""
    weighed: list[tuple[Profile, float]] = []
    for profile in evidence.profiles:
        table = profile.curve
        if isinstance(table, CollectiveTable) and table.op == shape.op:
            weighed.append((profile, _likeness(task, shape, profile, table)))
    if not weighed:
        return f"no {shape.op} has been measured: measure it"
    best = max(weight for _, weight in weighed)
    near = [(profile, weight) for profile, weight in weighed if weight > best / 8]
    logs, total, spread = 0.0, 0.0, 0.0
    for profile, weight in near:
        assert isinstance(profile.curve, CollectiveTable)
        seconds, sigma = _scaled(profile, profile.curve.among(shape.ranks), task, shape)
        logs, spread, total = logs + weight * math.log(seconds), spread + weight * sigma, total + weight
    same = any(_same_chip(profile.chip, task.chip) for profile, _ in near)
    level: Evidence = "L2" if same else "L3"
    return Answer(
        seconds=math.exp(logs / total),
        sigma=math.hypot(spread / total, STEP_SIGMA[level]),
        evidence=level,
        basis=f"no table of these links and ranks: {_count(len(near), 'table')} most like it, of {_chips([p for p, _ in near])}",
    )


def _likeness(task: Task, shape: Exchange, profile: Profile, table: CollectiveTable) -> float:
    weight = 2.0 ** -abs(math.log2(shape.ranks / table.ranks))
    weight *= 1.0 if (shape.nodes > 1) == (profile.nodes > 1) else 1e-3
    weight *= 1.0 if _crosses_pcie(task.topology, shape.ranks) == _crosses_pcie(profile.topology, table.ranks) else 0.05
    if _same_chip(profile.chip, task.chip):
        return weight * (16.0 if profile.source == task.source else 8.0)
    return weight * (
        4.0 if _generation(profile.chip, task.chip) else 2.0 if profile.chip.vendor == task.chip.vendor else 1.0
    )


def _scaled(profile: Profile, table: CollectiveTable, task: Task, shape: Exchange) -> tuple[float, float]:
    """Within a node, what is not latency goes with the links that the sheets give."""
    seconds, sigma = table.seconds(shape.bytes)
    theirs, ours = profile.chip.link_bytes_per_s, task.chip.link_bytes_per_s
    if shape.nodes == 1 and theirs and ours:
        latency = min(table.alpha_s, seconds)
        seconds = latency + (seconds - latency) * theirs / ours
    return seconds, sigma


def _crosses_pcie(topology: str, ranks: int) -> bool:
    return ("pairwise" in topology and ranks > 2) or any(
        word in topology for word in ("pcie", "no nvlink", "disabled", "without nvlink")
    )


def _anchored(answer: Answer, anchors: Sequence[tuple[Task, float]], evidence: Evidences) -> Answer:
    """Shifted by the mean error on the few rows of this machine, shrunk by how few they are."""
    errors = []
    for task, seconds in anchors:
        base = _from_elsewhere(task, evidence)
        if isinstance(base, Answer):
            errors.append(math.log(seconds / base.seconds))
    if not errors:
        return answer
    share = len(errors) * _MACHINE_SD**2 / (len(errors) * _MACHINE_SD**2 + _ROW_SD**2)
    return replace(
        answer,
        seconds=answer.seconds * math.exp(share * sum(errors) / len(errors)),
        sigma=math.hypot(_ROW_SD, _MACHINE_SD * math.sqrt(1.0 - share)),
        evidence="L1",
        basis=f"{answer.basis}; shifted by {_count(len(errors), 'row')} of your own",
    )


def interval_of(task: Task, answer: Answer, evidence: Evidences) -> Interval:
    """By the quantiles of the machine's own left-out errors, else of those of its class in the back-test."""
    if answer.profile is not None:
        low, high = (answer.profile.curve.goodness.factor(answer.sigma, level) for level in (0.8, 0.9))
        return Interval(factor80=low, factor90=max(low, high))
    narrow, wide = evidence.quantiles.get(f"{key_of(task)[0]} {answer.evidence}", NORMAL)
    return Interval(
        factor80=math.exp(answer.sigma * narrow), factor90=None if wide is None else math.exp(answer.sigma * wide)
    )


def _seconds(profile: Profile, task: Task) -> tuple[float, float]:
    curve, shape = profile.curve, task.shape
    if isinstance(curve, GemmCurve) and isinstance(shape, Gemm):
        return curve.seconds(shape)
    if isinstance(curve, BandwidthCurve) and isinstance(shape, Pass):
        return curve.seconds(replace(shape, op=_known_op(curve, shape.op)))
    assert isinstance(curve, CollectiveTable) and isinstance(shape, Exchange)
    return curve.seconds(shape.bytes)


def _known_op(curve: BandwidthCurve, op: str) -> str:
    """The operation, or one that moves its bytes alike."""
    alike = {"copy": ("add",), "add": ("copy",), "glu": ("activation",), "activation": ("glu",), "rope": ("add",)}
    return next((name for name in (op, *alike.get(op, ())) if name in curve.factors), op)


def _knows(profile: Profile, task: Task) -> bool:
    curve, shape = profile.curve, task.shape
    return (
        not (isinstance(curve, BandwidthCurve) and isinstance(shape, Pass))
        or _known_op(curve, shape.op) in curve.factors
    )


def _related(task: Task, profiles: Sequence[Profile]) -> list[tuple[Profile, float]]:
    """Profiles of other chips with their weights; of the same type alone where there are two of it."""
    usable = [profile for profile in profiles if _knows(profile, task)]
    typed = [profile for profile in usable if profile.dtype == task.dtype]
    chosen = typed if len({profile.chip.name for profile in typed}) >= 2 else usable
    return [(p, _weight(p, task)) for p in chosen]


def _weight(profile: Profile, task: Task) -> float:
    """How much a relative counts. One source times all its chips alike: what a launch costs is its own."""
    near = 4.0 if _generation(profile.chip, task.chip) else 2.0 if profile.chip.vendor == task.chip.vendor else 1.0
    return near * (4.0 if profile.source == task.source else 1.0)


def _same_chip(one: Chip, other: Chip) -> bool:
    """The same processor at the same peaks: parts with more memory are that, parts with another limit are not."""
    return one.name == other.name or (
        one.architecture == other.architecture
        and one.num_sms == other.num_sms
        and one.flops_per_s == other.flops_per_s
        and one.link_bytes_per_s == other.link_bytes_per_s
    )


def _generation(one: Chip, other: Chip) -> bool:
    return one.vendor == other.vendor and one.generation == other.generation


def _mean(values: Sequence[tuple[float, float]]) -> float:
    """Geometric, by weight."""
    return math.exp(sum(weight * math.log(value) for value, weight in values) / sum(weight for _, weight in values))


def _names(profiles: Sequence[Profile]) -> str:
    return ", ".join(sorted({profile.source for profile in profiles}))


def _chips(profiles: Sequence[Profile]) -> str:
    return ", ".join(sorted({profile.chip.name for profile in profiles}))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _sizes(shape: Gemm):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.array([[shape.m, shape.n, shape.k, shape.batch]], dtype=float)

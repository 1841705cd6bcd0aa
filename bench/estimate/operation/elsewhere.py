"""Estimates of an operation on a machine that has no curve of its own.

- Others measured the same chip: the geometric mean of their curves, L1.
- Else the fractions of the datasheet that relatives reach, of which those of the same generation weigh 4, of the same
  vendor 2, any others 1, and all less by the ratio of power limits: L2 with one of the same generation, else L3.

Fractions carry over because kernels are written for what a sheet says: so many units, so many bytes a second. What does
not carry over is what a launch takes and how a source's clock counts it, so sigma grows with the share of fixed time.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench import units
from bench.chip import Chip
from bench.estimate.operation import attention as micro_attention
from bench.estimate.operation.curves import Attention, BandwidthCurve, CollectiveTable, Gemm, GemmCurve, Pass
from bench.estimate.operation.curves.collective import traffic
from bench.estimate.operation.curves.gemm import GemmLaw
from bench.estimate.operation.evidence import DEFAULT_UNITS, Evidences, Profile
from bench.estimate.operation.tasks import Exchange, Task
from bench.estimate.prediction import Evidence

if TYPE_CHECKING:
    from bench.estimate.operation.curves.residual import Array

# Standard deviations of log(time) that each step away from a measurement adds; the quantiles of back-tests scale them.
STEP_SIGMA: dict[Evidence, float] = {"L0": 0.0, "L1": 0.15, "L2": 0.2, "L3": 0.35}
# What a launch and a clock around it take differs between sources by an order of magnitude; so do latencies of links.
FIXED_SD = 1.0
_NETWORK_SD = 0.3
_LATENCY_SHARE = 0.6  # latencies of links differ less


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Seconds, how sure, and why."""

    seconds: float
    sigma: float
    evidence: Evidence
    basis: str
    profile: Profile | None = None  # of the same machine: its own quantiles give the interval


def from_elsewhere(task: Task, evidence: Evidences) -> Answer | str:
    """The time of an operation by others' measurements, or why nothing can be said of it."""
    if isinstance(task.shape, Exchange):
        return _collective(task, task.shape, evidence)
    if isinstance(task.shape, Attention):
        return _attention(task, task.shape)
    family = "pass" if isinstance(task.shape, Pass) else "gemm"
    profiles = [profile for profile in evidence.profiles if profile.family == family and _knows(profile, task)]
    if task.family == "peak":
        return _peak(task, profiles)
    same = [profile for profile in profiles if _same_chip(profile.chip, task.chip) and profile.dtype == task.dtype]
    if same:
        return _by_others(task, same)
    if not profiles:
        return f"nothing like this has been measured on any chip: measure it on {task.chip.name}"
    return _by_fractions(task, _related(task, profiles))


def _by_others(task: Task, same: Sequence[Profile]) -> Answer:
    found = [seconds_on(profile, task) for profile in same]
    fixed = _mean([(_fixed_s(profile, task), 1.0) for profile in same])
    seconds = _mean([(value, 1.0) for value, _ in found])
    return Answer(
        seconds=seconds,
        sigma=_sigma("L1", fixed / seconds, sum(sigma for _, sigma in found) / len(found)),
        evidence="L1",
        basis=f"{_names(same)} measured {task.chip.name}, with another machine or software",
    )


def _sigma(level: Evidence, fixed_share: float, within: float = 0.0) -> float:
    return math.hypot(within, STEP_SIGMA[level], FIXED_SD * min(fixed_share, 1.0))


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
    level = _level(task, [profile for profile, _ in related])
    if isinstance(task.shape, Pass):
        fixed, seconds = _pooled_pass(task, task.shape, related)
    else:
        law = pooled_law(task, related)
        if law is None or not isinstance(task.shape, Gemm):
            return f"no peak of {task.chip.name} is known for {task.dtype}"
        fixed, seconds = law.launch_s, float(law.seconds(_sizes(task.shape))[0])
    best = max(weight for _, weight in related)
    return Answer(
        seconds=seconds,
        sigma=_sigma(level, fixed / seconds),
        evidence=level,
        basis=f"no {task.chip.name} among the rows of this kind: its datasheet, times what "
        f"{_chips([profile for profile, weight in related if weight >= best / 2])} reached of theirs",
    )


def _level(task: Task, profiles: Sequence[Profile]) -> Evidence:
    near = any(_generation(profile.chip, task.chip) and profile.dtype in (task.dtype, "") for profile in profiles)
    return "L2" if near else "L3"


def pooled_law(task: Task, related: Sequence[tuple[Profile, float]]) -> GemmLaw | None:
    """Coefficients that the chip would have with its relatives' fractions."""
    if task.peak_flops_per_s is None:
        return None
    laws: list[tuple[GemmLaw, float, float, float]] = []
    launches = []
    for profile, weight in related:
        peak = replace(task, chip=profile.chip, dtype=profile.dtype).peak_flops_per_s
        if isinstance(profile.curve, GemmCurve) and peak:
            law = profile.curve.law
            launches.append((profile, weight, law.launch_s))
            laws.append((law, weight, law.flops_per_s / peak, law.bytes_per_s / profile.chip.memory_bytes_per_s))
    if not laws:
        return None
    return GemmLaw(
        flops_per_s=task.peak_flops_per_s * _mean([(share, weight) for _, weight, share, _ in laws]),
        bytes_per_s=task.chip.memory_bytes_per_s * _mean([(share, weight) for _, weight, _, share in laws]),
        launch_s=_fixed_time(task, launches),
        k_half=_mean([(law.k_half, weight) for law, weight, _, _ in laws]),
        split=_mean([(law.split, weight) for law, weight, _, _ in laws]),
        edge=_mean([(law.edge, weight) for law, weight, _, _ in laws]),
        overlap=_mean([(law.overlap, weight) for law, weight, _, _ in laws]),
        num_units=task.chip.num_sms or DEFAULT_UNITS,
        bytes_per_element=task.bytes_per_element,
    )


def _pooled_pass(task: Task, shape: Pass, related: Sequence[tuple[Profile, float]]) -> tuple[float, float]:
    """Fixed seconds, and all."""
    shares, fixed = [], []
    for profile, weight in related:
        curve = profile.curve
        assert isinstance(curve, BandwidthCurve)
        fixed_s, bytes_per_s = curve.law_of(_known_op(curve, shape.op))
        shares.append((bytes_per_s / profile.chip.memory_bytes_per_s, weight))
        fixed.append((profile, weight, fixed_s))
    fixed_s = _fixed_time(task, fixed)
    return fixed_s, fixed_s + shape.bytes / (task.chip.memory_bytes_per_s * _mean(shares))


def _fixed_time(task: Task, found: Sequence[tuple[Profile, float, float]]) -> float:
    """What a launch takes: by those whose clock the task's source uses, where there are any, for it is theirs.

    Sources count from 5 us, between events on the device, to 60 us, around a call from Python; chips differ by less.
    """
    own = [one for one in found if one[0].source == task.source]
    return _mean([(seconds, weight) for _, weight, seconds in own or found])


def _peak(task: Task, profiles: Sequence[Profile]) -> Answer | str:
    """The best of a search over shapes: what no wave and no edge holds back, here or, as a share of peak, elsewhere."""
    assert isinstance(task.shape, Gemm)
    same = [profile for profile in profiles if _same_chip(profile.chip, task.chip) and profile.dtype == task.dtype]
    level: Evidence = "L1" if same else _level(task, profiles)
    rates = [(p.curve.law.sustained_flops_per_s, 1.0) for p in same if isinstance(p.curve, GemmCurve)]
    basis = f"the rate of the largest products of {_names(same)} on {task.chip.name}"
    if not rates and task.peak_flops_per_s is not None:
        related = _related(task, profiles)
        for profile, weight in related:
            peak = replace(task, chip=profile.chip, dtype=profile.dtype).peak_flops_per_s
            if peak and isinstance(profile.curve, GemmCurve):
                rates.append((profile.curve.law.sustained_flops_per_s / peak * task.peak_flops_per_s, weight))
        reached = _chips([profile for profile, _ in related])
        basis = f"the datasheet of {task.chip.name}, times the share of theirs that {reached} reached"
    if not rates:
        return f"no peak of {task.chip.name} is known for {task.dtype}"
    return Answer(seconds=task.shape.flops / _mean(rates), sigma=STEP_SIGMA[level], evidence=level, basis=basis)


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
    network = _network_bytes_per_s(task.topology) if shape.nodes > 1 else None
    if network is not None:
        return _over_network(task, shape, network, evidence, near)
    total = sum(weight for _, weight in near)
    logs = spread = fixed = 0.0
    for profile, weight in near:
        seconds, sigma, latency = _scaled(profile, task, shape)
        logs += weight / total * math.log(seconds)
        spread += weight / total * sigma
        fixed += weight / total * latency / seconds
    same = any(_same_chip(profile.chip, task.chip) for profile, _ in near)
    level: Evidence = "L2" if same else "L3"
    alike = _chips([profile for profile, _ in near])
    return Answer(
        seconds=math.exp(logs),
        sigma=math.hypot(_sigma(level, _LATENCY_SHARE * fixed, spread), _links_sigma(task, shape)),
        evidence=level,
        basis=f"no table of these links and ranks: {units.several(len(near), 'table')} most like it, of {alike}",
    )


def _over_network(
    task: Task, shape: Exchange, network: float, evidence: Evidences, near: Sequence[tuple[Profile, float]]
) -> Answer:
    """Over a network that the row names: a ring through all nodes runs at the slower of a link and a node's network.

    It is taken to reach the share of that which the best ring within a node of each chip reaches of its links.
    """
    best: dict[str, float] = {}
    for profile in evidence.profiles:
        table, link = profile.curve, profile.chip.link_bytes_per_s
        if isinstance(table, CollectiveTable) and profile.nodes == 1 and link and table.op == shape.op:
            size, seconds = table.points[-1]
            share = traffic(table.op, table.ranks) * size / seconds / link
            best[profile.chip.name] = max(share, best.get(profile.chip.name, 0.0))
    latencies = []
    for profile, weight in near:
        assert isinstance(profile.curve, CollectiveTable)
        latencies.append((profile.curve.among(shape.ranks).alpha_s, weight))
    rate = min(network, task.chip.link_bytes_per_s or network) * (
        _mean([(share, 1.0) for share in best.values()]) if best else 1.0
    )
    latency = _mean(latencies)
    seconds = latency + traffic(shape.op, shape.ranks) * shape.bytes / rate
    return Answer(
        seconds=seconds,
        sigma=math.hypot(_sigma("L3", _LATENCY_SHARE * latency / seconds), _NETWORK_SD),
        evidence="L3",
        basis=f"no table of these links and ranks: {network * 8 / 1e9:.0f} Gbit/s of network for each node, "
        "times the share of their links that rings within a node reach",
    )


def _network_bytes_per_s(topology: str) -> float | None:
    """Of a node, from "8x400Gbps" or "3200 Gbps"; up to 800 is one card of eight. None: the text does not say."""
    found = re.search(r"(?:(\d+) ?[x*] ?)?(\d+) ?g(?:bps|bit|b/s)", topology)
    if not found:
        return None
    cards = int(found[1]) if found[1] else 8 if int(found[2]) <= 800 else 1
    return cards * int(found[2]) * 1e9 / 8


def _links_sigma(task: Task, shape: Exchange) -> float:
    """What is not known of the links, of which a row gives a name at most."""
    return 0.7 if shape.nodes > 1 else 0.5 if _crosses_pcie(task.topology, shape.ranks) else 0.2


def _likeness(task: Task, shape: Exchange, profile: Profile, table: CollectiveTable) -> float:
    weight = math.exp2(-abs(math.log2(shape.ranks / table.ranks)))
    weight *= 1.0 if (shape.nodes > 1) == (profile.nodes > 1) else 1e-3
    weight *= 1.0 if _crosses_pcie(task.topology, shape.ranks) == _crosses_pcie(profile.topology, table.ranks) else 0.05
    if _same_chip(profile.chip, task.chip):
        return weight * (16.0 if profile.source == task.source else 8.0)
    return weight * (
        4.0 if _generation(profile.chip, task.chip) else 2.0 if profile.chip.vendor == task.chip.vendor else 1.0
    )


def _scaled(profile: Profile, task: Task, shape: Exchange) -> tuple[float, float, float]:
    """Seconds, sigma and latency by another topology's table: within a node, the rest goes with the sheets' links."""
    assert isinstance(profile.curve, CollectiveTable)
    table = profile.curve.among(shape.ranks)
    seconds, sigma = table.seconds(shape.bytes)
    latency = min(table.alpha_s, seconds)
    theirs, ours = profile.chip.link_bytes_per_s, task.chip.link_bytes_per_s
    if shape.nodes == 1 and theirs and ours:
        seconds = latency + (seconds - latency) * theirs / ours
    return seconds, sigma, latency


def _crosses_pcie(topology: str, ranks: int) -> bool:
    return ("pairwise" in topology and ranks > 2) or any(
        word in topology for word in ("pcie", "no nvlink", "disabled", "without nvlink")
    )


def _related(task: Task, profiles: Sequence[Profile]) -> list[tuple[Profile, float]]:
    """Profiles of other chips with their weights; of the same type alone where two chips have it."""
    typed = [profile for profile in profiles if profile.dtype == task.dtype]
    chosen = typed if len({profile.chip.name for profile in typed}) >= 2 else profiles
    return [(profile, _weight(profile, task)) for profile in chosen]


def _weight(profile: Profile, task: Task) -> float:
    """How much a relative counts.

    One source times all its chips alike, so that what a launch costs is its own. And cards of 75 W do not hold the
    clocks that their sheets compute with, so relatives count less by the ratio of the power limits.
    """
    near = 4.0 if _generation(profile.chip, task.chip) else 2.0 if profile.chip.vendor == task.chip.vendor else 1.0
    theirs, ours = profile.chip.power_w, task.chip.power_w
    alike = min(theirs, ours) / max(theirs, ours) if theirs and ours else 1.0
    return near * alike * (4.0 if profile.source == task.source else 1.0)


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


def _sizes(shape: Gemm) -> "Array":
    import numpy as np

    return np.array([[shape.m, shape.n, shape.k, shape.batch]], dtype=float)


def _fixed_s(profile: Profile, task: Task) -> float:
    curve = profile.curve
    if isinstance(curve, BandwidthCurve) and isinstance(task.shape, Pass):
        return curve.law_of(_known_op(curve, task.shape.op))[0]
    return curve.law.launch_s if isinstance(curve, GemmCurve) else 0.0


def seconds_on(profile: Profile, task: Task) -> tuple[float, float]:
    """By the curve of one machine: expected seconds, and the standard deviation of their logarithm."""
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

"""Stacks: the rates of each software on each chip, fitted to what was measured, and what relatives tell of the others.

A stack that few rows measured is drawn towards its relatives, and one that nobody measured is estimated by them alone
(empirical Bayes: Gelman et al. 2013, "Bayesian Data Analysis", chapter 5): the same software on a chip of the same
architecture weighs most, then of the same vendor, then any. Rates are kept as logarithms: shares of a datasheet's
figures carry over between chips far better than the figures themselves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.chip import Chip
from bench.estimate.serving.figures import Table, figures
from bench.estimate.serving.jobs import COPIED, Stack
from bench.estimate.serving.step import NAMES, Rates

# What is expected of a stack of which nothing is known, and how far it may be off, as logarithms.
START = (0.8, 0.6, 0.45, 0.5, 12.0, 0.7, 0.5, 40e-6, 30e-6, 10e-6, 10e-6)
START_SD = (0.3, 0.5, 0.5, 0.5, 0.4, 0.3, 0.4, 1.0, 1.0, 1.0, 0.8)
# What the design of some software says besides, where no row that we may fit on speaks of it. llama.cpp's kernels keep
# some 7 bytes a clock and SM under way (serving.py). Eager PyTorch starts some 20 kernels a layer one by one, at 20 to
# 30 us each, and transformers goes through the experts in a loop. gpt-fast replays one compiled graph; its README gives
# shares of 0.6 to 0.7 of the bandwidth with 16 bits and less than 0.4 with 4, whose unpacking costs more than their
# reading.
_STARTS: Mapping[str, Mapping[str, float]] = {
    "llama.cpp": {"reach": 7.0},
    "litgpt": {"host_s": 600e-6},
    "hf": {"host_s": 700e-6, "expert_s": 3e-3},
    "pytorch": {"host_s": 600e-6},
    "gpt-fast": {"weights": 0.75, "host_s": 35e-6, "sequence_s": 1e-6},
}
_FORMATS: Mapping[tuple[str, str], float] = {
    ("gpt-fast", "int8"): 0.65, ("gpt-fast", "int4"): 0.48, ("litgpt", "int4"): 0.25, ("litgpt", "int8"): 0.3,
}  # fmt: skip
_SHARE, _TIME = (0.01, 1.05), (1e-8, 0.05)  # boosts and rounding pass a datasheet's figure by little
_BOUNDS = (_SHARE, _SHARE, _SHARE, _SHARE, (1.0, 64.0), (0.05, 1.5), (0.02, 1.05), _TIME, _TIME, _TIME, _TIME)

_NUDGE = 1e-5
_FEW = 4.0  # relatives of which the mean is taken
_STEPS = 12
_NOISE = 0.08  # of one row about its stack's rates, as a logarithm


@dataclass(frozen=True, kw_only=True)
class Group:
    """One stack that was measured."""

    variant: str
    framework: str
    weights: str
    chip: str
    vendor: str
    generation: str
    memory_kind: str  # HBM and GDDR tell little of each other
    logs: tuple[float, ...]  # of the rates, in the order of NAMES
    precisions: tuple[float, ...]  # how well its rows tell each, one over the square
    rows: int
    sources: tuple[str, ...]

    @property
    def key(self) -> str:
        """As of the stack."""
        return f"{self.variant}|{self.weights}|{self.chip}"


def rates_of(logs: Sequence[Any]) -> Rates:
    """Rates from their logarithms."""
    return Rates(**{name: math.e**log for name, log in zip(NAMES, logs, strict=True)})


def likeness(group: Group, stack: Stack) -> float:
    """How much a measured stack says of another: 1 for itself."""
    chip = stack.chip
    if group.variant == stack.variant:
        software = 1.0
    elif group.framework == stack.framework:
        software = 0.4
    else:
        software = 0.01
    if group.weights != stack.weights:
        software *= 0.15
    if group.chip == stack.chip.name:
        hardware = 1.0
    elif group.generation == chip.generation:
        hardware = 0.5
    else:
        hardware = 0.2 if group.vendor == chip.vendor else 0.05
    if group.chip != stack.chip.name and group.memory_kind[:3] != (chip.memory_kind or "")[:3]:
        hardware *= 0.5
    return software * hardware


def expected(groups: Sequence[Group], stack: Stack) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the logarithms of a stack's rates, from all relatives but itself."""
    kin = [(likeness(one, stack), one) for one in groups if one.key != stack.key]
    means, sds = [], []
    for index, (start, sd) in enumerate(zip(START, START_SD, strict=True)):
        # A relative counts for its likeness and for how well its own rows told this rate.
        told = [
            (close / (sd**2 * (1.0 - close + 0.05) + 1.0 / max(one.precisions[index], 1e-9)), one.logs[index])
            for close, one in kin
        ]
        own = _stated(stack, NAMES[index])
        prior, start = (0.3 / sd**2, own) if own else (0.02 / sd**2, start)
        weight = prior + sum(share for share, _ in told)
        mean = _middle([(prior, math.log(start)), *told])
        spread = sum(share * (log - mean) ** 2 for share, log in told) / weight
        means.append(mean)
        sds.append(math.sqrt(min(sd**2, max((0.3 * sd) ** 2, spread + 1.0 / weight))))
    return means, sds


def _middle(told: Sequence[tuple[float, float]]) -> float:
    """Of weights and values: of few the mean, of many rather the median, because some machines are broken."""
    total = sum(share for share, _ in told)
    mean = sum(share * value for share, value in told) / total
    reached, median = 0.0, mean
    for share, value in sorted(told, key=lambda one: one[1]):
        reached += share
        if reached >= total / 2:
            median = value
            break
    effective = total**2 / sum(share**2 for share, _ in told)  # number of relatives of equal weight
    trust = max(0.0, 1.0 - _FEW / effective)
    return trust * median + (1.0 - trust) * mean


def _stated(stack: Stack, name: str) -> float | None:
    if name == "weights" and (share := _FORMATS.get((stack.framework, stack.weights))):
        return share
    return _STARTS.get(stack.framework, {}).get(name)


def fit(
    of: Table,
    wanted: dict[str, Any],
    means: Sequence[float],
    sds: Sequence[float],
    first: Sequence[float] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The logarithms of the rates that explain the rows best, drawn towards `means`; and how well the rows tell them.

    `wanted` has measured figures by name, NaN where a row has none. Soft L1: single bad rows count little. `first` is
    where the search begins.
    """
    import numpy as np
    from scipy.optimize import least_squares

    centre, width = np.array(means), np.array(sds)

    known = {name: (np.isfinite(values), values[np.isfinite(values)]) for name, values in wanted.items()}

    def losses(many: Any) -> Any:
        """Of many sets of rates at once, one a line."""
        given = figures(of, rates_of(list(many.T[:, :, None])))
        rows = np.concatenate(
            [np.log(given[name][:, which] / values) / _NOISE for name, (which, values) in known.items()], axis=1
        )
        soft = np.sign(rows) * np.sqrt(2.0 * (np.sqrt(1.0 + rows**2 / 4.0) - 1.0)) * 2.0**0.5
        return np.concatenate([soft, (many - centre) / width], axis=1)

    def slopes(logs: Any) -> Any:
        near = losses(np.concatenate([logs[None], logs[None] + _NUDGE * np.eye(len(logs))]))
        return ((near[1:] - near[0]) / _NUDGE).T

    lower, upper = np.log(np.array(_BOUNDS)).T
    start = np.clip(centre if first is None else np.array(first), lower + 1e-6, upper - 1e-6)
    found = least_squares(
        lambda logs: losses(logs[None])[0], start, jac=slopes, bounds=(lower, upper), max_nfev=_STEPS, x_scale=width
    )
    rows = found.jac[: -len(centre)]
    return tuple(float(x) for x in found.x), tuple(float(x) for x in (rows**2).sum(axis=0))


def variant_of(groups: Sequence[Group], family: str, framework: str, weights: str, chip: Chip) -> str:
    """The edition of that software that most rows speak of, with this chip and format where there are any.

    A name that says more than which software it is stands for itself; attention that is copied must be asked for.
    """
    kin = [one for one in groups if one.framework == family and COPIED not in one.variant]
    if not kin or (framework.lower() != family and any(one.variant == framework for one in kin)):
        return framework
    return max(kin, key=lambda one: (one.chip == chip.name, one.weights == weights, one.rows)).variant

"""Intervals that mean what they say: quantiles of past errors, each source counting as much as any other.

Errors of one source resemble each other: a laboratory, its machine and its software are drawn once. Pooling all rows
would let the largest source speak for the next one, and pooled 90 % intervals covered half of some sources' rows. So
what is pooled are the sources' distribution functions: the level is that of a row of a source drawn anew, which counts
as one more, half of it beyond all others. Taking the quantile twice, of rows within sources and then of sources, guards
each source by itself and comes to the worst one's where there are few: 97 to 99 % where 90 % were asked for (Dunn,
Wasserman & Ramdas 2023, "Distribution-free prediction sets for two-layer hierarchical models", J. Am. Stat. Assoc. 118,
has both).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from bench import stats
from bench.estimate.prediction import Interval

_PRIOR_WEIGHT = 3.0  # observations that an expected error is worth beside held-out ones
_WIDER_PER_DECADE = 0.05  # of the logarithm, for each factor of ten beyond what was measured (a guess)

_UNSEEN = 0.5  # of one source's weight, taken to lie beyond all that were seen
FEWEST_SOURCES_FOR_90 = 9  # below ten a tenth of the sources is not even one of them

_Z80, _Z90 = 1.2816, 1.6449  # the normal's quantiles at 0.90 and 0.95: the ends of its central 80 and 90 %
_STRATA = 80
FEWEST_ROWS_OF_A_SOURCE = 19  # for its own quantile at 90 %


@dataclass(frozen=True, kw_only=True)
class Residual:
    """One past prediction against what was measured."""

    source: str
    score: float  # |log(predicted / measured)| / sigma, with the sigma that the prediction gave itself


def at_deviate(z: float, log80: float, log90: float) -> float:
    """The logarithm of an error that is as unlikely as `z` is of a normal variable, from what 80 and 90 % lie within.

    Straight lines between these two; errors of several laboratories have longer tails than any one normal.
    """
    size = abs(z)
    if size <= _Z80:
        return z / _Z80 * log80
    if size >= _Z90:
        return z / _Z90 * log90
    return math.copysign(log80 + (size - _Z80) / (_Z90 - _Z80) * (log90 - log80), z)


@cache
def deviates(count: int) -> tuple[float, ...]:
    """The middle of each of `count` equally likely strata of a normal variable."""
    return tuple(NormalDist().inv_cdf((index + 0.5) / count) for index in range(count))


def of_unknown_source(bounds: Sequence[tuple[float, float]], level: float) -> float:
    """What at that level an error of a new source lies within, from what 80 and 90 % of each known one's lie within."""
    parts = [[abs(at_deviate(z, narrow, wide)) for z in deviates(_STRATA)] for narrow, wide in bounds]
    return pooled_quantile(parts, min(1.0, level * (1 + _UNSEEN / len(parts))))


def interval(residuals: Iterable[Residual], sigma: float) -> Interval | None:
    """Factors at 80 and 90 % for a prediction with that sigma; None without residuals; 90 % only with nine sources."""
    groups: dict[str, list[float]] = {}
    for one in residuals:
        groups.setdefault(one.source, []).append(one.score)
    if not groups:
        return None
    parts, unseen = list(groups.values()), 1 + _UNSEEN / len(groups)
    narrow, wide = (math.exp(sigma * pooled_quantile(parts, min(1.0, level * unseen))) for level in (0.80, 0.90))
    return Interval(factor80=narrow, factor90=wide if len(groups) >= FEWEST_SOURCES_FOR_90 else None)


def wider(one: Interval | None, other: Interval | None) -> Interval | None:
    """The wider of two, at each level; what only one of them says is taken from that one."""
    if one is None or other is None:
        return one or other
    wide = [bound for bound in (one.factor90, other.factor90) if bound is not None]
    return Interval(factor80=max(one.factor80, other.factor80), factor90=max(wide, default=None))


def of_known_sources(residuals: Iterable[Residual], sigma: float) -> Interval | None:
    """For a prediction that belongs to one of these sources: the widest of their own quantiles.

    Nothing new is drawn but rows, so a source's own past rows speak for its next one; None where one has too few.
    """
    groups: dict[str, list[float]] = {}
    for one in residuals:
        groups.setdefault(one.source, []).append(one.score)
    if not groups or min(map(len, groups.values())) < FEWEST_ROWS_OF_A_SOURCE:
        return None
    narrow, wide = (max(order_statistic(group, level) for group in groups.values()) for level in (0.80, 0.90))
    return Interval(factor80=math.exp(sigma * narrow), factor90=math.exp(sigma * wide))


def pooled_quantile(groups: Sequence[Sequence[float]], level: float) -> float:
    """The `level` quantile of the mean of the groups' distribution functions: each group has the same weight."""
    weighed = sorted((value, 1.0 / len(group) / len(groups)) for group in groups for value in group)
    reached = 0.0
    for value, weight in weighed:
        reached += weight
        if reached >= level - 1e-9:  # sums of weights round
            return value
    return weighed[-1][0]


def order_statistic(values: Sequence[float], level: float) -> float:
    """The smallest of the values that a further one lies below at that level: the ceil((n + 1) * level)-th.

    Where there are too few for that, the largest is taken.
    """
    rank = min(len(values), math.ceil((len(values) + 1) * level))
    return sorted(values)[rank - 1]


def student_factor(errors: Sequence[float], prior: float, *, widen: float = 0.0) -> Interval:
    """Bounds for one machine, whose few held-out errors make no quantiles: Student's t with the errors' mean square,
    beside which the expected error `prior` counts as three observations (a scaled inverse chi-square prior; Gelman et
    al. 2013, section 3.3). `widen`: powers of ten beyond what was measured.
    """
    degrees = _PRIOR_WEIGHT + len(errors)
    variance = (_PRIOR_WEIGHT * prior**2 + math.fsum(error**2 for error in errors)) / degrees
    spread = math.sqrt(variance + (_WIDER_PER_DECADE * widen) ** 2)
    narrow, wide = (math.exp(stats.student_t_quantile(p, degrees) * spread) for p in (0.90, 0.95))
    return Interval(factor80=narrow, factor90=wide)

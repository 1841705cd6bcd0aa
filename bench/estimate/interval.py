"""Intervals that mean what they say: quantiles of past errors, within each source and then across sources.

Errors of one source resemble each other: a laboratory, its machine and its software are drawn once. Pooling all rows
would let the largest source speak for the next one, and pooled 90 % intervals covered half of some sources' rows. So
the quantile is taken twice: of the rows within each source, then of the sources (Dunn, Wasserman & Ramdas 2023,
"Distribution-free prediction sets for two-layer hierarchical models", J. Am. Stat. Assoc. 118).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.estimate.prediction import Interval

FEWEST_SOURCES_FOR_90 = 9  # with S sources the outer order statistic exists for levels up to S / (S + 1)


@dataclass(frozen=True, kw_only=True)
class Residual:
    """One past prediction against what was measured."""

    source: str
    score: float  # |log(predicted / measured)| / sigma, with the sigma that the prediction gave itself


def interval(residuals: Iterable[Residual], sigma: float) -> Interval | None:
    """Factors at 80 and 90 % for a prediction with that sigma; None without residuals; 90 % only with nine sources."""
    groups: dict[str, list[float]] = {}
    for one in residuals:
        groups.setdefault(one.source, []).append(one.score)
    if not groups:
        return None
    narrow = math.exp(sigma * hierarchical_quantile(list(groups.values()), 0.80))
    if len(groups) < FEWEST_SOURCES_FOR_90:
        return Interval(factor80=narrow, factor90=None)
    return Interval(
        factor80=narrow, factor90=max(narrow, math.exp(sigma * hierarchical_quantile(list(groups.values()), 0.90)))
    )


def hierarchical_quantile(groups: Sequence[Sequence[float]], level: float) -> float:
    """The `level` quantile of the groups' own `level` quantiles, each by the order statistic ceil((n + 1) * level).

    Where that statistic does not exist, with few rows or sources, the largest is taken.
    """
    return _order_statistic([_order_statistic(group, level) for group in groups], level)


def _order_statistic(values: Sequence[float], level: float) -> float:
    rank = min(len(values), math.ceil((len(values) + 1) * level))
    return sorted(values)[rank - 1]

"""How well a curve fits, and how far it may be trusted: errors on the points, and on each point left out."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

FEWEST_FOR_90 = 10  # points left out, for a 90 % bound of their own: the 10th of 10 is at least that
_NORMAL = {0.8: 1.2816, 0.9: 1.6449}  # two-sided


@dataclass(frozen=True, kw_only=True)
class Goodness:
    """Relative errors as max(predicted / measured, measured / predicted) - 1."""

    num_points: int
    median: float  # on the points that were fitted
    p90: float
    loo_median: float  # each point predicted from all others
    loo_p90: float
    z80: float  # quantiles of |log error| / sigma of points left out; Student's t where there are few
    z90: float
    hull: dict[str, tuple[float, float]]  # the smallest and the largest of each size that was measured

    def factor(self, sigma: float, level: float) -> float:
        """The truth lies within value / factor and value * factor, at the level 0.8 or 0.9."""
        return math.exp(sigma * {0.8: self.z80, 0.9: self.z90}[level])

    def covers(self, **sizes: float) -> bool:
        """Whether each size lies within what was measured."""
        return all(low <= sizes[name] <= high for name, (low, high) in self.hull.items() if name in sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded."""
        return {
            name: rounded(value) if isinstance(value, float) else value
            for name, value in (asdict(self) | {"hull": {k: list(v) for k, v in self.hull.items()}}).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Goodness":
        """What `to_dict` gave."""
        return cls(**(values | {"hull": {name: (low, high) for name, (low, high) in values["hull"].items()}}))


def goodness(
    fitted: Sequence[float],
    left_out: Sequence[float],
    sigmas: Sequence[float],
    hull: dict[str, tuple[float, float]],
) -> Goodness:
    """From log(predicted / measured) of each point: fitted with it, and without it, and the sigma it then had."""
    scores = sorted(abs(error) / sigma for error, sigma in zip(left_out, sigmas, strict=True))
    return Goodness(
        num_points=len(fitted),
        median=quantile([relative(error) for error in fitted], 0.5),
        p90=quantile([relative(error) for error in fitted], 0.9),
        loo_median=quantile([relative(error) for error in left_out], 0.5),
        loo_p90=quantile([relative(error) for error in left_out], 0.9),
        z80=bound(scores, 0.8),
        z90=bound(scores, 0.9),
        hull=hull,
    )


def bound(scores: Sequence[float], level: float) -> float:
    """The order statistic that covers a new score at that level (conformal prediction).

    With few scores Student's t, by the first term of its expansion about the normal (Abramowitz & Stegun 26.7.5).
    """
    rank = math.ceil((len(scores) + 1) * level)
    if len(scores) >= FEWEST_FOR_90 and rank <= len(scores):
        return sorted(scores)[rank - 1]
    normal = _NORMAL[level]
    return normal + (normal**3 + normal) / (4 * max(len(scores) - 1, 1))


def relative(log_error: float) -> float:
    """max(predicted / measured, measured / predicted) - 1."""
    return math.expm1(abs(log_error))


def quantile(values: Sequence[float], level: float) -> float:
    """Linear between order statistics; of one value that value. Raises ValueError of none."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * level
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def hull(columns: dict[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """The range of each size."""
    return {name: (float(min(values)), float(max(values))) for name, values in columns.items()}


def rounded(value: float, digits: int = 5) -> float:
    """To so many significant digits: what a coefficient is worth, and what keeps files small and equal."""
    return float(f"{value:.{digits}g}")

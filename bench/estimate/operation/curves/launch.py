"""Launches: what a kernel costs that does nothing, from chains of them.

t = fixed + per_launch * num_launches
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.estimate.operation.curves.goodness import Goodness, goodness, hull, rounded

_FLOOR = 0.05  # between processes on one machine: the host's clock, its cache, its neighbours


@dataclass(frozen=True, kw_only=True)
class LaunchCost:
    """Of one device and host, in one launch mode (eager, compiled, graph)."""

    per_launch_s: float
    fixed_s: float
    sigma: float
    goodness: Goodness

    @classmethod
    def fit(cls, points: Sequence[tuple[int, float]]) -> "LaunchCost":
        """Points are (launches, seconds). One length gives no fixed part. Raises ValueError without points."""
        if not points:
            raise ValueError("a cost needs points")
        per_launch, fixed = _line(points)
        errors = [math.log((fixed + per_launch * num) / seconds) for num, seconds in points]
        sigma = max(math.sqrt(sum(error**2 for error in errors) / len(errors)), _FLOOR)
        return cls(
            per_launch_s=rounded(per_launch),
            fixed_s=rounded(fixed),
            sigma=rounded(sigma),
            goodness=goodness(errors, errors, [sigma] * len(errors), hull({"num": [num for num, _ in points]})),
        )

    def seconds(self, num_launches: float) -> tuple[float, float]:
        """Expected seconds and the standard deviation of their logarithm."""
        return self.fixed_s + self.per_launch_s * num_launches, self.sigma

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "goodness": self.goodness.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LaunchCost":
        """What `to_dict` gave."""
        return cls(**(values | {"goodness": Goodness.from_dict(values["goodness"])}))


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Slope and intercept, none below 0, by least squares of relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    counts, seconds = np.array(points, dtype=float).T
    if len(set(counts.tolist())) == 1:
        return float(np.exp(np.mean(np.log(seconds)))) / float(counts[0]), 0.0
    slope, intercept = nnls(np.stack([counts, np.ones_like(counts)], axis=1) / seconds[:, None], np.ones_like(seconds))[
        0
    ]
    return float(slope), float(intercept)

"""What a law of physics leaves over, learned from its neighbours: Gaussian-process regression.

log(measured / law) is taken for a draw of a Gaussian process with mean 0 (Rasmussen & Williams 2006, chapters 2 and
5). Near measured points it takes over their residual; away from them it returns to 0, and its standard deviation
rises from the noise to the spread of the residuals. So the law alone is left outside of what was measured, with a
wider interval, without any rule for it.

The kernel is Matern's with nu = 3/2: residuals of libraries that switch between kernels jump, and a smoother one would
ring. How far they reach along each feature is fixed by the curve's own module. What is fitted is a common stretch of
these lengths, the spread and the noise, by marginal likelihood on a small grid: deterministic, and no optimizer to
lose its way with forty points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import floating
    from numpy.typing import NDArray

    Array = NDArray[floating[Any]]

_STRETCHES = (0.2, 0.35, 0.6, 1.0, 1.7, 3.0)
_NOISE_SHARES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # variance of the noise over that of the process
_FLOOR = 0.004  # repeated measurements of one machine differ by this, whatever the likelihood says


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What was fitted: how far residuals reach, how large they are, and what no neighbour explains."""

    stretch: float
    process: float  # standard deviation of the process
    noise: float  # standard deviation of one measurement, where its weight is 1


@dataclass(frozen=True)
class Residual:
    """A Gaussian process through residuals: features (n, d) in units of their lengths, residuals (n), weights (n)."""

    features: "Array"
    residuals: "Array"
    variances: "Array"  # of each point's noise, relative to `spread.noise` squared
    spread: Spread

    @classmethod
    def fit(cls, features: "Array", residuals: "Array", variances: "Array") -> "Residual":
        """With the stretch, spread and noise of the largest marginal likelihood."""
        import numpy as np

        best, found = -np.inf, Spread(stretch=1.0, process=_FLOOR, noise=_FLOOR)
        root = np.sqrt(variances)
        for stretch in _STRETCHES:
            eigenvalues, vectors = np.linalg.eigh(_kernel(features, features, stretch) / np.outer(root, root))
            turned = (vectors.T @ (residuals / root)) ** 2
            for share in _NOISE_SHARES:
                scale = np.maximum(eigenvalues, 0.0) + share
                variance = max(float(np.mean(turned / scale)), _FLOOR**2 / share)
                likelihood = -0.5 * float(np.sum(turned / scale / variance + np.log(scale * variance)))
                if likelihood > best:
                    best = likelihood
                    found = Spread(stretch=stretch, process=variance**0.5, noise=(variance * share) ** 0.5)
        return cls(features, residuals, variances, found)

    @cached_property
    def _inverse(self) -> "Array":
        import numpy as np

        spread = self.spread
        covariance = spread.process**2 * _kernel(self.features, self.features, spread.stretch)
        covariance += np.diag(spread.noise**2 * self.variances)
        inverse: Array = np.linalg.inv(covariance)
        return inverse

    @cached_property
    def _weights(self) -> "Array":
        weights: Array = self._inverse @ self.residuals
        return weights

    def at(self, features: "Array", variances: "Array") -> "tuple[Array, Array]":
        """Expected residuals, and standard deviations of new measurements with that noise, at features (q, d)."""
        import numpy as np

        spread = self.spread
        across = spread.process**2 * _kernel(features, self.features, spread.stretch)
        explained = np.sum((across @ self._inverse) * across, axis=1)
        variance = np.maximum(spread.process**2 - explained, 0.0) + spread.noise**2 * variances
        return across @ self._weights, np.sqrt(variance)

    def left_out(self) -> "tuple[Array, Array]":
        """Errors predicted - measured of each point from all others, and their deviations (eq. 5.12 there)."""
        import numpy as np

        precision = np.diag(self._inverse)
        return -(self._inverse @ self.residuals) / precision, np.sqrt(1.0 / precision)


def _kernel(left: "Array", right: "Array", stretch: float) -> "Array":
    import numpy as np

    squared = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1)[None, :] - 2.0 * left @ right.T
    distance = np.sqrt(3.0 * np.maximum(squared, 0.0)) / stretch
    kernel: Array = (1.0 + distance) * np.exp(-distance)
    return kernel


def noise_variances(seconds: Sequence[float], resolution_s: float, counts: Sequence[int] = (1,)) -> "Array":
    """Of measurements relative to one without rounding: more repeats less, a coarse clock more.

    Rounding to `resolution_s` is spread evenly over it; one per cent is what a measurement varies by without.
    """
    import numpy as np

    rounding = resolution_s / np.array(seconds) / math.sqrt(12.0)
    variances: Array = (1.0 + (rounding / 0.01) ** 2) / np.array(counts)
    return variances


def merged(keys: Sequence[Any], logs: Sequence[float]) -> tuple[list[Any], list[float], list[int]]:
    """Repeated measurements of one shape become their mean, with how many they were; in order of first appearance."""
    groups: dict[Any, list[float]] = {}
    for key, value in zip(keys, logs, strict=True):
        groups.setdefault(key, []).append(value)
    return list(groups), [sum(group) / len(group) for group in groups.values()], [len(g) for g in groups.values()]

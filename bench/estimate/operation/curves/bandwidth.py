"""Passes over memory: norms, activations, sums, copies.

    t = fixed(op) + factor(op) * bytes / B     so the rate is B/factor * bytes / (bytes + half), half = fixed * B/factor

`bytes` are the least that must move; a factor above 1 is what an operation moves or waits beyond that, one below 1 what
it finds in a cache; `fixed` is a launch and, of some operations, a row's worth of waiting. What the law leaves over is
learned for each operation from passes of like size (residual.py).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.estimate.operation.curves.goodness import Goodness, goodness, hull, rounded
from bench.estimate.operation.curves.residual import Residual, Spread, merged, noise_variances

if TYPE_CHECKING:
    from bench.estimate.operation.curves.residual import Array

FEWEST_FOR_RESIDUAL = 6
_PULL = 0.02  # to the start, for coefficients that the points say nothing about
_APART = 50.0  # between operations, in lengths: nothing is learned from one about another


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One operation over `bytes`, read and written together; `columns` of a row, where rows matter to it."""

    op: str
    bytes: float
    columns: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BandwidthCurve:
    """Times of passes on one device with one software."""

    bytes_per_s: float
    factors: dict[str, float]
    fixed_s: dict[str, float]
    points: tuple[tuple[Pass, float, int], ...]  # shape, geometric mean of seconds, how often it was measured
    spread: Spread | None
    sigma: float
    resolution_s: float
    goodness: Goodness

    @classmethod
    def fit(cls, points: Sequence[tuple[Pass, float]], *, resolution_s: float = 0.0) -> "BandwidthCurve":
        """Raises ValueError without points."""
        import numpy as np

        if not points:
            raise ValueError("a curve needs points")
        shapes, logs, counts = merged([shape for shape, _ in points], [math.log(seconds) for _, seconds in points])
        measured = np.array(logs)
        kept = tuple((s, rounded(math.exp(v), 6), c) for s, v, c in zip(shapes, logs, counts, strict=True))
        rate, factors, fixed = _fit_law(shapes, measured)
        empty = Goodness(num_points=len(kept), median=0, p90=0, loo_median=0, loo_p90=0, z80=0, z90=0, hull=_hull(kept))
        curve = cls(
            bytes_per_s=rate,  factors=factors,
            fixed_s=fixed, points=kept, spread=None, sigma=0.02,
            resolution_s=resolution_s, goodness=empty,
        )  # fmt: skip
        left = measured - np.log(curve._law(shapes))
        curve = replace(curve, sigma=max(float(np.sqrt(np.mean(left**2))), 0.02))
        if len(kept) < FEWEST_FOR_RESIDUAL:
            errors = [-float(value) for value in left]
            return replace(curve, goodness=goodness(errors, errors, [curve.sigma] * len(errors), _hull(kept)))
        # Hyperparameters and errors are those of single measurements; to go on with, means of equal passes do as well.
        every = [shape for shape, _ in points]
        left = np.log([seconds for _, seconds in points]) - np.log(curve._law(every))
        residual = Residual.fit(curve._features(every), left, noise_variances([t for _, t in points], resolution_s))
        errors_out, sigmas = residual.left_out()
        taken = min(2 * len(factors), len(kept) / 2)  # degrees of freedom, by the law
        errors_out *= math.sqrt(len(kept) / (len(kept) - taken))
        fitted = residual.at(residual.features, residual.variances)[0] - left
        return replace(
            curve,
            spread=residual.spread,
            goodness=goodness(fitted.tolist(), errors_out.tolist(), sigmas.tolist(), _hull(kept)),
        )

    def seconds(self, shape: Pass) -> tuple[float, float]:
        """Expected seconds, and the standard deviation of their logarithm."""
        return self.seconds_of([shape])[0]

    def seconds_of(self, shapes: Sequence[Pass]) -> list[tuple[float, float]]:
        """The same for many passes. An operation that was not measured gets the mean factor, and a wider sigma."""
        import numpy as np

        seconds = self._law(shapes)
        if self._residual is None:
            return [(float(value), self.sigma) for value in seconds]
        noise = noise_variances(seconds.tolist(), self.resolution_s)
        shift, sigma = self._residual.at(self._features(shapes), noise)
        unknown = np.array([shape.op not in self.factors for shape in shapes])
        between = float(np.std(np.log(list(self.factors.values()))))
        sigma = np.where(unknown, np.hypot(sigma, max(between, 0.2)), sigma)
        return list(zip((seconds * np.exp(shift)).tolist(), sigma.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bytes_per_s": rounded(self.bytes_per_s),
            "factors": self.factors,
            "fixed_s": self.fixed_s,
            "points": [[s.op, s.bytes, s.columns, seconds, count] for s, seconds, count in self.points],
            "spread": None if self.spread is None else {k: rounded(v) for k, v in vars(self.spread).items()},
            "sigma": rounded(self.sigma),
            "resolution_s": self.resolution_s,
            "goodness": self.goodness.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BandwidthCurve":
        """What `to_dict` gave."""
        points = ((Pass(op=op, bytes=b, columns=c), seconds, n) for op, b, c, seconds, n in values["points"])
        return cls(
            bytes_per_s=values["bytes_per_s"],
            factors=values["factors"],
            fixed_s=values["fixed_s"],
            points=tuple(points),
            spread=None if values["spread"] is None else Spread(**values["spread"]),
            sigma=values["sigma"],
            resolution_s=values["resolution_s"],
            goodness=Goodness.from_dict(values["goodness"]),
        )

    def _law(self, shapes: Sequence[Pass]) -> "Array":
        import numpy as np

        laws = np.array([self.law_of(shape.op) for shape in shapes])
        seconds: Array = laws[:, 0] + np.array([shape.bytes for shape in shapes], dtype=float) / laws[:, 1]
        return seconds

    def law_of(self, op: str) -> tuple[float, float]:
        """Fixed seconds, and bytes/s: of an operation that was not measured, the geometric means."""
        fixed = self.fixed_s.get(op, _mean(self.fixed_s.values()))
        return fixed, self.bytes_per_s / self.factors.get(op, _mean(self.factors.values()))

    @cached_property
    def _residual(self) -> Residual | None:
        import numpy as np

        if self.spread is None:
            return None
        shapes = [shape for shape, _, _ in self.points]
        left = np.log([seconds for _, seconds, _ in self.points]) - np.log(self._law(shapes))
        times, counts = [seconds for _, seconds, _ in self.points], [count for _, _, count in self.points]
        return Residual(self._features(shapes), left, noise_variances(times, self.resolution_s, counts), self.spread)

    def _features(self, shapes: Sequence[Pass]) -> "Array":
        import numpy as np

        ops = {op: _APART * (1 + index) for index, op in enumerate(sorted(self.factors))}
        rows = [(math.log2(s.bytes) / 1.5, math.log2(s.columns) / 1.5, ops.get(s.op, 0.0)) for s in shapes]
        return np.array(rows)


def _fit_law(shapes: Sequence[Pass], logs: "Array") -> tuple[float, dict[str, float], dict[str, float]]:
    """The rate of the fastest operation, each operation's factor over it, and each one's fixed seconds."""
    import numpy as np
    from scipy.optimize import least_squares

    ops = sorted({shape.op for shape in shapes})
    num = len(ops)
    which = np.array([ops.index(shape.op) for shape in shapes])
    moved = np.array([shape.bytes for shape in shapes], dtype=float)
    rates = [float(np.quantile((np.log(moved) - logs)[which == index], 0.9)) for index in range(num)]
    least = [float(np.min(logs[which == index])) for index in range(num)]
    start = np.array([*rates, *[value - 0.7 for value in least]])
    low = np.array([*[rate - 3.0 for rate in rates], *[math.log(1e-8)] * num])
    high = np.array([*[rate + 3.0 for rate in rates], *least])

    def errors(x: "Array") -> "Array":
        law = np.exp(x[num + which]) + moved * np.exp(-x[which])
        fixed = x[num:]  # operations are launched alike, if their points do not say otherwise
        return np.concatenate([np.log(law) - logs, _PULL * (x - start), _PULL * (fixed - np.mean(fixed))])

    solution = least_squares(errors, start, bounds=(low, high), loss="soft_l1", f_scale=0.05).x.tolist()
    best = max(solution[:num])
    factors = {op: rounded(math.exp(best - value)) for op, value in zip(ops, solution[:num], strict=True)}
    fixed_s = {op: rounded(math.exp(value)) for op, value in zip(ops, solution[num:], strict=True)}
    return rounded(math.exp(best)), factors, fixed_s


def _mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def _hull(points: Sequence[tuple[Pass, float, int]]) -> dict[str, tuple[float, float]]:
    return hull({"bytes": [shape.bytes for shape, _, _ in points]})

"""Matrix products: C[M, N] = A[M, K] @ B[K, N].

    t = t0 + blend( min over tiles of 2MNK/R * q_wave * q_pad * (1 + k_half/K) * (1 + edge/rows + edge/columns),
                    bytes/BW )

A library cuts C into tiles, one for each compute unit at a time, and picks the size of the tiles for each product; so
does this law. `q_wave` is what the last, half-empty wave of tiles costs, `q_pad` what tiles compute beyond the edges of
C, and `edge` what small tiles pay for reading more. Below one wave a library splits K over the idle units, of which
`split` says how much that wins back. `k_half` is the depth at which a tile's start and end cost as much as its
products. Arithmetic and traffic overlap but not wholly: they add up as (a^p + b^p)^(1/p), where `overlap` is 1/p, from
0, where the longer one counts alone, to 1, where both do.

R, BW, t0, k_half, split, edge and overlap are fitted in log(time) with a soft-L1 loss. What the law leaves over is
learned (residual.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.estimate.operation.curves.goodness import Goodness, goodness, hull, rounded
from bench.estimate.operation.curves.residual import Residual, Spread, merged, noise_variances

if TYPE_CHECKING:
    from bench.estimate.operation.curves.residual import Array

TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (64, 128),
    (128, 64),
    (64, 64),
    (32, 128),
    (128, 32),
    (32, 64),
    (64, 32),
    (32, 32),
)
_LARGE = 8192  # K of a product whose rate is called sustained
FEWEST_FOR_RESIDUAL = 12  # with fewer a residual learns noise
_NUM_COEFFICIENTS = 7
# Where a fit starts, and factors by which it may leave that: R and BW start at the best that the points show.
_START = {"launch_s": 5e-6, "k_half": 200.0, "split": 0.7, "edge": 20.0, "overlap": 0.2}
_WIDTH = (2.0, 3.0, 1e3, 1e2, 14.0, 20.0, 10.0)
_PULL = 0.02  # to the start, for coefficients that the points say nothing about


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """A product, done `batch` times at once."""

    m: int
    n: int
    k: int
    batch: int = 1

    @property
    def flops(self) -> float:
        """Two for each multiplication and addition."""
        return 2.0 * self.m * self.n * self.k * self.batch


@dataclass(frozen=True, kw_only=True)
class GemmLaw:
    """The coefficients of the law."""

    flops_per_s: float
    bytes_per_s: float
    launch_s: float
    k_half: float
    split: float  # 0: idle units stay idle below one wave; 1: K is split over all of them at no cost
    edge: float
    overlap: float
    num_units: int  # multiprocessors, compute units, cores
    bytes_per_element: float = 2.0

    def seconds(self, sizes: "Array") -> "Array":
        """Times for rows of M, N, K, batch."""
        import numpy as np

        m, n, k, batch = sizes.T
        rows, columns = np.array(TILES, dtype=float).T[:, :, None]
        down, across = np.ceil(m / rows), np.ceil(n / columns)
        area = down * rows * across * columns * (1.0 + self.edge / rows + self.edge / columns)
        compute = np.min(area * _wave_cost(down * across * batch / self.num_units, self.split), axis=0)
        compute *= 2.0 * k * batch * (1.0 + self.k_half / k) / self.flops_per_s
        traffic = self.bytes_per_element * batch * (m * k + k * n + m * n) / self.bytes_per_s
        power = 1.0 / self.overlap
        longer = np.maximum(compute, traffic)  # taken out of the sum, which would overflow
        total: Array = self.launch_s + longer * ((compute / longer) ** power + (traffic / longer) ** power) ** (
            1 / power
        )
        return total

    @property
    def sustained_flops_per_s(self) -> float:
        """Of a product so large that waves and edges do not count."""
        rows, columns = TILES[0]
        return self.flops_per_s / (1.0 + self.k_half / _LARGE) / (1.0 + self.edge / rows + self.edge / columns)


def _wave_cost(waves: "Array", split: float) -> "Array":
    """Time over that of units that are all busy."""
    import numpy as np

    cost: Array = np.where(waves >= 1.0, np.ceil(waves) / waves, (1.0 / waves) ** (1.0 - split))
    return cost


@dataclass(frozen=True, kw_only=True)
class GemmCurve:
    """Times of products of one type on one device with one software."""

    law: GemmLaw
    points: tuple[tuple[Gemm, float, int], ...]  # shape, geometric mean of seconds, how often it was measured
    spread: Spread | None  # None: too few points for a residual
    sigma: float  # of the law alone
    resolution_s: float
    goodness: Goodness

    @classmethod
    def fit(
        cls,
        points: Sequence[tuple[Gemm, float]],
        *,
        num_units: int,
        bytes_per_element: float = 2.0,
        resolution_s: float = 0.0,
    ) -> "GemmCurve":
        """The law, and its residual where there are enough shapes. `resolution_s`: to what the clock rounded.

        Raises ValueError without points; with fewer than five shapes coefficients stay at what a device is likely to
        have.
        """
        import numpy as np

        if not points:
            raise ValueError("a curve needs points")
        shapes, logs, counts = merged([shape for shape, _ in points], [math.log(seconds) for _, seconds in points])
        sizes, measured = _sizes(shapes), np.array(logs)
        law = _fit_law(sizes, measured, num_units, bytes_per_element)
        left = measured - np.log(law.seconds(sizes))
        # Of n points the law took up to seven degrees of freedom, though with few points its start decides most.
        widening = math.sqrt(len(shapes) / (len(shapes) - min(_NUM_COEFFICIENTS, len(shapes) / 2)))
        sigma = max(float(np.sqrt(np.mean(left**2))) * widening, 0.03)
        kept = tuple((s, rounded(math.exp(v), 6), c) for s, v, c in zip(shapes, logs, counts, strict=True))
        curve = cls(
            law=law, points=kept, spread=None, sigma=sigma, resolution_s=resolution_s, goodness=_no_goodness(kept)
        )
        if len(kept) < FEWEST_FOR_RESIDUAL:
            errors = [-float(value) for value in left]
            return replace(curve, goodness=goodness(errors, errors, [sigma] * len(errors), _hull(kept)))
        # Hyperparameters and errors are those of single measurements; to go on with, means of equal shapes do as well.
        every = _sizes([shape for shape, _ in points])
        left = np.log([seconds for _, seconds in points]) - np.log(law.seconds(every))
        residual = Residual.fit(curve._features(every), left, noise_variances([t for _, t in points], resolution_s))
        errors_out, sigmas = residual.left_out()
        errors_out *= widening
        fitted = residual.at(residual.features, residual.variances)[0] - left
        return replace(
            curve,
            spread=residual.spread,
            goodness=goodness(fitted.tolist(), errors_out.tolist(), sigmas.tolist(), _hull(kept)),
        )

    def seconds(self, shape: Gemm) -> tuple[float, float]:
        """Expected seconds, and the standard deviation of their logarithm."""
        return self.seconds_of([shape])[0]

    def seconds_of(self, shapes: Sequence[Gemm]) -> list[tuple[float, float]]:
        """The same for many shapes at once."""
        import numpy as np

        sizes = _sizes(shapes)
        seconds = self.law.seconds(sizes)
        if self._residual is None:
            return [(float(value), self.sigma) for value in seconds]
        noise = noise_variances(seconds.tolist(), self.resolution_s)
        shift, sigma = self._residual.at(self._features(sizes), noise)
        return list(zip((seconds * np.exp(shift)).tolist(), sigma.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the law, the points, and how their residuals spread."""
        return {
            "law": _rounded_law(self.law),
            "points": [[s.m, s.n, s.k, s.batch, seconds, count] for s, seconds, count in self.points],
            "spread": None if self.spread is None else {k: rounded(v) for k, v in vars(self.spread).items()},
            "sigma": rounded(self.sigma),
            "resolution_s": self.resolution_s,
            "goodness": self.goodness.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GemmCurve":
        """What `to_dict` gave."""
        return cls(
            law=GemmLaw(**values["law"]),
            points=tuple((Gemm(m=m, n=n, k=k, batch=b), seconds, c) for m, n, k, b, seconds, c in values["points"]),
            spread=None if values["spread"] is None else Spread(**values["spread"]),
            sigma=values["sigma"],
            resolution_s=values["resolution_s"],
            goodness=Goodness.from_dict(values["goodness"]),
        )

    @cached_property
    def _residual(self) -> Residual | None:
        import numpy as np

        if self.spread is None:
            return None
        sizes = _sizes([shape for shape, _, _ in self.points])
        left = np.log([seconds for _, seconds, _ in self.points]) - np.log(self.law.seconds(sizes))
        times, counts = [seconds for _, seconds, _ in self.points], [count for _, _, count in self.points]
        return Residual(self._features(sizes), left, noise_variances(times, self.resolution_s, counts), self.spread)

    def _features(self, sizes: "Array") -> "Array":
        """What decides which kernel a library takes, each in units of how far a residual reaches along it."""
        import numpy as np

        m, n, k, batch = sizes.T
        waves = np.ceil(m / 128) * np.ceil(n / 128) * batch / self.law.num_units
        wave = np.log2(_wave_cost(np.maximum(waves, 1.0), 1.0))
        return np.stack([np.log2(m), np.log2(n), np.log2(k) / 2.0, np.log2(batch), wave / 0.15], axis=1)


def _fit_law(sizes: "Array", logs: "Array", num_units: int, bytes_per_element: float) -> GemmLaw:
    """The law with the smallest soft-L1 loss of log(time)."""
    import numpy as np
    from scipy.optimize import least_squares

    m, n, k, batch = sizes.T
    seconds = np.exp(logs)
    rate = float(np.quantile(2.0 * m * n * k * batch / seconds, 0.9))
    traffic = float(np.quantile(bytes_per_element * batch * (m * k + k * n + m * n) / seconds, 0.9))
    names = ("flops_per_s", "bytes_per_s", *_START)
    first = {**_START, "launch_s": min(_START["launch_s"], float(seconds.min()) / 2)}
    start = np.log([rate * 1.2, traffic * 1.2, *first.values()])
    low, high = start - np.log(_WIDTH), start + np.log(_WIDTH)
    for name, (least, most) in {"split": (0.05, 1.0), "overlap": (0.02, 1.0)}.items():
        low[names.index(name)], high[names.index(name)] = math.log(least), math.log(most)

    def law_at(x: "Array") -> GemmLaw:
        values = dict(zip(names, np.exp(x).tolist(), strict=True))
        return GemmLaw(num_units=num_units, bytes_per_element=bytes_per_element, **values)

    def errors(x: "Array") -> "Array":
        return np.concatenate([np.log(law_at(x).seconds(sizes)) - logs, _PULL * (x - start)])

    solution = least_squares(errors, start, bounds=(low, high), loss="soft_l1", f_scale=0.05)
    return GemmLaw(**_rounded_law(law_at(solution.x)))


def _rounded_law(law: GemmLaw) -> dict[str, Any]:
    return {name: rounded(value) if isinstance(value, float) else value for name, value in vars(law).items()}


def _sizes(shapes: Sequence[Gemm]) -> "Array":
    import numpy as np

    return np.array([(s.m, s.n, s.k, s.batch) for s in shapes], dtype=float)


def _hull(points: Sequence[tuple[Gemm, float, int]]) -> dict[str, tuple[float, float]]:
    return hull({name: [getattr(shape, name) for shape, _, _ in points] for name in ("m", "n", "k", "batch")})


def _no_goodness(points: Sequence[tuple[Gemm, float, int]]) -> Goodness:
    return Goodness(num_points=len(points), median=0, p90=0, loo_median=0, loo_p90=0, z80=0, z90=0, hull=_hull(points))

"""Collectives: a measured table for each operation and topology, read between its sizes.

Libraries switch algorithm and protocol with the size, so no law fits a table. t = alpha + beta * bytes + gamma *
sqrt(bytes) takes out what is regular; what it leaves over is interpolated in log(bytes), monotone between points
(Fritsch & Carlson 1980), so that the table's own figures come out at its sizes. Beyond the table the law goes on from
its last point, and sigma grows by a tenth with each doubling; so it does for another number of ranks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.estimate.operation.curves.goodness import Goodness, goodness, hull, rounded
from bench.estimate.operation.curves.residual import merged

if TYPE_CHECKING:
    from bench.estimate.operation.curves.residual import Array

SIGMA_PER_DOUBLING = 0.1
_FLOOR = 0.01  # of sigma, at half a doubling from a measured size
_PULL = 0.01
_AT_POINT = 0.5  # doublings: at a measured size sigma is that of half a doubling away

# Bytes that each rank sends for each byte of the buffer, in terms of (n-1)/n of n ranks (Thakur, Rabenseifner & Gropp
# 2005; the bus bandwidth of nccl-tests' doc/PERFORMANCE.md is defined by the same). None: 1, whatever n.
TRAFFIC: dict[str, float | None] = {
    "all_reduce": 2.0,
    "all_gather": 1.0,
    "reduce_scatter": 1.0,
    "all_to_all": 1.0,
    "broadcast": None,
    "reduce": None,
    "send_recv": None,
}


def traffic(op: str, ranks: int) -> float:
    """Bytes that each rank sends for each byte of the buffer."""
    times = TRAFFIC[op]
    return 1.0 if times is None else times * (ranks - 1) / ranks


@dataclass(frozen=True, kw_only=True)
class CollectiveTable:
    """Times of one operation among `ranks` ranks of one topology, by the size of the whole buffer."""

    op: str  # one of TRAFFIC
    ranks: int
    points: tuple[tuple[float, float], ...]  # bytes, seconds: rising, each size once
    alpha_s: float
    beta_s_per_byte: float
    gamma_s_per_root_byte: float
    sigma: float  # of each doubling to the nearest measured size
    goodness: Goodness

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]], *, op: str, ranks: int) -> "CollectiveTable":
        """Points are (bytes, seconds). Raises ValueError without points."""
        if not points:
            raise ValueError("a table needs points")
        table = _table(points, op, ranks)
        if len(table.points) < 3:
            return replace(table, sigma=0.1, goodness=goodness([0.0], [0.0], [0.1], _hull(table)))
        out, away = [], []
        for index, (size, seconds) in enumerate(table.points):
            rest = _table([point for i, point in enumerate(table.points) if i != index], op, ranks)
            out.append(math.log(rest.seconds(size)[0] / seconds))
            away.append(rest._away(size))
        # The largest error of a few is weighed down: one switch of protocol says little about other sizes.
        scores = sorted(abs(error) / distance for error, distance in zip(out, away, strict=True))
        kept = scores[: max(2, math.ceil(0.9 * len(scores)))]
        sigma = max(math.sqrt(sum(score**2 for score in kept) / len(kept)), _FLOOR)
        sigmas = [sigma * distance for distance in away]
        return replace(table, sigma=rounded(sigma), goodness=goodness([0.0] * len(out), out, sigmas, _hull(table)))

    def seconds(self, num_bytes: float) -> tuple[float, float]:
        """Expected seconds and the standard deviation of their logarithm."""
        place = math.log(num_bytes)
        sizes, left = self._left
        if len(sizes) > 1 and sizes[0] < place < sizes[-1]:
            over = float(self._between(place))
        else:
            over = left[0] if place <= sizes[0] else left[-1]
        outside = max(0.0, sizes[0] - place, place - sizes[-1]) / math.log(2.0)
        return self._law(num_bytes) * math.exp(over), math.hypot(
            self.sigma * self._away(num_bytes), SIGMA_PER_DOUBLING * outside
        )

    def among(self, ranks: int) -> "CollectiveTable":
        """The table expected for another number of ranks over the same links: a ring's steps and a ring's bytes."""
        if ranks == self.ranks:
            return self
        more = traffic(self.op, ranks) / traffic(self.op, self.ranks)
        steps = math.log2(max(ranks, 2)) / math.log2(max(self.ranks, 2))
        scaled = []
        for size, seconds in self.points:
            latency = min(self.alpha_s, seconds)
            scaled.append((size, rounded(latency * steps + (seconds - latency) * more)))
        doublings = abs(math.log2(ranks / self.ranks))
        return replace(
            self,
            ranks=ranks,
            points=tuple(scaled),
            alpha_s=self.alpha_s * steps,
            beta_s_per_byte=self.beta_s_per_byte * more,
            gamma_s_per_root_byte=self.gamma_s_per_root_byte * more,
            sigma=math.hypot(self.sigma, SIGMA_PER_DOUBLING * doublings),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{name: value for name, value in vars(self).items() if not name.startswith("_")},
            "points": [list(point) for point in self.points],
            "goodness": self.goodness.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CollectiveTable":
        """What `to_dict` gave."""
        points = tuple((size, seconds) for size, seconds in values["points"])
        return cls(**(values | {"points": points, "goodness": Goodness.from_dict(values["goodness"])}))

    def _law(self, num_bytes: float) -> float:
        return self.alpha_s + self.beta_s_per_byte * num_bytes + self.gamma_s_per_root_byte * math.sqrt(num_bytes)

    @cached_property
    def _left(self) -> tuple[list[float], list[float]]:
        """log(bytes) of the points, and log(measured / law) there."""
        return (
            [math.log(size) for size, _ in self.points],
            [math.log(seconds / self._law(size)) for size, seconds in self.points],
        )

    @cached_property
    def _between(self) -> Callable[[float], float]:
        from scipy.interpolate import PchipInterpolator

        interpolator: Callable[[float], float] = PchipInterpolator(*self._left)
        return interpolator

    def _away(self, num_bytes: float) -> float:
        """Doublings to the nearest measured size, and a half, as two sides of a right angle."""
        nearest = min(abs(math.log2(num_bytes / size)) for size, _ in self.points)
        return math.hypot(nearest, _AT_POINT)


def _table(points: Sequence[tuple[float, float]], op: str, ranks: int) -> CollectiveTable:
    sizes, logs, _ = merged([size for size, _ in points], [math.log(seconds) for _, seconds in points])
    kept = sorted((float(size), rounded(math.exp(log), 6)) for size, log in zip(sizes, logs, strict=True))
    alpha, beta, gamma = _fit_law(kept)
    empty = Goodness(num_points=len(kept), median=0, p90=0, loo_median=0, loo_p90=0, z80=0, z90=0, hull={})
    table = CollectiveTable(
        op=op, ranks=ranks, points=tuple(kept), alpha_s=alpha, beta_s_per_byte=beta, gamma_s_per_root_byte=gamma,
        sigma=0.1, goodness=empty,
    )  # fmt: skip
    return table


def _fit_law(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """alpha, beta, gamma, none below 0: least squares of relative errors, then a soft-L1 loss of log(time)."""
    import numpy as np
    from scipy.optimize import least_squares, nnls

    sizes, seconds = np.array(points).T
    terms = np.stack([np.ones_like(sizes), sizes, np.sqrt(sizes)])
    columns = (terms / seconds).T
    scale = np.linalg.norm(columns, axis=0)
    first = nnls(columns / scale, np.ones_like(seconds))[0] / scale
    start = np.log(
        np.maximum(first, 1e-3 * float(np.exp(np.mean(np.log(seconds)))) / np.exp(np.mean(np.log(terms), axis=1)))
    )

    def errors(x: "Array") -> "Array":
        return np.concatenate([np.log(np.exp(x) @ terms) - np.log(seconds), _PULL * (x - start)])

    solution = np.exp(least_squares(errors, start, loss="soft_l1", f_scale=0.1).x).tolist()
    return rounded(solution[0]), rounded(solution[1]), rounded(solution[2])


def _hull(table: CollectiveTable) -> dict[str, tuple[float, float]]:
    return hull({"bytes": [size for size, _ in table.points]})

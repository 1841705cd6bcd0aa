"""Collectives: a measured table for each operation and topology, read between its sizes.

Libraries switch algorithm and protocol with the size, so no line is laid through a table: between two measured sizes
log(time) is interpolated over log(bytes). Beyond the table the law t = alpha + beta * bytes + gamma * sqrt(bytes),
fitted to it, goes on from its last point, and sigma grows by a tenth with each doubling; so it does for another number
of ranks.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.estimate.curves.goodness import Goodness, goodness, hull, rounded
from bench.estimate.curves.residual import merged

SIGMA_PER_DOUBLING = 0.1
_FLOOR = 0.02

# Bytes that each rank sends for each byte of the buffer, of n ranks (Thakur, Rabenseifner & Gropp 2005, and
# nccl-tests' doc/PERFORMANCE.md, where the same factors define the bus bandwidth).
TRAFFIC = {
    "all_reduce": lambda n: 2.0 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "reduce": lambda n: 1.0,
    "send_recv": lambda n: 1.0,
}


@dataclass(frozen=True, kw_only=True)
class CollectiveTable:
    """Times of one operation among `ranks` ranks of one topology, by the size of the whole buffer."""

    op: str  # one of TRAFFIC
    ranks: int
    points: tuple[tuple[float, float], ...]  # bytes, seconds: rising, each size once
    alpha_s: float
    beta_s_per_byte: float
    gamma_s_per_root_byte: float
    sigma: float  # within the table
    goodness: Goodness

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]], *, op: str, ranks: int) -> "CollectiveTable":
        """Points are (bytes, seconds). Raises ValueError without points."""
        if not points:
            raise ValueError("a table needs points")
        table = _table(points, op, ranks)
        if len(table.points) < 3:
            return replace(table, sigma=0.1, goodness=goodness([0.0], [0.0], [0.1], _hull(table)))
        out, doublings = [], []
        for index, (size, seconds) in enumerate(table.points):
            rest = _table([point for i, point in enumerate(table.points) if i != index], op, ranks)
            out.append(math.log(rest.seconds(size)[0] / seconds))
            doublings.append(rest._doublings_outside(size))
        inner = [error for error, outside in zip(out, doublings, strict=True) if not outside]
        # Leaving a point out doubles the gap around it; half of the error is what the whole table makes there.
        sigma = max(math.sqrt(sum(error**2 for error in inner) / len(inner)), _FLOOR)
        sigmas = [math.hypot(sigma, SIGMA_PER_DOUBLING * outside) for outside in doublings]
        return replace(table, sigma=rounded(sigma), goodness=goodness([0.0] * len(out), out, sigmas, _hull(table)))

    def seconds(self, num_bytes: float) -> tuple[float, float]:
        """Expected seconds and the standard deviation of their logarithm."""
        sizes = [size for size, _ in self.points]
        if num_bytes <= sizes[0] or num_bytes >= sizes[-1]:
            end, at_end = self.points[0] if num_bytes <= sizes[0] else self.points[-1]
            sigma = math.hypot(self.sigma, SIGMA_PER_DOUBLING * self._doublings_outside(num_bytes))
            return at_end * self._law(num_bytes) / self._law(end), sigma
        right = bisect_left(sizes, num_bytes)
        (low, t_low), (high, t_high) = self.points[right - 1], self.points[right]
        share = math.log(num_bytes / low) / math.log(high / low)
        return t_low ** (1 - share) * t_high**share, self.sigma

    def among(self, ranks: int) -> "CollectiveTable":
        """The table expected for another number of ranks over the same links: a ring's steps and a ring's bytes."""
        if ranks == self.ranks:
            return self
        traffic = TRAFFIC[self.op](ranks) / TRAFFIC[self.op](self.ranks)
        steps = math.log2(max(ranks, 2)) / math.log2(max(self.ranks, 2))
        scaled = []
        for size, seconds in self.points:
            latency = min(self.alpha_s, seconds)
            scaled.append((size, rounded(latency * steps + (seconds - latency) * traffic)))
        doublings = abs(math.log2(ranks / self.ranks))
        return replace(
            self,
            ranks=ranks,
            points=tuple(scaled),
            alpha_s=self.alpha_s * steps,
            beta_s_per_byte=self.beta_s_per_byte * traffic,
            gamma_s_per_root_byte=self.gamma_s_per_root_byte * traffic,
            sigma=math.hypot(self.sigma, SIGMA_PER_DOUBLING * doublings),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **vars(self),
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

    def _doublings_outside(self, num_bytes: float) -> float:
        low, high = self.points[0][0], self.points[-1][0]
        return max(0.0, math.log2(low / max(num_bytes, 1.0)), math.log2(max(num_bytes, 1.0) / high))


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
    """alpha, beta, gamma, none below 0, by least squares of relative errors (Lawson & Hanson's NNLS)."""
    import numpy as np
    from scipy.optimize import nnls

    sizes, seconds = np.array(points).T
    columns = np.stack([np.ones_like(sizes), sizes, np.sqrt(sizes)], axis=1) / seconds[:, None]
    scale = np.linalg.norm(columns, axis=0)
    solution = nnls(columns / scale, np.ones_like(seconds))[0] / scale
    return rounded(float(solution[0])), rounded(float(solution[1])), rounded(float(solution[2]))


def _hull(table: CollectiveTable) -> dict[str, tuple[float, float]]:
    return hull({"bytes": [size for size, _ in table.points]})

"""Laws: how long one operation takes on one machine, from a few coefficients with units.

Each law has the form that hardware gives it, and as few coefficients as a `quick` run can pin: a rate, the size at
which half of it is reached, a bandwidth. Where a machine measured a whole range of sizes, the rate is a table that is
read in between; at its ends it stays as it is, and whoever asks learns how far outside they are (`Table.outside`).
"""

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bench.estimate.own.step import Attend, Operation, Pass, Product, ReadCache, Update

WIDTH = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}
_COPIED_FAST = 2 << 20
_SLOWER = 0.10  # the power of the size by which larger ones are copied more slowly
# Passes over memory that nobody measured run at this share of a copy's rate (a guess, within the passes measured here).
_UNMEASURED_PASS = 0.6
# Of the last-level cache, what a working set may take and still be found there.
_CACHE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Table:
    """A rate that changes with size: read in between on logarithmic scales, level beyond both ends."""

    sizes: tuple[float, ...]  # rising
    rates: tuple[float, ...]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> "Table | None":
        """Sizes and rates in any order; of equal sizes the geometric mean. None without points."""
        groups: dict[float, list[float]] = {}
        for size, rate in points:
            groups.setdefault(size, []).append(math.log(rate))
        if not groups:
            return None
        sizes = tuple(sorted(groups))
        return cls(sizes=sizes, rates=tuple(math.exp(math.fsum(groups[s]) / len(groups[s])) for s in sizes))

    def at(self, size: float) -> float:
        """The rate at that size."""
        place = bisect.bisect_left(self.sizes, size)
        if place == 0:
            return self.rates[0]
        if place == len(self.sizes):
            return self.rates[-1]
        low, high = self.sizes[place - 1], self.sizes[place]
        share = math.log(size / low) / math.log(high / low)
        return math.exp((1 - share) * math.log(self.rates[place - 1]) + share * math.log(self.rates[place]))

    def outside(self, size: float) -> float:
        """By which factor a size lies beyond what was measured; 1 inside."""
        return max(1.0, self.sizes[0] / size, size / self.sizes[-1])


@dataclass(frozen=True, kw_only=True)
class ProductLaw:
    """Matrix products of one type: t = (compute^p + traffic^p)^(1/p).

    compute = 2·M·N·K/R · (1 + rows_half/M) · (1 + columns_half/N) · (1 + depth_half/K): a library works in tiles, and
    few rows, columns or a short depth leave its units partly idle. traffic: every operand and the product once.

    An accelerator does both at a time, and the slower one counts (p = 3). A CPU does them one after the other (p = 1):
    its library first copies operands into an order of its own, at half the rate at which one row reads them. Both go
    the slower the shorter the rows of the weights are, (1 + run_half/K). On two cores of an EPYC with MKL 119 products
    of 1 to 1024 rows with weights of 1 to 154 MB follow this to 9 % in the median and 24 % at p90: one row reads 65 MB
    of weights at 12 GB/s where K is 512 and at 21 GB/s where it is 8192, and eight rows copy them at 4.5 and 7.3 GB/s.
    """

    flops_per_s: float
    rows_half: float
    columns_half: float
    depth_half: float
    read_bytes_per_s: float  # of the weights, where they meet one row
    bytes_per_s: float  # of any operand up to `_COPIED_FAST` bytes
    run_half: float  # columns in a row of weights by which half of either rate is reached; 0 on accelerators
    sharpness: float
    num_points: int

    def seconds(self, m: float, n: float, k: float, width: float, *, chosen: bool = False) -> float:
        """Of one product; `chosen`: the weights lie in the better of two orders, which matters to one row alone."""
        compute = 2.0 * m * n * k / self.flops_per_s
        compute *= (1 + self.rows_half / m) * (1 + self.columns_half / n) * (1 + self.depth_half / k)
        weights, rest = width * n * k, width * m * (n + k)
        run = 1 + self.run_half / (max(n, k) if chosen and m == 1 else k)
        fetched = weights / self.read_bytes_per_s if m == 1 and self.sharpness == 1.0 else self._copied(weights)
        traffic = fetched * run + self._copied(rest)
        return float((compute**self.sharpness + traffic**self.sharpness) ** (1 / self.sharpness))

    def _copied(self, num_bytes: float) -> float:
        slower = max(1.0, num_bytes / _COPIED_FAST) ** _SLOWER if self.sharpness == 1.0 else 1.0
        return num_bytes / self.bytes_per_s * slower

    def in_cache(self, speedup: float) -> "ProductLaw":
        """The same where operands are found in the cache."""
        return replace(self, read_bytes_per_s=self.read_bytes_per_s * speedup, bytes_per_s=self.bytes_per_s * speedup)


@dataclass(frozen=True, kw_only=True)
class Laws:
    """All that is known of one machine's single operations. A key is missing where nothing was measured."""

    products: dict[str, ProductLaw]  # by dtype
    quantised: dict[str, float] = field(default_factory=dict)  # seconds a weight, of a product with one row
    attention: dict[str, Table] = field(default_factory=dict)  # FLOP/s by sequence, "forward" and "backward"
    attention_half: float  # the sequence at which half of the rate is reached
    cache_bytes_per_s: float  # of keys and values that one query reads
    cache_flops_per_s: float | None = None  # where its products, and not the reading, may set the pace: on a CPU
    copy: Table  # bytes/s, read and written, by bytes moved
    passes: dict[str, Table] = field(default_factory=dict)  # bytes/s of a kind, "backward" after its name
    optimizer: Table | None = None  # bytes/s by bytes moved
    launch_s: float
    cache_bytes: float
    cache_speedup: float  # of traffic that stays in the last-level cache

    def seconds(self, one: Operation, *, resident: bool) -> float:
        """Of all `count` together, without launches. `resident`: the step's weights stay in the cache."""
        if isinstance(one, Product):
            return one.count * self._product(one, resident)
        if isinstance(one, Attend):
            return one.count * self._attend(one)
        if isinstance(one, ReadCache):
            return one.count * self._read_cache(one, resident)
        if isinstance(one, Pass):
            return one.count * self._pass(one)
        return self._update(one, resident)

    def _product(self, one: Product, resident: bool) -> float:
        law, width = self.products[one.dtype], WIDTH[one.dtype]
        if one.weights in ("int8", "int4"):
            per_weight = self.quantised[one.weights] * one.n * one.k
            return per_weight * max(1.0, one.m / 4)  # kernels of few bits are made for one row, or four at a time
        if resident:
            law = law.in_cache(self.cache_speedup)
        seconds = law.seconds(one.m, one.n, one.k, width, chosen=one.chosen)
        if one.weights == "nf4":  # looked up into a wide copy, which is then scaled and multiplied with
            seconds += 4.0 * width * one.n * one.k / self.copy.rates[-1]
        return seconds

    def _attend(self, one: Attend) -> float:
        table = self.attention["backward" if one.backward and "backward" in self.attention else "forward"]
        shorter = min(1.0, one.seq / table.sizes[0])  # below what was measured the rate falls as s / (s + s_half)
        half = self.attention_half / table.sizes[0]
        return one.flops / table.at(one.seq) * (shorter + half) / (shorter * (1 + half))

    def _read_cache(self, one: ReadCache, resident: bool) -> float:
        rate = self.cache_bytes_per_s * (self.cache_speedup if resident else 1.0)
        compute = one.flops / self.cache_flops_per_s if self.cache_flops_per_s else 0.0
        return max(one.num_bytes / rate, compute)

    def _pass(self, one: Pass) -> float:
        """What the operation takes beyond a copy's rate is work of its own, which no cache makes faster."""
        moved = max(one.num_bytes, 1.0)
        copied = moved / self.copy.at(moved)
        table = self.passes.get(f"{one.kind} backward") if one.backward else None
        table = table or self.passes.get(one.kind)
        taken = moved / table.at(moved) if table else copied / (1.0 if one.kind == "copy" else _UNMEASURED_PASS)
        found = one.cached and moved < _CACHE_SHARE * self.cache_bytes
        return max(0.0, taken - copied) + copied / (self.cache_speedup if found else 1.0)

    def _update(self, one: Update, resident: bool) -> float:
        """AdamW moves 28 bytes a parameter: see workloads/optimizer_step.py."""
        moved = 28.0 * one.parameters
        rate = self.optimizer.at(moved) if self.optimizer else self.copy.at(moved)
        return moved / rate / (self.cache_speedup if resident else 1.0)

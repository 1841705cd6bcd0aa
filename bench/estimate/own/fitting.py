"""Fitting: from what a machine measured of single operations to its laws, with the fit of each.

A `quick` run has one or two sizes of everything. So a coefficient that its rows cannot tell stays near what machines of
its kind have: each has a prior, wide where machines differ, and the fit is the most likely between prior and rows
(ridge regression on logarithms). With more rows the prior stops to matter.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import stats
from bench.errors import UserError
from bench.estimate.own.laws import WIDTH, Laws, ProductLaw, Table
from bench.estimate.own.observed import Observations, Observed
from bench.estimate.own.step import Product

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Array = NDArray[float64]

_DISTURBED = 1.5  # a product that took so much longer, of a logarithm, than a usual machine's: something else ran
_GROUPED_NOISE = 0.20  # the same of experts' products: small, many, and called in another way
_NOISE = 0.04  # of the logarithm of a row that is fitted, beside what rounds differ by: what a law cannot follow


@dataclass(frozen=True, kw_only=True)
class TermFit:
    """One term: its figure, the rows behind it, and how well it gives them back."""

    term: str
    value: float
    unit: str
    spread: float | None  # standard deviation of the figure's logarithm; None: not known
    rows: tuple[str, ...]
    errors: tuple[float, ...]  # log(predicted / measured) of each row
    hull: dict[str, tuple[float, float]]

    @property
    def median_error(self) -> float | None:
        """max(predicted / measured, measured / predicted) - 1, of its own rows."""
        return stats.median([math.expm1(abs(error)) for error in self.errors]) if self.errors else None


@dataclass(frozen=True)
class Prior:
    """Of a coefficient: its usual value, and the standard deviation of its logarithm between machines."""

    value: float
    spread: float


@dataclass(frozen=True)
class _Kind:
    """What is known of products on a kind of device before any is measured."""

    rows: Prior
    columns: Prior
    depth: Prior
    read: Prior  # rate at which one row reads weights, as a share of reading memory
    copied: Prior  # rate at which operands are taken in, as a share of that too
    run: Prior
    sharpness: float


# CPUs: measured here, MKL on two cores with AVX2. Accelerators: tiles of 64 to 128 rows, and a depth of about 200 where
# half the rate is reached on A100, H100 and A40.
_KINDS = {
    True: _Kind(
        Prior(0.5, 0.5), Prior(2.0, 0.5), Prior(4.0, 0.5), Prior(0.75, 0.2), Prior(0.4, 0.3), Prior(240.0, 0.15), 1.0
    ),
    False: _Kind(
        Prior(60.0, 0.7), Prior(60.0, 0.7), Prior(200.0, 0.7), Prior(1.0, 0.1), Prior(1.0, 0.15), Prior(1e-9, 0.1), 3.0
    ),
}
# By whether it is a CPU: 128 tokens took 1.6 times as long as the rate at 512 says here; on accelerators as on A100.
_ATTENTION_HALF = {True: 120.0, False: 400.0}
_CACHE_SPEEDUP = 3.0  # of a last-level cache over memory (a guess, which the factor of memory corrects)
_FALLBACK_CACHE_BYTES = 32 << 20


def laws(seen: Observations) -> tuple[Laws, list[TermFit]]:
    """The laws of a machine. Raises UserError with what to measure where they cannot be had."""
    fits: list[TermFit] = []
    copy, read = _bandwidth(seen, fits)
    products = {}
    for dtype in sorted({one.dtype for one in seen.of("matmul") if one.params.get("duty", "sustained") == "sustained"}):
        if dtype in WIDTH:
            products[dtype] = _product_law(seen, dtype, read, fits)
    if not products:
        raise UserError(
            f"{seen.machine.name}: no matrix product was measured, and every step is made of them: "
            "`accelmark run --suite quick` or `accelmark run matmul`"
        )
    forward, backward = _attention(seen, fits)
    cache_bytes_per_s, cache_flops_per_s = _cache_reading(seen, read, fits)
    made = Laws(
        products=products,
        quantised=_quantised(seen, fits),
        attention={name: table for name, table in (("forward", forward), ("backward", backward)) if table},
        attention_half=_ATTENTION_HALF[seen.machine.is_cpu],
        cache_bytes_per_s=cache_bytes_per_s,
        cache_flops_per_s=cache_flops_per_s,
        copy=copy,
        passes=_passes(seen, fits),
        optimizer=_optimizer(seen, fits),
        launch_s=_launch(seen, fits),
        cache_bytes=seen.machine.cache_bytes or _FALLBACK_CACHE_BYTES,
        cache_speedup=_CACHE_SPEEDUP,
    )
    return made, fits


def most_likely(errors: "Callable[[Array], Array]", priors: Sequence[Prior]) -> tuple[list[float], list[float]]:
    """The coefficients that make squared `errors`, in units of their noise, and the distance from the priors smallest;
    and the standard deviation of each logarithm from the curvature there. `errors` takes the logarithms.
    """
    import numpy as np
    from scipy.optimize import least_squares

    spreads = np.array([prior.spread for prior in priors])
    centre = np.log([prior.value for prior in priors])

    def scaled(x: "Array") -> "Array":
        return np.concatenate([errors(x), (x - centre) / spreads])

    found = least_squares(scaled, centre, x_scale=spreads)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    return [float(v) for v in np.exp(found.x)], [float(v) for v in np.sqrt(np.diag(covariance))]


def _product_law(seen: Observations, dtype: str, read: float, fits: list[TermFit]) -> ProductLaw:
    rows = [
        one
        for one in seen.of("matmul", "grouped_matmul")
        if one.dtype == dtype and one.params.get("duty", "sustained") == "sustained"
    ]
    fastest = max(one.cost.gemm_flops / one.step_s for one in rows)
    kind = _KINDS[seen.machine.is_cpu]
    priors = [
        Prior(fastest * 1.05, 0.3), kind.rows, kind.columns, kind.depth,
        Prior(read * kind.read.value, kind.read.spread), Prior(read * kind.copied.value, kind.copied.spread), kind.run,
    ]  # fmt: skip

    def law_of(x: Sequence[float]) -> ProductLaw:
        return ProductLaw(
            flops_per_s=x[0], rows_half=x[1], columns_half=x[2], depth_half=x[3], read_bytes_per_s=x[4],
            bytes_per_s=x[5], run_half=x[6], sharpness=kind.sharpness, num_points=len(rows),
        )  # fmt: skip

    def error(law: ProductLaw, one: Observed) -> float:
        made = _products(one)
        total = math.fsum(p.count * law.seconds(p.m, p.n, p.k, WIDTH[dtype]) for p in made)
        return math.log(total / one.step_s)

    expected = law_of([prior.value for prior in priors])
    rows = [one for one in rows if error(expected, one) > -_DISTURBED]  # the fastest always stays
    own = {"matmul": _NOISE, "grouped_matmul": _GROUPED_NOISE}
    noise = [math.hypot(own[one.workload], one.noise) for one in rows]

    def scaled(logs: "Array") -> "Array":
        import numpy as np

        law = law_of([math.exp(float(value)) for value in logs])
        return np.array([error(law, one) / sigma for one, sigma in zip(rows, noise, strict=True)])

    x, spreads = most_likely(scaled, priors)
    errors = [error(law_of(x), one) for one in rows]
    shapes = [_products(one) for one in rows]
    sizes = [shape for made in shapes for shape in made]
    fits.append(
        TermFit(
            term=f"matmul {dtype}", value=x[0], unit="FLOP/s", spread=spreads[0],
            rows=tuple(one.label for one in rows), errors=tuple(errors),
            hull={name: _range([getattr(s, name) for s in sizes]) for name in ("m", "n", "k")},
        )
    )  # fmt: skip
    return law_of(x)


def _products(one: Observed) -> list[Product]:
    """The products that a row is of: one, or each expert's."""
    p = one.params
    if one.workload == "matmul":
        return [Product(m=p["m"], n=p["n"], k=p["k"], dtype=one.dtype)]
    rows = max(1, p["tokens"] // p["num_experts"])
    used = min(p["num_experts"], p["tokens"])
    return [Product(m=rows, n=p["n"], k=p["k"], dtype=one.dtype, count=used)]


def _bandwidth(seen: Observations, fits: list[TermFit]) -> tuple[Table, float]:
    """Of a copy by size, and of reading alone. Without a copy any other traffic must do."""
    rates = {name: [(one.cost.bytes, one.cost.bytes / one.step_s) for one in seen.of(name)] for name in _TRAFFIC}
    copy = Table.of(rates["memory_copy"]) or Table.of(rates["memory_triad"]) or Table.of(rates["memory_read"])
    if copy is None:
        raise UserError(
            f"{seen.machine.name}: no memory bandwidth was measured: "
            "`accelmark run --suite quick` or `accelmark run memory_copy memory_read`"
        )
    for name in _TRAFFIC:
        if rows := seen.of(name):
            fits.append(_rate_fit(name.replace("_", " "), rows, "B/s", lambda one: one.cost.bytes / one.step_s))
    read = Table.of(rates["memory_read"])
    return copy, (read or copy).rates[-1]


_TRAFFIC = ("memory_copy", "memory_read", "memory_write", "memory_triad")
_PASSES = ("rms_norm", "layer_norm", "rope", "swiglu", "softmax", "cross_entropy", "embedding")
# Bytes that a forward and a backward pass move, over those of the forward pass, as the workloads count them.
_BOTH_PASSES = {"rms_norm": 5 / 2, "layer_norm": 5 / 2, "rope": 2.0, "swiglu": 8 / 3, "softmax": 5 / 2}


def _passes(seen: Observations, fits: list[TermFit]) -> dict[str, Table]:
    """Bytes/s of each kind, forward; and of its gradient, where a row has both and another the forward pass alone."""
    found: dict[str, Table] = {}
    for name in _PASSES:
        rows = seen.of(name)
        plain = [one for one in rows if name == "cross_entropy" or not one.params.get("backward")]
        table = Table.of((one.cost.bytes, one.cost.bytes / one.step_s) for one in plain)
        if table is None:
            continue
        found[name] = table
        fits.append(_rate_fit(name.replace("_", " "), plain, "B/s", lambda one: one.cost.bytes / one.step_s))
        both = [one for one in rows if one not in plain and name in _BOTH_PASSES]
        share = _BOTH_PASSES.get(name, 1.0)
        points = []
        for one in both:
            forward_bytes = one.cost.bytes / share
            rest_s = one.step_s - forward_bytes / table.at(forward_bytes)
            if rest_s > 0.2 * one.step_s:
                points.append((one.cost.bytes - forward_bytes, (one.cost.bytes - forward_bytes) / rest_s))
        if gradient := Table.of(points):
            found[f"{name} backward"] = gradient
    return found


def _attention(seen: Observations, fits: list[TermFit]) -> tuple[Table | None, Table | None]:
    """FLOP/s by sequence. The backward pass has 2.5 times the forward's FLOP, and a rate of its own if measured."""
    rows = seen.of("attention")
    plain = [one for one in rows if not one.params.get("backward")]
    forward = Table.of((one.params["seq"], one.cost.attention_flops / one.step_s) for one in plain)
    if forward is None:
        return None, None
    fits.append(_rate_fit("attention", plain, "FLOP/s", lambda one: one.cost.attention_flops / one.step_s, "seq"))
    points = []
    for one in (one for one in rows if one.params.get("backward")):
        flops = one.cost.attention_flops / 3
        rest_s = one.step_s - flops / forward.at(one.params["seq"])
        if rest_s > 0.2 * one.step_s:
            points.append((float(one.params["seq"]), 2.5 * flops / rest_s))
    return forward, Table.of(points)


def _cache_reading(seen: Observations, read: float, fits: list[TermFit]) -> tuple[float, float | None]:
    """Bytes/s of single queries over a cache; on a CPU, where it is their products that take long, FLOP/s beside the
    rate of reading.
    """
    rows = seen.of("decode_attention")
    if not rows:
        return read, None
    fit = _rate_fit("decode attention", rows, "B/s", lambda one: one.cost.bytes / one.step_s)
    fits.append(fit)
    if not seen.machine.is_cpu:
        return fit.value, None
    table = Table.of((one.cost.bytes, one.cost.attention_flops / one.step_s) for one in rows)
    assert table is not None
    return read, table.rates[-1]


def _quantised(seen: Observations, fits: list[TermFit]) -> dict[str, float]:
    """Seconds a weight, of products with few rows."""
    found = {}
    for bits in ("int8", "int4"):
        rows = [one for one in seen.of("dequantised_matmul") if one.params["weights"] == bits]
        if rows:
            weights = [one.params["n"] * one.params["k"] for one in rows]
            table = Table.of((num, num / one.step_s) for num, one in zip(weights, rows, strict=True))
            assert table is not None
            found[bits] = 1 / table.rates[-1]
            term = f"matmul dequantised {bits}"
            fits.append(_rate_fit(term, rows, "FLOP/s", lambda one: one.cost.gemm_flops / one.step_s))
    return found


def _optimizer(seen: Observations, fits: list[TermFit]) -> Table | None:
    rows = [one for one in seen.of("optimizer_step") if one.params.get("implementation", "fused") == "fused"]
    if rows:
        fits.append(_rate_fit("optimizer", rows, "B/s", lambda one: one.cost.bytes / one.step_s))
    return Table.of((one.cost.bytes, one.cost.bytes / one.step_s) for one in rows)


def _launch(seen: Observations, fits: list[TermFit]) -> float:
    """Seconds a call. Chains count, because a single call is timed with everything around it."""
    rows = [one for one in seen.of("launch_overhead") if not one.params.get("compiled")]
    chains = [one for one in rows if one.cost.launches > 1] or rows
    if not chains:
        raise UserError(f"{seen.machine.name}: no launch was measured: `accelmark run launch_overhead`")
    fit = _rate_fit("launch", chains, "launch/s", lambda one: one.cost.launches / one.step_s)
    fits.append(fit)
    return 1 / fit.value


def _rate_fit(
    term: str, rows: Sequence[Observed], unit: str, rate: Callable[[Observed], float], size: str = ""
) -> TermFit:
    """A rate that is read off its rows: that of the largest; its spread is that of the rounds."""
    ordered = sorted(rows, key=lambda one: one.cost.bytes)
    last = ordered[-1]
    spread = last.spread / math.sqrt(last.num_rounds) if last.num_rounds > 1 else None
    sizes = [float(one.params[size]) if size else float(one.cost.bytes) for one in ordered]
    return TermFit(
        term=term, value=rate(last), unit=unit, spread=spread, rows=tuple(one.label for one in ordered),
        errors=(), hull={size or "bytes": _range(sizes)},
    )  # fmt: skip


def _range(values: Sequence[float]) -> tuple[float, float]:
    return float(min(values)), float(max(values))

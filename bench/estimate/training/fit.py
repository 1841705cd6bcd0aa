"""Fit of the training estimator: coefficients and errors from the published steps that can be trusted.

The coefficients maximise their posterior: errors of the logarithm are normal with the covariance of likeness.py, which
keeps a source of a thousand rows from outvoting the others, and each coefficient has a prior, wide around what physics
and datasheets let expect, so that what no row varies stays where it was. store.py writes
coefficients/training.json.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from bench.chip import Chip
from bench.estimate.published import Row, number
from bench.estimate.training import row_job, work
from bench.estimate.training import step as training
from bench.estimate.training.likeness import Array, Likeness, Process, Stand, covariance, noise
from bench.estimate.training.rates import (
    Fractions,
    Speeds,
    peak_flops_per_s,
    runs_in,
    usual_link_bytes_per_s,
    usual_network_bytes_per_s,
)
from bench.estimate.training.step import Coefficients, Traits
from bench.estimate.training.work import Work


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Of one coefficient: its median, and the standard deviation of its logarithm (of its log-odds where a share)."""

    median: float
    deviation: float
    share: bool = False


GENERATIONS = ("Volta", "Ampere", "Ada", "Hopper", "Blackwell", "CDNA", "TPU", "NeuronCore")
_NEARNESS = {"TPU": 1.25, "CDNA": 0.85}
PRIORS: dict[str, Prior] = {
    "bf16": Prior(median=0.72, deviation=0.10),
    "fp8": Prior(median=0.60, deviation=0.15),
    "fp4": Prior(median=0.42, deviation=0.25),
    "fp32": Prior(median=0.88, deviation=0.15),
    "tf32": Prior(median=0.70, deviation=0.15),
    "attention": Prior(median=0.42, deviation=0.3),
    "memory": Prior(median=0.80, deviation=0.10),
    "optimizer": Prior(median=0.75, deviation=0.2),
    "link": Prior(median=0.75, deviation=0.2),
    "network": Prior(median=0.75, deviation=0.3),
    "launch_s": Prior(median=6e-6, deviation=0.1),
    "kernel_s": Prior(median=3e-6, deviation=0.4),
    # What a generation makes of its peak, as against the pooled fraction of products and of attention.
    # Systolic arrays without a power limit in the way come closer to theirs, CDNA's libraries less close (mamf-finder).
    **{f"matmul {name}": Prior(median=_NEARNESS.get(name, 1.0), deviation=0.10) for name in GENERATIONS},
    **{f"attention {name}": Prior(median=1.0, deviation=0.20) for name in GENERATIONS},
    "edge_k": Prior(median=200, deviation=0.5),
    "wave_flops": Prior(median=2.5e6, deviation=0.4),  # tiles of 128 x 256 on a hundred processors: 3.3e6
    "edge_seq": Prior(median=500, deviation=0.4),
    "stream": Prior(median=0.9, deviation=0.3),
    "unfused": Prior(median=1.0, deviation=0.3),
    "expert": Prior(median=1.4, deviation=0.3),
    "tensor": Prior(median=0.7, deviation=0.3),
    "context": Prior(median=0.4, deviation=0.5),
    "exchange": Prior(median=1.0, deviation=0.3),
    "latency_s": Prior(median=1.2e-5, deviation=0.4),
    "gather": Prior(median=0.8, deviation=0.6, share=True),
    "reduce": Prior(median=0.7, deviation=0.6, share=True),
    "contention": Prior(median=0.19, deviation=0.4, share=True),
    "host": Prior(median=2.2, deviation=0.4),
    "step_s": Prior(median=4e-3, deviation=0.7),
    "lateness": Prior(median=0.015, deviation=0.6),
}
_NAMES = tuple(PRIORS)
_PRECISIONS = {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "fp4": "fp4", "fp32": "fp32", "tf32": "tf32"}
_MOST_OF_A_SOURCE = 80
_MISFIT = 0.10  # what formulas miss of a row, though its stack were known: it keeps one source from bending them
Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A row that can be estimated, with what was measured (NaN where it is only to be predicted)."""

    row: Row
    understood: row_job.RowJob
    stand: Stand
    log_step: float


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as arrays, for formulas that take all at once: their work, and the peaks of their devices."""

    work: Work
    traits: Traits
    matmul: Array
    half: Array
    attention: Array
    memory: Array
    link: Array
    network: Array
    precisions: list[str]  # of each row's products, as `PRIORS` names them
    halves: list[str]  # and of those that stay in 16 bits
    generations: list[str]


def understood(row: Row) -> Measured | str:
    """A row with its job and no figure, or the reason why it has none. What was measured is not looked at."""
    job = row_job.of(row)
    return job if isinstance(job, str) else Measured(row=row, understood=job, stand=stand(row, job), log_step=math.nan)


def measured(row: Row) -> Measured | str:
    """A row with its job and its figure, or the reason why it lacks either."""
    found = understood(row)
    if isinstance(found, str):
        return found
    log_step = _log_step(row, found.understood)
    return "the row gives no step" if math.isnan(log_step) else replace(found, log_step=log_step)


def _log_step(row: Row, understood: row_job.RowJob) -> float:
    """Of the seconds of the job's step: as given, from tokens per second, or from FLOP/s by the source's convention."""
    job = understood.job
    step, speed, rate = (_positive(row, column) for column in ("step_time_s", "tok_s_gpu", "tflops_gpu"))
    if speed:
        return math.log(job.global_batch * job.seq / job.cluster.num_devices / speed)
    if step and understood.has_batch:
        return math.log(step)
    if rate and "maxtext pre-2025" in (row.get("flops_convention") or "").lower():
        # 6 N and attention of all pairs, 12·L·d·s, forward and backward.
        model = job.model
        flops = 6 * model.matmul_parameters + 12 * model.num_blocks * model.query_size * job.seq
        return math.log(flops * job.global_batch * job.seq / job.cluster.num_devices / (rate * 1e12))
    return math.nan


def _positive(row: Row, column: str) -> float | None:
    value = number(row, column)
    return value if value and 0 < value < math.inf else None


def stand(row: Row, understood: row_job.RowJob) -> Stand:
    """Where the row stands among others."""
    job, layout = understood.job, understood.job.layout
    tokens = job.micro_batch * job.seq / layout.cp
    shape = (
        0.5 * math.log(job.model.active_parameters), 0.5 * math.log(job.seq), 0.5 * math.log(tokens),
        math.log(layout.tp), 0.7 * math.log(layout.pp), 0.5 * math.log(layout.cp * layout.ep),
        0.5 * math.log(job.global_batch / layout.dp / job.micro_batch), 0.3 * math.log(job.cluster.num_devices),
        1.0 * (job.recompute == "full"), 0.5 * math.log(job.model.head_dim), 1.0 * (job.method == "lora"),
    )  # fmt: skip
    words = [row.get(key) or "" for key in ("framework", "interconnect", "gpus_per_node", "gpu")]
    return Stand(
        group=understood.habits.group,
        framework=understood.habits.framework or (row.get("framework") or "").strip().lower(),
        architecture=job.cluster.chip.architecture, device=understood.device, version=job.stack.version,
        machine=_machine(understood.device, words) if words[0] else "", precision=job.precision,
        model=understood.family, shape=shape, noise=_extra_noise(row),
    )  # fmt: skip


def _machine(device: str, words: Sequence[str]) -> str:
    """A machine is described in many words; only whether two are described in the same ones counts."""
    return f"{zlib.crc32('|'.join([device, *words]).encode()):08x}"


def _extra_noise(row: Row) -> float:
    """One iteration, or a vendor's rounded table, is noisier than a benchmark."""
    return {"measured_single_iteration": 0.06, "reported_benchmark": 0.05}.get(row.get("evidence") or "", 0.0)


def table(rows: Sequence[Measured]) -> Table:
    """The rows' work and peaks as arrays."""
    jobs = [one.understood.job for one in rows]
    works, traits = [work.of(job) for job in jobs], [training.traits(job) for job in jobs]
    half = ["fp32" if job.precision == "fp32" else "bf16" for job in jobs]
    clusters = [job.cluster for job in jobs]
    chips = [cluster.chip for cluster in clusters]
    runs = [runs_in(chip.flops_per_s, job.precision) for chip, job in zip(chips, jobs, strict=True)]
    links = [cluster.link_bytes_per_s or usual_link_bytes_per_s(cluster.chip) for cluster in clusters]
    networks = [cluster.network_bytes_per_s or usual_network_bytes_per_s(cluster.chip) for cluster in clusters]
    return Table(
        work=Work(**_columns(works, Work)),
        traits=Traits(**_columns(traits, Traits)),
        matmul=np.array([chip.flops_per_s[one] for chip, one in zip(chips, runs, strict=True)]),
        half=np.array([peak_flops_per_s(chip, one) for chip, one in zip(chips, half, strict=True)]),
        attention=np.array([peak_flops_per_s(chip, "bf16") for chip in chips]),
        memory=np.array([chip.memory_bytes_per_s for chip in chips]),
        link=np.array(links),
        network=np.array(networks),
        precisions=[_PRECISIONS[one] for one in runs],
        halves=half,
        generations=[generation(chip) for chip in chips],
    )


def _columns(rows: Sequence[Any], kind: type) -> dict[str, Any]:
    """Each field of a dataclass as the array of what the rows have there."""
    return {field.name: np.array([getattr(one, field.name) for one in rows]) for field in fields(kind)}


def speeds(rows: Table, values: Values) -> Speeds:
    """Peaks times fractions, for each row."""
    matmul = np.array([values.get(f"matmul {one}", 1.0) for one in rows.generations])
    attention = np.array([values.get(f"attention {one}", 1.0) for one in rows.generations])
    rates: dict[str, Any] = {
        "matmul_flops_per_s": rows.matmul * matmul * np.array([values[one] for one in rows.precisions]),
        "half_flops_per_s": rows.half * matmul * np.array([values[one] for one in rows.halves]),
        "attention_flops_per_s": rows.attention * attention * values["attention"],
        "memory_bytes_per_s": rows.memory * values["memory"],
        "optimizer_bytes_per_s": rows.memory * values["optimizer"],
        "link_bytes_per_s": rows.link * values["link"],
        "network_bytes_per_s": rows.network * values["network"],
    }
    return Speeds(launch_s=values["launch_s"], kernel_s=values["kernel_s"], **rates)


def coefficients(values: Values) -> Coefficients:
    """Those that are no rates."""
    return Coefficients(**{field.name: values[field.name] for field in fields(Coefficients)})


def fractions(values: Values, chip: Chip) -> Fractions:
    """Those that are rates, for that chip."""
    matmul, attention = (values.get(f"{kind} {generation(chip)}", 1.0) for kind in ("matmul", "attention"))
    names = ("memory", "optimizer", "link", "network", "launch_s", "kernel_s")
    return Fractions(
        matmul={one: values[half] * matmul for one, half in _PRECISIONS.items()},
        attention=values["attention"] * attention,
        **{name: values[name] for name in names},
    )


def generation(chip: Chip) -> str:
    """The first word of its architecture."""
    return chip.architecture.split()[0]


def log_steps(rows: Table, values: Values) -> Array:
    """The logarithm of each row's step by physics alone."""
    parts = training.seconds(rows.work, speeds(rows, values), coefficients(values), rows.traits)
    return np.asarray(np.log(sum(parts.values())), dtype=np.float64)


def fit(rows: Sequence[Measured], like: Likeness, start: Values | None = None) -> Values:
    """The coefficients' posterior mode; found sooner from a `start` that is near."""
    from scipy.linalg import solve_triangular
    from scipy.optimize import least_squares

    rows = thinned(rows)
    stands = [one.stand for one in rows]
    lower = np.linalg.cholesky(covariance(stands, stands, like) + np.diag(noise(stands, like) + _MISFIT**2))
    arrays, target = table(rows), np.array([one.log_step for one in rows])

    def misfit(z: Array) -> Array:
        error = target - log_steps(arrays, _values(z))
        return np.concatenate([solve_triangular(lower, error, lower=True), z])

    found = least_squares(misfit, _standardised(start), method="lm", xtol=1e-3, ftol=1e-4)
    return _values(found.x)


def thinned(rows: Sequence[Measured]) -> list[Measured]:
    """At most so many of each source, evenly taken: more of the same machine say nothing new of physics."""
    sources: dict[str, list[Measured]] = {}
    for one in rows:
        sources.setdefault(one.row["source_id"], []).append(one)
    kept = []
    for found in sources.values():
        stride = max(1.0, len(found) / _MOST_OF_A_SOURCE)
        kept += [found[int(index * stride)] for index in range(min(len(found), _MOST_OF_A_SOURCE))]
    return kept


def _values(z: Array) -> Values:
    """Coefficients from standardised ones: 0 is a prior's median, 1 its deviation."""
    values = {}
    for name, one in zip(_NAMES, z, strict=True):
        prior = PRIORS[name]
        if prior.share:
            odds = prior.median / (1 - prior.median) * math.exp(prior.deviation * one)
            values[name] = float(odds / (1 + odds))
        else:
            values[name] = float(prior.median * math.exp(prior.deviation * one))
    return values


def _standardised(values: Values | None) -> Array:
    """The inverse of `_values`; priors' medians for None."""
    z = np.zeros(len(_NAMES))
    for index, name in enumerate(_NAMES if values else ()):
        prior, value = PRIORS[name], (values or {})[name]
        ratio = value / prior.median
        if prior.share:
            ratio *= (1 - prior.median) / (1 - value)
        z[index] = math.log(ratio) / prior.deviation
    return z


def process(rows: Sequence[Measured], values: Values, like: Likeness) -> Process:
    """What physics with these coefficients leaves over on those rows."""
    errors = np.array([one.log_step for one in rows]) - log_steps(table(rows), values)
    return Process([one.stand for one in rows], errors, like)

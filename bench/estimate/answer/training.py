"""Answer: from one optimizer step to a whole run: does it fit, how long, how much energy, money and carbon.

    time   = tokens / (tokens/s) / goodput
    energy = devices x power at the wall x PUE x time
    money  = devices x hours x price      (energy of machines that one owns is priced apart)

Model error and assumptions are drawn together and told apart: `shares` of each figure says what its spread comes from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import units
from bench.estimate.answer.assumptions import Assumptions, Spread, spread
from bench.estimate.answer.layouts import USABLE, Candidate
from bench.estimate.job import TrainingJob
from bench.estimate.prediction import Interval, Prediction

SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Power:
    """Of one device with its share of the node, at the wall, while steps run."""

    watts: float
    interval: Interval | None
    basis: str


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory of the fullest device."""

    bytes: float
    parts: dict[str, float]
    probability_of_oom: float


@dataclass(frozen=True, kw_only=True)
class Means:
    """How steps, memory and power are estimated: from files of one's own machine where given, else published rows."""

    step_of: Callable[[TrainingJob], Prediction]
    seconds_of: Callable[
        [TrainingJob], float | None
    ]  # the step by physics alone: quick, and good enough to rank layouts
    bytes_of: Callable[[TrainingJob], float]  # peak memory of the fullest device
    memory_of: Callable[[TrainingJob], Memory]  # the same by parts, and whether it fits
    power_of: Callable[[TrainingJob, Prediction], Power | None]


@dataclass(frozen=True, kw_only=True)
class TrainingAnswer:
    """What a training run takes. A figure is None where there is nothing to base it on; `reasons` says why."""

    tokens: int
    candidate: Candidate
    memory: Memory
    step_s: Spread
    tokens_per_s: float
    model_flops_utilization: float | None
    days: Spread
    energy_kwh: Spread | None
    money: Spread | None
    electricity: Spread | None
    carbon_kg: Spread | None
    power: Power | None
    reasons: dict[str, str]


def training(tokens: int, chosen: Candidate, means: Means, assumptions: Assumptions) -> TrainingAnswer:
    """The whole run of `tokens` with the layout that was chosen."""
    job, prediction = chosen.job, chosen.prediction
    devices = job.cluster.num_devices
    tokens_per_s = job.global_batch * job.seq / chosen.step_s
    days = run_days(tokens, chosen, assumptions)
    model = {"model": prediction.interval}
    lost = {"goodput": (assumptions.goodput, -1.0)}
    power = means.power_of(job, prediction)
    reasons: dict[str, str] = {}
    energy = carbon = electricity = money = None
    if power is None:
        reasons["energy_kwh"] = f"no power is known for {job.cluster.chip.name}: its datasheet gives none"
    else:
        kwh = devices * power.watts / 1e3 * days * 24 * assumptions.pue.middle
        errors = {**model, "power": power.interval}
        facility = {**lost, "pue": (assumptions.pue, 1.0)}
        price, grid = assumptions.electricity_price, assumptions.carbon_intensity
        energy = spread(kwh, errors, facility)
        electricity = spread(kwh * price.middle, errors, {**facility, "electricity_price": (price, 1.0)})
        carbon = spread(kwh * grid.middle, errors, {**facility, "carbon_intensity": (grid, 1.0)})
    if assumptions.price_per_hour is None:
        reasons["money"] = "no price an hour is known for this device: give --price-per-hour"
    else:
        rent = assumptions.price_per_hour
        money = spread(devices * days * 24 * rent.middle, model, {**lost, "price_per_hour": (rent, 1.0)})
    return TrainingAnswer(
        tokens=tokens,
        candidate=chosen,
        memory=means.memory_of(job),
        step_s=spread(chosen.step_s, model),
        tokens_per_s=tokens_per_s,
        model_flops_utilization=utilization(job, chosen.step_s),
        days=spread(days, model, lost),
        energy_kwh=energy,
        money=money,
        electricity=electricity,
        carbon_kg=carbon,
        power=power,
        reasons=reasons,
    )


def run_days(tokens: float, chosen: Candidate, assumptions: Assumptions) -> float:
    """How long a run of so many tokens lasts, lost time included."""
    tokens_per_s = chosen.job.global_batch * chosen.job.seq / chosen.step_s
    return tokens / tokens_per_s / assumptions.goodput.middle / SECONDS_PER_DAY


def utilization(job: TrainingJob, step_s: float) -> float | None:
    """MFU: the model's own arithmetic by the dense peak (Chowdhery et al. 2022, appendix B); None without a peak."""
    peak = job.cluster.chip.peak_flops_per_s(job.precision)
    if peak is None:
        return None
    return model_flops(job) / step_s / peak / job.cluster.num_devices


def model_flops(job: TrainingJob) -> float:
    """Of one step: forward, and twice that backward; frozen weights need no gradient of their own, LoRA's 4 N."""
    tokens = job.global_batch * job.seq
    linear = 2 * job.model.matmul_parameters * tokens
    attention = job.model.attention_flops(job.global_batch, job.seq)
    passes = 2 if job.method in ("lora", "qlora") else 3
    return passes * linear + 3 * attention


def advice(job: TrainingJob, need_bytes: float) -> str:
    """What to change when nothing fits, with the numbers."""
    smaller = {"full": "--method lora or qlora, ", "lora": "--method qlora, "}.get(job.method, "")
    capacity = job.cluster.chip.memory_bytes
    devices = math.ceil(need_bytes / (USABLE * capacity) * job.cluster.num_devices)
    return (
        f"{job.model.name} needs {units.gibibytes(need_bytes)} a device at the least, and {units.percent(USABLE, 0)} "
        f"of {units.gibibytes(capacity)} can be used: take about {devices:,} devices instead of "
        f"{job.cluster.num_devices}, a shorter --seq, {smaller}or a smaller model"
    )


def document(answer: TrainingAnswer) -> dict[str, Any]:
    """The answer as `--json` prints it, SI units but where a name says otherwise."""
    job = answer.candidate.job
    prediction = answer.candidate.prediction
    total_s = sum(term.seconds for term in prediction.terms) or None
    return {
        "model": job.model.name,
        "num_parameters": job.model.total_parameters,
        "tokens": answer.tokens,
        "device": job.cluster.chip.name,
        "num_devices": job.cluster.num_devices,
        "method": job.method,
        "precision": job.precision,
        "seq": job.seq,
        "micro_batch": job.micro_batch,
        "global_batch": job.global_batch,
        "recompute": job.recompute,
        "layout": {
            name: getattr(job.layout, name) for name in ("dp", "tp", "pp", "cp", "ep", "virtual_stages", "sharding")
        },
        "memory": {
            "bytes": answer.memory.bytes,
            "capacity_bytes": job.cluster.chip.memory_bytes,
            "probability_of_oom": answer.memory.probability_of_oom,
            "parts": answer.memory.parts,
        },
        "step_s": answer.step_s.document(),
        "tokens_per_s": answer.tokens_per_s,
        "tokens_per_s_per_device": answer.tokens_per_s / job.cluster.num_devices,
        "mfu": answer.model_flops_utilization,
        "days": answer.days.document(),
        "energy_kwh": answer.energy_kwh.document() if answer.energy_kwh else None,
        "money": answer.money.document() if answer.money else None,
        "electricity": answer.electricity.document() if answer.electricity else None,
        "carbon_kg": answer.carbon_kg.document() if answer.carbon_kg else None,
        "power_w_per_device": answer.power.watts if answer.power else None,
        "power_basis": answer.power.basis if answer.power else None,
        "terms": [
            {"name": term.name, "seconds": term.seconds, "share": term.seconds / total_s if total_s else None}
            for term in prediction.terms
        ],
        "evidence": prediction.evidence,
        "basis": prediction.basis,
        "reasons": answer.reasons,
    }

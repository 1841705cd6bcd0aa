"""Serving answer: whether a model fits beside its cache, how fast tokens come to one user and to all, and their cost.

Requests are served in batches of a fixed size, each beginning with its prompt. What a user waits for beyond that, in a
queue, depends on how requests arrive and how the scheduler mixes them: that needs a simulation, and none is made here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench.estimate.answer.assumptions import Assumptions, Spread, spread
from bench.estimate.answer.layouts import USABLE
from bench.estimate.answer.training import Memory, Power
from bench.estimate.job import ServingJob
from bench.estimate.prediction import Prediction

_LARGEST_BATCH = 1024
# Share of the capacity that may be asked for on average: beyond it queues grow without bound as arrivals bunch.
BUSY_AT_MOST = 0.7
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class ServingMeans:
    """How times, memory and power are estimated."""

    predict: Callable[[ServingJob], Prediction]  # values: pred_ttft_s, pred_tpot_s, pred_tok_s_decode (all requests)
    memory_of: Callable[[ServingJob], Memory]
    power_of: Callable[[ServingJob, Prediction], Power | None]


@dataclass(frozen=True, kw_only=True)
class ServingAnswer:
    """One replica, serving `job.batch` requests at a time."""

    job: ServingJob
    prediction: Prediction
    memory: Memory
    largest_batch: int  # that fits
    ttft_s: Spread
    tpot_s: Spread
    tokens_per_s: Spread  # output tokens of all requests, prompts being read in between
    joules_per_token: Spread | None
    electricity_per_million_tokens: Spread | None  # money
    carbon_kg_per_million_tokens: Spread | None
    money_per_million_tokens: Spread | None  # rent
    reasons: dict[str, str]


def serving(job: ServingJob, means: ServingMeans, assumptions: Assumptions) -> ServingAnswer | str:
    """The answer, or the reason why there is none."""
    memory = means.memory_of(job)
    prediction = means.predict(job)
    if prediction.reason is not None:
        return prediction.reason
    error = {"model": prediction.interval}
    ttft_s, tpot_s = prediction.values["pred_ttft_s"], prediction.values["pred_tpot_s"]
    tokens_per_s = job.batch * job.output / (ttft_s + max(0, job.output - 1) * tpot_s)
    power = means.power_of(job, prediction)
    devices, reasons = job.cluster.num_devices, {}
    energy = electricity = carbon = money = None
    if power is None:
        reasons["joules_per_token"] = f"no power is known for {job.cluster.chip.name}: its datasheet gives none"
    else:
        errors = {**error, "power": power.interval}
        joules = devices * power.watts / tokens_per_s * assumptions.pue.middle
        kwh_per_million = joules * 1e6 / JOULES_PER_KWH
        facility = {"pue": (assumptions.pue, 1.0)}
        price, grid = assumptions.electricity_price, assumptions.carbon_intensity
        energy = spread(joules, errors, facility)
        electricity = spread(kwh_per_million * price.middle, errors, {**facility, "electricity_price": (price, 1.0)})
        carbon = spread(kwh_per_million * grid.middle, errors, {**facility, "carbon_intensity": (grid, 1.0)})
    if assumptions.price_per_hour is None:
        reasons["money_per_million_tokens"] = "no price an hour is known for this device: give --price-per-hour"
    else:
        rent = assumptions.price_per_hour
        cost = devices * rent.middle / 3600 / tokens_per_s * 1e6
        money = spread(cost, error, {"price_per_hour": (rent, 1.0)})
    return ServingAnswer(
        job=job,
        prediction=prediction,
        memory=memory,
        largest_batch=largest_batch(job, means),
        ttft_s=spread(ttft_s, error),
        tpot_s=spread(tpot_s, error),
        tokens_per_s=spread(tokens_per_s, error),
        joules_per_token=energy,
        electricity_per_million_tokens=electricity,
        carbon_kg_per_million_tokens=carbon,
        money_per_million_tokens=money,
        reasons=reasons,
    )


def largest_batch(job: ServingJob, means: ServingMeans) -> int:
    """The most requests whose caches fit beside the weights, up to 1,024; 0 where not even one does."""
    usable = USABLE * job.cluster.chip.memory_bytes
    fits, too_many = 0, _LARGEST_BATCH + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if means.memory_of(replace(job, batch=middle)).bytes <= usable:
            fits = middle
        else:
            too_many = middle
    return fits


def replicas_for(answer: ServingAnswer, users: int, requests_per_hour: float) -> tuple[float, int]:
    """Share of one replica's capacity that the users ask for, and the replicas that leave room for bunching."""
    asked = users * requests_per_hour * answer.job.output / 3600
    share = asked / answer.tokens_per_s.value
    return share, max(1, -int(-share // BUSY_AT_MOST))


def document(answer: ServingAnswer) -> dict[str, Any]:
    """The answer as `--json` prints it."""
    job = answer.job
    costs = {
        "joules_per_token": answer.joules_per_token,
        "electricity_per_million_tokens": answer.electricity_per_million_tokens,
        "carbon_kg_per_million_tokens": answer.carbon_kg_per_million_tokens,
        "money_per_million_tokens": answer.money_per_million_tokens,
    }
    return {
        "model": job.model.name,
        "num_parameters": job.model.total_parameters,
        "device": job.cluster.chip.name,
        "num_devices": job.cluster.num_devices,
        "tp": job.layout.tp,
        "pp": job.layout.pp,
        "weights": job.weights,
        "precision": job.precision,
        "batch": job.batch,
        "prompt": job.prompt,
        "output": job.output,
        "memory": {
            "bytes": answer.memory.bytes,
            "capacity_bytes": job.cluster.chip.memory_bytes,
            "probability_of_oom": answer.memory.probability_of_oom,
            "parts": answer.memory.parts,
            "largest_batch": answer.largest_batch,
        },
        "ttft_s": answer.ttft_s.document(),
        "tpot_s": answer.tpot_s.document(),
        "tokens_per_s": answer.tokens_per_s.document(),
        **{name: figure.document() if figure else None for name, figure in costs.items()},
        "terms": [{"name": term.name, "seconds": term.seconds} for term in answer.prediction.terms],
        "evidence": answer.prediction.evidence,
        "basis": answer.prediction.basis,
        "reasons": answer.reasons,
    }

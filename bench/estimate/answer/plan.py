"""Plan: from machines and a limit of days, energy or money to what can be trained.

For sizes round a first guess the fastest layout that fits gives tokens/s, the limit gives tokens, and the scaling law
gives the loss. The least loss is the compute-optimal model for these very machines: a size that runs badly on them
loses its place. Smaller models on more tokens lose little and are cheaper to serve ever after: they stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

from bench.chip import Chip
from bench.errors import UserError
from bench.estimate.answer import layouts, scaling, sizes
from bench.estimate.answer import training as answer
from bench.estimate.answer.assumptions import Assumptions
from bench.estimate.answer.layouts import Candidate, Fixed
from bench.estimate.answer.training import SECONDS_PER_DAY, Means
from bench.estimate.job import Cluster, TrainingJob

_SMALLEST, _LARGEST = 30e6, 1e12
_LARGEST_LIMIT = 1e12  # of days, money or kWh
# Sizes that are tried, as against a guess: loss is flat round its least, and devices shift it by tens of percent.
_WIDE = (0.12, 0.25, 0.5, 0.75, 1.1, 1.6, 2.4)
_AROUND = (0.8, 1.2, 1.8)
# Tokens of a step, by parameters: larger batches help larger models longer (Brown et al. 2020, table 2.1).
_BATCH_TOKENS = ((1e9, 2**19), (5e9, 2**20), (5e10, 2**21), (float("inf"), 2**22))


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Exactly one of these is set."""

    days: float | None = None
    money: float | None = None
    kwh: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.days, self.money, self.kwh) if value is not None]
        if len(given) != 1 or not 0 < given[0] <= _LARGEST_LIMIT:
            raise UserError(
                f"a plan needs one limit above 0 and up to {_LARGEST_LIMIT:g}: --days T, --budget-money X or --kwh E"
            )

    def scaled(self, factor: float) -> "Limit":
        """The same limit, so many times as much."""
        return Limit(**{name: value * factor for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model that can be trained within the limit."""

    candidate: Candidate
    tokens: float
    days: float
    loss: float

    @property
    def num_parameters(self) -> int:
        """Of the model."""
        return self.candidate.job.model.total_parameters


def global_batch_for(num_parameters: float, seq: int, dp_least: int = 1) -> int:
    """Sequences of a step: as many tokens as models of this size were trained with, a multiple of `dp_least`."""
    tokens = next(tokens for bound, tokens in _BATCH_TOKENS if num_parameters < bound)
    sequences = max(1, tokens // seq)
    power = 1 << (sequences.bit_length() - 1)
    return dp_least * -(-power // dp_least)


def best(
    cluster: Cluster,
    limit: Limit,
    template: TrainingJob,
    means: Means,
    assumptions: Assumptions,
    near: float | None = None,
) -> list[Trained]:
    """Models that can be trained within the limit, least loss first; `near` is a size to look around at.

    Raises UserError for none.
    """

    def trained(num_parameters: float) -> Trained | None:
        if not _SMALLEST <= num_parameters <= _LARGEST:
            return None
        return _trained(num_parameters, cluster, limit, template, means, assumptions)

    centre = min(max(near or _guess(cluster, limit, template, assumptions), _SMALLEST), _LARGEST)
    found = [one for factor in (_AROUND if near else _WIDE) if (one := trained(centre * factor))]
    while not found and centre > _SMALLEST:  # what is best does not fit: the largest that does
        centre /= 2
        found = [one for one in [trained(centre)] if one]
    if not found:
        raise UserError(
            f"nothing can be trained on {cluster.num_devices} x {cluster.chip.name} within this limit that is known: "
            "no model of 30M parameters or more fits, or not one step of it, or no evidence covers this device"
        )
    return sorted(found, key=lambda one: one.loss)


def _guess(cluster: Cluster, limit: Limit, template: TrainingJob, assumptions: Assumptions) -> float:
    """The size that would be best at a third of the peak and the board's full power."""
    chip, devices = cluster.chip, cluster.num_devices
    if limit.days is not None:
        hours = limit.days * 24 * devices
    elif limit.money is not None:
        price = assumptions.price_per_hour
        hours = limit.money / price.middle if price and price.middle else 1.0
    else:
        hours = 1e3 * (limit.kwh or 0.0) / (chip.power_w or 300.0) / assumptions.pue.middle
    peak = chip.peak_flops_per_s(template.precision) or max(chip.flops_per_s.values())
    return scaling.optimum(peak / 3 * 3600 * hours).num_parameters


def _trained(
    num_parameters: float, cluster: Cluster, limit: Limit, template: TrainingJob, means: Means, assumptions: Assumptions
) -> Trained | None:
    model = sizes.of_parameters(num_parameters)
    job = replace(
        template, model=model, cluster=cluster,
        global_batch=global_batch_for(num_parameters, template.seq, cluster.num_devices),
    )  # fmt: skip
    candidate, _ = layouts.fastest(job, Fixed(), means)
    if candidate is None:
        return None
    days = days_within(limit, candidate, means, assumptions)
    if days is None:
        return None
    tokens = job.global_batch * job.seq / candidate.step_s * days * SECONDS_PER_DAY * assumptions.goodput.middle
    if tokens < job.global_batch * job.seq:
        return None
    return Trained(candidate=candidate, tokens=tokens, days=days, loss=scaling.loss(model.total_parameters, tokens))


def days_within(limit: Limit, candidate: Candidate, means: Means, assumptions: Assumptions) -> float | None:
    """Days until the limit is reached; None where power or price, which it asks for, are not known."""
    if limit.days is not None:
        return limit.days
    devices = candidate.job.cluster.num_devices
    if limit.money is not None:
        price = assumptions.price_per_hour
        return None if price is None or not price.middle else limit.money / (price.middle * devices * 24)
    power = means.power_of(candidate.job, candidate.prediction)
    return None if power is None else (limit.kwh or 0.0) / (power.watts / 1e3 * devices * 24 * assumptions.pue.middle)


def overtrained(found: Sequence[Trained]) -> list[Trained]:
    """The models nearest to 1/2, 1/4 and 1/8 of the best one's size: cheaper to serve, a little worse."""
    centre = found[0].num_parameters
    picked = []
    for factor in (0.5, 0.25, 0.125):
        smaller = [one for one in found if one.num_parameters < 0.75 * centre and one not in picked]
        if smaller:
            picked.append(min(smaller, key=lambda one: abs(log(one.num_parameters / (factor * centre)))))
    return sorted(picked, key=lambda one: -one.num_parameters)


def what_if(
    cluster: Cluster, limit: Limit, template: TrainingJob, means: Means, assumptions: Assumptions, near: float
) -> list[tuple[str, Trained | None]]:
    """What one more device, twice the devices, or a limit twice as far would give."""
    changes: list[tuple[str, Cluster, Limit]] = [
        ("one more device", replace(cluster, num_devices=cluster.num_devices + 1), limit),
        ("twice the devices", replace(cluster, num_devices=2 * cluster.num_devices), limit),
        ("twice the limit", cluster, limit.scaled(2)),
    ]
    return [(name, _best_or_none(other, bound, template, means, assumptions, near)) for name, other, bound in changes]


def _best_or_none(
    cluster: Cluster, limit: Limit, template: TrainingJob, means: Means, assumptions: Assumptions, near: float
) -> Trained | None:
    try:
        return best(cluster, limit, template, means, assumptions, near)[0]
    except UserError:
        return None


def break_even_hours(
    purchase: float, rent_per_hour: float, own_w: float, electricity_price: float, pue: float
) -> float | None:
    """Hours of use after which a bought device has cost less than a rented one; None where owning never wins.

    Purchase and electricity against rent; no interest, staff, space or resale.
    """
    saved = rent_per_hour - own_w / 1e3 * pue * electricity_price
    return purchase / saved if saved > 0 else None


def cheapest(
    job: TrainingJob, tokens: int, chips: Sequence[tuple[Chip, Assumptions]], means: Means
) -> list[dict[str, Any]]:
    """What the same run takes on as many other chips, cheapest first; what does not fit is left out."""
    rows = []
    for chip, assumptions in chips:
        cluster = replace(job.cluster, chip=chip, link_bytes_per_s=None)
        other = replace(job, cluster=cluster)
        candidate, _ = layouts.fastest(other, Fixed(), means)
        if candidate is not None:
            hours = 24 * cluster.num_devices * answer.run_days(tokens, candidate, assumptions)
            power, price = means.power_of(candidate.job, candidate.prediction), assumptions.price_per_hour
            rows.append(
                {
                    "device": chip.name, "num_devices": cluster.num_devices, "days": hours / 24 / cluster.num_devices,
                    "energy_kwh": power.watts / 1e3 * hours * assumptions.pue.middle if power else None,
                    "money": price.middle * hours if price else None,
                    "evidence": candidate.prediction.evidence,
                }
            )  # fmt: skip
    return sorted(rows, key=lambda row: (row["money"] is None, row["money"] or 0.0, row["energy_kwh"] or 0.0))

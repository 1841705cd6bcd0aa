"""Assumptions: prices, energy overheads and lost time. Not errors of the model, so they are kept apart from it.

Each is a range, drawn uniformly; one number is a range without width. Every answer repeats them, and says which share
of its spread comes from each.
"""

import math
import random
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.estimate.interval import at_deviate, deviates
from bench.estimate.prediction import Interval

DRAWS = 2_000


@dataclass(frozen=True, kw_only=True)
class Range:
    """What lies between two bounds, each value as likely as another."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The value that headline figures are computed with."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What an answer about money, energy and days supposes."""

    goodput: (
        Range  # share of the time in which steps that count are done: the rest is restarts, checkpoints, evaluation
    )
    price_per_hour: Range | None  # of one device; None: nothing known, and no money in the answer
    electricity_price: Range  # a kWh
    pue: Range  # energy of the facility by that of its machines
    carbon_intensity: Range  # kg CO2e a kWh
    notes: tuple[str, ...] = ()  # where each default comes from


DEFAULTS = {
    # Llama 3 405B lost less than a tenth of its time on 16,384 GPUs (Grattafiori et al. 2024, section 3.3.4); small
    # clusters fail less often and are watched less closely.
    "goodput": (Range(low=0.90, high=0.98), "goodput 0.90..0.98: our assumption, after Grattafiori et al. 2024, 3.3.4"),
    "electricity_price": (Range(low=0.10, high=0.30), "electricity 0.10..0.30 a kWh: our assumption"),
    # Uptime Institute, Global Data Center Survey: averages of 1.55 (2022) and 1.58 (2023); new halls reach 1.2.
    "pue": (Range(low=1.2, high=1.6), "PUE 1.2..1.6: Uptime Institute surveys, average 1.58 in 2023"),
    # Grids run from 0.05, hydropower and nuclear, to 0.8, coal; the mean is Ember's (Global Electricity Review 2024).
    "carbon_intensity": (
        Range(low=0.38, high=0.58),
        "0.38..0.58 kg CO2e a kWh: round the world's mean of 0.48 in 2023",
    ),
}


def parse(given: str | float, what: str) -> Range:
    """`2.5` or `2..3`, from Python a number too. Raises UserError for anything else, and for what is negative."""
    text = str(given)
    low, sign, high = text.partition("..")
    try:
        found = Range(low=float(low), high=float(high if sign else low))
    except ValueError:
        found = Range(low=math.nan, high=math.nan)
    if not 0 <= found.low <= found.high < math.inf:
        raise UserError(f"{what} is '{text:.40}': write a number such as 2.5, or a range such as 2..3")
    return found


def assume(
    given: Mapping[str, str | float | None],
    price: Range | None = None,
    price_source: str = "",
    *,
    untold: Collection[str] = (),
) -> Assumptions:
    """The assumptions that were given, the others by default; `price` is what the catalog knows. Raises UserError.

    `untold`: what the answer does not rest on, and so need not repeat.
    """
    found: dict[str, Range] = {}
    notes: list[str] = []
    for name, (default, note) in DEFAULTS.items():
        text = given.get(name)
        found[name] = default if text in (None, "") else parse(text, name)
        if name not in untold:
            notes.append(note if text in (None, "") else f"{name} {text}: as given")
    if not 0 < found["goodput"].low <= found["goodput"].high <= 1:
        raise UserError("goodput is a share of the time, above 0 and at most 1")
    if found["pue"].low < 1:
        raise UserError("pue is at least 1: a facility draws what its machines draw, and more")
    own = given.get("price_per_hour")
    price = price if own in (None, "") else parse(own, "price_per_hour")
    notes.append(
        f"price {own} an hour and device: as given" if own not in (None, "")
        else f"price {price.low:g}..{price.high:g} an hour and device: {price_source}" if price
        else "no price is known for this device: give --price-per-hour"
    )  # fmt: skip
    return Assumptions(**found, price_per_hour=price, notes=tuple(notes))


def listed_price(chip_name: str) -> tuple[Range | None, str]:
    """Rent of a device an hour in prices.toml, and where it is from; None where it has none."""
    listed = _price_list()
    found = listed["price_per_hour"].get(chip_name)
    return (Range(low=found[0], high=found[1]) if found else None), listed["source"]


def priced() -> list[str]:
    """The chips whose rent is listed."""
    return list(_price_list()["price_per_hour"])


@cache
def _price_list() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "prices.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure with what model error and assumptions leave open: quantiles of 2,000 draws."""

    value: float  # with the middle of every range and the model's own figure
    lo80: float
    hi80: float
    lo90: float | None  # None: too few sources to say
    hi90: float | None
    shares: dict[str, float]  # of the variance of its logarithm, by cause; they add up to 1, or all are 0

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            **{name: getattr(self, name) for name in ("value", "lo80", "hi80", "lo90", "hi90")},
            "shares_of_variance": self.shares,
        }


def spread(
    value: float, errors: Mapping[str, Interval | None], factors: Mapping[str, tuple[Range, float]] | None = None
) -> Spread:
    """`value` with what leaves it open, by cause; seeded, so it repeats.

    `errors` are drawn so that 80 and 90 % of them lie within the interval's factors, one from each of equally likely
    strata, in random order: a single cause gives its own interval back. `factors` are ranges, each with the power to
    which its ratio to its own middle enters the value.
    """
    generator = random.Random(0)  # noqa: S311  # draws, not secrets
    logs: dict[str, list[float]] = {}
    for name, interval in errors.items():
        log80, log90 = _logs(interval)
        logs[name] = [at_deviate(z, log80, log90) for z in deviates(DRAWS)]
        generator.shuffle(logs[name])
    for name, (bounds, power) in (factors or {}).items():
        drawn = [generator.uniform(bounds.low, bounds.high) for _ in range(DRAWS)]
        logs[name] = [power * math.log(one / bounds.middle) if one else 0.0 for one in drawn]
    totals = sorted(math.fsum(parts) for parts in zip(*logs.values(), strict=True))
    variances = {name: _variance(drawn) for name, drawn in logs.items()}
    whole = math.fsum(variances.values())

    def at(share: float) -> float:
        return value * math.exp(totals[min(DRAWS - 1, int(share * DRAWS))])

    wide = all(interval is None or interval.factor90 for interval in errors.values())
    return Spread(
        value=value, lo80=at(0.10), hi80=at(0.90), lo90=at(0.05) if wide else None, hi90=at(0.95) if wide else None,
        shares={name: part / whole if whole else 0.0 for name, part in variances.items()},
    )  # fmt: skip


def _logs(interval: Interval | None) -> tuple[float, float]:
    """Of both factors; a normal's tail for a missing one."""
    if interval is None:
        return 0.0, 0.0
    log80 = math.log(interval.factor80)
    return log80, math.log(interval.factor90) if interval.factor90 else 1.2835 * log80


def _variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)

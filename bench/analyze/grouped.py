"""Grouped: many runs of many machines as one line for each case. Medians over machines, each of which counts once.

A machine that ran a case often is stood for by its typical run, the one with the median step time: a real run, whose
clock, limit and temperature belong together. Runs of one case that differ in version, method, cache, data or duty are
never put together, and no rate is averaged over different cases.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from bench import stats
from bench.analyze.row import Row
from bench.analyze.where import check_field

# What must be equal for two runs to be of the same work.
IDENTITY = ("case", "version", "dtype", "cache", "data", "duty", "method")
# What is shown of the typical runs, as medians over machines.
MEDIANS = (
    "step_s", "rate", "tokens_per_s", "of_measured", "of_datasheet", "mfu_of_datasheet", "power_w",
    "energy_per_token_j", "energy_per_step_j", "tokens_per_joule", "power_limit_w", "power_limit_default_w",
    "power_limit_share", "clock_hz", "temperature_c", "power_limited", "thermally_limited",
)  # fmt: skip
# With fewer machines the quartiles would be made up: then the slowest and the fastest stand for them.
QUARTILES = 4
# What a typical run must tell.
FIELDS = (*IDENTITY, "device", "chip", "machine", "host", "workload", "status", "rate_unit", "flags", *MEDIANS)


def typical(rows: Iterable[Row], by: str | None = None) -> list[Row]:
    """The typical run of each case on each machine, of each value of `by`, with the number of its `runs`."""
    runs: dict[tuple[Any, ...], list[Row]] = {}
    for one in rows:
        fields = (*IDENTITY, "device", "machine", *([by] if by else []))
        runs.setdefault(tuple(str(one.get(name)) for name in fields), []).append(one)
    found = []
    for own in runs.values():
        timed = sorted((one for one in own if one["step_s"] is not None), key=lambda one: float(one["step_s"]))
        found.append({**(timed[(len(timed) - 1) // 2] if timed else own[0]), "runs": len(timed)})
    return found


def groups(runs: Sequence[Row], by: str | None = None, *, price_per_hour: float | None = None) -> list[Row]:
    """One row for each case, device and value of `by`, from typical runs. `price_per_hour` is of one device."""
    if by:
        check_field(by, list(runs))
    several = not belongs_to_device(by, runs) if by else True
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for one in runs:
        place = (named(by, one) if by else "", one["device"] if several else "", *(one[name] for name in IDENTITY))
        cells.setdefault(place, []).append(one)
    return [_group(own, by, price_per_hour) for own in cells.values()]


def belongs_to_device(by: str, rows: Iterable[Row]) -> bool:
    """Whether each value of the field comes from one device: then it tells the devices apart."""
    devices: dict[str, set[str]] = {}
    for one in rows:
        devices.setdefault(named(by, one), set()).add(one["device"])
    return all(len(names) == 1 for names in devices.values())


def named(by: str, one: Row) -> str:
    """A row's value of the field as people read it: a chip that no catalog has goes by its device's name."""
    found = one.get(by)
    return str(one["device"] if by == "chip" and found is None else found)


def _group(runs: list[Row], by: str | None, price_per_hour: float | None) -> Row:
    timed = [one for one in runs if one["step_s"] is not None]
    rates = [one["rate"] for one in timed if one["rate"] is not None]
    few = len(rates) < QUARTILES
    told = {name: [one[name] for one in timed if one[name] is not None] for name in MEDIANS}
    flags = [flag for one in timed for flag in set(one["flags"])]
    made: Row = {by: runs[0].get(by)} if by else {}
    made |= {name: runs[0][name] for name in ("device", "chip", "workload", *IDENTITY)}
    made |= {
        "status": "ok" if timed else runs[0]["status"],
        "machines": len({one["machine"] for one in timed}),
        "hosts": len({one["host"] for one in timed}),
        "runs": sum(one["runs"] for one in timed),
        "rate_unit": next((one["rate_unit"] for one in timed if one["rate_unit"]), runs[0]["rate_unit"]),
        "rate_low": (min(rates) if few else stats.quantile(rates, 0.25)) if rates else None,
        "rate_high": (max(rates) if few else stats.quantile(rates, 0.75)) if rates else None,
        **{name: stats.median(values) if values else None for name, values in told.items()},
        "flags": sorted({flag for flag in flags if 2 * flags.count(flag) >= len(timed)}),  # of at least half of them
    }
    if price_per_hour is not None:
        hourly = made["tokens_per_s"] * 3600 if made["tokens_per_s"] is not None else None
        made |= {"price_per_hour": price_per_hour, "tokens_per_money": hourly / price_per_hour if hourly else None}
    return made

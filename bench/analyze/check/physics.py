"""Physics: what no device can do, and what this device cannot have done beside the rest of its own file.

Three ceilings stand over each other: a whole step is no faster than the best matrix product or copy measured by the
same board in the same file, and these are no faster than the datasheet. Far above a datasheet is refused: somebody's
clock, unit or label is wrong. Everything else is quarantined, because a genuine board can surprise.
"""

import math
from collections.abc import Iterable, Iterator

from bench import chip, energy, stats, units
from bench.analyze.check.finding import Doubt, Level
from bench.analyze.summary import Summary
from bench.chip import Chip
from bench.errors import UserError
from bench.record import DeviceFacts, Record, ResultFile
from bench.workload import label

# A sheet's rate holds at its boost clock, and boards may run above that: the H100's is 1830 MHz where the board goes up
# to 1980 (8 %), and makers of cards set theirs higher still. Memory clocks are raised by less.
FLOPS_OVER, BYTES_OVER = 1.15, 1.05
# A step that moves less than so many times what a cache holds may have found its data there.
CACHES = 4
# Caches that torch does not tell of: AMD's Infinity Cache is 256 MiB (CDNA 3 white paper), others are below 128 MiB.
CACHE_BYTES = {"amd": 256 << 20}
OTHER_CACHE_BYTES = 64 << 20
# A whole step over the best product or copy of its own file: these have noise of their own, up to this.
OVER_MEASURED, MOST_SPREAD = 1.10, 0.5
# Mean power over seconds beside the enforced limit and beside idle; boards may be off by 5 % (bench/energy.py).
OVER_LIMIT, UNDER_IDLE = 1.10, 0.80
# Counter or integral against the mean of what the power sensor told, where no flag says that they differ.
POWER_APART = 0.25
CLOCK_OVER = 1.02

_MACRO = {"train_step", "finetune_step", "moe_train_step", "prefill", "decode", "moe_decode"}
_BANDWIDTH = {"memory_copy", "memory_read", "memory_write", "memory_triad"}
# Their bytes cross a link, are read again from a cache (rows of a table that meet), or are not counted.
_NOT_MEMORY = {"host_copy", "embedding", "launch_overhead"}


def doubts(file: ResultFile, summaries: Iterable[Summary]) -> Iterator[Doubt]:
    """Everything in a file that its hardware cannot have done. `summaries` are those of this file."""
    for facts in file.session.devices:
        yield from _chip(facts)
    for one in file.records:
        facts = file.session.devices[one.device]
        for level, code, message in [*_datasheet(facts, one), *_energy(file, one), *_sensors(facts, one)]:
            message = f"{label(one.workload, one.params)}: {message}"
            yield Doubt(level=level, code=code, message=message, records=(one,))
    yield from _measured(list(summaries))


def _chip(facts: DeviceFacts) -> Iterator[Doubt]:
    """The chip by which a device is judged is the one whose driver reports exactly its name."""
    known = chip.match(facts.name)
    if known and facts.chip != known.name:
        say = f"'{facts.name}' is {known.name} in the catalog, and the file says {facts.chip}"
        yield Doubt(level="error", code="chip", message=f"{say}: shares of a datasheet would be another chip's")
    elif facts.chip and not known and facts.chip in chip.names():
        say = f"the file says chip {facts.chip}, whose driver never reports '{facts.name}'"
        yield Doubt(level="error", code="chip", message=f"{say}: leave it empty, an unknown chip is welcome")


def _datasheet(facts: DeviceFacts, one: Record) -> Iterator[tuple[Level, str, str]]:
    known = sheet(facts)
    if known is None or not one.valid:
        return
    step_s = stats.median(one.samples_s)
    flops, dtype = one.work.gemm_flops + one.work.attention_flops, one.identity.dtype
    peak, rate = known.peak_flops_per_s(dtype), flops / step_s
    if peak and rate > peak:
        level: Level = "error" if rate > FLOPS_OVER * peak else "quarantine"
        say = f"{units.scaled(rate, 'FLOP/s')} of {dtype}, {known.name}'s datasheet has {units.scaled(peak, 'FLOP/s')}"
        hint = "a clock above the sheet's may do it" if level == "quarantine" else "is TF32 on, or the type wrong?"
        yield level, "datasheet", f"{say} (refused above {FLOPS_OVER:.2f} times): {hint}"
    bandwidth, peak_bytes = one.work.bytes / step_s, known.memory_bytes_per_s
    if bandwidth > peak_bytes and one.workload not in _NOT_MEMORY and beyond_caches(facts, one.work.bytes):
        level = "error" if bandwidth > BYTES_OVER * peak_bytes else "quarantine"
        say = f"{units.scaled(bandwidth, 'B/s')}, and {known.name}'s datasheet has {units.scaled(peak_bytes, 'B/s')}"
        yield level, "datasheet", f"{say} (refused above {BYTES_OVER:.2f} times): was the device waited for?"


def sheet(facts: DeviceFacts) -> Chip | None:
    """The datasheet that a device is held against: by its own driver name, never by what a file calls it."""
    try:
        return chip.match(facts.name)
    except UserError:
        return None


def beyond_caches(facts: DeviceFacts, num_bytes: int) -> bool:
    """Whether a step moves so much that hardly any of it can have stayed in a cache."""
    known = CACHE_BYTES.get(facts.vendor, OTHER_CACHE_BYTES)
    return num_bytes > CACHES * max(facts.last_level_cache_bytes or 0, known)


def _measured(summaries: list[Summary]) -> Iterator[Doubt]:
    """Whole steps against the roofs of the same board in the same file."""
    roofs = [one for one in summaries if one.first.workload in {"matmul", *_BANDWIDTH} and one.valid]
    for one in summaries:
        if one.first.workload not in _MACRO or not one.valid:
            continue
        own = [other for other in roofs if other.first.device == one.first.device]
        dtype = one.first.identity.dtype
        products = [other for other in own if other.first.workload == "matmul" and other.first.identity.dtype == dtype]
        flops = one.first.work.gemm_flops + one.first.work.attention_flops
        yield from _above(one, flops, max(products, key=lambda other: other.flops_per_s or 0.0, default=None), "FLOP/s")
        if beyond_caches(one.session.devices[one.first.device], one.first.work.bytes):
            copies = [other for other in own if other.first.workload in _BANDWIDTH]
            roof = max(copies, key=lambda other: other.bytes_per_s or 0.0, default=None)
            yield from _above(one, one.first.work.bytes, roof, "B/s")


def _above(one: Summary, work: int, roof: Summary | None, unit: str) -> Iterator[Doubt]:
    if roof is None or one.step_s is None:
        return
    best = (roof.flops_per_s if unit == "FLOP/s" else roof.bytes_per_s) or math.inf
    rate, noise = work / one.step_s, sum(min(each.spread or 0.0, MOST_SPREAD) for each in (one, roof))
    if rate > best * (OVER_MEASURED + noise):
        say = f"{units.scaled(rate, unit)}, the best {roof.first.workload} of this file does {units.scaled(best, unit)}"
        todo = f"measure {roof.first.workload} again beside it, larger and with nothing else running"
        yield Doubt(
            level="quarantine", code="measured", records=tuple(one.valid),
            message=f"{one.case}: {say} ({rate / best:.2f} times, more than noise explains): {todo}",
        )  # fmt: skip


def _energy(file: ResultFile, one: Record) -> Iterator[tuple[Level, str, str]]:
    """Mean power lies between that of the idle board and its limit, and agrees with what the power sensor told."""
    told, limit_w = one.energy, file.session.devices[one.device].readings.get("power_limit_w")
    if told is None or not one.samples_s:
        return
    if told.joules <= 0 or told.window_s <= 0:
        yield "error", "energy", f"{told.joules:g} J over {told.window_s:g} s: unknown is null with a reason, never 0"
        return
    power_w = told.joules / told.window_s
    most_w = limit_w if limit_w else energy.UNLIMITED_W / energy.ABOVE_LIMIT
    if power_w > OVER_LIMIT * most_w:
        level: Level = "error" if power_w > energy.ABOVE_LIMIT * most_w else "quarantine"
        say = (
            f"{told.joules:.4g} J in {told.window_s:.4g} s are {power_w:.4g} W, and the board's limit is {most_w:.4g} W"
        )
        yield level, "energy", f"{say}: is the counter another board's, or in another unit?"
    idle = dict(enumerate(file.session.idle)).get(one.device)
    rest_w = idle.without_context_w if idle else None
    if rest_w and power_w < UNDER_IDLE * rest_w:
        say = f"{power_w:.4g} W under load, and the idle board draws {rest_w:.4g} W"
        yield "quarantine", "energy", f"{say}: did the load run in this window, and on this board?"
    series = one.telemetry.series.get("power_w") if one.telemetry else None
    if series and len(series.values) >= energy.FEWEST_TICKS and "energy_disagree" not in one.flags:
        mean_w = math.fsum(series.values) / len(series.values)
        if abs(power_w - mean_w) > POWER_APART * mean_w:
            say = f"energy over time is {power_w:.4g} W, and the power sensor's mean {mean_w:.4g} W"
            yield "quarantine", "energy", f"{say}: one of them is wrong, and no flag says so"


def _sensors(facts: DeviceFacts, one: Record) -> Iterator[tuple[Level, str, str]]:
    """Each quantity within the range that the board itself, or matter, allows."""
    if one.telemetry is None:
        return
    for name, most in (("clock_hz", "clock_max_hz"), ("memory_clock_hz", "memory_clock_max_hz")):
        series, limit = one.telemetry.series.get(name), facts.readings.get(most)
        values = [*(series.values if series else []), *_present(one.telemetry.state.get(name))]
        if values and min(values) < 0:
            yield "error", "clock", f"{name} of {min(values):g} Hz"
        if values and limit and max(values) > CLOCK_OVER * limit:
            say = f"{name} of {max(values) / 1e6:.0f} MHz, and the board's highest is {limit / 1e6:.0f} MHz"
            yield "quarantine", "clock", f"{say}: are its readings those of another board?"
    lowest, highest = energy.TEMPERATURE_C
    for name, series in one.telemetry.series.items():
        values = series.values
        if name.endswith("temperature_c") and values and not (lowest <= min(values) and max(values) <= highest):
            yield "error", "temperature", f"{name} from {min(values):g} to {max(values):g} degrees"
        if name in {"power_w", "power_average_w"} and values and min(values) < 0:
            yield "error", "energy", f"{name} of {min(values):g} W"
        if len(series.t_s) != len(values):
            yield "error", "telemetry", f"{name}: {len(series.t_s)} moments for {len(values)} values"


def _present(value: float | None) -> list[float]:
    return [] if value is None else [value]

"""Power check: are this board's power and energy what they are taken for? A few minutes, and no setting is changed.

Each line compares a measurement with what must hold: energy that grows with the number of steps, windows that repeat,
a counter that agrees with power under a load that comes and goes, a sampler that costs no time, limits that show.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Literal

import msgspec

from bench import energy, stats, workload
from bench.device import Device
from bench.energy import Trace
from bench.measure import timer
from bench.measure.attribution import Rises
from bench.measure.meter import Meter
from bench.record import Protocol

Run = Callable[[], object]

CLOSURE_R2 = 0.999
REPEATS, REPEATED = 10, 0.01
SAMPLER_COST, PAIRS = 0.005, 8
DUTY_PERIODS_S = (0.1, 0.05, 0.13)
WINDOW_S, PLATEAU_S, WARM_S = 5.2, 6.0, 0.5
_PROTOCOL = Protocol(
    settle_s=0.3, min_samples=30, min_time_s=0.5, max_time_s=1.0, max_samples=2000, half_width=0.003, sample_s=1e-4
)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the check: what was measured, what must hold, and whether it does."""

    name: str
    measured: str
    required: str
    verdict: Literal["pass", "fail", "inconclusive", "not applicable", "for information"]


def check(device: Device, meter: Meter, periods_s: dict[str, float]) -> Iterator[Verdict]:
    """Every line, each as soon as it is known; those that a hurried reader needs most come first."""
    meter.board = meter.board.publishing(periods_s)
    if meter.board.boundary is None:
        yield _na("power and energy", meter.reason or meter.board.why or "the board tells neither")
        return
    yield _identity(rises(device, meter))
    yield from _periods(meter, periods_s)
    busy, light = _loads(device)
    yield from _closure(device, meter, busy)
    yield from _limits(device, meter, busy, light)
    yield from _sampler_cost(device, meter, busy)
    yield from _duty(device, meter, light)
    yield from _repeats(device, meter, busy)


def rises(device: Device, meter: Meter) -> Rises:
    """How power rises while memory is written, on this device's board and on the others that are here.

    Torch and the driver number boards each in its own way, and containers may rename them: a load tells which is which.
    """

    @cache
    def step() -> Run:  # made when it is first wanted: where there is one board nothing is allocated
        return device.filler(int(min(256 << 20, device.free_bytes() / 8)))

    def load() -> None:
        for _ in range(8):
            step()()
        device.synchronize()

    return meter.rises(load)


def _identity(found: Rises) -> Verdict:
    name = "the load is on this board"
    if found.own_w is None:
        return _na(name, "the only board here, or one that tells no power")
    told = ", ".join(f"{load_w - rest_w:+.0f} W" for rest_w, load_w in found.others_w) or "no power told"
    verdict: Literal["pass", "fail", "inconclusive"] = "pass" if found.confirmed else "inconclusive"
    return Verdict(
        name=name,
        measured=f"{found.own_w[1] - found.own_w[0]:+.0f} W here, {told} elsewhere",
        required="power rises here",
        verdict="fail" if found.mistaken else verdict,
    )


def _loads(device: Device) -> tuple[Run, Run]:
    """A matrix product that draws as much as the board may, and a copy that does not."""
    dtype = "bfloat16" if device.asynchronous else "float32"
    size = 8192 if device.asynchronous else 1024
    device.seed(0)
    busy = device.prepare(workload.case("matmul", {"m": size, "n": size, "k": size, "dtype": dtype})).run
    light = device.prepare(workload.case("memory_copy", {"num_bytes": 256 << 20, "dtype": "float32"})).run
    return busy, light


def _na(name: str, reason: str) -> Verdict:
    return Verdict(name=name, measured=reason, required="", verdict="not applicable")


def _judged(name: str, measured: str, required: str, passed: bool) -> Verdict:
    return Verdict(name=name, measured=measured, required=required, verdict="pass" if passed else "fail")


def _periods(meter: Meter, periods_s: dict[str, float]) -> Iterator[Verdict]:
    """How often the board publishes: an energy is only claimed over so many of its ticks."""
    for name in ("power", "energy"):
        if (period_s := periods_s.get(f"{name}_period_s")) is None:
            yield _na(f"{name} is published", "not told, or too seldom to see")
        else:
            yield Verdict(
                name=f"{name} is published",
                measured=f"every {1e3 * period_s:.0f} ms",
                required="80 to 120 ms on boards up to Hopper",
                verdict="for information",
            )


def _watched(device: Device, meter: Meter, hold: Run, work: Run, energy_s: float = 0.0) -> Trace | None:
    meter.energy_s = energy_s
    meter.begin(hold)
    work()
    meter.end(hold)
    meter.energy_s = 0.0
    return None if meter.trace is None else energy.gate(meter.trace, meter.board).trace


def _for(device: Device, load: Run, seconds: float) -> int:
    """Runs `load` for so long, a few hundredths of a second between two waits; gives the number of steps."""
    step_s = _step_s(device, load)
    group, steps, begin_s = max(1, int(0.05 / step_s)), 0, device.now_s()
    while device.now_s() < begin_s + seconds:
        for _ in range(group):
            load()
        device.synchronize()
        steps += group
    return steps


def _step_s(device: Device, load: Run) -> float:
    """Of the clock that it runs at under load: some time goes by first."""
    begin_s, step_s, count = device.now_s(), 0.0, 1
    while device.now_s() < begin_s + WARM_S:
        start_s = device.now_s()
        for _ in range(count):
            load()
        device.synchronize()
        step_s = max((device.now_s() - start_s) / count, 1e-7)
        count = max(1, int(0.02 / step_s))
    return step_s


def _closure(device: Device, meter: Meter, load: Run) -> Iterator[Verdict]:
    """N, 2N and 4N steps: energy must be a straight line in the number of steps."""
    _for(device, load, 2.0)
    steps = max(1, int(meter.board.held_s(WINDOW_S) / _step_s(device, load)))
    points: list[tuple[float, float]] = []
    for factor in (1, 2, 4):

        def work(count: int = factor * steps) -> None:
            for place in range(count):
                load()
                if place % 64 == 63:
                    device.synchronize()
            device.synchronize()

        trace = _watched(device, meter, device.synchronize, work)
        found = energy.energy(trace, meter.board) if trace else energy.Found(reason=meter.reason)
        if found.joules is None:
            yield _na("energy grows with the work", found.reason)
            return
        points.append((factor * steps * found.window_s / trace.window_s if trace else 0.0, found.joules))
    slope_j, r2 = _line(points)
    each = ", ".join(f"{joules / steps:.4g}" for steps, joules in points)
    yield _judged(
        "energy grows with the work",
        f"R2 = {r2:.5f}, {slope_j:.4g} J a step more ({each} J a step of N, 2N and 4N)",
        f"R2 above {CLOSURE_R2}",
        r2 > CLOSURE_R2,
    )


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and coefficient of determination of a straight line through `points`."""
    mean_x = math.fsum(x for x, _ in points) / len(points)
    mean_y = math.fsum(y for _, y in points) / len(points)
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / math.fsum((x - mean_x) ** 2 for x, _ in points)
    residual = math.fsum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, 1 - residual / math.fsum((y - mean_y) ** 2 for _, y in points)


def _repeats(device: Device, meter: Meter, load: Run) -> Iterator[Verdict]:
    """The same load again and again: the mean power between two ticks must repeat."""
    hold = _holding(device, load)
    watts = []
    for _ in range(REPEATS):
        trace = _watched(device, meter, hold, lambda: None, energy_s=meter.board.held_s(WINDOW_S))
        found = energy.energy(trace, meter.board) if trace else energy.Found(reason=meter.reason)
        if found.joules is None:
            yield _na("windows of 5 s repeat", found.reason)
            return
        watts.append(found.joules / found.window_s)
    mean_w = math.fsum(watts) / len(watts)
    spread = math.sqrt(math.fsum((one - mean_w) ** 2 for one in watts) / (len(watts) - 1)) / mean_w
    yield _judged(
        "windows of 5 s repeat",
        f"{mean_w:.1f} W, standard deviation of {len(watts)} windows {100 * spread:.2f} %",
        f"below {100 * REPEATED:.0f} %",
        spread < REPEATED,
    )


def _holding(device: Device, load: Run) -> Run:
    count = max(1, int(timer.HOLD_STEP_S / _step_s(device, load)))

    def hold() -> None:
        for _ in range(count):
            load()
        device.synchronize()

    return hold


def _duty(device: Device, meter: Meter, load: Run) -> Iterator[Verdict]:
    """Half the time busy and half idle: which of counter and power sees all of it? Both levels are known beforehand.

    The load is a copy: its power does not hang on how fast the core's clock rises again.
    """
    hold = _holding(device, load)
    levels_w = []
    for level in (partial(_for, device, load, PLATEAU_S), partial(device.rest, PLATEAU_S)):
        trace = _watched(device, meter, device.synchronize, level)
        power_w = None if trace is None else _settled_power(trace)
        if power_w is None:
            yield _na("a load that comes and goes", meter.reason or "the board tells no instant power")
            return
        levels_w.append(power_w)
    step_s = _step_s(device, load)
    for period_s in DUTY_PERIODS_S:
        count = max(1, round(period_s / 2 / step_s))

        def work(count: int = count, idle_s: float = period_s / 2) -> None:
            begin_s = device.now_s()
            while device.now_s() < begin_s + PLATEAU_S:
                for _ in range(count):
                    load()
                device.rest(idle_s)

        trace = _watched(device, meter, hold, work)
        expected_w = sum(levels_w) / 2
        counter = energy.energy(trace, meter.board) if trace else energy.Found()
        instant_w = energy.mean_power(trace) if trace else None
        counted = "no counter" if counter.joules is None else f"{counter.joules / counter.window_s / expected_w:.3f}"
        polled = "not told" if instant_w is None else f"{instant_w / expected_w:.3f}"
        yield Verdict(
            name=f"half busy, every {1e3 * period_s:.0f} ms",
            measured=f"by the mean of both levels ({expected_w:.0f} W): counter {counted}, power {polled}",
            required="counter and power agree where both see all of the time",
            verdict="for information",
        )


def _settled_power(trace: Trace) -> float | None:
    """Median of the second half: a plateau, its beginning left out."""
    points = trace.series("power_w")
    return stats.median([value for _, value in points[len(points) // 2 :]]) if len(points) > 4 else None


def _sampler_cost(device: Device, meter: Meter, busy: Run) -> Iterator[Verdict]:
    """The same work with and without the sampler, in turns: it must not show in the time."""
    launches = device.prepare(workload.case("launch_overhead", {"num_launches": 200, "dtype": "float32"})).run
    for name, run in {"a chain of launches": launches, "a matrix product": busy}.items():
        ratios = []
        for pair in range(PAIRS):
            seen: dict[bool, float] = {}
            for on in (True, False) if pair % 2 else (False, True):
                observer = meter if on else timer.Observer()
                seen[on] = timer.measure(device, [run], _PROTOCOL, observer=observer).median_s
            ratios.append(seen[True] / seen[False])
        if meter.reason:
            yield _na(f"the sampler's cost: {name}", meter.reason)
            continue
        found = stats.paired_ratio([1.0] * len(ratios), ratios)
        assert found is not None
        low, high = found.interval95.low - 1, found.interval95.high - 1
        verdict: Literal["pass", "fail", "inconclusive"] = "inconclusive"
        if max(abs(low), abs(high)) < SAMPLER_COST:
            verdict = "pass"
        elif low > SAMPLER_COST or high < -SAMPLER_COST:
            verdict = "fail"
        yield Verdict(
            name=f"the sampler's cost: {name}",
            measured=f"time with it {100 * low:+.2f} to {100 * high:+.2f} % (95 % interval of {PAIRS} pairs)",
            required=f"within {100 * SAMPLER_COST:.1f} %",
            verdict=verdict,
        )


def _limits(device: Device, meter: Meter, busy: Run, light: Run) -> Iterator[Verdict]:
    """Under the most and the least power-hungry load: does the cap show, and what does utilization say?"""
    for name, load in (("matrix product", busy), ("copy", light)):
        _for(device, load, 1.0)
        trace = _watched(device, meter, _holding(device, load), partial(_for, device, load, PLATEAU_S))
        if trace is None:
            yield _na(f"limits under a {name}", meter.reason)
            continue
        told = []
        if (change := trace.change("throttle_power_cap_s")) is not None:
            told.append(f"held by the power limit {100 * change / trace.window_s:.0f} % of the time")
        for quantity, unit, scale in (("power_w", "W", 1.0), ("clock_hz", "GHz", 1e9), ("kernel_active", "", 1.0)):
            if points := trace.series(quantity):
                told.append(
                    f"{quantity.partition('_')[0]} {stats.median([v for _, v in points]) / scale:.4g} {unit}".strip()
                )
        # By the GPU's own counters, over the whole window: what utilization, the share with any kernel, does not say.
        for quantity in ("sm_active", "tensor_active", "dram_active"):
            if (share := trace.last.get(quantity)) is not None:
                told.append(f"{quantity.replace('_', ' ')} {100 * share:.0f} %")
        yield Verdict(
            name=f"limits under a {name}",
            measured=", ".join(told) or "nothing told",
            required="a matrix product may be held by the limit, a copy hardly",
            verdict="for information" if told else "not applicable",
        )

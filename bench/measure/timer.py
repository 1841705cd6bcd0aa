"""Timer: from a prepared step to samples. Knows no workload and no vendor; the device brings clock, events and queue.

What a sample is. A group of `repeats` steps between two marks of the device, so long that the clock's own floor does
not show (Hoefler & Belli 2015, section 4.2.1). Samples follow each other without a pause: chips are judged under
sustained load, and a pause lets them clock up. Nothing is subtracted and nothing is dropped.

When it stops. When the 95 % interval of the median is narrow enough, or at a cap of time or samples; looked at rarely,
at sample counts that grow by half, so that stopping early does not spoil the interval.
"""

import gc
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from bench import stats
from bench.device import Device
from bench.record import Protocol

# A sample lasts at least this many clock floors, so that the floor is 0.5 % of it at most.
FLOOR_FACTOR = 200
# Where a mark waits for the device, a sample lasts at least this long, so that the wait is below 1 % of it.
WAITED_SAMPLE_S = 20e-3
# Launches in flight that no driver's queue refuses or waits for.
QUEUE_DEPTH = 256
# A burst of launches lasts at most this long: of 2 us each, no driver's queue fills up, whose 1000 or so places hold
# launches and not steps.
BURST_S = 2e-3
# How long the device idles before each sample of a burst, and how long such a sample lasts (one step at least).
REST_S = 50e-3
BURST_SAMPLE_S = 5e-3
# How long a load is held before its first sample, where that is what is measured: by then temperature and power limit
# have set the clock.
HOLD_S = 20.0
# How much of the load at a time is run for an observer that wants it held.
HOLD_STEP_S = 25e-3
# A step is bound by its launch when launching takes this share of its time.
LAUNCH_BOUND = 0.8

Run = Callable[[], object]
Stop = Literal["precise", "time", "samples"]
Duty = Literal["sustained", "burst", "held"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The samples of one case in one launch mode, each the time of one step in seconds, and how they came about."""

    samples_s: list[float]
    unsteady_s: list[float]
    step_samples_s: list[float]
    repeats: int
    cold_start_s: float
    settle_s: float
    window_s: float
    event_floor_s: float
    enqueue_s: float | None
    stop: Stop
    led: bool  # each sample came after a lead, which hid the launch
    steps: int  # all that ran in the window, those before the first mark included

    @property
    def median_s(self) -> float:
        """The headline."""
        return stats.median(self.samples_s)

    @property
    def launch_bound(self) -> bool:
        """Whether the host's launches, and not the device's work, set the pace."""
        return not self.led and self.enqueue_s is not None and self.enqueue_s > LAUNCH_BOUND * self.median_s

    def shared_by(self, steps: int) -> "Measurement":
        """The same, where each call that was timed did `steps` steps at once."""
        return replace(
            self,
            samples_s=[sample / steps for sample in self.samples_s],
            unsteady_s=[sample / steps for sample in self.unsteady_s],
            repeats=self.repeats * steps,
            enqueue_s=None if self.enqueue_s is None else self.enqueue_s / steps,
            steps=self.steps * steps,
        )


class Observer:
    """Told when the samples begin and end. Whoever looks at the host or at sensors meanwhile derives from this.

    Either may take its time: as long as it calls `hold`, some tens of milliseconds of the same load each time, the
    device is kept as busy as in the samples.
    """

    def begin(self, hold: Run) -> None:
        """The load has settled; samples follow. Called again where a window is measured again."""

    def end(self, hold: Run) -> None:
        """The last sample is done."""


class Observers(Observer):
    """Several: the first begins first and ends last."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def begin(self, hold: Run) -> None:
        """Every one, in order."""
        for observer in self._observers:
            observer.begin(hold)

    def end(self, hold: Run) -> None:
        """Every one, from the last."""
        for observer in reversed(self._observers):
            observer.end(hold)


def measure(
    device: Device,
    runs: Sequence[Run],
    protocol: Protocol,
    *,
    blocks: bool = False,
    lead: Run | None = None,
    duty: Duty = "sustained",
    observer: Observer | None = None,
) -> Measurement:
    """Samples of the steps `runs`, called in rotation, after a first call and a settling load.

    `blocks`: each sample is a block that begins and ends with a wait for the device, timed by the host's clock, because
    that is what a user of a whole training or inference step waits for.
    `lead`: called before each sample and outside of it; it fills a cache with other data, or the queue with other work.
    `duty`: `held` is a load that was kept up for HOLD_S beforehand, `burst` one that rests before each sample.
    """
    if duty == "held":
        protocol = msgspec.structs.replace(protocol, settle_s=max(HOLD_S, protocol.settle_s))
    cold_start_s = _first_call(device, runs[0])
    floor_s = event_floor(device)
    rotation = itertools.cycle(runs)
    observer = observer or Observer()
    with _quiet_garbage_collector():
        step_s, settled_s = _settle(device, rotation, protocol.settle_s, protocol.settle_steps)
        enqueue_s = _enqueue(device, rotation, step_s) if device.asynchronous else None
        window = _Window(device, rotation, protocol, blocks, lead, duty == "burst")
        window.measure(step_s, floor_s, observer)
        unsteady: list[float] = []
        if stats.steadiness(window.samples_s).steady is False and window.window_s < protocol.max_time_s:
            # Once more after twice the settling: a clock that was still ramping is now where it stays.
            unsteady, settled_s = window.samples_s, settled_s + window.window_s
            step_s, again_s = _settle(device, rotation, min(2 * protocol.settle_s, 30.0), protocol.settle_steps)
            settled_s += again_s
            window = _Window(device, rotation, protocol, blocks, lead, duty == "burst")
            window.measure(step_s, floor_s, observer)
    return Measurement(
        samples_s=window.samples_s,
        unsteady_s=unsteady,
        step_samples_s=window.step_samples_s,
        repeats=window.repeats,
        cold_start_s=cold_start_s,
        settle_s=settled_s,
        window_s=window.window_s,
        event_floor_s=floor_s,
        enqueue_s=enqueue_s,
        stop=window.stop,
        led=lead is not None,
        steps=window.steps,
    )


def event_floor(device: Device, pairs: int = 21) -> float:
    """What the clock reads where nothing is between two marks: the median of some pairs, in seconds."""
    device.synchronize()
    marks = [device.event() for _ in range(2 * pairs)]
    device.synchronize()
    return stats.median([device.seconds_between(a, b) for a, b in zip(marks[::2], marks[1::2], strict=True)])


def _first_call(device: Device, run: Run) -> float:
    """The very first call, alone: compilation, autotuning and allocation are in it, and in no sample."""
    device.synchronize()
    start = device.now_s()
    run()
    device.synchronize()
    return device.now_s() - start


def _settle(device: Device, rotation: Iterator[Run], settle_s: float, at_least: int) -> tuple[float, float]:
    """Runs the load for `settle_s` and `at_least` steps; gives the last estimate of a step and the time spent."""
    begin = device.now_s()
    group, steps, step_s = 1, 0, math.inf
    while steps < at_least or device.now_s() - begin < settle_s:
        start = device.now_s()
        for _ in range(group):
            next(rotation)()
        device.synchronize()
        step_s = (device.now_s() - start) / group
        steps += group
        # Groups of about a tenth of the settling time: long enough that the wait at their end does not count.
        group = max(1, min(10_000, int(settle_s / 10 / max(step_s, 1e-9))))
    return step_s, device.now_s() - begin


def _enqueue(device: Device, rotation: Iterator[Run], step_s: float) -> float:
    """Host seconds to launch one step: the median of some bursts, each into an empty queue that it does not fill."""
    calls = max(1, min(QUEUE_DEPTH, int(BURST_S / max(step_s, 1e-9))))
    bursts_s = []
    for _ in range(max(1, min(25, int(0.05 / max(calls * step_s, 1e-9))))):
        device.synchronize()
        start = device.now_s()
        for _ in range(calls):
            next(rotation)()
        bursts_s.append((device.now_s() - start) / calls)
    device.synchronize()
    return stats.median(bursts_s)


@contextmanager
def _quiet_garbage_collector() -> Iterator[None]:
    """No collection starts inside a sample; the collector is as it was afterwards, whatever happens."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class _Window:
    """One sustained run of samples."""

    device: Device
    rotation: Iterator[Run]
    protocol: Protocol
    blocks: bool
    lead: Run | None
    burst: bool = False
    repeats: int = 1
    samples_s: list[float] = field(default_factory=list)
    step_samples_s: list[float] = field(default_factory=list)
    window_s: float = 0.0
    steps: int = 0
    stop: Stop = "time"

    def measure(self, step_s: float, floor_s: float, observer: Observer) -> None:
        """Takes samples until they are precise enough or a cap is reached."""
        protocol = self.protocol
        # Long enough for the clock, and for the least time to be filled by half the samples allowed.
        sample_s = max(protocol.sample_s, FLOOR_FACTOR * floor_s, 2 * protocol.min_time_s / protocol.max_samples)
        if self.device.clock == "host" and self.device.asynchronous:
            sample_s = max(sample_s, WAITED_SAMPLE_S)  # each mark is a wait, which drains the queue
        self.repeats = 1 if self.lead else max(1, math.ceil(sample_s / max(step_s, 1e-9)))
        take = self._take_blocks if self.blocks else self._take_led if self.lead else self._take_samples
        if self.burst:
            self.repeats = max(self.repeats, math.ceil(BURST_SAMPLE_S / max(step_s, 1e-9)))
            take = self._take_bursts
            assert self.lead is None, "a lead before each sample would end the rest"
        look = protocol.min_samples
        hold = self._hold(step_s)
        observer.begin(hold)
        begin = self.device.now_s()
        while True:
            # Never more samples at once than the time left allows for: a slow step ends at its cap, not at its look.
            left_s = protocol.max_time_s - (self.device.now_s() - begin)
            sample_s = step_s * self.repeats + (REST_S if self.burst else 0.0)
            affordable = max(1, int(left_s / max(sample_s, 1e-9)))
            take(min(look - len(self.samples_s), affordable))
            step_s = stats.median(self.samples_s)
            self.window_s = self.device.now_s() - begin
            if stop := self._stop():
                self.stop = stop
                break
            if len(self.samples_s) >= look:
                look = min(protocol.max_samples, math.ceil(look * 1.5))
        observer.end(hold)

    def _hold(self, step_s: float) -> Run:
        """The load of the samples without their marks, a little of it at a time."""
        count = max(1, int(HOLD_STEP_S / max(step_s, 1e-9)))

        def hold() -> None:
            for _ in range(count):
                if self.lead:
                    self.lead()
                next(self.rotation)()
            self.device.synchronize()

        return hold

    def _stop(self) -> Stop | None:
        """Why it is enough, or None. At a cap too it may be precise: led samples are too short for the least time."""
        protocol, count = self.protocol, len(self.samples_s)
        cap: Stop | None = None
        if count >= protocol.max_samples:
            cap = "samples"
        elif self.window_s >= protocol.max_time_s:
            cap = "time"
        long_enough = cap or sum(self.samples_s) * self.repeats >= protocol.min_time_s
        if count >= protocol.min_samples and long_enough:
            half_width = stats.location(self.samples_s).relative_half_width
            if half_width is not None and half_width <= protocol.half_width:
                return "precise"
        return cap

    def _take_samples(self, count: int) -> None:
        """`count` samples in a row, read after the last: nothing waits between them."""
        device, rotation = self.device, self.rotation
        if device.asynchronous:  # a sample of lead, so that the first mark does not find an empty queue
            for _ in range(self.repeats):
                next(rotation)()
            self.steps += self.repeats
        marks: list[Any] = [device.event()]
        for _ in range(count):
            for _ in range(self.repeats):
                next(rotation)()
            marks.append(device.event())
        device.synchronize()
        self.steps += count * self.repeats
        self.samples_s += [device.seconds_between(a, b) / self.repeats for a, b in itertools.pairwise(marks)]

    def _take_bursts(self, count: int) -> None:
        """`count` samples, each after a rest in which the device cools down and its clock may rise."""
        device = self.device
        for _ in range(count):
            device.rest(REST_S)
            start = device.event()
            for _ in range(self.repeats):
                next(self.rotation)()
            end = device.event()
            device.synchronize()
            self.samples_s.append(device.seconds_between(start, end) / self.repeats)
        self.steps += count * self.repeats

    def _take_blocks(self, count: int) -> None:
        """`count` blocks, each between two waits; marks inside give the single steps where they need not wait."""
        device = self.device
        free_marks = device.clock != "host" or not device.asynchronous
        for _ in range(count):
            device.synchronize()
            start = device.now_s()
            marks: list[Any] = [device.event()] if free_marks else []
            for _ in range(self.repeats):
                next(self.rotation)()
                if free_marks:
                    marks.append(device.event())
            device.synchronize()
            self.samples_s.append((device.now_s() - start) / self.repeats)
            self.step_samples_s += [device.seconds_between(a, b) for a, b in itertools.pairwise(marks)]
        self.steps += count * self.repeats

    def _take_led(self, count: int) -> None:
        """`count` samples of one step, each after the lead and between marks of its own."""
        assert self.lead is not None
        marks: list[tuple[Any, Any]] = []
        for _ in range(count):
            self.lead()
            start = self.device.event()
            next(self.rotation)()
            marks.append((start, self.device.event()))
        self.device.synchronize()
        self.steps += count
        self.samples_s += [self.device.seconds_between(start, end) for start, end in marks]

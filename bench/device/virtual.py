"""A simulated GPU: exact, instant, and with every trait of a real one that a method of measuring can trip over.

Time is virtual. The host spends `launch_s` to enqueue a kernel; the device works through its queue in order. A kernel
lasts as long as its workload's declared cost takes at the roofline, sooner where its buffers still lie in the cache,
longer while the clock ramps up or the power cap holds it down. Power is known exactly and *published* as boards publish
it: a mean over a short window, now and then, at a phase nobody knows (Yang, Adamek & Armour, SC24).
"""

import bisect
import itertools
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.device.base import Absence, Case, Device, Step
from bench.errors import Unsupported
from bench.sensors import Reading, Sensors, Withheld


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is simulated. The defaults are of the size of a data-centre GPU of 2022, and round."""

    flops_per_s: float = 500e12  # at full clock, for two-byte types; half of it for four bytes
    bytes_per_s: float = 2e12
    cache_bytes: int = 50_000_000
    cache_speedup: float = 4.0  # of memory traffic that stays in the cache
    memory_bytes: int = 80_000_000_000
    launch_s: float = 4e-6  # host time to enqueue one kernel
    graph_launch_s: float = 8e-6  # host time to enqueue one recorded graph
    queue_depth: int = 1024  # launches in flight; with as many the host waits
    gap_s: float = 1e-6  # device time between two kernels
    event_quantum_s: float = 0.5e-6
    graphs: bool = True
    idle_clock: float = 0.3  # share of the full clock at rest
    ramp_s: float = 0.1  # time constant of the clock
    idle_w: float = 80.0
    busy_w: float = 500.0  # added at full clock; falls with the cube of the clock, as voltage follows frequency
    cap_w: float = 700.0
    power_period_s: float = 0.1  # how often a power value is published
    power_window_s: float = 0.025  # over how much time before that it is a mean
    energy_period_s: float = 0.1  # how often the energy counter is published, in whole millijoules
    energy_gain: float = 1.0  # of the counter
    sensor_phase_s: float = 0.037
    noise: float = 0.0  # relative standard deviation of a kernel's time
    seed: int = 0


@dataclass(frozen=True)
class _Kernel:
    compute_s: float
    memory_s: float
    buffer: int
    num_bytes: int


class Virtual(Device):
    """The simulated GPU."""

    clock = "virtual"

    def __init__(self, spec: Spec | None = None, index: int = 0) -> None:
        """A cold, idle device at time zero."""
        super().__init__(vendor="virtual", index=index, name="Virtual GPU", backend="virtual")
        self.simulated = spec or Spec()
        self.host_s = 0.0
        self._done_s = 0.0  # when the queue will be empty
        self._queue: deque[float] = deque(maxlen=self.simulated.queue_depth)  # when each launch will be done
        self._clock = self.simulated.idle_clock
        self._power = _History(self.simulated.idle_w)
        self._cached: OrderedDict[int, int] = OrderedDict()
        self._cached_bytes = 0
        self._buffers = itertools.count()
        self._recording: list[_Kernel] | None = None
        self._random = random.Random(self.simulated.seed)  # noqa: S311  a simulation, not a secret

    # Time

    def now_s(self) -> float:
        """Virtual host time."""
        return self.host_s

    def wait(self, seconds: float) -> None:
        """Lets the host wait; the device works off its queue and cools down."""
        self.host_s += seconds

    def event(self) -> float:
        """When the device will pass this point, as coarsely as its timestamps are."""
        quantum = self.simulated.event_quantum_s
        moment = max(self._done_s, self.host_s)
        return round(moment / quantum) * quantum if quantum else moment

    def seconds_between(self, start: Any, end: Any) -> float:
        """Difference of two timestamps."""
        return float(end - start)

    def synchronize(self) -> None:
        """The host waits for the queue."""
        self.host_s = max(self.host_s, self._done_s)

    def use(self) -> None:
        """Nothing to choose."""

    # Work

    def prepare(self, case: Case) -> Step:
        """A step that costs what the workload declares. Nothing is computed, so nothing can be wrong."""
        cost, buffer = case.cost(), next(self._buffers)
        count = max(1, cost.launches)
        rate = self.simulated.flops_per_s * min(1.0, 2 / case.dtype_bytes)
        kernel = _Kernel(
            compute_s=cost.flops / rate / count,
            memory_s=cost.bytes / self.simulated.bytes_per_s / count,
            buffer=buffer,
            num_bytes=case.memory_bytes(),
        )

        def run() -> None:
            for _ in range(count):
                self._launch(kernel)

        return Step(run=run, error=lambda: 0.0)

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """All kernels of `run` for one launch."""
        if not self.simulated.graphs:
            raise Unsupported("this virtual GPU has no graphs")
        kernels: list[_Kernel] = []
        self._recording = kernels
        try:
            run()
        finally:
            self._recording = None
        return lambda: self._enqueue(kernels, self.simulated.graph_launch_s)

    def filler(self, num_bytes: int) -> Callable[[], object]:
        """One kernel that writes `num_bytes`."""
        kernel = _Kernel(0.0, num_bytes / self.simulated.bytes_per_s, next(self._buffers), num_bytes)
        return lambda: self._launch(kernel)

    def supports(self, dtype: str) -> bool:
        """Everything."""
        return True

    def seed(self, seed: int) -> None:
        """There is no data."""

    # Memory

    def cache_bytes(self) -> int:
        """The simulated L2."""
        return self.simulated.cache_bytes

    def reset_peak_memory(self) -> None:
        """Nothing is allocated."""

    def peak_memory(self) -> Reading:
        """Nothing is allocated."""
        return Reading(None, "a virtual device allocates nothing")

    def release(self) -> None:
        """Nothing is allocated."""

    def _memory_info(self) -> tuple[int | None, int | None]:
        return self.simulated.memory_bytes, self.simulated.memory_bytes

    # Power

    def sensors(self, now_s: Callable[[], float] | None = None) -> Sensors:
        """The board's sensors, as they are now, or at any moment up to now: the past is known exactly."""
        return _Published(self.simulated, self._power, now_s or self.now_s)

    def true_joules(self, start_s: float, end_s: float) -> float:
        """What a perfect meter would have counted between two moments."""
        return self._power.joules(start_s, end_s)

    # The simulation

    def _launch(self, kernel: _Kernel) -> None:
        if self._recording is not None:
            self._recording.append(kernel)
            return
        self._enqueue([kernel], self.simulated.launch_s)

    def _enqueue(self, kernels: Sequence[_Kernel], launch_s: float) -> None:
        """One launch; the host waits for the oldest where the queue is full."""
        self.host_s += launch_s
        if len(self._queue) == self._queue.maxlen:
            self.host_s = max(self.host_s, self._queue[0])
        for kernel in kernels:
            self._execute(kernel)
        self._queue.append(self._done_s)

    def _execute(self, kernel: _Kernel) -> None:
        spec = self.simulated
        start_s = max(self._done_s, self.host_s) + spec.gap_s
        self._drift(start_s - self._done_s, spec.idle_clock)
        hit = self._touch(kernel)
        memory_s = kernel.memory_s / (spec.cache_speedup if hit else 1.0)
        duration_s = max(kernel.compute_s / self._clock, memory_s) + 1e-9
        if spec.noise:
            duration_s *= math.exp(self._random.gauss(0.0, spec.noise))
        # Load pulls the clock up to where the cap allows it: idle + busy * activity * clock^3 = cap.
        activity = max(kernel.compute_s / self._clock, 0.6 * memory_s) / duration_s
        allowed = ((spec.cap_w - spec.idle_w) / max(spec.busy_w * activity, 1e-9)) ** (1 / 3)
        self._power.add(start_s, start_s + duration_s, spec.idle_w + spec.busy_w * activity * self._clock**3)
        self._drift(duration_s, min(1.0, allowed))
        self._done_s = start_s + duration_s

    def _drift(self, seconds: float, target: float) -> None:
        """First-order approach of the clock to its target."""
        self._clock = target + (self._clock - target) * math.exp(-seconds / self.simulated.ramp_s)

    def _touch(self, kernel: _Kernel) -> bool:
        """Whether the kernel's buffers are in the cache; afterwards they are the most recent there."""
        hit = kernel.buffer in self._cached
        if kernel.num_bytes > self.simulated.cache_bytes:
            self._cached.clear()
            self._cached_bytes = 0
            return False
        if not hit:
            self._cached[kernel.buffer] = kernel.num_bytes
            self._cached_bytes += kernel.num_bytes
        self._cached.move_to_end(kernel.buffer)
        while self._cached_bytes > self.simulated.cache_bytes:
            self._cached_bytes -= self._cached.popitem(last=False)[1]
        return hit


class _History:
    """Power over all time, for exact integrals: busy pieces in order, idle between them."""

    def __init__(self, idle_w: float) -> None:
        self._idle_w = idle_w
        self._ends_s: list[float] = []
        self._starts_s: list[float] = []
        self._extra_w: list[float] = []  # above idle
        self._sums_j: list[float] = [0.0]  # above idle, up to the end of each piece

    def add(self, start_s: float, end_s: float, watts: float) -> None:
        """One busy piece after all others."""
        extra_w = watts - self._idle_w
        self._starts_s.append(start_s)
        self._ends_s.append(end_s)
        self._extra_w.append(extra_w)
        self._sums_j.append(self._sums_j[-1] + extra_w * (end_s - start_s))

    def joules(self, start_s: float, end_s: float) -> float:
        """Energy between two moments; idle before time zero too."""
        return self._idle_w * (end_s - start_s) + self._until(end_s) - self._until(start_s)

    def _until(self, moment_s: float) -> float:
        index = bisect.bisect_right(self._starts_s, moment_s)
        if index == 0:
            return 0.0
        last = index - 1
        whole_j = self._sums_j[last]
        return whole_j + self._extra_w[last] * (min(moment_s, self._ends_s[last]) - self._starts_s[last])


class _Published(Sensors):
    """What the board would publish at a moment, late and averaged as boards do."""

    def __init__(self, spec: Spec, power: _History, now_s: Callable[[], float]) -> None:
        super().__init__()
        self._spec, self._power, self._now_s = spec, power, now_s

    def asks(self) -> dict[str, Callable[[], float]]:
        """Power, energy and limit; clocks and temperature are not simulated as readings."""
        return {
            "power_w": self._power_w,
            "energy_j": self._energy_j,
            "power_limit_w": lambda: self._spec.cap_w,
            "temperature_c": self._temperature_c,
        }

    def _power_w(self) -> float:
        spec, end_s = self._spec, self._last(self._spec.power_period_s)
        return self._power.joules(end_s - spec.power_window_s, end_s) / spec.power_window_s

    def _energy_j(self) -> float:
        joules = self._power.joules(0.0, max(0.0, self._last(self._spec.energy_period_s)))
        return math.floor(self._spec.energy_gain * joules * 1e3) / 1e3

    def _temperature_c(self) -> float:
        raise Withheld("a virtual device has no temperature")

    def _last(self, period_s: float) -> float:
        """The last moment of publication before now."""
        phase_s = self._spec.sensor_phase_s
        return math.floor((self._now_s() - phase_s) / period_s) * period_s + phase_s


def detect() -> list[Device]:
    """One, always."""
    return [Virtual()]


def why_not() -> Absence:
    """Never asked: there always is one."""
    return Absence("it is always there")

"""Sampler: looks at a board's sensors while a worker loads it. A process of its own, started by the worker.

In a thread of the worker a reading would wait for the interpreter, and the load for the reading; and a hung driver call
would hang the load with it. Here nothing of torch is imported, times are on the monotonic clock that all processes of a
host share, and the worker tells begin and end by a line on standard input. When the worker dies that ends, and this
closes its sensors and ends too: a vendor's library that is killed inside a call may leave a lock behind for others.

Looks follow an absolute schedule, each moved at random by a fifth of a period: a load whose own period is near the
sensor's would otherwise be seen at the same phase each time.
"""

import argparse
import contextlib
import itertools
import os
import queue
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from bench.energy import Edge, Tick, Trace
from bench.measure import attribution
from bench.measure.orders import until_the_parent_dies
from bench.sensors import COUNTERS, HOST_COUNTERS, SLOW, STATE, TICK, Lost, Sensors, Withheld, open_board

PERIOD_S, SLOW_PERIOD_S = 0.1, 1.0
JITTER = 0.2
# While an energy counter's tick is awaited. Some boards answer nothing, or zero, when asked this often.
POLL_S, SLOW_POLL_S = 0.004, 0.02
# A published period is seen in the changes of at least so long.
PERIODS_S = 3.0
# A counter that did not tick for so long does not tick.
EDGE_LIMIT_S = 0.5
# What a driver may take for its last call, after which the process ends all the same.
CLOSE_S = 1.0
# Asked at both ends of a window, the load running: a link sleeps when its board is idle.
ENDS = (*COUNTERS, *HOST_COUNTERS, *STATE)
# Only where a board does not count each kind of throttled time: a look at its present reasons, ten times a second.
REASONS = "throttle_reasons"


# What the host's own sensors tell beside those of an accelerator, and under which name.
HOST = {
    "energy_j": "host_energy_j",
    "dram_energy_j": "host_dram_energy_j",
    "host_cpu_share": "host_cpu_share",
    "host_memory_used_bytes": "host_memory_used_bytes",
    "host_clock_hz": "host_clock_hz",
    "host_temperature_c": "host_temperature_c",
}


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """Starts a trace. `align`: first and last wait for a tick of the energy counter."""

    align: bool


class End(msgspec.Struct, tag="end", frozen=True):
    """Ends it."""


class Periods(msgspec.Struct, tag="periods", frozen=True):
    """Asks how often the board publishes, under a load that varies. Answered when `End` comes."""


class Close(msgspec.Struct, tag="close", frozen=True):
    """The worker has ended, or wants no more."""


class Compare(msgspec.Struct, tag="compare", frozen=True):
    """Asks which boards a load is on: rests first, then says `Began`, and wants the load until it answers."""


class Opened(msgspec.Struct, tag="opened", frozen=True, kw_only=True):
    """The sensors are open: what they cover, what they told when asked for everything, and why not of power."""

    boundary: str | None
    modelled: bool
    readings: dict[str, float]
    why_no_power: str


class Began(msgspec.Struct, tag="began", frozen=True):
    """The window may begin."""


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """What was seen."""

    trace: Trace


class Published(msgspec.Struct, tag="published", frozen=True):
    """Median time between two changes of a quantity, of those that changed often enough to tell."""

    period_s: dict[str, float]


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The sensors cannot be opened any more. `lost`: because the board went away, or wants a reset."""

    reason: str
    lost: bool = False


class Compared(msgspec.Struct, tag="compared", frozen=True):
    """How power rose under the load, on the worker's board and on the others that are here."""

    rises: attribution.Rises


Order = Begin | End | Periods | Compare | Close
Reply = Opened | Began | Ended | Published | Compared | Failed


class Clock(Protocol):
    """Time, and the wait for the end of a window."""

    def now_s(self) -> float:
        """The monotonic clock."""

    def wait_until(self, moment_s: float) -> bool:
        """Sleeps; True when the window is to end, as soon as it is."""


class Sampler:
    """The loop, with clock and sensors given to it: the same code runs on a simulated board in simulated time."""

    def __init__(
        self, sensors: Sensors, clock: Clock, *, seed: int = 0, period_s: float = PERIOD_S, host: Sensors | None = None
    ) -> None:
        """`sensors` have been probed, and those of the host beside an accelerator."""
        self._sensors = sensors
        self._host = host
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311  a schedule, not a secret
        self._period_s = period_s
        counted = all(sensors.has(name) for name in COUNTERS if name.startswith("throttle_"))
        self._every = TICK if counted else (*TICK, REASONS)
        self._quick = [name for name in self._every if name not in SLOW]

    def watch(self, align: bool, began: Callable[[], None] = lambda: None) -> Trace:
        """Looks until the clock says that the window ends. `began` is called when the window may begin."""
        ticks: list[Tick] = []
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        start = stop = begin_s = None
        lost = ""
        try:
            start = self._edge() if align else None
            first = self._ends()
            begin_s = self._clock.now_s()
            began()
            self._look_until_the_end(ticks, begin_s)
            stop = self._edge() if start else None
            last = self._ends()
        except Lost as error:
            lost = str(error)
        if begin_s is None:
            begin_s = self._clock.now_s()
            began()
        return Trace(
            begin_s=begin_s,
            end_s=self._clock.now_s(),
            period_s=self._period_s,
            ticks=ticks,
            start=start,
            stop=stop,
            first=first,
            last=last,
            lost=lost,
        )

    def _ends(self) -> dict[str, float]:
        told = self._sensors.read(ENDS) | self._sensors.since_last()
        host = self._host.read(HOST) if self._host else {}
        return told | {HOST[name]: value for name, value in host.items()}

    def periods(self) -> dict[str, float]:
        """Time between two published values of power and energy, the median of at least 20."""
        changes: dict[str, list[float]] = {"power_w": [], "energy_j": []}
        seen: dict[str, float] = {}
        while not self._clock.wait_until(self._clock.now_s() + POLL_S):
            values = self._sensors.read(changes)
            moment_s = self._clock.now_s()
            for name, value in values.items():
                if seen.get(name, value) != value:
                    changes[name].append(moment_s)
                seen[name] = value
        gaps = {name: sorted(b - a for a, b in itertools.pairwise(at)) for name, at in changes.items()}
        return {f"{name.partition('_')[0]}_period_s": one[len(one) // 2] for name, one in gaps.items() if len(one) > 20}

    def _look_until_the_end(self, ticks: list[Tick], begin_s: float) -> None:
        number, slow_s = 0, begin_s
        while True:
            before_s = self._clock.now_s()
            slowly = before_s >= slow_s
            values = self._sensors.read(self._every if slowly else self._quick)
            slow_s = before_s + SLOW_PERIOD_S if slowly else slow_s
            after_s = self._clock.now_s()
            ticks.append(Tick((before_s + after_s) / 2, after_s - before_s, values))
            # A call that took longer than a period leaves looks out; it does not make them follow one another.
            number = max(number + 1, int((after_s - begin_s) / self._period_s) + 1)
            jitter_s = self._random.uniform(-JITTER, JITTER) * self._period_s
            if self._clock.wait_until(begin_s + number * self._period_s + jitter_s):
                return

    def _edge(self) -> Edge | None:
        """The next tick of the energy counter, or None where it is not told or does not tick."""
        if not self._sensors.has("energy_j"):
            return None
        poll_s, before = POLL_S, self._sensors.read(("energy_j",)).get("energy_j")
        told_s = now_s = self._clock.now_s()
        limit_s = now_s + EDGE_LIMIT_S
        while now_s < limit_s:
            # The end of the window may come meanwhile; the tick is awaited all the same.
            self._clock.wait_until(now_s + poll_s)
            began_s = self._clock.now_s()
            value = self._sensors.read(("energy_j",)).get("energy_j")
            now_s = (began_s + self._clock.now_s()) / 2
            if not value:  # refused, or zero: it says nothing of the time since the last answer
                poll_s = SLOW_POLL_S
                continue
            if before is not None and value != before:
                return Edge(t_s=now_s, late_s=now_s - told_s, energy_j=value)
            before, told_s = value, now_s
        return None


class _Wall:
    """Real time; the end comes as an order."""

    def __init__(self, orders: "queue.SimpleQueue[Order]") -> None:
        self._orders = orders
        self._ended = False

    def now_s(self) -> float:
        return time.perf_counter_ns() / 1e9

    def wait_until(self, moment_s: float) -> bool:
        if self._ended:
            time.sleep(max(0.0, moment_s - self.now_s()))
            return True
        try:
            self._ended = isinstance(self._orders.get(timeout=max(1e-4, moment_s - self.now_s())), End)
        except queue.Empty:
            pass
        return self._ended

    def restart(self) -> None:
        """A new window."""
        self._ended = False


def main() -> None:
    """Serves orders until standard input ends."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--vendor", required=True)
    arguments.add_argument("--board", required=True)
    arguments.add_argument("--seed", type=int, required=True)
    options = arguments.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # the worker decides, and its death ends us
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a vendor's package may print
    orders: queue.SimpleQueue[Order] = until_the_parent_dies(Order, last=(End(), Close()), grace_s=CLOSE_S)

    def reply(answer: Reply) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more
            replies.write(msgspec.json.encode(answer) + b"\n")

    sensors = open_board(options.vendor, options.board or None)
    clock = _Wall(orders)
    try:
        probed = sensors.probe()
    except Lost as error:
        reply(Failed(str(error), lost=True))
        return
    host = None
    if options.vendor != "cpu":
        host = open_board("cpu", None)
        host.probe()
    reply(
        Opened(
            boundary=sensors.boundary,
            modelled=sensors.modelled,
            readings={name: reading.value for name, reading in probed.items() if reading.value is not None},
            why_no_power=next((probed[name].reason for name in ("power_w", "energy_j") if name in probed), ""),
        )
    )
    sampler = Sampler(sensors, clock, seed=options.seed, host=host)
    while not isinstance(order := orders.get(), Close):
        clock.restart()
        try:
            if isinstance(order, Begin):
                reply(Ended(sampler.watch(order.align, lambda: reply(Began()))))
            elif isinstance(order, Periods):
                reply(Published(sampler.periods()))
            elif isinstance(order, Compare):
                reply(Compared(attribution.rises(sensors, clock, lambda: reply(Began()))))
        except (Lost, Withheld) as error:
            reply(Failed(str(error), lost=isinstance(error, Lost)))
    sensors.close()
    if host is not None:
        host.close()


if __name__ == "__main__":
    assert "torch" not in sys.modules
    main()

"""Meter: the worker's end of the sampler. It watches one window after another, and never stands in a measurement's way.

A window whose energy is asked for is longer than its timing needs: the load goes on until the energy counter has ticked
at both ends and enough time lies between. Whatever becomes of the sensors, the timing is kept: a sampler that does not
answer in time is ended, and every later window has that as its reason.
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec

from bench.device import Device
from bench.device.virtual import Virtual
from bench.energy import Board, Trace
from bench.errors import without_paths
from bench.measure import environment, sampler
from bench.measure.attribution import Rises
from bench.measure.timer import Observer, Run

# The first answer includes the interpreter's start and the driver library's; later ones a few calls.
OPEN_LIMIT_S, ANSWER_LIMIT_S = 30.0, 5.0


class Meter(Observer):
    """Watches windows. `energy_s` is how long a window must last for its energy; 0 where none is asked for."""

    energy_s: float = 0.0

    def __init__(self, reason: str = "") -> None:
        """`reason`: why this one watches nothing."""
        self.board = Board(boundary=None)
        self.trace: Trace | None = None
        self.reason = reason  # why there is no trace

    def periods(self, load: Callable[[], object]) -> dict[str, float]:
        """How often the board publishes, seen under `load`."""
        load()
        return {}

    def rises(self, load: Run) -> Rises:
        """How power rises while `load` is called over and over, on this board and on the others here."""
        return Rises(None, [])

    def idle(self, seconds: float) -> Trace | None:
        """What the board tells while nothing runs on it for so long."""
        return None

    def close(self) -> None:
        """Ends the watching for good."""


def of(device: Device, seed: int) -> Meter:
    """The meter for this device."""
    if isinstance(device, Virtual):
        return SimulatedMeter(device, seed)
    try:
        return ProcessMeter(device, seed)
    except OSError as error:  # no more processes, or no memory for one
        return Meter(f"the sampler could not be started: {error.strerror}")


class SimulatedMeter(Meter):
    """The same sampler, run in the simulated time of a virtual device after the window instead of beside it."""

    def __init__(self, device: Virtual, seed: int) -> None:
        super().__init__()
        self._device, self._seed, self._begin_s = device, seed, 0.0
        sensors = device.sensors()
        readings = sensors.probe()
        self.board = Board(boundary=sensors.boundary, power_limit_w=readings["power_limit_w"].value)

    def begin(self, hold: Run) -> None:
        """From now on."""
        self.trace, self._begin_s = None, self._device.now_s()
        if self.energy_s:
            self._hold(hold, self._begin_s + sampler.EDGE_LIMIT_S)

    def end(self, hold: Run) -> None:
        """Until now, or until the energy is known."""
        if self.energy_s:
            self._hold(hold, self._begin_s + sampler.EDGE_LIMIT_S + self.energy_s)
        end_s = self._device.now_s()
        if self.energy_s:
            self._hold(hold, end_s + sampler.EDGE_LIMIT_S)
        self.trace = self._watch(end_s)

    def idle(self, seconds: float) -> Trace | None:
        """The device rests."""
        self._begin_s = self._device.now_s()
        self._device.wait(seconds)
        return self._watch(self._device.now_s())

    def periods(self, load: Callable[[], object]) -> dict[str, float]:
        """Seen over the load's own time, or three seconds of rest after it where that was short."""
        begin_s = self._device.now_s()
        load()
        clock = _Simulated(begin_s, max(self._device.now_s(), begin_s + sampler.PERIODS_S))
        return self._sampler(clock).periods()

    def _watch(self, end_s: float) -> Trace:
        return self._sampler(_Simulated(self._begin_s, end_s)).watch(align=bool(self.energy_s))

    def _sampler(self, clock: "_Simulated") -> sampler.Sampler:
        sensors = self._device.sensors(clock.now_s)
        sensors.probe()
        return sampler.Sampler(sensors, clock, seed=self._seed)

    def _hold(self, hold: Run, until_s: float) -> None:
        while self._device.now_s() < until_s:
            hold()


class _Simulated:
    """A clock that jumps to the moment that is waited for."""

    def __init__(self, begin_s: float, end_s: float) -> None:
        self._now_s, self._end_s = begin_s, end_s

    def now_s(self) -> float:
        return self._now_s

    def wait_until(self, moment_s: float) -> bool:
        ended = moment_s >= self._end_s
        # Once the window has ended only the counter's tick is awaited, and time goes on as it is asked.
        self._now_s = max(self._now_s, moment_s if not ended or self._now_s >= self._end_s else self._end_s)
        return ended


class ProcessMeter(Meter):
    """A sampler beside this process."""

    def __init__(self, device: Device, seed: int) -> None:
        super().__init__()
        self._device = device
        self._watching = False
        self._lost = ""  # how the board went away, where it did while no window was open
        command = [
            sys.executable, "-P", "-m", "bench.measure.sampler",
            "--vendor", device.vendor, "--board", device.board() or "", "--seed", str(seed),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment.for_children(),
            start_new_session=True,  # the end of the worker's session must not cut a driver's call short
        )
        self._replies: queue.SimpleQueue[sampler.Reply | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        opened = self._answer(OPEN_LIMIT_S)
        if isinstance(opened, sampler.Opened):
            known = ("power_limit_w", "pcie_generation_max", "pcie_width_max")
            readings = {name: opened.readings[name] for name in known if name in opened.readings}
            tells = {"energy_j", "power_w", "power_average_w"} & opened.readings.keys()
            averaged = tells == {"power_average_w"}
            boundary = opened.boundary if tells else None
            why = "" if tells else without_paths(opened.why_no_power)
            self.board = Board(boundary=boundary, modelled=opened.modelled, averaged=averaged, why=why, **readings)

    def begin(self, hold: Run) -> None:
        """From now on, or from the energy counter's next tick: the load is held until then."""
        self.trace = None
        if self._watching:  # a case that failed inside its window left it open
            self._stop()
        self._tell(sampler.Begin(align=bool(self.energy_s)))
        self._watching = True
        self._hold(hold)
        self._answer(ANSWER_LIMIT_S)
        self._begun_s = self._device.now_s()

    def end(self, hold: Run) -> None:
        """Until now, or until the energy is known."""
        while not self.reason and self._device.now_s() < self._begun_s + self.energy_s:
            hold()
        self.trace = self._stop(hold)
        if self._lost:
            now_s = self._device.now_s()
            self.trace = Trace(begin_s=now_s, end_s=now_s, period_s=sampler.PERIOD_S, ticks=[], lost=self._lost)

    def idle(self, seconds: float) -> Trace | None:
        """Nothing is run meanwhile."""
        self._tell(sampler.Begin(align=False))
        self._answer(ANSWER_LIMIT_S)
        self._device.wait(seconds)
        return self._stop()

    def periods(self, load: Callable[[], object]) -> dict[str, float]:
        """Seen while `load` runs."""
        if self.board.boundary is None:
            load()
            return {}
        self._tell(sampler.Periods())
        until_s = self._device.now_s() + sampler.PERIODS_S
        load()
        while self._device.now_s() < until_s:
            load()
        self._tell(sampler.End())
        found = self._answer(ANSWER_LIMIT_S)
        return found.period_s if isinstance(found, sampler.Published) else {}

    def rises(self, load: Run) -> Rises:
        """Rests first, and runs `load` only where there are other boards."""
        if self.board.boundary is None:
            return Rises(None, [])
        self._device.synchronize()
        self._tell(sampler.Compare())
        answer = self._answer(OPEN_LIMIT_S)  # every other board is opened meanwhile
        if isinstance(answer, sampler.Began):
            self._hold_until_answered(load)
            answer = self._answer(ANSWER_LIMIT_S)
        return answer.rises if isinstance(answer, sampler.Compared) else Rises(None, [])

    def close(self) -> None:
        """Lets the process close its sensors and end; one that hangs in a driver ends by itself, or by the kernel."""
        # Not standard output: while the other thread reads it, closing waits for the sampler's end. In words too,
        # because a process that was forked meanwhile (a data loader's, in a loop of one's own) keeps the input open.
        with contextlib.suppress(OSError, ValueError):
            for order in (sampler.End(), sampler.Close()):
                self._send(order)
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def _stop(self, hold: Run | None = None) -> Trace | None:
        """Ends the trace that is being taken. Whatever was not read of it yet is read on the way."""
        self._watching = False
        self._tell(sampler.End())
        if hold is not None:
            self._hold(hold)
        while (reply := self._answer(ANSWER_LIMIT_S)) is not None:
            if isinstance(reply, sampler.Ended):
                return reply.trace
        return None

    def _hold(self, hold: Run) -> None:
        """Keeps the load up while the sampler is awaited. On a CPU that keeps the sampler from its answer by a whole
        step at least, and is only done where an energy is asked for.
        """
        if self._device.asynchronous or self.energy_s:
            self._hold_until_answered(hold)

    def _hold_until_answered(self, hold: Run) -> None:
        limit_s = self._device.now_s() + ANSWER_LIMIT_S
        while not self.reason and self._replies.empty() and self._device.now_s() < limit_s:
            hold()

    def _tell(self, order: sampler.Order) -> None:
        if self.reason:
            return
        try:
            self._send(order)
        except OSError:
            self._give_up("the sampler has ended")

    def _send(self, order: sampler.Order) -> None:
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), msgspec.json.encode(order) + b"\n")

    def _answer(self, limit_s: float) -> sampler.Reply | None:
        """The next reply; None once there will be none, and `reason` says why."""
        if self.reason:
            return None
        try:
            reply = self._replies.get(timeout=limit_s)
        except queue.Empty:
            self._give_up(f"the sensors did not answer within {limit_s:.0f} s")
            return None
        if reply is None:
            self._give_up("the sampler has ended")
        elif isinstance(reply, sampler.Failed):
            self._lost = reply.reason if reply.lost else ""
            self._give_up(reply.reason)
        return reply

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        decoder = msgspec.json.Decoder(sampler.Reply)
        with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
            for line in self._process.stdout:
                self._replies.put(decoder.decode(line))
        self._process.stdout.close()
        self._replies.put(None)

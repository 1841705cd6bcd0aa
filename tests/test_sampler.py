"""The sampler as a real process, on the compiled NVML; and what a worker's meter makes of one that misbehaves."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from bench import device as devices
from bench import energy
from bench.device import Device
from bench.measure import sampler, telemetry
from bench.measure.meter import ProcessMeter
from bench.sensors import COUNTERS, SLOW, TICK, Lost, Sensors

UUID = "GPU-11111111-2222-3333-4444-555555555555"


class Board(Device):
    """A device that only has sensors."""

    def board(self) -> str | None:
        return UUID

    def synchronize(self) -> None:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def library(fake_nvml: Callable[..., Path]) -> Path:
    return fake_nvml()


@pytest.fixture
def meter(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ProcessMeter]]:
    """Starts meters on a board whose driver is in the modes asked for."""
    opened: list[ProcessMeter] = []

    def start(modes: str = "", after_s: float = 0.0) -> ProcessMeter:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        monkeypatch.setenv("FAKE_NVML", modes)
        monkeypatch.setenv("FAKE_NVML_AFTER_S", str(after_s))
        opened.append(ProcessMeter(Board(vendor="nvidia", index=0, name="A Board", backend="cuda"), seed=0))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def hold() -> None:
    time.sleep(0.02)


def spin(seconds: float) -> None:
    """A busy Python loop, as a worker that launches is."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_energy_and_power_come_from_a_process_of_its_own_while_this_one_spins(
    meter: Callable[..., ProcessMeter],
) -> None:
    watching = meter()
    watching.begin(hold)
    spin(6.0)
    watching.end(hold)
    assert watching.trace is not None and not watching.reason
    assert len(watching.trace.ticks) >= 0.8 * 6.0 / sampler.PERIOD_S
    found = energy.energy(watching.trace, watching.board)
    assert found.joules is not None and found.uncertainty_same_board is not None
    assert found.joules / found.window_s == pytest.approx(300, rel=found.uncertainty_same_board)
    assert not found.disagrees


def test_an_aligned_window_lasts_as_long_as_was_asked_and_begins_and_ends_with_a_tick(
    meter: Callable[..., ProcessMeter],
) -> None:
    watching = meter()
    watching.energy_s = 5.2
    watching.begin(hold)
    watching.end(hold)
    trace = watching.trace
    assert trace is not None and trace.start is not None and trace.stop is not None
    found = energy.energy(trace, watching.board)
    assert found.method == "counter_tick" and found.joules is not None
    assert found.joules / found.window_s == pytest.approx(300, rel=0.02)


def test_the_sampler_never_imports_torch_and_dies_with_its_worker(library: Path) -> None:
    program = f"""
import os, sys, time
from bench.device import Device
from bench.measure.meter import ProcessMeter
class Board(Device):
    def board(self): return "{UUID}"
meter = ProcessMeter(Board(vendor="nvidia", index=0, name="A", backend="cuda"), 0)
meter.begin(lambda: None)
maps = open(f"/proc/{{meter._process.pid}}/maps").read()
print(meter._process.pid, "libtorch" in maps, flush=True)
time.sleep(60)
"""
    environment = os.environ | {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": ""}
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, cwd=root, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        pid, torch_loaded = worker.stdout.readline().split()
        worker.send_signal(signal.SIGKILL)
        assert torch_loaded == "False"
        deadline = time.monotonic() + 10
        while _alive(int(pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _alive(int(pid))


def test_the_sampler_closes_its_sensors_when_its_worker_is_killed(library: Path, tmp_path: Path) -> None:
    """A vendor's library that is killed inside a call may leave a lock behind."""
    program = f"""
import sys, time
from bench.device import Device
from bench.measure.meter import ProcessMeter
class Board(Device):
    def board(self): return "{UUID}"
meter = ProcessMeter(Board(vendor="nvidia", index=0, name="A", backend="cuda"), 0)
meter.begin(lambda: None)
print("ready", flush=True)
time.sleep(60)
"""
    freed = tmp_path / "freed"
    environment = os.environ | {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": "", "FAKE_NVML_FREED": str(freed)}
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, cwd=root, stdout=subprocess.PIPE, start_new_session=True
    ) as worker:
        assert worker.stdout is not None and worker.stdout.readline()
        os.killpg(worker.pid, signal.SIGKILL)  # as a run ends it
    deadline = time.monotonic() + 10
    while not freed.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert freed.exists()


def test_a_process_that_was_forked_meanwhile_does_not_keep_the_sampler(meter: Callable[..., ProcessMeter]) -> None:
    """A data loader's workers in a loop of one's own hold the other end of its standard input too."""
    watching = meter()
    watching.begin(hold)
    forked = os.dup(watching._process.stdin.fileno())  # type: ignore[union-attr]
    try:
        watching.close()
        assert watching._process.wait(timeout=10) == 0
    finally:
        os.close(forked)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_driver_call_that_hangs_costs_the_telemetry_and_not_the_window(
    meter: Callable[..., ProcessMeter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.measure.meter.ANSWER_LIMIT_S", 1.0)
    watching = meter("hang", after_s=1.5)
    watching.begin(hold)
    time.sleep(2.0)
    begin_s = time.perf_counter()
    watching.end(hold)
    assert time.perf_counter() - begin_s < 10
    assert watching.trace is None and "did not answer" in watching.reason
    watching.begin(hold)  # and no later window waits for it again
    watching.end(hold)
    assert watching.trace is None


def test_a_cpu_is_not_loaded_while_its_sampler_is_awaited_but_for_an_energy() -> None:
    """At both ends a whole step, of up to 0.6 s, kept the sampler from the cores that it needed to answer."""
    (cpu,) = devices.find("cpu")
    watching = ProcessMeter(cpu, seed=0)
    held: list[int] = []
    with contextlib.closing(watching):
        for watching.energy_s, loaded in ((0.0, False), (0.01, True)):
            held.clear()
            watching.begin(lambda: held.append(1))
            watching.end(lambda: held.append(1))
            assert watching.trace is not None
            assert bool(held) is loaded


def test_a_board_that_leaves_the_bus_keeps_what_was_seen_before(meter: Callable[..., ProcessMeter]) -> None:
    watching = meter("lost", after_s=2.0)
    watching.begin(hold)
    time.sleep(3.0)
    watching.end(hold)
    assert watching.trace is not None
    assert watching.trace.lost and watching.trace.ticks


def test_a_board_that_was_lost_between_two_windows_is_lost_to_those_that_follow(
    meter: Callable[..., ProcessMeter],
) -> None:
    watching = meter("lost", 1.0)
    assert watching.periods(hold) == {}
    for _ in range(2):
        watching.begin(hold)
        watching.end(hold)
        told = telemetry.told(watching.trace, watching.board, reason=watching.reason, step_s=1e-3)
        assert told.flags == ["gpu_lost"] and "lost" in told.reasons["energy"]


def test_a_case_that_failed_inside_its_window_costs_the_next_one_nothing(meter: Callable[..., ProcessMeter]) -> None:
    watching = meter()
    watching.begin(hold)  # and no end: the case ran out of memory
    time.sleep(0.3)
    watching.begin(hold)
    begun_s = time.perf_counter()
    time.sleep(0.5)
    watching.end(hold)
    assert not watching.reason and watching.trace is not None
    assert watching.trace.begin_s == pytest.approx(begun_s, abs=0.2)


def test_a_sampler_that_is_killed_is_a_reason(meter: Callable[..., ProcessMeter]) -> None:
    watching = meter()
    watching.begin(hold)
    watching._process.kill()
    watching.end(hold)
    assert watching.trace is None and "ended" in watching.reason


@pytest.mark.parametrize("modes", ["mismatch", "nopower"])
def test_a_board_that_tells_nothing_is_watched_in_vain_and_says_so(
    modes: str, meter: Callable[..., ProcessMeter]
) -> None:
    watching = meter(modes)
    watching.energy_s = 1.0
    watching.begin(hold)
    watching.end(hold)
    assert watching.board.boundary is None
    if watching.trace is not None:
        assert energy.energy(watching.trace, watching.board).reason


# The loop itself, on a clock of the test's


class Clock:
    """Jumps to where it is asked to wait."""

    def __init__(self, end_s: float) -> None:
        self.now, self.end_s = 0.0, end_s

    def now_s(self) -> float:
        return self.now

    def wait_until(self, moment_s: float) -> bool:
        self.now = max(self.now, moment_s)
        return self.now >= self.end_s


class Scripted(Sensors):
    """Quantities as functions of the clock; each call takes `cost_s`."""

    def __init__(self, clock: Clock, told: dict[str, Callable[[float], float]], cost_s: float = 0.0) -> None:
        super().__init__()
        self._clock, self._told, self._cost_s = clock, told, cost_s
        self.asked: list[str] = []

    def asks(self) -> dict[str, Callable[[], float]]:
        def asking(name: str) -> Callable[[], float]:
            def ask() -> float:
                self.asked.append(name)
                self._clock.now += self._cost_s
                return self._told[name](self._clock.now)

            return ask

        return {name: asking(name) for name in self._told}


def watched(told: dict[str, Callable[[float], float]], *, cost_s: float = 0.0, end_s: float = 3.0) -> energy.Trace:
    clock = Clock(end_s)
    sensors = Scripted(clock, told, cost_s)
    sensors.probe()
    clock.now = 0.0
    return sampler.Sampler(sensors, clock).watch(align=False)


def test_slow_calls_thin_the_looks_out_and_their_share_of_the_time_is_known() -> None:
    quick = watched({"power_w": lambda now: 300.0}, cost_s=1e-4)
    slow = watched({"power_w": lambda now: 300.0}, cost_s=0.25)
    assert len(quick.ticks) == pytest.approx(30, abs=1)
    assert len(slow.ticks) <= 12
    assert quick.busy == pytest.approx(1e-3, rel=0.2) and slow.busy > 0.5


def test_in_the_loop_only_what_is_cheap_is_asked_and_the_rest_at_both_ends() -> None:
    told = {name: (lambda now: 1.0) for name in ("power_w", "compute_processes", "ecc_uncorrected", "power_limit_w")}
    clock = Clock(1.0)
    sensors = Scripted(clock, told)
    sensors.probe()
    sensors.asked.clear()
    sampler.Sampler(sensors, clock).watch(align=False)
    assert sensors.asked.count("power_w") > 5
    assert sensors.asked.count("compute_processes") == sensors.asked.count("ecc_uncorrected") == 2
    assert "power_limit_w" not in sensors.asked


def test_what_changes_slowly_is_asked_once_a_second() -> None:
    clock = Clock(9.95)
    sensors = Scripted(clock, {name: (lambda now: 1.0) for name in TICK}, cost_s=1e-4)
    sensors.probe()
    sensors.asked.clear()
    trace = sampler.Sampler(sensors, clock).watch(align=False)
    assert sensors.asked.count("clock_hz") == len(trace.ticks) == pytest.approx(100, abs=1)
    for name in SLOW:
        assert 9 <= len(trace.series(name)) <= 10 and trace.series(name)[0][0] == trace.ticks[0].t_s


def test_a_short_window_has_every_quantity() -> None:
    seen = watched({name: (lambda now: 1.0) for name in TICK}, end_s=0.05)
    assert set(seen.names()) == set(TICK)


def test_a_board_lost_at_the_first_look_still_lets_the_window_begin() -> None:
    clock = Clock(1.0)

    class Gone(Scripted):
        def read(self, names: object) -> dict[str, float]:
            raise Lost("fallen off the bus")

    sensors = Gone(clock, {"power_w": lambda now: 1.0})
    sensors.probe()
    began: list[int] = []
    trace = sampler.Sampler(sensors, clock).watch(align=True, began=lambda: began.append(1))
    assert began == [1] and trace.lost and not trace.ticks


def test_a_counter_that_does_not_tick_does_not_hold_the_window_up() -> None:
    clock = Clock(2.0)
    sensors = Scripted(clock, {"energy_j": lambda now: 5.0, "power_w": lambda now: 300.0})
    sensors.probe()
    trace = sampler.Sampler(sensors, clock).watch(align=True)
    assert trace.start is None and trace.stop is None
    assert trace.begin_s <= 2 * sampler.EDGE_LIMIT_S


def test_a_counter_that_answers_zero_when_asked_too_often_is_asked_more_slowly() -> None:
    clock, last = Clock(9.0), [-1.0]

    def counted(now: float) -> float:
        asked, last[0] = now - last[0], now
        return 0.0 if asked < 0.015 else 300 * (now // 0.1) * 0.1 + 1.0

    sensors = Scripted(clock, {"energy_j": counted})
    sensors.probe()
    trace = sampler.Sampler(sensors, clock, seed=random.Random(0).randrange(9)).watch(align=True)
    assert trace.start is not None and trace.start.late_s >= 0.5 * sampler.SLOW_POLL_S


def test_orders_and_replies_survive_the_line_between_the_processes() -> None:
    trace = watched({"power_w": lambda now: 300.0})
    for message in (sampler.Ended(trace), sampler.Began(), sampler.Failed("why"), sampler.Published({"a": 0.1})):
        assert msgspec.json.decode(msgspec.json.encode(message), type=sampler.Reply) == message


@pytest.mark.parametrize("nothing", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_left_out_and_the_trace_reaches_the_worker(nothing: float) -> None:
    clock = Clock(3.0)
    told = {"power_w": lambda now: 300.0 if now < 1.0 else nothing, "memory_active": lambda now: nothing}
    sensors = Scripted(clock, told)
    assert "no number" in sensors.probe()["memory_active"].reason
    seen = sampler.Ended(sampler.Sampler(sensors, clock).watch(align=False))
    assert msgspec.json.decode(msgspec.json.encode(seen), type=sampler.Reply) == seen
    assert {value for _, value in seen.trace.series("power_w")} == {300.0}


def test_the_host_is_read_beside_an_accelerator_and_under_names_of_its_own() -> None:
    clock = Clock(1.0)
    sensors = Scripted(clock, {"power_w": lambda now: 300.0, "energy_j": lambda now: 300 * now})
    host = Scripted(clock, {"energy_j": lambda now: 50 * now, "host_cpu_share": lambda now: 0.25})
    sensors.probe()
    host.probe()
    trace = sampler.Sampler(sensors, clock, host=host).watch(align=False)
    assert trace.change("host_energy_j") == pytest.approx(50 * trace.window_s, rel=0.05)
    assert trace.last["host_cpu_share"] == 0.25
    assert trace.series("energy_j")[-1][1] > 200


def test_what_a_board_averages_by_itself_is_of_the_window() -> None:
    clock = Clock(2.0)

    class Counting(Scripted):
        before_s: float | None = None

        def since_last(self) -> dict[str, float]:
            before_s, self.before_s = self.before_s, clock.now
            return {} if before_s is None else {"sm_active": clock.now - before_s}

    sensors = Counting(clock, {"power_w": lambda now: 300.0})
    sensors.probe()
    trace = sampler.Sampler(sensors, clock).watch(align=False)
    assert "sm_active" not in trace.first
    assert trace.last["sm_active"] == pytest.approx(trace.window_s, rel=0.1)


def test_reasons_are_looked_at_unless_every_kind_is_counted() -> None:
    partly = {"power_w": lambda now: 1.0, "throttle_reasons": lambda now: 64.0, "throttle_power_cap_s": lambda now: now}
    assert "throttle_reasons" in watched(partly).names()
    every = {name: (lambda now: now) for name in COUNTERS if name.startswith("throttle_")}
    assert "throttle_reasons" not in watched(partly | every).names()


def test_what_is_read_at_the_begin_is_read_after_the_tick_so_that_shares_are_of_the_window() -> None:
    clock = Clock(4.0)
    told = {"energy_j": lambda now: 300 * (now // 0.1) * 0.1 + 1.0, "throttle_power_cap_s": lambda now: now}
    sensors = Scripted(clock, told)
    sensors.probe()
    clock.now = 0.0
    trace = sampler.Sampler(sensors, clock).watch(align=True)
    change = trace.change("throttle_power_cap_s")
    assert trace.start is not None and change is not None
    assert change == pytest.approx(trace.window_s, rel=1e-3)

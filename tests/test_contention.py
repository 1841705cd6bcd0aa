"""The evidence of what else the host did: counters with planted values, and files that are not there."""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.measure import contention
from bench.measure.contention import HostWatch
from bench.record import Contention

QUIET = Contention(
    cpu_share=1.0,
    involuntary_switches_per_s=0.0,
    pressure=0.0,
    stolen=0.0,
    page_faults_per_step=0.0,
    spin_slowdown=0.0,
)
LIMITS = {
    "pressure": contention.NOISY_PRESSURE,
    "stolen": contention.NOISY_STOLEN,
    "spin_slowdown": contention.NOISY_SPIN,
}

Files = dict[str, str | None]
Plant = Callable[[Files], None]


def with_value(name: str, value: float | None) -> Contention:
    fields = {field: getattr(QUIET, field) for field in QUIET.__struct_fields__}
    return Contention(**{**fields, name: value})


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Puts texts in place of files; None for a file that cannot be read."""
    read = Path.read_text

    def plant(files: Files) -> None:
        def planted(path: Path, *arguments: object, **keywords: object) -> str:
            if str(path) not in files:
                return read(path, *arguments, **keywords)  # type: ignore[arg-type]
            text = files[str(path)]
            if text is None:
                raise FileNotFoundError(path)
            return text

        monkeypatch.setattr(Path, "read_text", planted)

    return plant


def stat(stolen_ticks: int) -> str:
    return f"cpu  101 102 103 104 105 106 107 {stolen_ticks} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


def pressure(waited_us: int) -> str:
    return (
        f"some avg10=1.00 avg60=2.00 avg300=3.00 total={waited_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99\n"
    )


# The window


def test_a_window_is_the_growth_of_the_counters_inside_it(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    moments = iter(
        # wall, own CPU time, switches, faults, waited us, stolen ticks
        [(0.0, 0.0, 0, 0, 0, 0), (10.0, 1.0, 5, 100, 1_000_000, 3 * ticks), (14.0, 7.0, 25, 400, 3_000_000, 5 * ticks)]
    )
    now: list[tuple[float, float, int, int, int, int]] = []

    def tick(*_: object) -> None:
        now[:] = [next(moments)]
        plant({"/proc/pressure/cpu": pressure(now[0][4]), "/proc/stat": stat(now[0][5])})

    clock = SimpleNamespace(perf_counter=lambda: now[0][0], process_time=lambda: now[0][1])
    monkeypatch.setattr(contention, "time", clock)
    monkeypatch.setattr(contention, "_usage", lambda: (now[0][2], now[0][3]))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    tick()
    watch = HostWatch(threads=2, spin_slowdown=0.01)
    tick()
    watch.begin(lambda: None)
    tick()
    watch.end(lambda: None)
    assert watch.contention(steps=50) == Contention(
        cpu_share=6 / (4 * 2),
        involuntary_switches_per_s=20 / 4,
        pressure=2 / 4,
        stolen=2 / (4 * 8),
        page_faults_per_step=300 / 50,
        spin_slowdown=0.01,
    )


def test_a_window_measured_again_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter([0, 0, 1000, 1000, 1020])
    monkeypatch.setattr(contention, "_usage", lambda: (0, next(faults)))
    watch = HostWatch(threads=1, spin_slowdown=0.0)
    for _ in range(2):
        watch.begin(lambda: None)
        watch.end(lambda: None)
    assert watch.contention(steps=10).page_faults_per_step == 2


def test_work_of_one_thread_is_seen_as_such() -> None:
    watch = HostWatch(threads=1, spin_slowdown=0.0)
    watch.begin(lambda: None)
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    watch.end(lambda: None)
    busy = watch.contention(steps=1)
    assert busy.cpu_share is not None
    assert 0.1 < busy.cpu_share < 1.05


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage counts page faults this way on Linux")
def test_memory_fetched_anew_is_counted_in_faults() -> None:
    watch = HostWatch(threads=1, spin_slowdown=0.0)
    block = mmap.mmap(-1, 16 << 20)  # an allocator might hand out memory that was fetched long ago
    watch.begin(lambda: None)
    for offset in range(0, len(block), 4096):
        block[offset] = 1
    watch.end(lambda: None)
    block.close()
    faults = watch.contention(steps=1).page_faults_per_step
    assert faults is not None
    assert faults >= 8  # huge pages, at the least


def test_processes_that_take_turns_are_counted_as_involuntary_switches() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes cannot be pinned here")
    allowed = os.sched_getaffinity(0)
    program = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        os.sched_setaffinity(child.pid, {min(allowed)})
        os.sched_setaffinity(0, {min(allowed)})
        watch = HostWatch(threads=1, spin_slowdown=0.0)
        watch.begin(lambda: None)
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        watch.end(lambda: None)
        os.sched_setaffinity(0, allowed)
        child.kill()
    shared = watch.contention(steps=1)
    assert shared.involuntary_switches_per_s is not None
    assert shared.cpu_share is not None
    assert shared.involuntary_switches_per_s > 1
    assert shared.cpu_share < 0.9


# What cannot be read


@pytest.mark.parametrize("text", [None, "", "some avg10=0.00", "some avg10=0.00 total=soon", "\n"])
def test_pressure_that_cannot_be_read_is_unknown_and_not_zero(plant: Plant, text: str | None) -> None:
    plant({"/proc/pressure/cpu": text})
    watch = HostWatch(threads=1, spin_slowdown=0.0)
    watch.begin(lambda: None)
    watch.end(lambda: None)
    assert watch.contention(steps=1).pressure is None


@pytest.mark.parametrize("text", [None, "", "cpu  1 2 3 4\n", "cpu  1 2 3 4 5 6 7 many 0 0\n"])
def test_stolen_time_that_cannot_be_read_is_unknown_and_not_zero(plant: Plant, text: str | None) -> None:
    plant({"/proc/stat": text})
    watch = HostWatch(threads=1, spin_slowdown=0.0)
    watch.begin(lambda: None)
    watch.end(lambda: None)
    assert watch.contention(steps=1).stolen is None


def test_where_usage_is_not_counted_it_is_unknown_and_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    watch = HostWatch(threads=1, spin_slowdown=0.0)
    watch.begin(lambda: None)
    watch.end(lambda: None)
    found = watch.contention(steps=1)
    assert (found.involuntary_switches_per_s, found.page_faults_per_step) == (None, None)


# The judgement


def test_a_quiet_host_is_quiet() -> None:
    assert not contention.noisy(QUIET)


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_each_kind_of_disturbance_has_its_limit(name: str, limit: float) -> None:
    assert not contention.noisy(with_value(name, limit))
    assert contention.noisy(with_value(name, limit * 1.001))


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_unknown_is_no_disturbance(name: str) -> None:
    assert not contention.noisy(with_value(name, None))


# The spin


def test_spins_of_equal_length_show_no_slowdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_spin", lambda count: count * 1e-7)
    assert contention.spin() == 0.0


def test_a_third_of_the_spins_slowed_by_half_shows_as_half(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))
    monkeypatch.setattr(contention, "_calibrated_spin", lambda: 1)
    monkeypatch.setattr(contention, "_spin", lambda count: 0.03 if next(calls) % 3 == 0 else 0.02)
    assert contention.spin() == pytest.approx(0.5)


def test_one_slow_spin_of_twenty_is_no_slowdown(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))
    monkeypatch.setattr(contention, "_calibrated_spin", lambda: 1)
    monkeypatch.setattr(contention, "_spin", lambda count: 0.2 if next(calls) == 3 else 0.02)
    assert contention.spin() == 0.0


@pytest.mark.parametrize("per_count_s", [1e-9, 3e-8, 1e-6, 1e-4])
def test_a_spin_lasts_twenty_milliseconds_on_a_host_of_any_speed(
    monkeypatch: pytest.MonkeyPatch, per_count_s: float
) -> None:
    monkeypatch.setattr(contention, "_spin", lambda count: count * per_count_s)
    count = contention._calibrated_spin()
    assert count * per_count_s == pytest.approx(0.02, rel=0.01) or count == 10_000  # never less than that


def test_a_real_spin_gives_a_slowdown() -> None:
    assert 0 <= contention.spin() < 1000

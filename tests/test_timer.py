"""The timer against a virtual GPU whose true times are known to the nanosecond."""

import gc
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import pytest

from bench import stats, workload
from bench.cost import Cost
from bench.device import Device, Step
from bench.device.virtual import Spec, Virtual
from bench.measure import case, draft, messages, meter, timer
from bench.measure.contention import HostWatch
from bench.record import Protocol, Record

PROTOCOL = Protocol(
    settle_s=0.01, min_samples=30, min_time_s=0.01, max_time_s=100.0, max_samples=1000, half_width=0.005, sample_s=1e-4
)
# No cache, no gaps, no clock that moves, and events that are exact: each test adds the trait that it is about.
PLAIN = Spec(cache_bytes=0, gap_s=0.0, idle_clock=1.0, launch_s=1e-7, event_quantum_s=0.0)


def having(spec: Spec, **traits: float | bool) -> Virtual:
    return Virtual(Spec(**{**vars(spec), **traits}))


def protocol(**changes: float) -> Protocol:
    return msgspec.structs.replace(PROTOCOL, **changes)


def kernel(device: Virtual, seconds: float) -> timer.Run:
    """A step of one memory-bound kernel that lasts `seconds`."""
    return device.filler(round(seconds * device.simulated.bytes_per_s))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A case that costs what it is told to."""

    flops: int = 0
    num_bytes: int = 0
    launches: int = 1
    rotate: bool = True
    dtype_bytes: int = 2

    def cost(self) -> Cost:
        return Cost(gemm_flops=self.flops, bytes=self.num_bytes, launches=self.launches)

    def memory_bytes(self) -> int:
        return self.num_bytes

    def prepare(self, device: Device) -> Step:
        raise NotImplementedError("the virtual device makes its own")


class Watch(timer.Observer):
    """Notes when it was told what, and how often the step had run by then."""

    def __init__(self, device: Virtual) -> None:
        self.device, self.calls = device, 0
        self.told: list[tuple[str, float, int]] = []

    def counted(self, run: timer.Run) -> timer.Run:
        def counting() -> None:
            self.calls += 1
            run()

        return counting

    def begin(self, hold: timer.Run) -> None:
        self.told.append(("begin", self.device.now_s(), self.calls))

    def end(self, hold: timer.Run) -> None:
        self.told.append(("end", self.device.now_s(), self.calls))


# Before the samples


def test_the_first_call_is_measured_alone_and_in_no_sample() -> None:
    device = having(PLAIN)
    work, pending = kernel(device, 1e-3), [3.0]

    def run() -> None:
        device.wait(pending.pop() if pending else 0.0)
        work()

    measured = timer.measure(device, [run], PROTOCOL)
    assert measured.cold_start_s == pytest.approx(3.001, rel=1e-3)
    assert measured.settle_s < 0.1
    assert max(measured.samples_s) == pytest.approx(1e-3, rel=1e-4)


def test_after_enough_settling_the_median_is_that_of_the_ramped_clock() -> None:
    device = having(PLAIN, idle_clock=0.3, ramp_s=0.1)
    run = device.prepare(Task(flops=500_000_000_000)).run  # 1 ms at full clock
    measured = timer.measure(device, [run], protocol(settle_s=1.0))
    assert measured.median_s == pytest.approx(1e-3, rel=1e-3)
    assert measured.cold_start_s > 2.5e-3
    assert measured.unsteady_s == []


def test_a_clock_still_ramping_is_noticed_measured_again_and_nothing_is_lost() -> None:
    device = having(PLAIN, idle_clock=0.3, ramp_s=0.1)
    watch = Watch(device)
    run = watch.counted(device.prepare(Task(flops=500_000_000_000)).run)
    measured = timer.measure(device, [run], protocol(settle_s=0.0, min_time_s=0.5), observer=watch)
    assert stats.steadiness(measured.unsteady_s).steady is False
    assert measured.unsteady_s[0] > 1.5e-3 > 1.2e-3 > measured.unsteady_s[-1]
    assert measured.median_s == pytest.approx(1e-3, rel=1e-3)
    assert stats.steadiness(measured.samples_s).steady
    assert [what for what, _, _ in watch.told] == ["begin", "end", "begin", "end"]
    assert measured.settle_s > sum(measured.unsteady_s)  # the first window has settled the second


def test_settling_runs_the_steps_asked_for_however_slow_they_are() -> None:
    device = having(PLAIN)
    watch = Watch(device)
    timer.measure(device, [watch.counted(kernel(device, 2.0))], protocol(settle_steps=7), observer=watch)
    first_call, settling, launch_test = 1, 7, 1
    assert watch.told[0][2] == first_call + settling + launch_test


# What a sample is


@pytest.mark.parametrize("seconds", [1e-6, 3.3e-6, 1e-5, 1.27e-4, 1e-3, 0.0101, 1.0])
def test_coarse_events_leave_half_a_percent_at_most(seconds: float) -> None:
    device = having(PLAIN, event_quantum_s=0.5e-6)
    measured = timer.measure(device, [kernel(device, seconds)], PROTOCOL)
    assert measured.median_s == pytest.approx(seconds + 1e-9, rel=5e-3)
    assert measured.median_s * measured.repeats >= 0.99e-4


def test_a_sample_lasts_two_hundred_floors_of_its_clock() -> None:
    class Slow(Virtual):
        def event(self) -> float:
            self._done_s = max(self._done_s, self.host_s) + 10e-6
            return super().event()

    device = Slow(PLAIN)
    measured = timer.measure(device, [kernel(device, 1e-4)], PROTOCOL)
    assert measured.event_floor_s == pytest.approx(10e-6)
    assert measured.repeats == 20
    assert measured.median_s == pytest.approx(1e-4, rel=5.1e-3)  # that much, and nothing is subtracted


def test_twice_the_work_takes_twice_the_time() -> None:
    device = having(PLAIN, event_quantum_s=0.5e-6, gap_s=1e-6)
    once, twice = (
        timer.measure(device, [device.prepare(Task(num_bytes=count * 20_000_000, launches=count)).run], PROTOCOL)
        for count in (10, 20)
    )
    assert twice.median_s / once.median_s == pytest.approx(2, abs=0.01)
    assert once.median_s == pytest.approx(10 * 11e-6, rel=5e-3)  # the gap between two kernels is part of each


def test_steps_are_taken_in_rotation() -> None:
    device, order = having(PLAIN), []
    work = kernel(device, 1e-4)

    def step(name: str) -> timer.Run:
        def run() -> None:
            order.append(name)
            work()

        return run

    timer.measure(device, [step("a"), step("b"), step("c")], PROTOCOL)
    assert "".join(order[1:]) == ("abc" * len(order))[: len(order) - 1]


def test_a_slow_sample_is_kept_where_it_happened() -> None:
    device = having(PLAIN)
    watch = Watch(device)
    usual, slow = kernel(device, 1e-4), kernel(device, 1e-3)

    def run() -> None:
        watch.calls += 1
        (slow if watch.told and watch.calls - watch.told[0][2] == 12 else usual)()

    measured = timer.measure(device, [run], protocol(min_time_s=0.0), observer=watch)
    assert measured.repeats == 1
    assert [index for index, sample in enumerate(measured.samples_s) if sample > 9.9e-4] == [10]  # one step led
    assert measured.samples_s[10] == pytest.approx(1e-3, rel=1e-4)
    assert measured.median_s == pytest.approx(1e-4, rel=1e-4)
    assert stats.outliers(measured.samples_s).far == 1


def test_samples_lie_inside_the_window_that_the_observer_saw() -> None:
    device = having(PLAIN)
    watch = Watch(device)
    measured = timer.measure(device, [watch.counted(kernel(device, 1e-5))], PROTOCOL, observer=watch)
    (_, begin_s, begin_calls), (_, end_s, end_calls) = watch.told
    assert [what for what, _, _ in watch.told] == ["begin", "end"]
    assert measured.window_s == end_s - begin_s
    assert measured.steps == end_calls - begin_calls == watch.calls - begin_calls
    timed_s = sum(measured.samples_s) * measured.repeats
    assert timed_s < measured.window_s < 1.1 * timed_s


# Launches


def test_a_step_bound_by_its_launch_is_told_from_the_device_s_own_time() -> None:
    device = having(PLAIN, launch_s=10e-6, event_quantum_s=0.5e-6)
    runs = [kernel(device, 3e-6) for _ in range(20)]
    eager = timer.measure(device, runs, PROTOCOL)
    assert eager.launch_bound
    assert eager.median_s == pytest.approx(10e-6, rel=5e-3)
    assert eager.enqueue_s == pytest.approx(10e-6)
    replay = device.capture(lambda: [run() for run in runs])
    recorded = timer.measure(device, [replay], PROTOCOL).shared_by(len(runs))
    assert recorded.median_s == pytest.approx(3.001e-6, rel=5e-3)
    assert not recorded.launch_bound
    assert recorded.repeats % len(runs) == 0
    assert recorded.steps % len(runs) == 0


def test_where_the_device_is_the_slower_eager_and_recorded_agree() -> None:
    device = having(PLAIN, launch_s=2e-6, event_quantum_s=0.5e-6)
    runs = [kernel(device, 50e-6) for _ in range(4)]
    eager = timer.measure(device, runs, PROTOCOL)
    recorded = timer.measure(device, [device.capture(lambda: [run() for run in runs])], PROTOCOL).shared_by(4)
    assert not eager.launch_bound
    assert eager.enqueue_s == pytest.approx(2e-6)
    assert eager.median_s == pytest.approx(50e-6, rel=5e-3)
    assert recorded.median_s == pytest.approx(50e-6, rel=5e-3)


@pytest.mark.parametrize("launches", [1, 10, 100, 1000])
def test_a_full_queue_is_not_taken_for_slow_launches(launches: int) -> None:
    device = having(PLAIN, launch_s=3e-6, queue_depth=1024)
    run = device.prepare(Task(num_bytes=launches * 9_000_000, launches=launches)).run  # 4.5 us each
    measured = timer.measure(device, [run], PROTOCOL)
    assert measured.enqueue_s == pytest.approx(launches * 3e-6)
    assert not measured.launch_bound


def test_one_disturbed_launch_does_not_decide() -> None:
    device = having(PLAIN, launch_s=3e-6)
    work, calls = kernel(device, 1e-3), [0]

    def run() -> None:
        calls[0] += 1
        if calls[0] % 7 == 0:
            device.wait(2e-3)  # the host was elsewhere
        work()

    assert timer.measure(device, [run], PROTOCOL).enqueue_s == pytest.approx(3e-6)


def test_where_a_call_does_its_work_there_is_no_launch() -> None:
    device = having(PLAIN)
    device.asynchronous = False
    assert timer.measure(device, [kernel(device, 1e-4)], PROTOCOL).enqueue_s is None


# The lead


def test_what_leads_a_sample_is_not_in_it() -> None:
    device = having(PLAIN, launch_s=10e-6)
    measured = timer.measure(device, [kernel(device, 5e-6)], PROTOCOL, lead=kernel(device, 1e-3))
    assert measured.samples_s == pytest.approx([5.001e-6] * len(measured.samples_s), rel=1e-6)
    assert measured.repeats == 1
    assert measured.steps == len(measured.samples_s)
    assert not measured.launch_bound  # the lead keeps the device busy while the step is launched


def test_led_samples_too_short_for_the_least_time_can_be_precise_all_the_same() -> None:
    device = having(PLAIN)
    measured = timer.measure(device, [kernel(device, 5e-6)], protocol(min_time_s=1.0), lead=kernel(device, 1e-4))
    assert (measured.stop, len(measured.samples_s)) == ("precise", PROTOCOL.max_samples)


# When it stops


def test_equal_samples_stop_at_the_first_look() -> None:
    device = having(PLAIN)
    measured = timer.measure(device, [kernel(device, 1e-3)], protocol(min_time_s=0.0))
    assert (measured.stop, len(measured.samples_s)) == ("precise", 30)


def test_equal_samples_stop_at_the_first_look_after_the_least_time() -> None:
    device = having(PLAIN)
    measured = timer.measure(device, [kernel(device, 1e-3)], protocol(min_time_s=0.05))
    assert (measured.stop, len(measured.samples_s)) == ("precise", 68)  # looks at 30, 45, 68


def test_the_cap_of_samples_ends_it() -> None:
    device = having(PLAIN, noise=0.3)
    measured = timer.measure(device, [kernel(device, 1e-3)], protocol(max_samples=100))
    assert (measured.stop, len(measured.samples_s)) == ("samples", 100)


def test_the_cap_of_time_ends_it() -> None:
    device = having(PLAIN, noise=0.3)
    measured = timer.measure(device, [kernel(device, 1e-3)], protocol(max_time_s=0.06))
    assert measured.stop == "time"
    assert 0.06 <= measured.window_s < 0.065


@pytest.mark.parametrize("blocks", [False, True])
def test_a_step_longer_than_the_time_allowed_still_gives_a_sample(blocks: bool) -> None:
    device = having(PLAIN)
    measured = timer.measure(device, [kernel(device, 5.0)], protocol(max_time_s=1.0), blocks=blocks)
    assert measured.stop == "time"
    assert measured.samples_s == pytest.approx([5.0])
    assert measured.window_s < 10.1  # one leads, one counts


def test_two_modes_end_at_a_cap_and_both_are_kept() -> None:
    device, coin = having(PLAIN), random.Random(0)
    fast, slow = kernel(device, 1e-4), kernel(device, 2e-4)
    measured = timer.measure(device, [lambda: coin.choice((fast, slow))()], protocol(sample_s=1e-5))
    assert measured.stop == "samples"
    assert min(measured.samples_s) == pytest.approx(1e-4, rel=1e-3)
    assert max(measured.samples_s) == pytest.approx(2e-4, rel=1e-3)


def test_looking_before_it_is_precise_does_not_spoil_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # 50 ms each time once torch is imported
    covered, runs = 0, 300
    for seed in range(runs):
        device = having(PLAIN, noise=0.02, seed=seed)
        measured = timer.measure(device, [kernel(device, 1e-3)], protocol(min_time_s=0.0, settle_s=0.0))
        assert measured.stop == "precise"
        interval = stats.location(measured.samples_s).interval
        assert interval is not None
        covered += interval.low <= 1.000001e-3 <= interval.high
    assert covered / runs >= 0.92


# Blocks


def test_blocks_are_whole_waits_and_their_steps_add_up_to_them() -> None:
    device = having(PLAIN, launch_s=1e-4, noise=0.1)
    measured = timer.measure(device, [kernel(device, 1e-2)], protocol(sample_s=0.1, min_time_s=1.0), blocks=True)
    assert measured.repeats >= 9
    assert len(measured.step_samples_s) == len(measured.samples_s) * measured.repeats == measured.steps
    for index, block_s in enumerate(measured.samples_s):
        steps_s = measured.step_samples_s[index * measured.repeats :][: measured.repeats]
        assert sum(steps_s) == pytest.approx(block_s * measured.repeats)
    assert sum(measured.samples_s) * measured.repeats == pytest.approx(measured.window_s)


# The garbage collector


@pytest.fixture
def collector() -> Iterator[Callable[[bool], None]]:
    was_enabled = gc.isenabled()
    yield lambda enabled: gc.enable() if enabled else gc.disable()
    gc.enable() if was_enabled else gc.disable()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_samples_are_taken_and_is_then_as_before(
    collector: Callable[[bool], None], enabled: bool
) -> None:
    device, seen = having(PLAIN), []
    work = kernel(device, 1e-3)

    def run() -> None:
        seen.append(gc.isenabled())
        work()

    collector(enabled)
    timer.measure(device, [run], PROTOCOL)
    assert gc.isenabled() is enabled
    assert set(seen[1:]) == {False}  # the first call is before


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_before_after_a_step_that_fails(collector: Callable[[bool], None], enabled: bool) -> None:
    device, left = having(PLAIN), [25]
    work = kernel(device, 1e-3)

    def run() -> None:
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("planted")
        work()

    collector(enabled)
    with pytest.raises(RuntimeError, match="planted"):
        timer.measure(device, [run], PROTOCOL)
    assert gc.isenabled() is enabled


# What the worker makes of it: cache and launch modes

# 10 MB: 50 us from memory and 12.5 us from a cache of 50 MB.
CACHED = Spec(gap_s=0.0, idle_clock=1.0, launch_s=1e-6, bytes_per_s=2e11)
COPY = Task(num_bytes=10_000_000)


def copies(spec: Spec, task: Task) -> tuple[timer.Measurement, int, str]:
    device = Virtual(spec)
    steps, cache = case._prepare(device, task)  # type: ignore[arg-type]
    lead = case._flush(device) if cache == "cold_flush" else None
    return timer.measure(device, [step.run for step in steps], PROTOCOL, lead=lead), len(steps), cache


def test_rotating_through_four_caches_never_hits() -> None:
    measured, num_sets, cache = copies(CACHED, COPY)
    assert (num_sets, cache) == (20, "cold_rotate")
    assert measured.samples_s == pytest.approx([50e-6] * len(measured.samples_s), rel=0.01)


def test_flushing_before_each_sample_never_hits_either() -> None:
    scarce = Spec(**{**vars(CACHED), "memory_bytes": 700_000_000})  # a quarter of it holds no twenty sets
    measured, num_sets, cache = copies(scarce, COPY)
    assert (num_sets, cache) == (1, "cold_flush")
    assert measured.samples_s == pytest.approx([50e-6] * len(measured.samples_s), rel=0.011)  # events of 0.5 us


def test_a_workload_that_does_not_rotate_is_warm() -> None:
    measured, num_sets, cache = copies(CACHED, Task(num_bytes=10_000_000, rotate=False))
    assert (num_sets, cache) == (1, "warm")
    assert measured.samples_s == pytest.approx([12.5e-6] * len(measured.samples_s), rel=0.01)


@pytest.mark.parametrize(
    ("num_bytes", "num_sets", "cache"),
    [
        (100, 1, "cold_flush"),  # thousands of sets would be no rotation any more
        (50_000_000, 4, "cold_rotate"),
        (199_999_999, 2, "cold_rotate"),
        (1_000_000_000, 2, "cold_rotate"),  # evicts itself, and rotates all the same
        (15_000_000_000, 1, "cold_rotate"),  # no second set fits, nor is it needed
    ],
)
def test_as_many_sets_as_cold_needs_and_memory_allows(num_bytes: int, num_sets: int, cache: str) -> None:
    steps, found = case._prepare(Virtual(CACHED), Task(num_bytes=num_bytes))  # type: ignore[arg-type]
    assert (len(steps), found) == (num_sets, cache)


def records(**traits: float | bool) -> list[Record]:
    job = messages.Job(
        workload="memory_copy",
        params={"num_bytes": 5_000_000, "dtype": "float32"},
        device=0,
        round=0,
        protocol=PROTOCOL,
    )
    device = having(Spec(idle_clock=1.0), **traits)
    return list(
        case.measure(
            device, job, seed=0, seen=draft.Witnesses(HostWatch(threads=1, spin_slowdown=0.0), meter.of(device, 0))
        )
    )


@pytest.mark.parametrize(("graphs", "launch"), [(True, "graph"), (False, "queued")])
def test_a_case_bound_by_launches_gets_a_second_record_with_the_device_s_own_time(graphs: bool, launch: str) -> None:
    eager, own = records(launch_s=10e-6, graphs=graphs)
    assert (eager.status, eager.reason, own.status) == ("ok", None, "ok")
    assert (eager.identity.launch, own.identity.launch) == ("eager", launch)
    assert "launch_bound" in eager.flags
    assert own.flags == []
    assert stats.median(eager.samples_s) == pytest.approx(10e-6, rel=5e-3)
    assert stats.median(own.samples_s) == pytest.approx(6e-6, rel=5e-3)  # 5 us of memory traffic and a gap of 1 us
    assert own.identity.cache == "cold_rotate"
    assert own.timing is not None
    assert (own.timing.clock, own.timing.input_sets) == ("virtual", 20)


def test_a_case_that_keeps_the_device_busy_has_one_record() -> None:
    (only,) = records(launch_s=2e-6)
    assert only.flags == []
    assert stats.median(only.samples_s) == pytest.approx(6e-6, rel=5e-3)


def test_a_measurement_knows_its_own_work() -> None:
    (only,) = records(launch_s=2e-6)
    case = workload.case("memory_copy", {"num_bytes": 5_000_000, "dtype": "float32"})
    assert only.work.cost() == case.cost()
    assert math.isclose(case.cost().bytes / stats.median(only.samples_s), 10e6 / 6e-6, rel_tol=5e-3)


# Duty


def test_a_load_that_rests_is_faster_than_one_that_is_held_under_a_power_cap() -> None:
    """The clock rises in a pause and falls under the cap: what separates `burst` from `held` (Standard Kernel 2026)."""
    spec = Spec(cache_bytes=0, idle_clock=1.0, ramp_s=0.5, busy_w=1000.0, cap_w=500.0, event_quantum_s=0.0)
    kernels_s = {}
    for duty in ("burst", "held"):
        device = Virtual(spec)
        step = device.prepare(Task(flops=int(1e12)))
        measured = timer.measure(device, [step.run], protocol(settle_s=1.0), duty=duty)  # type: ignore[arg-type]
        kernels_s[duty] = measured.median_s
        assert measured.settle_s >= (timer.HOLD_S if duty == "held" else 1.0)
    capped = ((500.0 - 80.0) / 1000.0) ** (1 / 3)
    assert kernels_s["held"] == pytest.approx(1e12 / 500e12 / capped, rel=0.01)
    assert kernels_s["burst"] < 0.9 * kernels_s["held"]


def test_a_burst_ends_at_its_cap_of_time_with_its_rests_counted() -> None:
    device = Virtual(PLAIN)
    measured = timer.measure(device, [kernel(device, 1e-3)], protocol(max_time_s=1.0, half_width=0.0), duty="burst")
    assert 0.5 < measured.window_s < 1.2
    assert len(measured.samples_s) == pytest.approx(1.0 / (timer.REST_S + timer.BURST_SAMPLE_S), rel=0.2)

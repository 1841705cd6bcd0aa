"""Energy of windows whose truth is known: a simulated board with the sensor that real ones have."""

import random
import statistics

import msgspec
import pytest

from bench import energy
from bench.device.virtual import Spec, Virtual
from bench.energy import Board, Edge, Tick, Trace
from bench.measure import sampler, timer
from bench.measure.meter import SimulatedMeter
from bench.record import Protocol

BOARD = Board(boundary="gpu_board", power_limit_w=700.0, power_period_s=0.1, energy_period_s=0.1)


def loaded(window_s: float, *, align: bool, traits: dict[str, float], seed: int = 0) -> tuple[Trace, Virtual]:
    """A trace over `window_s` of a steady load of memory traffic that runs before and after; and the board's truth."""
    device = Virtual(Spec(cache_bytes=0, idle_w=70.0, **traits))
    meter = SimulatedMeter(device, seed)
    meter.energy_s = window_s if align else 0.0
    step = device.filler(round(2e-3 * device.simulated.bytes_per_s))

    def hold() -> None:
        for _ in range(5):
            step()
        device.synchronize()

    for _ in range(random.Random(seed).randrange(20, 60)):
        hold()
    meter.begin(hold)
    begin_s = device.now_s()
    while device.now_s() < begin_s + window_s:
        hold()
    meter.end(hold)
    for _ in range(20):
        hold()
    assert meter.trace is not None
    return meter.trace, device


def trace(watts: list[float], joules: list[float] | None = None, **ends: object) -> Trace:
    """A look every 0.1 s."""
    values = [{"power_w": power_w} for power_w in watts]
    for tick, counted_j in zip(values, joules or [], strict=False):
        tick["energy_j"] = counted_j
    ticks = [Tick(0.1 * place, 1e-4, one) for place, one in enumerate(values)]
    return Trace(begin_s=0.0, end_s=0.1 * (len(watts) - 1), period_s=0.1, ticks=ticks, **ends)  # type: ignore[arg-type]


# Against the truth


@pytest.mark.parametrize("window_s", [0.05, 0.5, 2.0, 4.9])
def test_a_window_that_is_too_short_has_no_energy_and_says_why(window_s: float) -> None:
    seen, _ = loaded(window_s, align=False, traits={})
    found = energy.energy(seen, BOARD)
    assert found.joules is None and ("too short" in found.reason or "too little" in found.reason)


@pytest.mark.parametrize("window_s", [5.5, 10.0, 30.0])
@pytest.mark.parametrize("method", ["counter_tick", "counter_window", "power_integral"])
def test_the_truth_lies_within_the_uncertainty_that_is_stated(window_s: float, method: str) -> None:
    inside = []
    for seed in range(20):
        phase_s = random.Random(seed).uniform(0.0, 0.1)
        seen, device = loaded(window_s, align=method == "counter_tick", traits={"sensor_phase_s": phase_s}, seed=seed)
        if method == "power_integral":
            bare = [msgspec.structs.replace(tick, values={"power_w": tick.values["power_w"]}) for tick in seen.ticks]
            seen = msgspec.structs.replace(seen, ticks=bare)
        found = energy.energy(seen, BOARD)
        assert found.joules is not None and found.method == method and found.uncertainty_same_board is not None
        start_s, end_s = (seen.start.t_s, seen.stop.t_s) if seen.start and seen.stop else _ends(seen)
        error = found.joules / device.true_joules(start_s, end_s) - 1
        inside.append(abs(error) <= found.uncertainty_same_board)
    assert statistics.mean(inside) >= 0.95


def _ends(seen: Trace) -> tuple[float, float]:
    return seen.ticks[0].t_s, seen.ticks[-1].t_s


def test_at_the_counters_own_ticks_the_error_is_a_fraction_of_a_plain_windows() -> None:
    errors: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(20):
        traits = {"sensor_phase_s": random.Random(seed).uniform(0.0, 0.1)}
        for align in errors:
            seen, device = loaded(5.5, align=align, traits=traits, seed=seed)
            found = energy.energy(seen, BOARD)
            start_s, end_s = (seen.start.t_s, seen.stop.t_s) if seen.start and seen.stop else _ends(seen)
            assert found.joules is not None
            errors[align].append(found.joules / device.true_joules(start_s, end_s) - 1)
    assert statistics.pstdev(errors[True]) < 0.003  # as published for aligned windows of 5 s
    assert statistics.pstdev(errors[True]) < statistics.pstdev(errors[False]) / 3


def test_energy_grows_with_the_number_of_steps_and_gives_the_true_joules_per_step() -> None:
    protocol = Protocol(
        settle_s=0.2, min_samples=10, min_time_s=0.1, max_time_s=1.0, max_samples=100, half_width=0.01, sample_s=0.01
    )
    device = Virtual(Spec(cache_bytes=0))
    step = device.filler(round(2e-3 * device.simulated.bytes_per_s))
    meter = SimulatedMeter(device, seed=0)
    meter.energy_s = 10.0
    measured = timer.measure(device, [step], protocol, observer=meter)
    assert meter.trace is not None
    found = energy.energy(meter.trace, BOARD)
    assert found.joules is not None
    power_w = device.simulated.idle_w + 0.6 * device.simulated.busy_w  # of memory traffic
    assert found.joules / found.window_s * measured.median_s == pytest.approx(
        power_w * 2.001e-3, rel=4e-3
    )  # waits between holds


def test_a_counter_that_misses_a_part_of_the_energy_contradicts_the_power() -> None:
    seen, _ = loaded(6.0, align=True, traits={"energy_gain": 0.57})
    found = energy.energy(seen, BOARD)
    assert found.disagrees and found.joules is not None and found.integral_j is not None
    assert found.joules / found.integral_j == pytest.approx(0.57, rel=0.02)
    seen, _ = loaded(6.0, align=True, traits={})
    assert not energy.energy(seen, BOARD).disagrees


def test_the_periods_of_power_and_energy_are_seen_under_a_varying_load() -> None:
    device = Virtual(Spec(cache_bytes=0, power_period_s=0.1, energy_period_s=0.02))
    step = device.filler(round(5e-3 * device.simulated.bytes_per_s))
    rest = random.Random(1)

    def load() -> None:
        while device.now_s() < 4.0:
            for _ in range(rest.randrange(1, 20)):
                step()
            device.rest(rest.uniform(0.0, 0.05))

    periods_s = SimulatedMeter(device, seed=0).periods(load)
    assert periods_s["power_period_s"] == pytest.approx(0.1, rel=0.05)
    assert periods_s["energy_period_s"] == pytest.approx(0.02, rel=0.25)  # seen by polling each 4 ms


# Methods and their order


def test_without_a_counter_power_is_integrated_and_without_both_the_mean_of_the_last_second_is_used() -> None:
    watts = [400.0] * 80
    assert energy.energy(trace(watts), BOARD).method == "power_integral"
    ticks = [Tick(tick.t_s, tick.cost_s, {"power_average_w": 300.0}) for tick in trace(watts).ticks]
    found = energy.energy(msgspec.structs.replace(trace(watts), ticks=ticks), BOARD)
    assert found.method == "power_average" and found.joules == pytest.approx(300 * found.window_s)
    assert found.window_s < 7.9 - energy.AVERAGE_SETTLED_S  # the first second is of before


def test_a_gap_in_the_readings_of_power_gives_no_energy() -> None:
    seen = trace([400.0] * 100)
    seen = msgspec.structs.replace(seen, ticks=[tick for tick in seen.ticks if not 3.0 < tick.t_s < 4.0])
    found = energy.energy(seen, BOARD)
    assert found.joules is None and "not told for" in found.reason


def test_a_board_that_tells_nothing_has_no_energy() -> None:
    assert energy.energy(trace([400.0] * 80), Board(boundary=None)).reason
    empty = Trace(begin_s=0.0, end_s=10.0, period_s=0.1, ticks=[])
    assert energy.energy(empty, BOARD).joules is None


def test_an_energy_that_the_vendor_computes_has_no_uncertainty_of_ours() -> None:
    found = energy.energy(trace([20.0] * 80), Board(boundary="gpu", modelled=True))
    assert found.joules is not None and found.uncertainty is None and found.uncertainty_same_board is None


def test_the_gain_error_never_averages_away() -> None:
    seen, _ = loaded(30.0, align=True, traits={})
    found = energy.energy(seen, BOARD)
    assert found.uncertainty is not None and found.uncertainty_same_board is not None
    assert found.uncertainty >= energy.GAIN and found.uncertainty_same_board < 0.001


# What no board can have


@pytest.mark.parametrize("watts", [0.0, -3.0, 1e12, 1100.0])
def test_a_power_that_the_board_cannot_draw_is_left_out_with_a_reason(watts: float) -> None:
    gated = energy.gate(trace([400.0, watts, 400.0]), BOARD)
    assert [value for _, value in gated.trace.series("power_w")] == [400.0, 400.0]
    assert "1 of 3" in gated.reasons["power_w"]


@pytest.mark.parametrize(
    ("joules", "said"),
    [
        ([100.0, 140.0, 3.0, 43.0], "fell"),
        ([100.0] * 40, "stood still"),
        ([100.0, *[140.0] * 40, 1740.0, 1780.0], "stood still for 4.0 s"),  # and caught up
        ([100.0, 100.0 + 1e9], "rose by"),
    ],
)
def test_a_counter_that_cannot_be_true_is_left_out_whole(joules: list[float], said: str) -> None:
    gated = energy.gate(trace([400.0] * len(joules), joules), BOARD)
    assert said in gated.reasons["energy_j"]
    assert not gated.trace.series("energy_j")
    assert len(gated.trace.series("power_w")) == len(joules)


def test_a_counter_that_fell_between_the_two_ends_gives_no_aligned_energy() -> None:
    ends = {"start": Edge(0.0, 0.004, 5000.0), "stop": Edge(8.0, 0.004, 20.0)}
    gated = energy.gate(trace([400.0] * 80, **ends), BOARD)
    assert gated.trace.start is None and "fell" in gated.reasons["energy_j"]
    assert energy.energy(gated.trace, BOARD).method == "power_integral"


def test_impossible_temperatures_and_shares_are_left_out() -> None:
    values = {"temperature_c": 65535.0, "kernel_active": 1.2, "memory_temperature_c": 60.0}
    seen = Trace(begin_s=0.0, end_s=1.0, period_s=0.1, ticks=[Tick(0.0, 0.0, values)])
    gated = energy.gate(seen, BOARD)
    assert gated.trace.names() == ["memory_temperature_c"]
    assert set(gated.reasons) == {"temperature_c", "kernel_active"}


@pytest.mark.parametrize("clock_hz", [0.0, -1e6, 4294967295e6])
def test_an_impossible_clock_is_left_out(clock_hz: float) -> None:
    ticks = [Tick(0.1 * place, 0.0, {"clock_hz": one}) for place, one in enumerate((1e9, clock_hz, 1e9))]
    gated = energy.gate(Trace(begin_s=0.0, end_s=1.0, period_s=0.1, ticks=ticks), BOARD)
    assert [value for _, value in gated.trace.series("clock_hz")] == [1e9, 1e9]
    assert "1 of 3" in gated.reasons["clock_hz"]


def test_an_absurd_limit_does_not_let_an_absurd_power_through() -> None:
    limited = Board(boundary="gpu_board", power_limit_w=4294967.295)
    assert "1 of 3" in energy.gate(trace([400.0, 1e6, 400.0]), limited).reasons["power_w"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_active", 655.35), ("tensor_active", -0.1), ("memory_clock_hz", 0.0), ("temperature_margin_c", 65535.0),
        ("pcie_width", 0.0), ("pcie_generation", 4294967295.0), ("memory_used_bytes", -1.0),
        ("recovery_action", 4294967295.0),
    ],
)  # fmt: skip
def test_a_state_that_no_board_can_have_is_left_out_with_a_reason(name: str, value: float) -> None:
    gated = energy.gate(trace([400.0] * 3, last={name: value, "compute_processes": 1.0}), BOARD)
    assert gated.trace.last == {"compute_processes": 1.0}
    assert set(gated.reasons) == {name}


def test_more_throttled_time_than_there_was_time_is_none() -> None:
    ends = {"first": {"throttle_thermal_s": 5.0}, "last": {"throttle_thermal_s": 5e9}}
    gated = energy.gate(trace([400.0] * 80, **ends), BOARD)
    assert gated.trace.change("throttle_thermal_s") is None
    assert "of throttling counted in 7.9 s" in gated.reasons["throttle_thermal_s"]
    seen = trace([400.0] * 80, first={"throttle_thermal_s": 5.0}, last={"throttle_thermal_s": 13.0})
    assert energy.gate(seen, BOARD).trace == seen


def test_a_counter_of_faults_that_fell_says_nothing() -> None:
    seen = trace([1.0], first={"throttle_thermal_s": 5.0}, last={"throttle_thermal_s": 1.0})
    assert seen.change("throttle_thermal_s") is None
    seen = trace([1.0], first={"throttle_thermal_s": 5.0}, last={"throttle_thermal_s": 5.5})
    assert seen.change("throttle_thermal_s") == 0.5


# Loads that beat with the sensor


@pytest.mark.parametrize(
    ("step_s", "risky"),
    [(0.1, True), (0.098, True), (0.05, True), (0.025, True), (0.07, False), (1e-3, False), (0.5, False)],
)
def test_a_step_near_the_sensors_period_or_a_part_of_it_is_a_risk(step_s: float, risky: bool) -> None:
    assert energy.beats(step_s, 0.1) == risky


def test_looks_are_moved_at_random_so_that_they_do_not_follow_the_load() -> None:
    seen, _ = loaded(6.0, align=False, traits={})
    offsets = [tick.t_s - seen.begin_s - round((tick.t_s - seen.begin_s) / 0.1) * 0.1 for tick in seen.ticks]
    assert statistics.pstdev(offsets) > 0.2 * sampler.JITTER * sampler.PERIOD_S
    assert max(map(abs, offsets)) <= sampler.JITTER * sampler.PERIOD_S + 1e-6


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.112, 0.2])
@pytest.mark.parametrize("told", [{"power_w"}, {"power_average_w"}])
def test_a_window_that_is_held_for_an_energy_gives_one(period_s: float, told: set[str]) -> None:
    board = Board(
        boundary="gpu_board", power_period_s=period_s, energy_period_s=period_s, averaged=told == {"power_average_w"}
    )
    held_s = board.held_s(5.2)
    assert held_s >= 5.2 and board.held_s(0.0) == 0.0
    ticks = [Tick(0.1 * place, 1e-4, dict.fromkeys(told, 300.0)) for place in range(int(held_s / 0.1) + 1)]
    seen = Trace(begin_s=0.0, end_s=held_s, period_s=0.1, ticks=ticks)
    found = energy.energy(seen, board)
    assert found.joules is not None, found.reason


def test_power_at_rest_is_known_by_whatever_is_told() -> None:
    for quantity, values in (
        ("power_w", [80.0] * 50),
        ("power_average_w", [200.0] * 10 + [80.0] * 40),
        ("energy_j", [8.0 * place for place in range(50)]),
    ):
        ticks = [Tick(0.1 * place, 0.0, {quantity: value}) for place, value in enumerate(values)]
        seen = Trace(begin_s=0.0, end_s=5.0, period_s=0.1, ticks=ticks)
        assert energy.mean_power(seen) == pytest.approx(80.0)

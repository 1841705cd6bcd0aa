"""From a trace to a record: each flag from the evidence that raises it, and from nothing else."""

from typing import Any

import pytest

from bench.energy import Board, Tick, Trace
from bench.measure import telemetry

BOARD = Board(boundary="gpu_board", power_limit_w=700.0, pcie_generation_max=5.0, pcie_width_max=16.0)
WINDOW_S = 10.0


def trace(values: dict[str, float] | None = None, cost_s: float = 1e-4, **fields: Any) -> Trace:
    values = values or {"power_w": 400.0}
    ticks = [Tick(0.1 * place, cost_s, dict(values)) for place in range(101)]
    return Trace(begin_s=0.0, end_s=WINDOW_S, period_s=0.1, ticks=ticks, **fields)


def flags(seen: Trace, step_s: float = 1e-3) -> list[str]:
    return list(telemetry.told(seen, BOARD, reason="", step_s=step_s).flags)


def test_a_quiet_window_raises_nothing() -> None:
    counters = {"throttle_power_cap_s": 1.0, "ecc_uncorrected": 3.0, "pcie_generation": 5.0, "pcie_width": 16.0}
    assert flags(trace(first=counters, last=counters)) == []


@pytest.mark.parametrize(
    ("counter", "by", "flag"),
    [
        ("throttle_power_cap_s", 0.02 * WINDOW_S, "power_limited"),
        ("throttle_thermal_s", 0.02 * WINDOW_S, "thermal_limited"),
        ("throttle_hw_thermal_s", 0.002 * WINDOW_S, "hw_slowdown"),
        ("throttle_power_brake_s", 0.002 * WINDOW_S, "hw_slowdown"),
        ("ecc_uncorrected", 1.0, "ecc_uncorrectable"),
        ("pcie_replays", 2.0, "pcie_degraded"),
    ],
)
def test_what_a_counter_rose_by_raises_its_flag(counter: str, by: float, flag: str) -> None:
    seen = trace(first={counter: 7.0}, last={counter: 7.0 + by})
    assert flags(seen) == [flag]
    assert flags(trace(first={counter: 7.0}, last={counter: 7.0})) == []


def test_a_counter_that_fell_is_no_change_and_says_so() -> None:
    told = telemetry.told(
        trace(first={"throttle_thermal_s": 9.0}, last={"throttle_thermal_s": 0.0}), BOARD, reason="", step_s=1e-3
    )
    assert told.telemetry is not None and "throttle_thermal_s" not in told.telemetry.changes
    assert "fell" in told.reasons["telemetry.throttle_thermal_s"]


def test_without_counters_the_reasons_that_were_seen_stand_in() -> None:
    told = telemetry.told(trace({"power_w": 690.0, "throttle_reasons": 4.0}), BOARD, reason="", step_s=1e-3)
    assert told.flags == ["power_limited"]
    assert told.telemetry is not None
    assert told.telemetry.changes["throttle_power_cap_s"] == pytest.approx(WINDOW_S)


@pytest.mark.parametrize(
    ("state", "flag"),
    [
        ({"pcie_generation": 3.0}, "pcie_degraded"),
        ({"pcie_width": 8.0}, "pcie_degraded"),
        ({"remapped_rows_pending": 1.0}, "needs_service"),
        ({"remapped_rows_failed": 1.0}, "needs_service"),
        ({"recovery_action": 2.0}, "needs_service"),
        ({"compute_processes": 2.0}, "shared_device"),
    ],
)
def test_the_state_of_the_board_under_load_raises_its_flag(state: dict[str, float], flag: str) -> None:
    assert flags(trace(last=state)) == [flag]


def test_sensors_that_take_their_time_may_have_cost_some() -> None:
    assert flags(trace(cost_s=5e-3)) == ["sampler_heavy"]


def test_steps_that_beat_with_the_sensor_put_the_energy_at_risk() -> None:
    assert flags(trace(), step_s=0.1) == ["alias_risk"]


def test_a_lost_board_is_flagged_and_keeps_what_it_told() -> None:
    told = telemetry.told(trace(lost="fallen off the bus"), BOARD, reason="", step_s=1e-3)
    assert told.flags == ["gpu_lost"] and told.telemetry is not None


def test_a_counter_and_a_power_that_differ_are_both_printed() -> None:
    ticks = [Tick(0.1 * place, 1e-4, {"power_w": 400.0, "energy_j": 20.0 * place}) for place in range(101)]
    seen = Trace(begin_s=0.0, end_s=WINDOW_S, period_s=0.1, ticks=ticks)
    told = telemetry.told(seen, BOARD, reason="", step_s=1e-3)
    assert told.flags == ["energy_disagree"]
    assert "2000 J" in told.reasons["energy_disagree"] and "4000 J" in told.reasons["energy_disagree"]


def test_nothing_told_has_a_reason_for_both() -> None:
    nothing = Trace(begin_s=0.0, end_s=1.0, period_s=0.1, ticks=[])
    for seen, reason in ((None, "the sampler has ended"), (None, ""), (nothing, "")):
        told = telemetry.told(seen, BOARD, reason=reason, step_s=1e-3)
        assert told.energy is None and told.telemetry is None
        assert told.reasons["energy"] and told.reasons["telemetry"]


def test_a_window_that_is_not_all_steps_has_telemetry_and_no_energy() -> None:
    told = telemetry.told(trace(), BOARD, reason="", step_s=1e-3, why_no_energy="the device rests between the samples")
    assert told.energy is None and told.telemetry is not None
    assert told.reasons["energy"] == "the device rests between the samples"

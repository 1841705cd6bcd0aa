"""Power and energy as tables and `show` have them, from a run on the simulated board whose truth is known."""

from pathlib import Path

import pytest

import bench
from bench import record
from bench.analyze import show


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metered") / "x.jsonl"
    settings = {"m": ["8192"], "n": ["8192"], "k": ["8192"], "dtype": ["bfloat16"], "layout": ["nt"]}
    bench.run("matmul", suite="standard", device="virtual", rounds=2, out=path, settings=settings)
    return path


def test_energy_is_power_by_time_of_a_step_and_net_of_idle_less(metered: Path) -> None:
    (row,) = bench.table([metered])
    assert row["power_w"] == pytest.approx(580, rel=0.01)  # idle and a product at full clock
    assert row["energy_per_step_j"] == pytest.approx(row["power_w"] * row["step_s"], rel=0.005)
    assert row["net_energy_per_step_j"] == pytest.approx(row["energy_per_step_j"] - 80 * row["step_s"], rel=1e-3)
    assert row["energy_per_token_j"] is None
    assert (row["energy_method"], row["energy_boundary"]) == ("counter_tick", "gpu_board")
    assert row["energy_uncertainty"] == pytest.approx(0.05, rel=0.01)


def test_energy_is_measured_in_the_first_round_and_idle_once(metered: Path) -> None:
    file = record.read(metered)
    assert [bool(one.energy) for one in sorted(file.records, key=lambda one: one.round)] == [True, False]
    assert all(one.telemetry for one in file.records)
    assert "too short" in file.records[1].reasons["energy"]
    (idle,) = file.session.idle
    assert idle.without_context_w == pytest.approx(80) and idle.with_context_w == pytest.approx(80)


def test_show_has_power_energy_and_the_idle_board(metered: Path) -> None:
    rows = bench.table([metered])
    text = "\n".join([*show.headline(record.read(metered).session), show.table(rows), show.power(rows)])
    for expected in ("device 0 at rest: 80.0 W", "579 W", "1.27 J", "1.10 J", "5.0 %", "counter_tick, gpu_board"):
        assert expected in text


def test_a_file_without_power_has_no_table_of_it(golden: Path) -> None:
    rows = [row | {"power_w": None, "clock_hz": None, "temperature_c": None} for row in bench.table([golden])]
    assert all(row["energy_per_step_j"] is None for row in rows)  # quick windows are too short
    assert show.power(rows) == ""


def test_check_accepts_it(metered: Path) -> None:
    assert [one for one in bench.check([metered]) if one["level"] == "error"] == []

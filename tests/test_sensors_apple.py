"""Apple's energies by a scripted zeus_apple_silicon."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import bench.sensors
from bench.sensors import Sensors, Withheld, apple


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


class Chip:
    """What IOReport has counted: 5 kJ when the clock starts, and `watts` from then on."""

    def __init__(self, clock: Clock) -> None:
        self.watts = 20.0
        self.error: Exception | None = None
        self.energies: dict[str, Any] = {"gpu_mj": 5_000_000, "dram_mj": 700, "gpu_sram_mj": 3}
        self._clock, self._seen_s = clock, clock.now_s

    def get_cumulative_energy(self) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        if self.energies["gpu_mj"] is not None:
            self.energies["gpu_mj"] += round(self.watts * (self._clock.now_s - self._seen_s) * 1e3)
        self._seen_s = self._clock.now_s
        return SimpleNamespace(**self.energies)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(apple, "time", fake)
    return fake


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Chip:
    fake, module = Chip(clock), ModuleType("zeus_apple_silicon")
    module.AppleEnergyMonitor = lambda: fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    return fake


def ask(sensors: Sensors, name: str) -> float:
    return sensors.asks()[name]()


def test_energies_are_in_joules(chip: Chip) -> None:
    sensors = apple.open_board(None)
    assert ask(sensors, "energy_j") == 5000
    assert ask(sensors, "dram_energy_j") == 0.7


def test_power_is_the_mean_since_it_was_last_asked(chip: Chip, clock: Clock) -> None:
    sensors = apple.open_board(None)
    assert ask(sensors, "power_w") == pytest.approx(20)
    chip.watts = 15
    clock.now_s += 0.5
    assert ask(sensors, "power_w") == pytest.approx(15)


def test_power_is_never_taken_over_no_time(chip: Chip, clock: Clock) -> None:
    assert apple.open_board(None).probe()["power_w"].value == pytest.approx(20)
    assert clock.now_s == pytest.approx(100.05)


def test_power_after_a_pause_is_not_that_of_the_pause(chip: Chip, clock: Clock) -> None:
    sensors = apple.open_board(None)
    chip.watts = 1
    ask(sensors, "power_w")
    clock.now_s += 60
    ask(sensors, "energy_j")
    chip.watts = 40
    assert ask(sensors, "power_w") == pytest.approx(40)


def test_the_energy_is_modelled_and_covers_the_gpu(chip: Chip) -> None:
    sensors = apple.open_board("0")
    assert sensors.modelled
    assert sensors.boundary == "gpu"


def test_an_energy_that_the_chip_does_not_report_is_no_number(chip: Chip) -> None:
    chip.energies["gpu_mj"] = None
    sensors = apple.open_board(None)
    for name in ("power_w", "energy_j"):
        with pytest.raises(Withheld, match="gpu_mj"):
            ask(sensors, name)


def test_an_energy_that_fell_gives_no_negative_power(chip: Chip, clock: Clock) -> None:
    sensors = apple.open_board(None)
    ask(sensors, "power_w")
    clock.now_s += 0.5
    chip.energies["gpu_mj"] = 10
    with pytest.raises(Withheld, match="fell"):
        ask(sensors, "power_w")
    clock.now_s += 0.5
    assert ask(sensors, "power_w") == pytest.approx(20)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    with pytest.raises(Withheld, match="pip install zeus-apple-silicon"):
        apple.open_board(None)


def test_a_package_without_a_monitor_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", ModuleType("zeus_apple_silicon"))
    with pytest.raises(Withheld, match="AppleEnergyMonitor"):
        apple.open_board(None)


def test_a_monitor_that_cannot_start_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("no subscription")

    module = ModuleType("zeus_apple_silicon")
    module.AppleEnergyMonitor = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    with pytest.raises(Withheld, match="no subscription"):
        apple.open_board(None)


@pytest.mark.parametrize("error", [RuntimeError("no sample"), OSError("no"), AttributeError("no")])
def test_no_error_of_the_package_escapes(chip: Chip, error: Exception) -> None:
    sensors = apple.open_board(None)
    chip.error = error
    for reading in sensors.probe().values():
        assert reading.value is None and "zeus-apple-silicon" in reading.reason


def test_a_package_without_a_field_is_a_reason(chip: Chip) -> None:
    del chip.energies["dram_mj"]
    with pytest.raises(Withheld, match="dram_mj"):
        ask(apple.open_board(None), "dram_energy_j")


def test_a_closed_monitor_tells_nothing(chip: Chip) -> None:
    sensors = apple.open_board(None)
    sensors.close()
    with pytest.raises(Withheld, match="AttributeError"):
        ask(sensors, "energy_j")


def test_no_process_is_started(chip: Chip, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **named: Any) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(os, "system", forbidden)
    readings = bench.sensors.open_board("apple", None).probe()
    assert {name for name, reading in readings.items() if reading.value is not None} == {
        "power_w",
        "energy_j",
        "dram_energy_j",
    }

"""RAPL on a made-up tree of files, and psutil's answers as scripted."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import bench.sensors
from bench.sensors import Withheld, cpu

RANGE_UJ = 262_143_328_850


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


class Tree:
    """/sys/class/powercap, flat as the kernel shows it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def zone(self, place: str, name: str, energy_uj: int, range_uj: object = RANGE_UJ, driver: str = "rapl") -> None:
        folder = self.root / f"intel-{driver}:{place}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        if range_uj is not None:
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")

    def set(self, place: str, energy_uj: int) -> None:
        (self.root / f"intel-rapl:{place}" / "energy_uj").write_text(f"{energy_uj}\n")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(cpu, "time", fake)
    return fake


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setattr(cpu, "POWERCAP", tmp_path / "powercap")
    return Tree(tmp_path / "powercap")


def ask(sensors: bench.sensors.Sensors, name: str) -> float:
    return sensors.asks()[name]()


# RAPL


def test_the_packages_are_summed_and_count_from_zero_in_joules(tree: Tree) -> None:
    tree.zone("0", "package-0", 5_000_000)
    tree.zone("1", "package-1", 900_000_000)
    sensors = cpu.open_board(None)
    assert ask(sensors, "energy_j") == 0
    tree.set("0", 6_500_000)
    tree.set("1", 902_000_000)
    assert ask(sensors, "energy_j") == 3.5
    assert sensors.boundary == "package"


def test_the_memory_is_a_figure_of_its_own(tree: Tree) -> None:
    tree.zone("0", "package-0", 5_000_000)
    tree.zone("0:0", "dram", 1_000_000)
    sensors = cpu.open_board(None)
    tree.set("0:0", 1_250_000)
    assert ask(sensors, "dram_energy_j") == 0.25
    assert ask(sensors, "energy_j") == 0


@pytest.mark.parametrize("name", ["core", "uncore", "psys"])
def test_parts_of_a_package_and_what_holds_it_are_never_added(tree: Tree, name: str) -> None:
    tree.zone("0", "package-0", 5_000_000)
    tree.zone("0:0", name, 1_000_000)
    sensors = cpu.open_board(None)
    tree.set("0:0", 99_000_000)
    assert ask(sensors, "energy_j") == 0


def test_the_second_interface_to_the_same_package_is_not_added(tree: Tree) -> None:
    tree.zone("0", "package-0", 5_000_000)
    tree.zone("0", "package-0", 7_000_000, driver="rapl-mmio")
    sensors = cpu.open_board(None)
    tree.set("0", 6_000_000)
    (tree.root / "intel-rapl-mmio:0" / "energy_uj").write_text("8000000")
    assert ask(sensors, "energy_j") == 1


def test_a_mirrored_die_counts_once(tree: Tree) -> None:
    tree.zone("0", "package-0-die-0", 5_000_000)
    tree.zone("1", "package-0-die-1", 5_000_000)
    sensors = cpu.open_board(None)
    tree.set("0", 6_000_000)
    tree.set("1", 6_000_000)
    assert ask(sensors, "energy_j") == 1


def test_a_mirror_that_moves_while_it_is_read_counts_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.zone("0", "package-0-die-0", 5_000_000)
    tree.zone("1", "package-0-die-1", 5_000_000)
    reads = iter(range(5_000_000, 6_000_000, 100))
    monkeypatch.setattr(cpu, "_energy_uj", lambda folder: next(reads))
    assert len(cpu._zones("package")) == 1


@pytest.mark.parametrize(("other_uj", "other_range"), [(5_000_000, 65_712_999_613), (5_000_001, RANGE_UJ)])
def test_zones_that_differ_in_counter_or_range_are_two(tree: Tree, other_uj: int, other_range: int) -> None:
    tree.zone("0", "package-0", 5_000_000)
    tree.zone("1", "package-1", other_uj, other_range)
    assert len(cpu._zones("package")) == 2


def test_equal_zeros_prove_no_mirror(tree: Tree) -> None:
    tree.zone("0", "package-0", 0)
    tree.zone("1", "package-1", 0)
    assert len(cpu._zones("package")) == 2


def test_a_wrapped_counter_goes_on_rising(tree: Tree) -> None:
    tree.zone("0", "package-0", RANGE_UJ - 1_000_000)
    sensors = cpu.open_board(None)
    tree.set("0", 500_000)
    assert ask(sensors, "energy_j") == 1.5
    tree.set("0", 1_500_000)
    assert ask(sensors, "energy_j") == 2.5


@pytest.mark.parametrize("told", [None, "", "0", "unknown"])
def test_a_fall_without_a_range_is_withheld_and_counts_anew(tree: Tree, told: str | None) -> None:
    tree.zone("0", "package-0", 9_000_000, told)
    sensors = cpu.open_board(None)
    tree.set("0", 29_000_000)
    assert ask(sensors, "energy_j") == 20
    tree.set("0", 2_000_000)
    with pytest.raises(Withheld, match="skipped"):
        ask(sensors, "energy_j")
    # No negative interval; and less than before, so that no difference across the gap passes for an energy.
    tree.set("0", 5_000_000)
    assert ask(sensors, "energy_j") == 3


def test_a_fall_by_more_than_the_range_is_no_wrap(tree: Tree) -> None:
    tree.zone("0", "package-0", 9_000_000_000, 1_000_000_000)
    sensors = cpu.open_board(None)
    tree.set("0", 5)
    with pytest.raises(Withheld, match="skipped"):
        ask(sensors, "energy_j")


def test_a_counter_left_unread_for_longer_than_it_may_wrap_is_withheld(tree: Tree, clock: Clock) -> None:
    tree.zone("0", "package-0", 5_000_000)
    sensors = cpu.open_board(None)
    clock.now_s += 300  # more than 262 kJ at 1000 W
    tree.set("0", 6_000_000)
    with pytest.raises(Withheld, match="not read for 300 s"):
        ask(sensors, "energy_j")
    tree.set("0", 8_000_000)
    assert ask(sensors, "energy_j") == 2


def test_the_memory_is_unwrapped_while_only_the_packages_are_asked(tree: Tree, clock: Clock) -> None:
    tree.zone("0", "package-0", 5_000_000)
    tree.zone("0:0", "dram", 0, 60_000_000_000)
    sensors = cpu.open_board(None)
    for _ in range(4):
        for step in range(1, 4):
            clock.now_s += 50
            tree.set("0:0", step * 20_000_000_000 % 60_000_000_000)
            ask(sensors, "energy_j")
    assert ask(sensors, "dram_energy_j") == 240_000


def test_without_permission_the_reason_says_whom_to_ask(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.zone("0", "package-0", 5_000_000)
    read_text = Path.read_text

    def refused(path: Path, *arguments: Any, **named: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    sensors = cpu.open_board(None)
    with pytest.raises(Withheld, match=r"EACCES.*CVE-2020-8694.*read-only group"):
        ask(sensors, "energy_j")
    assert sensors.boundary is None


def test_without_the_folder_there_is_no_energy_and_no_boundary(tree: Tree) -> None:
    sensors = cpu.open_board(None)
    for name in ("energy_j", "dram_energy_j"):
        with pytest.raises(Withheld, match="virtual machines and containers rarely"):
            ask(sensors, name)
    assert sensors.boundary is None


def test_a_zone_that_cannot_be_read_for_once_loses_nothing(tree: Tree) -> None:
    tree.zone("0", "package-0", 5_000_000)
    sensors = cpu.open_board(None)
    path = tree.root / "intel-rapl:0" / "energy_uj"
    path.write_text("")
    with pytest.raises(Withheld, match="energy_uj"):
        ask(sensors, "energy_j")
    path.unlink()
    with pytest.raises(Withheld, match="energy_uj"):
        ask(sensors, "energy_j")
    path.write_text("7000000")
    assert ask(sensors, "energy_j") == 2


def test_one_package_of_two_is_not_the_energy_of_both(tree: Tree) -> None:
    tree.zone("0", "package-0", 5_000_000)
    tree.zone("1", "package-1", 9_000_000)
    (tree.root / "intel-rapl:1" / "energy_uj").unlink()
    with pytest.raises(Withheld, match="intel-rapl:1"):
        ask(cpu.open_board(None), "energy_j")


# psutil


def scripted(monkeypatch: pytest.MonkeyPatch, function: str, answer: Callable[..., Any]) -> None:
    monkeypatch.setattr(psutil, function, answer, raising=False)


def test_the_first_share_of_the_cpus_is_not_the_empty_one(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0.0, 37.5, 50.0])
    scripted(monkeypatch, "cpu_percent", lambda interval: next(answers))
    sensors = cpu.open_board(None)
    assert ask(sensors, "host_cpu_share") == 0.375
    assert ask(sensors, "host_cpu_share") == 0.5


def test_shares_of_the_cpus_are_a_tenth_of_a_second_apart(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    asked_s: list[float] = []

    def percent(interval: None) -> float:
        asked_s.append(clock.now_s)
        return 10.0

    scripted(monkeypatch, "cpu_percent", percent)
    sensors = cpu.open_board(None)
    ask(sensors, "host_cpu_share")
    ask(sensors, "host_cpu_share")
    assert asked_s == pytest.approx([100.0, 100.1, 100.2])


def test_memory_in_use_is_what_is_not_available(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, "virtual_memory", lambda: SimpleNamespace(total=100, available=30, used=55))
    assert ask(cpu.open_board(None), "host_memory_used_bytes") == 70


def test_clocks_are_in_hertz(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, "cpu_freq", lambda: SimpleNamespace(current=2400.5, min=800.0, max=3600.0))
    sensors = cpu.open_board(None)
    assert ask(sensors, "host_clock_hz") == 2_400_500_000
    assert ask(sensors, "host_clock_max_hz") == 3_600_000_000


@pytest.mark.parametrize("told", [None, SimpleNamespace(current=2400.0, min=0.0, max=0.0)])
def test_the_fixed_clock_of_a_virtual_machine_is_none(tree: Tree, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    scripted(monkeypatch, "cpu_freq", lambda: told)
    for name in ("host_clock_hz", "host_clock_max_hz"):
        with pytest.raises(Withheld, match="scale"):
            ask(cpu.open_board(None), name)


@pytest.mark.parametrize(
    ("told", "temperature_c"),
    [
        ({"coretemp": [("Package id 0", 61.0), ("Core 0", 90.0), ("Package id 1", 64.0)]}, 64),
        ({"k10temp": [("Tctl", 95.0), ("Tdie", 68.0), ("Tccd1", 71.0)], "nvme": [("Composite", 40.0)]}, 68),
        ({"k10temp": [("Tctl", 55.0)]}, 55),
    ],
)
def test_the_temperature_is_that_of_the_hottest_package(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, told: dict[str, list[tuple[str, float]]], temperature_c: float
) -> None:
    found = {
        chip: [SimpleNamespace(label=label, current=current) for label, current in entries]
        for chip, entries in told.items()
    }
    scripted(monkeypatch, "sensors_temperatures", lambda: found)
    assert ask(cpu.open_board(None), "host_temperature_c") == temperature_c


@pytest.mark.parametrize(
    "found", [{}, {"coretemp": [SimpleNamespace(label="Package id 0", current=None)]}, {"acpitz": []}]
)
def test_no_sensor_is_no_temperature(tree: Tree, monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    scripted(monkeypatch, "sensors_temperatures", lambda: found)
    with pytest.raises(Withheld, match="no sensor"):
        ask(cpu.open_board(None), "host_temperature_c")


def test_a_platform_without_temperatures_says_so(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)
    with pytest.raises(Withheld, match="sensors_temperatures"):
        ask(cpu.open_board(None), "host_temperature_c")


@pytest.mark.parametrize("error", [OSError("no"), NotImplementedError("no"), psutil.AccessDenied(), ValueError("no")])
def test_no_error_of_psutil_escapes(tree: Tree, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(**_: Any) -> None:
        raise error

    for function in ("cpu_percent", "cpu_freq", "sensors_temperatures", "virtual_memory"):
        scripted(monkeypatch, function, fails)
    readings = cpu.open_board(None).probe()
    assert all(reading.value is None and reading.reason for reading in readings.values())


# The interface


def test_there_is_no_power_for_nothing_measures_it(tree: Tree) -> None:
    tree.zone("0", "package-0", 5_000_000)
    sensors = cpu.open_board(None)
    assert not {name for name in sensors.asks() if "power" in name}
    assert not sensors.modelled


def test_this_machine_is_told_in_numbers_or_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = bench.sensors.open_board("cpu", None)
    for reading in sensors.probe().values():
        assert (reading.value is None) == bool(reading.reason)
    assert sensors.has("host_memory_used_bytes")
    sensors.close()

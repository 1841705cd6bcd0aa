"""AMD's sensors by a scripted amdsmi."""

import importlib
import sys
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

import pytest

import bench.sensors
from bench.sensors import COUNTERS, TICK, Lost, NoSensors, Sensors, Withheld, amd

NOT_SUPPORTED, NO_PERM, NOT_FOUND, BUSY = 2, 10, 31, 30


class AmdSmiException(Exception):
    """As amdsmi's: its own base class, with a number."""

    def __init__(self, err_code: int) -> None:
        super().__init__(f"An error occured with code: {err_code}")
        self.err_code = err_code


class Clk(IntEnum):
    GFX = 0
    MEM = 4


class Temperature(IntEnum):
    JUNCTION = 1
    VRAM = 2


class Metric(IntEnum):
    CURRENT = 0


class Memory(IntEnum):
    VRAM = 0


class Card:
    """What one handle answers: an exception to raise, or an answer. As an MI300X does, drawing 500 W."""

    def __init__(self, number: int = 0) -> None:
        self.told: dict[str, Any] = {
            "amdsmi_get_gpu_asic_info": {"market_name": "AMD Instinct MI300X"},
            "amdsmi_get_gpu_device_bdf": f"0000:{0xC1 + number:02x}:00.0",
            "amdsmi_get_gpu_enumeration_info": {"hip_id": number, "hip_uuid": f"GPU-cf1182f2988c0a4{number}"},
            "amdsmi_get_power_info": {"current_socket_power": 500, "average_socket_power": "N/A"},
            "amdsmi_get_energy_count": {"energy_accumulator": 10**9, "counter_resolution": 15.259, "timestamp": 1},
            "amdsmi_get_gpu_activity": {"gfx_activity": 75, "umc_activity": 20, "mm_activity": "N/A"},
            "amdsmi_get_power_cap_info": {
                "power_cap": 700_000_000,
                "default_power_cap": 750_000_000,
                "min_power_cap": 0,
                "max_power_cap": 750_000_000,
                "dpm_cap": 0,
            },
            "amdsmi_get_gpu_total_ecc_count": {"correctable_count": 3, "uncorrectable_count": 0, "deferred_count": 0},
            "amdsmi_get_pcie_info": {
                "pcie_static": {"max_pcie_width": 16, "max_pcie_speed": 32000, "pcie_interface_version": 5},
                "pcie_metric": {"pcie_width": 8, "pcie_speed": 16000, "pcie_replay_count": 7},
            },
            "amdsmi_get_violation_status": {
                "reference_timestamp": 1_000_000_000,
                "acc_counter": 5000,
                "acc_ppt_pwr": 100,
                "acc_socket_thrm": 200,
                "acc_vr_thrm": "N/A",
                "acc_hbm_thrm": 50,
                "acc_prochot_thrm": 0,
            },
            "amdsmi_get_gpu_process_list": [
                {"pid": 1, "memory_usage": {"vram_mem": 2**30}},
                {"pid": 2, "memory_usage": {"vram_mem": 0}},
            ],
            "amdsmi_get_gpu_memory_usage": 3 * 2**30,
            ("amdsmi_get_clock_info", Clk.GFX): {"clk": 1500, "max_clk": 2100},
            ("amdsmi_get_clock_info", Clk.MEM): {"clk": 1300, "max_clk": 1300},
            ("amdsmi_get_temp_metric", Temperature.JUNCTION): 61,
            ("amdsmi_get_temp_metric", Temperature.VRAM): 48,
        }
        self.asked: list[str] = []

    def draws(self, watts: float, seconds: float) -> None:
        counter = self.told["amdsmi_get_energy_count"]
        counter["energy_accumulator"] += int(watts * seconds * 1e6 / counter["counter_resolution"])

    def throttles(self, seconds: float, **shares: float) -> None:
        """The firmware counts a thousand cycles a second."""
        status = self.told["amdsmi_get_violation_status"]
        status["reference_timestamp"] += int(seconds * 1e6)
        status["acc_counter"] += int(seconds * 1000)
        for cause, share in shares.items():
            status[f"acc_{cause}"] += int(seconds * 1000 * share)


class Host:
    """amdsmi on a host with these cards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
        for mask in amd._MASKS:
            monkeypatch.delenv(mask, raising=False)
        self.cards, self.watts = cards, 500.0
        self.waited: list[float] = []
        self.module = module = ModuleType("amdsmi")
        module.AmdSmiException = AmdSmiException
        module.AmdSmiClkType, module.AmdSmiMemoryType = Clk, Memory
        module.AmdSmiTemperatureType, module.AmdSmiTemperatureMetric = Temperature, Metric
        module.amdsmi_init = lambda: None
        module.amdsmi_shut_down = lambda: None
        module.amdsmi_get_processor_handles = lambda: list(cards)
        for key in Card().told:
            call = key if isinstance(key, str) else key[0]
            setattr(module, call, self.call(call))
        monkeypatch.setitem(sys.modules, "amdsmi", module)

    @staticmethod
    def call(name: str) -> Callable[..., Any]:
        def ask(card: Card, *arguments: object) -> Any:
            card.asked.append(name)
            answer = card.told.get((name, *arguments[:1]), card.told.get(name))
            if isinstance(answer, Exception):
                raise answer
            return dict(answer) if isinstance(answer, dict) else answer

        return ask

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        for card in self.cards:
            card.draws(self.watts, seconds)

    def open(self, board: str = "hip:0") -> Sensors:
        return amd.open_board(board, self.wait)


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, card: Card) -> Host:
    return Host(monkeypatch, card)


def values(sensors: Sensors) -> dict[str, float]:
    return {name: reading.value for name, reading in sensors.probe().items() if reading.value is not None}


def why_not(sensors: Sensors, name: str) -> str:
    reading = sensors.probe()[name]
    assert reading.value is None
    return reading.reason


def test_units_are_converted_to_si(host: Host) -> None:
    told = values(host.open())
    assert told.pop("energy_j") == pytest.approx(10**9 * 15.259e-6 + 250, abs=0.1)
    assert told == {
        "power_w": 500,
        "clock_hz": 1.5e9,
        "clock_max_hz": 2.1e9,
        "memory_clock_hz": 1.3e9,
        "temperature_c": 61,
        "memory_temperature_c": 48,
        "kernel_active": 0.75,
        "memory_active": 0.2,
        "power_limit_w": 700,
        "power_limit_default_w": 750,
        "power_limit_min_w": 0,
        "power_limit_max_w": 750,
        "ecc_corrected": 3,
        "ecc_uncorrected": 0,
        "pcie_generation": 4,
        "pcie_width": 8,
        "pcie_generation_max": 5,
        "pcie_width_max": 16,
        "pcie_replays": 7,
        "memory_used_bytes": 3 * 2**30,
        "compute_processes": 1,
        "throttle_power_cap_s": 0,
        "throttle_thermal_s": 0,
        "throttle_hw_thermal_s": 0,
    }


def test_power_of_the_moment_is_not_told_as_a_mean_nor_a_mean_as_it(host: Host, card: Card) -> None:
    assert "average" not in why_not(host.open(), "power_average_w")
    card.told["amdsmi_get_power_info"] = {"current_socket_power": "N/A", "average_socket_power": 94}
    host.watts = 94
    sensors = host.open()
    told = values(sensors)
    assert told["power_average_w"] == 94
    assert "power_w" not in told
    assert sensors.has("energy_j")


@pytest.mark.parametrize("nothing", ["N/A", 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, None, float("nan"), 0])
def test_power_that_is_none_is_no_number(host: Host, card: Card, nothing: object) -> None:
    card.told["amdsmi_get_power_info"] = {"current_socket_power": nothing, "average_socket_power": nothing}
    sensors = host.open()
    told = sensors.probe()
    assert told["power_w"].value is told["power_average_w"].value is told["energy_j"].value is None
    assert str(nothing) in told["power_w"].reason
    assert sensors.boundary is None


@pytest.mark.parametrize("nothing", ["N/A", 0xFFFFFFFF, None])
def test_nothing_that_is_missing_becomes_a_number(host: Host, card: Card, nothing: object) -> None:
    def emptied(answer: Any) -> Any:
        if isinstance(answer, dict):
            return {key: emptied(value) for key, value in answer.items()}
        return [emptied(one) for one in answer] if isinstance(answer, list) else nothing

    sensors = host.open()
    card.told = {key: emptied(answer) for key, answer in card.told.items()}
    assert values(sensors) == {}


def test_a_frozen_counter_of_energy_is_withheld(host: Host) -> None:
    host.watts = 0
    assert why_not(host.open(), "energy_j") == "the counter rose by 0 J in 0.5 s, at a power of 500 W"
    assert min(host.waited) >= 0.5


@pytest.mark.parametrize(
    ("watts", "believed"), [(30, False), (400, True), (900, True), (500_000, False), (-500, False)]
)
def test_energy_is_believed_where_it_rises_about_as_power_says(host: Host, watts: float, believed: bool) -> None:
    host.watts = watts
    assert (host.open().probe()["energy_j"].value is not None) is believed


def test_a_counter_is_judged_once_and_not_at_every_look(host: Host) -> None:
    sensors = host.open()
    sensors.probe()
    for _ in range(3):
        assert sensors.read(["energy_j"])
    assert len(host.waited) == 1


def test_a_counter_that_resets_is_given_as_it_is(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.told["amdsmi_get_energy_count"]["energy_accumulator"] = 1000
    assert sensors.read(["energy_j"]) == {"energy_j": pytest.approx(0.015259)}


def mi250(monkeypatch: pytest.MonkeyPatch) -> Host:
    """One board, whose two dies are two HIP devices."""
    cards = Card(0), Card(1)
    for die, watts in zip(cards, (94, 0), strict=True):
        die.told["amdsmi_get_gpu_asic_info"] = {"market_name": "AMD Instinct MI250X"}
        die.told["amdsmi_get_power_info"] = {"current_socket_power": "N/A", "average_socket_power": watts}
    host = Host(monkeypatch, *cards)
    host.watts = 94
    return host


def test_the_odd_die_of_an_mi250_has_neither_power_nor_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = mi250(monkeypatch).open("hip:1")
    told = values(sensors)
    assert not told.keys() & {"power_w", "power_average_w", "energy_j"}
    assert told["clock_hz"] == 1.5e9
    assert sensors.boundary is None


def test_the_even_die_of_an_mi250_tells_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = mi250(monkeypatch).open("hip:0")
    assert values(sensors)["power_average_w"] == 94
    assert sensors.boundary == "whole_gpu"


def test_boards_that_all_tell_power_tell_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = Host(monkeypatch, Card(0), Card(1)).open("hip:1")
    sensors.probe()
    assert sensors.boundary == "gpu_board"


def shuffled(monkeypatch: pytest.MonkeyPatch) -> Host:
    """The driver lists four boards in an order that is not HIP's; each one's power says which it is."""
    cards = [Card(number) for number in (2, 0, 3, 1)]
    for card in cards:
        number = card.told["amdsmi_get_gpu_enumeration_info"]["hip_id"]
        card.told["amdsmi_get_power_info"] = {"current_socket_power": 100 + number}
    return Host(monkeypatch, *cards)


@pytest.mark.parametrize(
    "board",
    [
        "hip:3",
        "uuid:cf1182f2988c0a43",
        # The 16 letters above, as torch prints 16 bytes.
        "uuid:63663131-3832-6632-3938-386330613433",
        "pci:0000:c4:00.0",
        "pci:0000:C4:00.0",
    ],
)
def test_shuffled_boards_are_found_by_what_hip_calls_them(monkeypatch: pytest.MonkeyPatch, board: str) -> None:
    assert values(shuffled(monkeypatch).open(board))["power_w"] == 103


@pytest.mark.parametrize("board", ["hip:4", "uuid:ffffffffffffffff", "uuid:", "pci:0000:01:00.0", "3", "hip:N/A", ""])
def test_a_board_is_never_guessed(monkeypatch: pytest.MonkeyPatch, board: str) -> None:
    host = shuffled(monkeypatch)
    with pytest.raises(Withheld):
        host.open(board)


def test_two_boards_of_one_name_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, Card(1), Card(1))  # partitions of one board share its UUID
    with pytest.raises(Withheld, match="finds 2 boards"):
        host.open("uuid:cf1182f2988c0a41")


def test_a_uuid_that_is_none_finds_nothing(host: Host, card: Card) -> None:
    card.told["amdsmi_get_gpu_enumeration_info"] = {"hip_id": 0, "hip_uuid": "GPU-XX"}
    with pytest.raises(Withheld):
        host.open("uuid:58580000-0000-0000-0000-000000000000")


def test_a_hip_index_under_a_mask_is_not_the_drivers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    with pytest.raises(Withheld, match="HIP_VISIBLE_DEVICES"):
        host.open("hip:0")


def test_another_board_in_trouble_hides_none(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Card(1)
    broken.told["amdsmi_get_gpu_enumeration_info"] = AmdSmiException(BUSY)
    assert values(Host(monkeypatch, broken, Card(0)).open("hip:0"))["power_w"] == 500


@pytest.mark.parametrize("error", [OSError("libamd_smi.so"), AttributeError("amdsmi_x"), KeyError("ROCM_PATH")])
def test_an_import_that_prints_and_raises_is_a_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(name: str) -> ModuleType:
        print("Unable to find libamd_smi.so library")
        raise error

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(Withheld, match=type(error).__name__):
        amd.open_board("hip:0")
    assert capsys.readouterr().out == ""


def test_a_package_that_is_not_installed_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert isinstance(bench.sensors.open_board("amd", "pci:0000:c1:00.0"), NoSensors)


def test_a_missing_driver_is_a_reason(host: Host) -> None:
    def fails() -> None:
        raise AmdSmiException(34)

    host.module.amdsmi_init = fails
    with pytest.raises(Withheld, match="code: 34"):
        host.open()


def test_an_unknown_board_is_a_reason() -> None:
    with pytest.raises(Withheld, match="torch"):
        amd.open_board(None)


def test_a_package_without_a_function_tells_the_rest(host: Host) -> None:
    sensors = host.open()
    for call in [name for name in vars(host.module) if name.startswith("amdsmi_get") and "clock" not in name]:
        delattr(host.module, call)
    assert values(sensors) == {"clock_hz": 1.5e9, "clock_max_hz": 2.1e9, "memory_clock_hz": 1.3e9}
    assert "amdsmi_get_power_info" in sensors.readings["power_w"].reason


def test_a_package_too_old_to_name_boards_is_a_reason(host: Host) -> None:
    del host.module.amdsmi_get_gpu_enumeration_info
    with pytest.raises(Withheld, match="amdsmi_get_gpu_enumeration_info"):
        host.open("hip:0")
    assert values(host.open("pci:0000:c1:00.0"))["power_w"] == 500


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERM, NOT_FOUND])
def test_what_is_refused_from_the_start_is_withheld(host: Host, card: Card, code: int) -> None:
    sensors = host.open()
    card.told = dict.fromkeys(card.told, AmdSmiException(code))
    readings = sensors.probe()
    assert {reading.value for reading in readings.values()} == {None}
    assert f"code: {code}" in readings["clock_hz"].reason
    assert sensors.read([*TICK, *COUNTERS]) == {}


def test_one_look_that_fails_is_a_gap(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    before, card.told["amdsmi_get_gpu_activity"] = card.told["amdsmi_get_gpu_activity"], AmdSmiException(BUSY)
    assert "kernel_active" not in sensors.read(TICK)
    card.told["amdsmi_get_gpu_activity"] = before
    assert sensors.read(TICK)["kernel_active"] == 0.75


def test_a_board_that_is_found_no_more_is_lost(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.told = dict.fromkeys(card.told, AmdSmiException(NOT_FOUND))
    with pytest.raises(Lost, match="code: 31"):
        sensors.read(TICK)


def test_one_look_asks_each_call_once(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.asked.clear()
    sensors.read([*TICK, *COUNTERS])
    assert card.asked.count("amdsmi_get_violation_status") == card.asked.count("amdsmi_get_gpu_activity") == 1


def test_throttling_is_its_share_of_the_time_between_two_looks(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.throttles(4, ppt_pwr=0.5, socket_thrm=0.25, prochot_thrm=0)
    told = sensors.read(COUNTERS)
    assert told["throttle_power_cap_s"] == pytest.approx(2)
    assert told["throttle_thermal_s"] == pytest.approx(1)
    assert told["throttle_hw_thermal_s"] == 0
    card.throttles(2, ppt_pwr=1)
    assert sensors.read(COUNTERS)["throttle_power_cap_s"] == pytest.approx(4)


def test_memory_that_is_too_hot_throttles_thermally(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.throttles(4, socket_thrm=0.25, hbm_thrm=0.5)
    assert sensors.read(COUNTERS)["throttle_thermal_s"] == pytest.approx(2)


def test_a_look_before_the_firmware_counts_anew_loses_no_throttling(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.told["amdsmi_get_violation_status"]["reference_timestamp"] += 1_000_000
    assert sensors.read(COUNTERS)["throttle_power_cap_s"] == 0
    card.throttles(3, ppt_pwr=1)
    assert sensors.read(COUNTERS)["throttle_power_cap_s"] == pytest.approx(4)  # all of its cycles, in all of that time


def test_throttle_counters_that_reset_are_no_number(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.told["amdsmi_get_violation_status"]["acc_ppt_pwr"] = 5
    assert "throttle_power_cap_s" not in sensors.read(COUNTERS)


@pytest.mark.parametrize(("speed", "generation"), [(2500, 1), (32000, 5), (16, 4), (2.5, 1), (64000, 6)])
def test_the_generation_follows_from_the_speed_in_either_unit(
    host: Host, card: Card, speed: float, generation: int
) -> None:
    card.told["amdsmi_get_pcie_info"]["pcie_metric"]["pcie_speed"] = speed
    assert values(host.open())["pcie_generation"] == generation


def test_a_speed_that_no_generation_has_is_withheld(host: Host, card: Card) -> None:
    card.told["amdsmi_get_pcie_info"]["pcie_metric"]["pcie_speed"] = 1234
    assert "1234 MT/s" in why_not(host.open(), "pcie_generation")


def test_a_limit_of_zero_is_none(host: Host, card: Card) -> None:
    card.told["amdsmi_get_power_cap_info"] = dict.fromkeys(card.told["amdsmi_get_power_cap_info"], 0)
    told = values(host.open())
    assert not told.keys() & {"power_limit_w", "power_limit_default_w", "power_limit_max_w"}


def test_closing_raises_nothing(host: Host) -> None:
    def fails() -> None:
        raise AmdSmiException(32)

    sensors = host.open()
    host.module.amdsmi_shut_down = fails
    sensors.close()


def test_the_other_boards_are_all_but_this_one_by_their_place_on_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, Card(0), Card(1), Card(2))
    host.cards[2].told["amdsmi_get_power_info"] = {"current_socket_power": 90, "average_socket_power": "N/A"}
    first, second = host.open("hip:1").others()
    assert (first.probe()["power_w"].value, second.probe()["power_w"].value) == (500.0, 90.0)
    host.cards[0].told["amdsmi_get_gpu_device_bdf"] = AmdSmiException(NOT_FOUND)
    assert host.open("hip:1").others() == []  # which is which is not known

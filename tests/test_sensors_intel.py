"""Intel's sensors by a scripted pyzes: its C structures are real ones, with the fields of the specification."""

import ctypes
import importlib
import sys
from collections.abc import Callable
from ctypes import POINTER, c_double, c_int32, c_ubyte, c_uint8, c_uint32, c_uint64, c_void_p
from types import ModuleType
from typing import Any

import pytest

import bench.sensors
from bench.sensors import COUNTERS, TICK, Lost, NoSensors, Sensors, Withheld, intel

LOST, RESET, NOT_PERMITTED, UNSUPPORTED = 0x70000001, 0x70000006, 0x70010000, 0x78000003
CARD, PACKAGE, STACK = 1, 2, 3
FIRST = [("stype", c_int32), ("pNext", c_void_p)]
PART = [("onSubdevice", c_uint8), ("subdeviceId", c_uint32)]


def struct(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


UUID = struct("ze_device_uuid_t", ("id", c_ubyte * 16))
CORE = struct("ze_device_properties_t", *FIRST, ("uuid", UUID))
SPEED = struct("zes_pci_speed_t", ("gen", c_int32), ("width", c_int32))
ADDRESS = struct("zes_pci_address_t", *((name, c_uint32) for name in ("domain", "bus", "device", "function")))
STRUCTS = [
    struct("zes_device_properties_t", *FIRST, ("core", CORE), ("numSubdevices", c_uint32)),
    struct("zes_pci_properties_t", *FIRST, ("address", ADDRESS), ("maxSpeed", SPEED), ("haveReplayCounters", c_uint8)),
    struct("zes_pci_state_t", *FIRST, ("speed", SPEED)),
    struct("zes_pci_stats_t", ("replayCounter", c_uint64)),
    struct(
        "zes_power_properties_t", *FIRST, *PART, *((name, c_int32) for name in ("defaultLimit", "minLimit", "maxLimit"))
    ),
    struct("zes_power_ext_properties_t", *FIRST, ("domain", c_int32)),
    struct("zes_power_energy_counter_t", ("energy", c_uint64), ("timestamp", c_uint64)),
    struct(
        "zes_power_limit_ext_desc_t",
        *FIRST,
        ("level", c_int32),
        ("limitUnit", c_int32),
        ("enabled", c_uint8),
        ("limit", c_int32),
    ),
    struct("zes_freq_properties_t", *FIRST, ("type", c_int32), *PART, ("max", c_double)),
    struct("zes_freq_state_t", *FIRST, ("actual", c_double)),
    struct("zes_temp_properties_t", *FIRST, ("type", c_int32), *PART),
    struct("zes_engine_properties_t", *FIRST, ("type", c_uint32), *PART),
    struct("zes_engine_stats_t", ("activeTime", c_uint64), ("timestamp", c_uint64)),
    struct("zes_mem_properties_t", *FIRST, *PART, ("location", c_int32)),
    struct("zes_mem_state_t", *FIRST, ("free", c_uint64), ("size", c_uint64)),
]
CONSTANTS = {
    "ZES_POWER_DOMAIN_CARD": CARD,
    "ZES_POWER_DOMAIN_PACKAGE": PACKAGE,
    "ZES_POWER_LEVEL_SUSTAINED": 1,
    "ZES_LIMIT_UNIT_POWER": 2,
    "ZES_FREQ_DOMAIN_GPU": 0,
    "ZES_FREQ_DOMAIN_MEMORY": 1,
    "ZES_TEMP_SENSORS_GLOBAL": 0,
    "ZES_TEMP_SENSORS_GPU": 1,
    "ZES_TEMP_SENSORS_MEMORY": 2,
    "ZES_ENGINE_GROUP_COMPUTE_ALL": 1,
    "ZES_ENGINE_GROUP_COMPUTE_SINGLE": 4,
    "ZES_MEM_LOC_DEVICE": 1,
    "ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES": 0x1,
    "ZES_STRUCTURE_TYPE_PCI_PROPERTIES": 0x2,
    "ZES_STRUCTURE_TYPE_ENGINE_PROPERTIES": 0x5,
    "ZES_STRUCTURE_TYPE_FREQ_PROPERTIES": 0x9,
    "ZES_STRUCTURE_TYPE_MEM_PROPERTIES": 0xB,
    "ZES_STRUCTURE_TYPE_POWER_PROPERTIES": 0xD,
    "ZES_STRUCTURE_TYPE_TEMP_PROPERTIES": 0x14,
    "ZES_STRUCTURE_TYPE_PCI_STATE": 0x17,
    "ZES_STRUCTURE_TYPE_FREQ_STATE": 0x1B,
    "ZES_STRUCTURE_TYPE_MEM_STATE": 0x1E,
    "ZES_STRUCTURE_TYPE_POWER_LIMIT_EXT_DESC": 0x27,
    "ZES_STRUCTURE_TYPE_POWER_EXT_PROPERTIES": 0x28,
}
HANDLES = ["driver", "device", "pwr", "freq", "temp", "engine", "mem"]
# What each part of a device tells, by call; a call that is missing here is not supported.
Part = dict[str, dict[str, Any]]


def power(domain: int, watts: float, *, on_tile: bool = False) -> Part:
    return {
        "zesPowerGetProperties": {
            "domain": domain,
            "onSubdevice": on_tile,
            "defaultLimit": 300_000,
            "minLimit": 150_000,
            "maxLimit": 330_000,
        },
        "zesPowerGetEnergyCounter": {"energy": 22_000_000_000, "timestamp": 5_000_000, "watts": watts},
    }


def clock(kind: int, megahertz: float, highest: float, *, on_tile: bool = False) -> Part:
    return {
        "zesFrequencyGetProperties": {"type": kind, "onSubdevice": on_tile, "max": highest},
        "zesFrequencyGetState": {"actual": megahertz},
    }


def temperature(kind: int, degrees: float) -> Part:
    return {"zesTemperatureGetProperties": {"type": kind}, "zesTemperatureGetState": {"value": degrees}}


def engine(kind: int, share: float) -> Part:
    return {
        "zesEngineGetProperties": {"type": kind},
        "zesEngineGetActivity": {"activeTime": 7_000_000, "timestamp": 9_000_000, "share": share},
    }


class Card:
    """One device: its own answers, and its parts by the call that lists them."""

    def __init__(self, number: int = 0) -> None:
        self.itself: Part = {
            "zesDeviceGetProperties": {"uuid": bytes(range(number + 1, number + 17)), "numSubdevices": 0},
            "zesDevicePciGetProperties": {
                "bus": 0x4D + number,
                "gen": 5,
                "width": 16,
                "haveReplayCounters": 1,
            },
            "zesDevicePciGetState": {"gen": 4, "width": 8},
            "zesDevicePciGetStats": {"replayCounter": 2},
        }
        self.parts: dict[str, list[Part]] = {
            "zesDeviceEnumPowerDomains": [power(STACK, 90, on_tile=True), power(PACKAGE, 180), power(CARD, 240)],
            "zesDeviceEnumFrequencyDomains": [clock(1, 1750, 1750), clock(0, 2400, 2850)],
            "zesDeviceEnumTemperatureSensors": [temperature(0, 58), temperature(1, 61), temperature(2, 70)],
            "zesDeviceEnumEngineGroups": [engine(0, 0.9), engine(1, 0.6), engine(3, 0.9)],
            "zesDeviceEnumMemoryModules": [
                {"zesMemoryGetProperties": {"location": 1}, "zesMemoryGetState": {"free": 10 * 2**30, "size": 2**34}}
            ],
        }
        self.limits = [
            {"level": 1, "limitUnit": 2, "enabled": 1, "limit": 250_000},
            {"level": 2, "limitUnit": 2, "enabled": 1, "limit": 200_000},  # of bursts
            {"level": 1, "limitUnit": 1, "enabled": 1, "limit": 100_000},  # in amperes
        ]
        self.num_processes: int | None = 2

    def domain(self, which: int) -> dict[str, Any]:
        """The counter of this domain."""
        domains = self.parts["zesDeviceEnumPowerDomains"]
        (found,) = [part for part in domains if part["zesPowerGetProperties"]["domain"] == which]
        return found["zesPowerGetEnergyCounter"]

    def runs(self, seconds: float) -> None:
        for part in self.parts.get("zesDeviceEnumPowerDomains", []):
            if counter := part.get("zesPowerGetEnergyCounter"):
                counter["energy"] += int(counter["watts"] * seconds * 1e6)
                counter["timestamp"] += int(seconds * 1e6)
        for part in self.parts.get("zesDeviceEnumEngineGroups", []):
            counter = part["zesEngineGetActivity"]
            counter["activeTime"] += int(counter["share"] * seconds * 1e6)
            counter["timestamp"] += int(seconds * 1e6)


class Host:
    """pyzes on a host with one driver and these cards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
        self.cards = cards
        self.fails: dict[str, int] = {}  # the code with which a call fails
        self.waited: list[float] = []
        self.asked: list[str] = []
        self.objects: list[Any] = ["driver"]  # a handle is a place here, counted from 1
        self.module = module = ModuleType("pyzes")
        for name in HANDLES:
            setattr(module, f"zes_{name}_handle_t", type(f"zes_{name}_handle_t", (c_void_p,), {}))
        for one in STRUCTS:
            setattr(module, one.__name__, one)
        for name, value in CONSTANTS.items():
            setattr(module, name, value)
        calls = {call for part in [*(part for parts in Card().parts.values() for part in parts)] for call in part}
        for call in calls | Card().itself.keys():
            setattr(module, call, self.call(call, self.tell))
        for call in Card().parts:
            setattr(module, call, self.call(call, self.list))
        for call in ("zesInit", "zesDriverGet", "zesDeviceGet", "zesPowerGetLimitsExt", "zesDeviceProcessesGetState"):
            setattr(module, call, self.call(call, getattr(self, call)))
        monkeypatch.setitem(sys.modules, "pyzes", module)

    def call(self, name: str, answers: Callable[..., int]) -> Callable[..., int]:
        def ask(*arguments: Any) -> int:
            self.asked.append(name)
            return self.fails.get(name) or answers(name, *arguments)

        return ask

    def object(self, handle: Any) -> Any:
        return self.objects[handle.value - 1]

    def tell(self, call: str, handle: Any, into: Any) -> int:
        thing = self.object(handle)
        answer = (thing.itself if isinstance(thing, Card) else thing).get(call)
        if answer is None:
            return UNSUPPORTED
        told = into._obj
        if call == "zesDeviceGetProperties":
            told.core.uuid.id[:], told.numSubdevices = answer["uuid"], answer["numSubdevices"]
            return 0
        if call == "zesPowerGetProperties":
            extension = POINTER(self.module.zes_power_ext_properties_t)
            ctypes.cast(told.pNext, extension).contents.domain = answer["domain"]
        at = {"bus": "address", "gen": "speed", "width": "speed"}
        if call == "zesDevicePciGetProperties":
            at |= {"gen": "maxSpeed", "width": "maxSpeed"}
        for field, value in answer.items():
            if hasattr(inner := getattr(told, at[field]) if field in at else told, field):
                setattr(inner, field, value)
        return 0

    def fill(self, things: list[Any], count: Any, handles: Any) -> int:
        count._obj.value = len(things)
        for place, thing in enumerate(things if handles is not None else []):
            if not any(thing is known for known in self.objects):
                self.objects.append(thing)
            handles[place].value = 1 + next(at for at, known in enumerate(self.objects) if known is thing)
        return 0

    def list(self, call: str, device: Any, count: Any, handles: Any) -> int:
        parts = self.object(device).parts.get(call)
        return UNSUPPORTED if parts is None else self.fill(parts, count, handles)

    def zesInit(self, call: str, flags: int) -> int:
        return 0

    def zesDriverGet(self, call: str, count: Any, handles: Any) -> int:
        return self.fill(["driver"], count, handles)

    def zesDeviceGet(self, call: str, driver: Any, count: Any, handles: Any) -> int:
        assert self.object(driver) == "driver"
        return self.fill(list(self.cards), count, handles)

    def zesPowerGetLimitsExt(self, call: str, part: Any, count: Any, into: Any) -> int:
        limits = self.cards[0].limits
        count._obj.value = len(limits)
        for place, limit in enumerate(limits if into is not None else []):
            for field, value in limit.items():
                setattr(into[place], field, value)
        return 0

    def zesDeviceProcessesGetState(self, call: str, device: Any, count: Any, into: Any) -> int:
        number = self.object(device).num_processes
        count._obj.value = number or 0
        return UNSUPPORTED if number is None else 0

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        for card in self.cards:
            card.runs(seconds)

    def open(self, board: str = "pci:0000:4d:00.0") -> Sensors:
        return intel.open_board(board, self.wait)


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, card: Card) -> Host:
    return Host(monkeypatch, card)


def values(sensors: Sensors) -> dict[str, float]:
    return {name: reading.value for name, reading in sensors.probe().items() if reading.value is not None}


def watched(host: Host) -> Sensors:
    """Probed, and looked at once: the last waits of the probe are behind it."""
    sensors = host.open()
    sensors.probe()
    sensors.read(TICK)
    return sensors


def why_not(sensors: Sensors, name: str) -> str:
    reading = sensors.probe()[name]
    assert reading.value is None
    return reading.reason


def test_units_are_converted_to_si(host: Host) -> None:
    sensors = host.open()
    told = values(sensors)
    assert sensors.boundary == "gpu_board"
    assert told == {
        "power_w": 240,
        "energy_j": 22_000 + 120,
        "clock_hz": 2.4e9,
        "clock_max_hz": 2.85e9,
        "memory_clock_hz": 1.75e9,
        "temperature_c": 61,
        "memory_temperature_c": 70,
        "kernel_active": 0.6,
        "power_limit_w": 250,
        "power_limit_default_w": 300,
        "power_limit_min_w": 150,
        "power_limit_max_w": 330,
        "pcie_generation": 4,
        "pcie_width": 8,
        "pcie_generation_max": 5,
        "pcie_width_max": 16,
        "pcie_replays": 2,
        "memory_used_bytes": 6 * 2**30,
        "open_processes": 2,
    }


def test_power_is_of_the_time_between_two_looks(host: Host, card: Card) -> None:
    sensors = watched(host)
    card.domain(CARD)["watts"] = 100
    card.runs(0.2)
    assert sensors.read(["power_w"]) == {"power_w": pytest.approx(100)}
    card.domain(CARD)["watts"] = 300
    card.runs(0.1)
    assert sensors.read(["power_w"]) == {"power_w": pytest.approx(300)}


def test_time_is_the_counters_own_and_not_that_of_asking(host: Host, card: Card) -> None:
    def late(seconds: float) -> None:
        card.runs(1.5)

    assert values(intel.open_board("pci:0000:4d:00.0", late))["power_w"] == 240


def test_the_package_is_second_to_the_card(host: Host, card: Card) -> None:
    del card.parts["zesDeviceEnumPowerDomains"][2]
    sensors = host.open()
    assert values(sensors)["power_w"] == 180
    assert sensors.boundary == "package"


def test_a_card_that_tells_no_energy_gives_way_to_its_package(host: Host, card: Card) -> None:
    del card.parts["zesDeviceEnumPowerDomains"][2]["zesPowerGetEnergyCounter"]
    sensors = host.open()
    assert values(sensors)["power_w"] == 180
    assert sensors.boundary == "package"


def test_power_of_a_tile_alone_is_not_the_cards(host: Host, card: Card) -> None:
    card.parts["zesDeviceEnumPowerDomains"] = [power(CARD, 90, on_tile=True), power(0, 240)]
    sensors = host.open()
    assert "neither" in why_not(sensors, "power_w")
    assert sensors.boundary is None


def test_the_card_of_what_may_be_a_tile_is_the_whole(host: Host, card: Card) -> None:
    card.itself["zesDeviceGetProperties"]["numSubdevices"] = 2
    sensors = host.open("pci:0000:4d:00.0")
    sensors.probe()
    assert sensors.boundary == "whole_gpu"
    sensors = host.open("uuid:" + bytes(range(1, 17)).hex())
    sensors.probe()
    assert sensors.boundary == "gpu_board"


def test_a_frozen_counter_of_energy_is_withheld(host: Host, card: Card) -> None:
    card.domain(CARD)["watts"] = 0
    sensors = host.open()
    told = sensors.probe()
    assert told["power_w"].value is told["energy_j"].value is None
    assert "anew" in told["energy_j"].reason
    assert min(host.waited) >= 0.5
    assert sensors.boundary is None


def test_a_counter_that_resets_gives_no_power_and_itself_as_it_is(host: Host, card: Card) -> None:
    sensors = watched(host)
    card.runs(0.1)
    card.domain(CARD)["energy"] = 200_000_000  # from 22 kJ to 200 J
    assert sensors.read(["power_w", "energy_j"]) == {"energy_j": 200}
    card.runs(0.1)
    assert sensors.read(["power_w"]) == {"power_w": pytest.approx(240)}


def test_a_look_before_the_counter_is_published_anew_is_a_gap(host: Host, card: Card) -> None:
    sensors = watched(host)
    assert "power_w" not in sensors.read(TICK)
    card.runs(0.1)
    assert sensors.read(TICK)["power_w"] == pytest.approx(240)


def test_power_is_no_mean_over_what_was_before_a_window(host: Host, card: Card) -> None:
    sensors = watched(host)
    card.runs(60)
    assert "power_w" not in sensors.read(TICK)
    card.runs(0.1)
    assert sensors.read(TICK)["power_w"] == pytest.approx(240)


def test_a_counter_that_stands_while_its_clock_runs_is_not_zero_watts(host: Host, card: Card) -> None:
    sensors = watched(host)
    card.domain(CARD)["timestamp"] += 50_000
    assert "power_w" not in sensors.read(TICK)
    card.domain(CARD)["energy"] += 24_000_000
    card.domain(CARD)["timestamp"] += 50_000
    assert sensors.read(TICK)["power_w"] == pytest.approx(240)


def test_one_look_asks_each_counter_once(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    card.runs(0.1)
    host.asked.clear()
    sensors.read(TICK)
    assert host.asked.count("zesPowerGetEnergyCounter") == 1


def test_no_look_after_the_first_waits(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    waited = len(host.waited)
    for _ in range(3):
        card.runs(0.1)
        sensors.read(TICK)
    assert len(host.waited) == waited


def test_an_engine_at_rest_is_told(host: Host, card: Card) -> None:
    card.parts["zesDeviceEnumEngineGroups"] = [engine(1, 0)]
    assert values(host.open())["kernel_active"] == 0


def test_copies_are_no_kernels(host: Host, card: Card) -> None:
    card.parts["zesDeviceEnumEngineGroups"] = [engine(0, 0.9), engine(3, 0.9)]
    assert "engine" in why_not(host.open(), "kernel_active")


def test_single_engines_count_as_the_busiest_of_them(host: Host, card: Card) -> None:
    card.parts["zesDeviceEnumEngineGroups"] = [engine(4, 0.2), engine(4, 0.7)]
    assert values(host.open())["kernel_active"] == pytest.approx(0.7)


def test_of_two_tiles_the_slower_clock_is_told(host: Host, card: Card) -> None:
    card.parts["zesDeviceEnumFrequencyDomains"] = [clock(0, mhz, 1600, on_tile=True) for mhz in (1550, 1400)]
    assert values(host.open())["clock_hz"] == 1.4e9


@pytest.mark.parametrize("enabled", [0, 1])
def test_a_limit_that_is_off_is_none(host: Host, card: Card, enabled: int) -> None:
    card.limits = [{"level": 1, "limitUnit": 2, "enabled": enabled, "limit": 0 if enabled else 250_000}]
    assert "enabled" in why_not(host.open(), "power_limit_w")


def test_minus_one_is_no_number(host: Host, card: Card) -> None:
    for part in card.parts["zesDeviceEnumPowerDomains"]:
        part["zesPowerGetProperties"] |= dict.fromkeys(("defaultLimit", "minLimit", "maxLimit"), -1)
    for part in card.parts["zesDeviceEnumFrequencyDomains"]:
        part["zesFrequencyGetProperties"]["max"] = part["zesFrequencyGetState"]["actual"] = -1
    for call in ("zesDevicePciGetProperties", "zesDevicePciGetState"):
        card.itself[call] |= {"gen": -1, "width": -1}
    card.itself["zesDevicePciGetProperties"]["haveReplayCounters"] = 0
    told = {name for name in values(host.open()) if name.startswith(("power_limit", "pcie", "clock", "memory_clock"))}
    assert told == {"power_limit_w"}


def test_processes_that_are_not_told_are_not_none(host: Host, card: Card) -> None:
    card.num_processes = None
    assert "not supported" in why_not(host.open(), "open_processes")


def test_a_device_without_parts_tells_its_link_alone(host: Host, card: Card) -> None:
    card.parts = {call: [] for call in card.parts}
    assert {name for name in values(host.open()) if not name.startswith("pcie")} == {"open_processes"}


@pytest.mark.parametrize(
    "board", ["uuid:030405060708090a0b0c0d0e0f101112", "uuid:03040506-0708-090A-0B0C-0D0E0F101112", "pci:0000:4F:00.0"]
)
def test_shuffled_boards_are_found_by_their_own_names(monkeypatch: pytest.MonkeyPatch, board: str) -> None:
    cards = [Card(number) for number in (1, 2, 0)]
    cards[1].domain(CARD)["watts"] = 77
    assert values(Host(monkeypatch, *cards).open(board))["power_w"] == pytest.approx(77)


@pytest.mark.parametrize("board", ["uuid:" + "f" * 32, "uuid:", "pci:0000:01:00.0", "0", "pci:", ""])
def test_a_board_is_never_guessed(host: Host, board: str) -> None:
    with pytest.raises(Withheld):
        host.open(board)


def test_a_uuid_of_zeros_finds_nothing(host: Host, card: Card) -> None:
    card.itself["zesDeviceGetProperties"]["uuid"] = bytes(16)
    with pytest.raises(Withheld):
        host.open("uuid:" + "0" * 32)


def test_two_boards_of_one_name_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Withheld, match="finds 2 devices"):
        Host(monkeypatch, Card(), Card()).open()


def test_an_unknown_board_is_a_reason() -> None:
    with pytest.raises(Withheld, match="torch"):
        intel.open_board(None)


@pytest.mark.parametrize("error", [OSError("libze_loader.so.1"), AttributeError("zes"), KeyError("x"), Exception("no")])
def test_an_import_that_prints_and_raises_is_a_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(name: str) -> ModuleType:
        print("Loading Linux library")
        raise error

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(Withheld, match=type(error).__name__):
        intel.open_board("pci:0000:4d:00.0")
    assert capsys.readouterr().out == ""


def test_a_package_that_is_not_installed_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyzes", None)
    assert isinstance(bench.sensors.open_board("intel", "pci:0000:4d:00.0"), NoSensors)


@pytest.mark.parametrize("call", ["zesInit", "zesDriverGet", "zesDeviceGet"])
@pytest.mark.parametrize("code", [0x78000001, LOST, NOT_PERMITTED])
def test_a_missing_driver_is_a_reason(host: Host, call: str, code: int) -> None:
    host.fails[call] = code
    with pytest.raises(Withheld, match=call):
        host.open()


def test_a_package_without_a_function_tells_the_rest(host: Host) -> None:
    sensors = host.open()
    kept = {"zesDeviceEnumFrequencyDomains", "zesFrequencyGetProperties", "zesFrequencyGetState"}
    for call in [name for name in vars(host.module) if name.startswith("zes") and name[3].isupper()]:
        if call not in kept:
            delattr(host.module, call)
    assert values(sensors) == {"clock_hz": 2.4e9, "clock_max_hz": 2.85e9, "memory_clock_hz": 1.75e9}
    assert "zesDeviceEnumPowerDomains" in sensors.readings["power_w"].reason


def test_a_package_without_a_structure_tells_the_rest(host: Host) -> None:
    sensors = host.open()
    for one in STRUCTS:
        if "freq" not in one.__name__:
            delattr(host.module, one.__name__)
    # Numbers that are told without a structure are left, too.
    assert values(sensors).keys() == {"clock_hz", "clock_max_hz", "memory_clock_hz", "open_processes"}


def test_a_package_with_other_arguments_is_a_reason(host: Host) -> None:
    def fails(*arguments: object) -> int:
        raise ctypes.ArgumentError("argument 2")

    sensors = host.open()
    host.module.zesFrequencyGetState = fails
    assert "argument 2" in why_not(sensors, "clock_hz")


@pytest.mark.parametrize(("code", "reason"), [(NOT_PERMITTED, "not permitted"), (0x7FFFFFFE, "0x7ffffffe")])
def test_what_is_refused_is_withheld(host: Host, code: int, reason: str) -> None:
    sensors = host.open()
    host.fails = {name: code for name in vars(host.module) if name.startswith("zes")}
    readings = sensors.probe()
    assert {reading.value for reading in readings.values()} == {None}
    assert reason in readings["power_w"].reason
    assert sensors.read([*TICK, *COUNTERS]) == {}


def test_a_counter_that_is_not_permitted_is_withheld(host: Host) -> None:
    host.fails["zesPowerGetEnergyCounter"] = NOT_PERMITTED
    sensors = host.open()
    assert why_not(sensors, "energy_j")
    assert sensors.boundary is None


@pytest.mark.parametrize("code", [LOST, RESET])
def test_a_board_that_is_gone_is_lost(host: Host, code: int) -> None:
    sensors = host.open()
    sensors.probe()
    host.fails = dict.fromkeys(("zesPowerGetEnergyCounter", "zesFrequencyGetState"), code)
    with pytest.raises(Lost):
        sensors.read(TICK)


def test_another_device_that_is_lost_hides_none(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Card(1)
    broken.itself = {}
    assert values(Host(monkeypatch, broken, Card(0)).open())["power_w"] == 240


def test_one_look_that_fails_is_a_gap(host: Host, card: Card) -> None:
    sensors = host.open()
    sensors.probe()
    host.fails["zesFrequencyGetState"] = 0x70010001
    assert "clock_hz" not in sensors.read(TICK)
    host.fails.clear()
    assert sensors.read(TICK)["clock_hz"] == 2.4e9

"""NVIDIA by a scripted NVML: the real binding's constants, errors and structures, and no library below them."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pynvml
import pytest

import bench.sensors
from bench.sensors import COUNTERS, TICK, Lost, NoSensors, Withheld, nvidia, nvml

UUID = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "GPU-99999999-2222-3333-4444-555555555555"
GPU, MODULE = 0, 1
NOT_SUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
NO_PERMISSION = pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
FUNCTION_NOT_FOUND = pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
INVALID_ARGUMENT = pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
GPU_IS_LOST = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

# A healthy board, in NVML's units: whatever a call returns, a function of its arguments, or the error it raises.
CALLS: dict[str, Any] = {
    "nvmlDeviceGetTotalEnergyConsumption": 5_000_250,
    "nvmlDeviceGetPowerUsage": 600_000,
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1755, pynvml.NVML_CLOCK_MEM: 2619}.__getitem__,
    "nvmlDeviceGetMaxClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2620}.__getitem__,
    "nvmlDeviceGetTemperatureV": 61,
    "nvmlDeviceGetTemperature": 62,
    "nvmlDeviceGetMarginTemperature": 26,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=41),
    "nvmlDeviceGetEnforcedPowerLimit": 650_000,
    "nvmlDeviceGetPowerManagementLimit": 700_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_500,
    "nvmlDeviceGetPowerManagementLimitConstraints": [200_000, 701_000],
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24,
    "nvmlDeviceGetPerformanceState": 2,
    "nvmlDeviceGetEccMode": [1, 0],
    "nvmlDeviceGetTotalEccErrors": lambda kind, counter: [7, 3][kind] if counter == pynvml.NVML_VOLATILE_ECC else 99,
    "nvmlDeviceGetRemappedRows": (11, 12, 1, 0),
    "nvmlDeviceGetCurrPcieLinkGeneration": 4,
    "nvmlDeviceGetCurrPcieLinkWidth": 8,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetPcieReplayCounter": 14,
    "nvmlDeviceGetMemoryInfo": lambda version=None: SimpleNamespace(used=2**30 if version else 2**31, total=80 * 2**30),
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=7), SimpleNamespace(pid=8)],
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetPersistenceMode": 1,
}
# Each field's (id, scope): the union's member that holds the value, and the value; or the error of that entry alone.
FIELDS: dict[tuple[int, int], Any] = {
    (74, GPU): ("ullVal", 2_500_000_000),
    (76, GPU): ("ullVal", 0),
    (82, GPU): ("uiVal", 70),
    (83, GPU): ("ullVal", 5_000_250),
    (94, GPU): ("uiVal", 13),
    (185, GPU): ("uiVal", 590_000),
    (186, GPU): ("uiVal", 612_345),
    (230, GPU): ("uiVal", 0),
    (269, GPU): ("ullVal", 1_000),
    (270, GPU): ("ullVal", 2_000),
    (271, GPU): ("ullVal", 3_000),
}
# The same in SI units.
TRUTH = {
    "power_w": 612.345,
    "power_average_w": 590.0,
    "energy_j": 5000.25,
    "clock_hz": 1.755e9,
    "clock_max_hz": 1.98e9,
    "memory_clock_hz": 2.619e9,
    "memory_clock_max_hz": 2.62e9,
    "temperature_c": 61.0,
    "memory_temperature_c": 70.0,
    "temperature_margin_c": 26.0,
    "kernel_active": 0.97,
    "memory_active": 0.41,
    "power_limit_w": 650.0,
    "power_limit_requested_w": 700.0,
    "power_limit_default_w": 700.5,
    "power_limit_min_w": 200.0,
    "power_limit_max_w": 701.0,
    "throttle_power_cap_s": 2.5,
    "throttle_sync_boost_s": 0.0,
    "throttle_thermal_s": 1e-6,
    "throttle_hw_thermal_s": 2e-6,
    "throttle_power_brake_s": 3e-6,
    "throttle_reasons": 4.0,
    "performance_state": 2.0,
    "ecc": 1.0,
    "ecc_corrected": 7.0,
    "ecc_uncorrected": 3.0,
    "remapped_rows_pending": 1.0,
    "remapped_rows_failed": 0.0,
    "recovery_action": 0.0,
    "pcie_generation": 4.0,
    "pcie_width": 8.0,
    "pcie_generation_max": 5.0,
    "pcie_width_max": 16.0,
    "pcie_replays": 13.0,
    "memory_used_bytes": 2.0**30,
    "memory_total_bytes": 80 * 2.0**30,
    "compute_processes": 2.0,
    "mig": 0.0,
    "persistence": 1.0,
}
POWER = {"power_w", "power_average_w", "energy_j"}
THROTTLED = {name for name in TRUTH if name.startswith("throttle_") and name.endswith("_s")}
LIMITS = {name for name in TRUTH if name.startswith("power_limit_")}
TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass
class Board:
    """One board's script, and what it was asked."""

    calls: dict[str, Any] = field(default_factory=dict)
    fields: dict[tuple[int, int], Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calls = CALLS | self.calls
        self.fields = FIELDS | self.fields

    def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        self.asked.append((name, args))
        if name == "nvmlDeviceGetFieldValues":
            answer = self.calls.get(name, self._entries)
        else:
            answer = self.calls.get(name, FUNCTION_NOT_FOUND)
        if isinstance(answer, pynvml.NVMLError):
            refuse(answer)
        return answer(*args, **options) if callable(answer) else answer

    def _entries(self, asked: list[tuple[int, int]]) -> Any:
        """As the driver fills them: the call succeeds, whatever the single entries say."""
        entries = (pynvml.c_nvmlFieldValue_t * len(asked))()
        for entry, (entry.fieldId, entry.scopeId) in zip(entries, asked, strict=True):
            answer = self.fields.get((entry.fieldId, entry.scopeId), NOT_SUPPORTED)
            if isinstance(answer, pynvml.NVMLError):
                entry.nvmlReturn = answer.value
                entry.value.ullVal = 424_242  # what is left in the memory of an entry that failed
            else:
                entry.valueType = TYPES.index(answer[0])
                setattr(entry.value, *answer)
        return entries


class FakeNvml(ModuleType):
    """The binding with its constants and structures, and functions that ask the scripted boards."""

    def __init__(self, boards: dict[str, Board]) -> None:
        super().__init__("pynvml")
        self.boards, self.started = boards, 0
        for name, real in vars(pynvml).items():
            if hasattr(FakeNvml, name):
                continue
            if name.startswith("nvmlDevice") and callable(real):  # so that only real names can be asked
                setattr(self, name, self._function(name))
            elif not name.startswith("__") and not (name.startswith("nvml") and callable(real)):
                setattr(self, name, real)

    def _function(self, name: str) -> Callable[..., Any]:
        return lambda board, *args, **options: board(name, *args, **options)

    def nvmlInit(self) -> None:
        self.started += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:
        return list(self.boards.values())[index]

    def nvmlDeviceGetUUID(self, board: Board) -> str:
        refused = board.calls.get("nvmlDeviceGetUUID")
        return refuse(refused) if refused else next(uuid for uuid, one in self.boards.items() if one is board)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Board:
        if uuid not in self.boards:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.boards[uuid]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What this process knows of NVML, before and after each test."""
    nvidia._nvml.cache_clear()
    yield
    nvidia._nvml.cache_clear()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def put(boards: dict[str, Board]) -> FakeNvml:
        fake = FakeNvml(boards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


@dataclass(frozen=True)
class Machine:
    """A kind of machine: what differs from the healthy board, and what that must come to."""

    name: str
    calls: dict[str, Any] = field(default_factory=dict)
    fields: dict[tuple[int, int], Any] = field(default_factory=dict)
    withheld: frozenset[str] | set[str] = frozenset()
    differs: dict[str, float] = field(default_factory=dict)
    boundary: str | None = "gpu_board"
    uuid: str = UUID


MACHINES = [
    Machine("healthy"),
    Machine(
        "GeForce laptop",
        calls={
            "nvmlDeviceGetPowerUsage": NOT_SUPPORTED,
            "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
            "nvmlDeviceGetEnforcedPowerLimit": NOT_SUPPORTED,
            "nvmlDeviceGetPowerManagementLimit": NOT_SUPPORTED,
            "nvmlDeviceGetPowerManagementDefaultLimit": NOT_SUPPORTED,
            "nvmlDeviceGetPowerManagementLimitConstraints": NOT_SUPPORTED,
            "nvmlDeviceGetEccMode": NOT_SUPPORTED,
            "nvmlDeviceGetTotalEccErrors": NOT_SUPPORTED,
            "nvmlDeviceGetRemappedRows": NOT_SUPPORTED,
            "nvmlDeviceGetPerformanceState": pynvml.NVML_PSTATE_UNKNOWN,
        },
        fields={
            **dict.fromkeys([(83, GPU), (185, GPU), (186, GPU)], NOT_SUPPORTED),
            (82, GPU): ("uiVal", 0),  # GDDR without a sensor: the driver's zero is no temperature
        },
        withheld=POWER
        | LIMITS
        | {
            "ecc",
            "ecc_corrected",
            "ecc_uncorrected",
            "remapped_rows_pending",
            "remapped_rows_failed",
            "performance_state",
            "memory_temperature_c",
        },
        boundary=None,
    ),
    Machine(
        "vGPU",
        calls={
            "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
            "nvmlDeviceGetMarginTemperature": NOT_SUPPORTED,
            "nvmlDeviceGetPersistenceMode": NO_PERMISSION,
        },
        fields={(83, GPU): NOT_SUPPORTED, (82, GPU): NO_PERMISSION},
        withheld={"energy_j", "temperature_margin_c", "memory_temperature_c", "persistence"},
    ),
    Machine(
        "WSL2",
        calls={
            "nvmlDeviceGetComputeRunningProcesses": NOT_SUPPORTED,
            "nvmlDeviceGetPersistenceMode": NOT_SUPPORTED,
            "nvmlDeviceGetPcieReplayCounter": pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN),
        },
        fields={(94, GPU): pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)},
        withheld={"compute_processes", "persistence", "pcie_replays"},
    ),
    Machine(
        "MIG",
        calls={"nvmlDeviceGetUtilizationRates": NOT_SUPPORTED, "nvmlDeviceGetMigMode": [1, 1]},
        withheld={"kernel_active", "memory_active"},
        differs={"mig": 1.0, "memory_used_bytes": 5.0, "memory_total_bytes": 10.0, "compute_processes": 0.0},
        boundary="whole_gpu",
        uuid=UUID.replace("GPU-", "MIG-"),
    ),
    Machine(
        "GB10",
        calls={
            "nvmlDeviceGetMemoryInfo": NOT_SUPPORTED,
            "nvmlDeviceGetMaxClockInfo": NOT_SUPPORTED,
            "nvmlDeviceGetCudaComputeCapability": (12, 1),
        },
        withheld={"memory_used_bytes", "memory_total_bytes", "clock_max_hz", "memory_clock_max_hz"},
    ),
    Machine(
        "P100",
        calls={
            "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
            "nvmlDeviceGetCudaComputeCapability": (6, 0),
            "nvmlDeviceGetMigMode": NOT_SUPPORTED,
        },
        fields=dict.fromkeys([(83, GPU), (185, GPU), (186, GPU)], NOT_SUPPORTED),
        withheld={"energy_j", "power_average_w", "mig"},
        differs={"power_w": 600.0},  # by a call that tells the power of the moment there
    ),
    Machine(
        "an old driver",
        calls={
            "nvmlDeviceGetFieldValues": INVALID_ARGUMENT,
            "nvmlDeviceGetTemperatureV": FUNCTION_NOT_FOUND,
            "nvmlDeviceGetMarginTemperature": pynvml.NVMLError(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH),
            "nvmlDeviceGetCurrentClocksEventReasons": FUNCTION_NOT_FOUND,
            "nvmlDeviceGetPerformanceState": pynvml.NVMLError(pynvml.NVML_ERROR_DEPRECATED),
            "nvmlDeviceGetMemoryInfo": lambda version=None: (
                refuse(FUNCTION_NOT_FOUND) if version else SimpleNamespace(used=3, total=4)
            ),
        },
        withheld=THROTTLED
        | {"power_w", "memory_temperature_c", "recovery_action", "temperature_margin_c", "performance_state"},
        differs={
            "power_average_w": 600.0,  # the same call as on a P100, where it is a mean over 1 s
            "temperature_c": 62.0,
            "throttle_reasons": float(0x24),
            "pcie_replays": 14.0,
            "memory_used_bytes": 3.0,
            "memory_total_bytes": 4.0,
        },
    ),
    Machine(
        "GH200",
        fields={
            **dict.fromkeys([(185, GPU), (186, GPU)], NOT_SUPPORTED),
            (185, MODULE): ("uiVal", 800_000),
            (186, MODULE): ("uiVal", 810_000),
            (191, MODULE): ("ullVal", 7_000_000),
        },
        differs={"power_w": 810.0, "power_average_w": 800.0, "energy_j": 7000.0},
        boundary="module",
    ),
]


def refuse(error: pynvml.NVMLError) -> NoReturn:
    raise pynvml.NVMLError(error.value)


def machine_boards(machine: Machine) -> dict[str, Board]:
    whole = Board(machine.calls, machine.fields)
    if not machine.uuid.startswith("MIG-"):
        return {machine.uuid: whole}
    own = dict.fromkeys(CALLS, NOT_SUPPORTED) | {
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda: whole,
        "nvmlDeviceGetMemoryInfo": lambda version=None: SimpleNamespace(used=5, total=10),
        "nvmlDeviceGetComputeRunningProcesses": [],
        "nvmlDeviceGetFieldValues": INVALID_ARGUMENT,
    }
    return {machine.uuid: Board(own)}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_machine_tells_what_it_can_and_why_not_the_rest(
    machine: Machine, install: Callable[..., FakeNvml]
) -> None:
    install(machine_boards(machine))
    sensors = nvidia.open_board(UUID)
    readings = sensors.probe()
    expected = {name: value for name, value in (TRUTH | machine.differs).items() if name not in machine.withheld}
    assert {name: reading.value for name, reading in readings.items() if reading.value is not None} == pytest.approx(
        expected
    )
    assert set(readings) == set(TRUTH)
    assert {name for name, reading in readings.items() if reading.value is None} == set(machine.withheld)
    assert all((reading.value is None) == bool(reading.reason) for reading in readings.values())
    assert all(len(reading.reason) < 120 for reading in readings.values())
    assert sensors.boundary == machine.boundary
    assert sensors.read(TRUTH) == pytest.approx(expected)  # and again what the probe was told


def test_every_quantity_that_the_sampler_asks_for_is_known() -> None:
    assert set(TICK) <= set(TRUTH)
    assert set(COUNTERS) <= set(TRUTH)


def test_a_reason_is_what_nvml_says(install: Callable[..., FakeNvml]) -> None:
    install({UUID: Board({"nvmlDeviceGetPersistenceMode": NO_PERMISSION}, {(82, GPU): NOT_SUPPORTED})})
    readings = nvidia.open_board(UUID).probe()
    assert readings["persistence"].reason == "Insufficient Permissions"
    assert readings["memory_temperature_c"].reason == "Not Supported"


def test_a_tick_is_one_call_for_all_fields_and_no_process_list(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    install({UUID: board})
    sensors = nvidia.open_board(UUID)
    sensors.probe()
    board.asked.clear()
    assert set(sensors.read(TICK)) == set(TICK)
    (fields,) = [args for name, args in board.asked if name == "nvmlDeviceGetFieldValues"]
    assert sorted(fields[0]) == [(82, GPU), (83, GPU), (185, GPU), (186, GPU)]
    assert {name for name, _ in board.asked} == {
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetUtilizationRates",
    }


def test_counters_are_one_call(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    install({UUID: board})
    sensors = nvidia.open_board(UUID)
    sensors.probe()
    board.asked.clear()
    assert set(sensors.read(sorted(THROTTLED))) == THROTTLED
    assert [name for name, _ in board.asked] == ["nvmlDeviceGetFieldValues"]


def test_nothing_is_asked_where_nothing_is_wanted(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    install({UUID: board})
    sensors = nvidia.open_board(UUID)
    assert sensors.read(TICK) == {}  # nor before the probe
    sensors.probe()
    board.asked.clear()
    assert sensors.read(["fan"]) == {}
    assert board.asked == []


def test_an_entry_that_fails_leaves_the_others(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    install({UUID: board})
    sensors = nvidia.open_board(UUID)
    sensors.probe()
    board.fields[186, GPU] = pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
    assert sensors.read(["power_w", "energy_j"]) == {"energy_j": 5000.25}
    board.fields[186, GPU] = FIELDS[186, GPU]
    assert sensors.read(["power_w", "energy_j"]) == {"power_w": 612.345, "energy_j": 5000.25}


def test_a_call_that_fails_as_a_whole_is_a_gap(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    install({UUID: board})
    sensors = nvidia.open_board(UUID)
    sensors.probe()
    board.calls["nvmlDeviceGetFieldValues"] = pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
    board.calls["nvmlDeviceGetTemperatureV"] = pynvml.NVMLError(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
    assert sensors.read(["power_w", "temperature_c", "clock_hz"]) == {"clock_hz": 1.755e9}


@pytest.mark.parametrize(
    ("member", "raw"),
    [
        ("dVal", 70.5),
        ("uiVal", 70),
        ("ulVal", 70),
        ("ullVal", 2**40),
        ("sllVal", -(2**40)),
        ("siVal", -5),
        ("usVal", 65_535),
    ],
)
def test_a_value_is_decoded_by_its_type(member: str, raw: float, install: Callable[..., FakeNvml]) -> None:
    install({UUID: Board(fields={(82, GPU): (member, raw)})})
    assert nvidia.open_board(UUID).probe()["memory_temperature_c"].value == raw


def test_a_value_that_is_no_number_is_withheld(install: Callable[..., FakeNvml]) -> None:
    install({UUID: Board(fields={(82, GPU): ("dVal", float("nan"))})})
    reading = nvidia.open_board(UUID).probe()["memory_temperature_c"]
    assert reading.value is None and "no number" in reading.reason


def test_a_type_of_a_later_driver_is_withheld(install: Callable[..., FakeNvml]) -> None:
    entry = SimpleNamespace(nvmlReturn=0, valueType=len(TYPES), value=pynvml.c_nvmlValue_t())
    install({UUID: Board({"nvmlDeviceGetFieldValues": lambda asked: [entry] * len(asked)})})
    reading = nvidia.open_board(UUID).probe()["memory_temperature_c"]
    assert reading.value is None and "type 7" in reading.reason


def test_the_types_are_the_headers_and_in_its_order() -> None:
    assert nvidia._MEMBERS == TYPES
    assert [name for name, _ in pynvml.c_nvmlValue_t._fields_] == list(TYPES)
    assert len(TYPES) == pynvml.NVML_VALUE_TYPE_COUNT
    assert ctypes.sizeof(pynvml.c_nvmlValue_t) == 8


def test_an_older_binding_withholds_what_it_has_no_name_for(install: Callable[..., FakeNvml]) -> None:
    fake = install({UUID: Board()})
    for name in (
        "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
        "nvmlDeviceGetMarginTemperature",
        "nvmlDeviceGetTemperatureV",
        "nvmlMemory_v2",
    ):
        delattr(fake, name)
    readings = nvidia.open_board(UUID).probe()
    for name in ("throttle_hw_thermal_s", "temperature_margin_c"):
        assert readings[name].value is None and "nvidia-ml-py" in readings[name].reason
    assert readings["temperature_c"].value == 62.0
    assert readings["memory_used_bytes"].value == 2.0**31


def test_an_older_binding_may_lack_an_argument(install: Callable[..., FakeNvml]) -> None:
    install({UUID: Board({"nvmlDeviceGetMemoryInfo": lambda: SimpleNamespace(used=3, total=4)})})
    assert nvidia.open_board(UUID).probe()["memory_used_bytes"].value == 3.0


def test_power_of_the_gpu_is_not_mixed_with_that_of_the_module(install: Callable[..., FakeNvml]) -> None:
    install({UUID: Board(fields={(185, GPU): NOT_SUPPORTED, (185, MODULE): ("uiVal", 800_000)})})
    sensors = nvidia.open_board(UUID)
    readings = sensors.probe()
    assert readings["power_w"].value == 612.345
    assert readings["power_average_w"].value == 600.0  # by nvmlDeviceGetPowerUsage, and not the module's 800 W
    assert sensors.boundary == "gpu_board"


@pytest.mark.parametrize(
    ("capability", "told"),
    [((7, 5), "power_w"), ((8, 0), "power_w"), ((8, 6), "power_average_w"), ((10, 0), "power_average_w")],
)
def test_the_old_power_call_is_what_the_header_says(
    capability: tuple[int, int], told: str, install: Callable[..., FakeNvml]
) -> None:
    calls = {"nvmlDeviceGetFieldValues": FUNCTION_NOT_FOUND, "nvmlDeviceGetCudaComputeCapability": capability}
    install({UUID: Board(calls)})
    readings = nvidia.open_board(UUID).probe()
    assert {name for name in ("power_w", "power_average_w") if readings[name].value == 600.0} == {told}
    assert sum(readings[name].value is None for name in ("power_w", "power_average_w")) == 1


# Which board


def test_two_equal_boards_in_any_order_are_told_apart(install: Callable[..., FakeNvml]) -> None:
    boards = {UUID: Board(), OTHER: Board(fields={(186, GPU): ("uiVal", 70_000)})}
    for order in (boards, dict(reversed(boards.items()))):
        nvidia._nvml.cache_clear()
        install(order)
        assert nvidia.open_board(UUID).probe()["power_w"].value == 612.345
        assert nvidia.open_board(OTHER).probe()["power_w"].value == 70.0


def test_nvml_starts_once_for_all_boards(install: Callable[..., FakeNvml]) -> None:
    fake = install({UUID: Board(), OTHER: Board()})
    for uuid in (UUID, OTHER, UUID):
        nvidia.open_board(uuid).close()
    assert fake.started == 1


def test_a_board_with_mig_on_is_told_as_a_whole(install: Callable[..., FakeNvml]) -> None:
    install({UUID: Board({"nvmlDeviceGetMigMode": [1, 1]})})  # an older CUDA gives the slice its GPU's UUID
    sensors = nvidia.open_board(UUID)
    sensors.probe()
    assert sensors.boundary == "whole_gpu"


def test_a_slice_whose_gpu_may_not_be_asked_is_asked_itself(install: Callable[..., FakeNvml]) -> None:
    uuid = UUID.replace("GPU-", "MIG-")
    install({uuid: Board({"nvmlDeviceGetDeviceHandleFromMigDeviceHandle": NO_PERMISSION})})
    sensors = nvidia.open_board(UUID)
    assert sensors.probe()["power_w"].value == 612.345
    assert sensors.boundary == "whole_gpu"


@pytest.mark.parametrize(("board", "why"), [(None, "UUID"), (OTHER, "Not Found")])
def test_no_board_is_withheld(board: str | None, why: str, install: Callable[..., FakeNvml]) -> None:
    install({UUID: Board()})
    with pytest.raises(Withheld, match=why):
        nvidia.open_board(board)
    opened = bench.sensors.open_board("nvidia", board)
    assert isinstance(opened, NoSensors) and opened.boundary is None
    assert all(reading.value is None and why in reading.reason for reading in opened.probe().values())


@pytest.mark.parametrize("reverse", [False, True])
def test_the_other_boards_are_all_but_this_one_in_any_order(reverse: bool, install: Callable[..., FakeNvml]) -> None:
    boards = {OTHER: Board(fields={(186, GPU): ("uiVal", 70_000)}), UUID: Board()}
    install(dict(reversed(boards.items())) if reverse else boards)
    (other,) = nvidia.open_board(UUID).others()
    assert other.probe()["power_w"].value == 70.0
    nvidia._nvml.cache_clear()
    install({UUID: Board()})
    assert nvidia.open_board(UUID).others() == []


def test_another_board_in_trouble_is_left_out(install: Callable[..., FakeNvml]) -> None:
    install({OTHER: Board({"nvmlDeviceGetUUID": GPU_IS_LOST}), UUID: Board()})
    assert nvidia.open_board(UUID).others() == []


# What goes wrong


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
@pytest.mark.parametrize("where", ["a call", "the fields", "an entry"])
def test_a_lost_board_is_lost_wherever_it_is_noticed(code: int, where: str, install: Callable[..., FakeNvml]) -> None:
    error, board = pynvml.NVMLError(code), Board()
    install({UUID: board})
    sensors = nvidia.open_board(UUID)
    sensors.probe()
    if where == "a call":
        board.calls["nvmlDeviceGetClockInfo"] = error
    elif where == "the fields":
        board.calls["nvmlDeviceGetFieldValues"] = error
    else:
        board.fields[83, GPU] = error
    with pytest.raises(Lost, match="GPU"):
        sensors.read(TICK)
    with pytest.raises(Lost):
        nvidia.open_board(UUID).probe()


def test_a_board_lost_before_it_is_opened_is_withheld(
    install: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(uuid: str) -> NoReturn:
        refuse(GPU_IS_LOST)

    monkeypatch.setattr(install({}), "nvmlDeviceGetHandleByUUID", lost)
    assert "GPU is lost" in bench.sensors.open_board("nvidia", UUID).probe()["power_w"].reason


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "Shared Library Not Found"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
        (12_345, "NVML"),
    ],
)
def test_a_failed_start_says_why(code: int, says: str, install: Callable[..., FakeNvml]) -> None:
    def fails() -> NoReturn:
        refuse(pynvml.NVMLError(code))

    install({UUID: Board()}).nvmlInit = fails
    with pytest.raises(Withheld, match=says):
        nvidia.open_board(UUID)
    with pytest.raises(Withheld, match=says):  # and remembers it
        nvidia.open_board(UUID)


def test_no_binding_or_another_one_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Withheld, match="nvidia-ml-py is not installed"):
        nvidia.open_board(UUID)
    nvidia._nvml.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    with pytest.raises(Withheld, match="uninstall pynvml"):
        nvidia.open_board(UUID)


# What the driver reports


class Events:
    """Sets of events as NVML gives them: what a set has not been told waits in it."""

    def __init__(self, fake: FakeNvml, board: Board, registers: Any = None) -> None:
        self.waiting: list[Any] = []
        self.open = 0
        board.calls["nvmlDeviceRegisterEvents"] = registers if registers else self._register
        for name, function in {
            "nvmlEventSetCreate": self._create,
            "nvmlEventSetWait": self._wait,
            "nvmlEventSetFree": self._free,
        }.items():
            setattr(fake, name, function)

    def _create(self) -> str:
        self.open += 1
        return "a set"

    def _register(self, types: int, events: str) -> None:
        assert (types, events) == (pynvml.nvmlEventTypeXidCriticalError, "a set")

    def _wait(self, events: str, timeout_ms: int) -> Any:
        assert timeout_ms == 0  # nobody holds the sampler up
        if not self.waiting:
            refuse(pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT))
        told = self.waiting.pop(0)
        return refuse(told) if isinstance(told, pynvml.NVMLError) else SimpleNamespace(eventData=told)

    def _free(self, events: str) -> None:
        self.open -= 1


def test_an_error_that_the_driver_reports_of_the_board_is_told_once(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    events = Events(install({UUID: board}), board)
    sensors = nvidia.open_board(UUID)
    assert sensors.since_last() == {}  # from here on
    events.waiting = [31, 79, 119]  # a program's page fault first
    assert sensors.since_last() == {"xid": 79.0}
    assert sensors.since_last() == {}
    events.waiting = [13, 43, 45]
    assert sensors.since_last() == {}
    sensors.close()
    assert events.open == 0


def test_a_board_that_reports_without_end_is_listened_to_for_so_long(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    events = Events(install({UUID: board}), board)
    sensors = nvidia.open_board(UUID)
    sensors.since_last()
    events.waiting = [94] * 1000
    assert sensors.since_last() == {"xid": 94.0}
    assert len(events.waiting) == 1000 - nvml._MOST_EVENTS


@pytest.mark.parametrize("error", [NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND])
def test_events_that_are_not_allowed_are_left_alone(error: Any, install: Callable[..., FakeNvml]) -> None:
    board = Board()
    events = Events(install({UUID: board}), board, registers=error)
    sensors = nvidia.open_board(UUID)
    assert sensors.since_last() == sensors.since_last() == {}
    assert events.open == 0


def test_a_board_that_is_lost_while_it_is_listened_to_is_lost(install: Callable[..., FakeNvml]) -> None:
    board = Board()
    events = Events(install({UUID: board}), board)
    sensors = nvidia.open_board(UUID)
    sensors.since_last()
    events.waiting = [GPU_IS_LOST]
    with pytest.raises(Lost):
        sensors.since_last()
    sensors.close()
    assert events.open == 0


# GPM


class Counters:
    """GPM of one board: a clock that is set by hand, samples, and metrics in percent by their identifier."""

    def __init__(self, fake: FakeNvml, board: Board, percent: dict[int, float | pynvml.NVMLError]) -> None:
        self.now, self.percent, self.freed = 100.0, percent, 0
        self.taken: dict[int | None, float] = {}
        self.windows_s: list[float] = []
        board.calls["nvmlGpmSampleGet"] = self._get
        for name in ("nvmlGpmQueryDeviceSupport", "nvmlGpmSampleGet"):
            setattr(fake, name, fake._function(name))
        self.samples: list[Any] = []
        for name, function in {
            "nvmlGpmSampleAlloc": self._alloc,
            "nvmlGpmMetricsGet": self._metrics,
            "nvmlGpmSampleFree": self._free,
        }.items():
            setattr(fake, name, function)

    def _alloc(self) -> Any:
        self.samples.append(ctypes.cast(ctypes.create_string_buffer(8), pynvml.c_nvmlGpmSample_t))
        return self.samples[-1]

    def _get(self, sample: Any) -> Any:
        self.taken[address(sample)] = self.now
        return sample

    def _free(self, sample: Any) -> None:
        self.freed += 1

    def _metrics(self, request: Any) -> Any:
        assert request.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        self.windows_s.append(self.taken[address(request.sample2)] - self.taken[address(request.sample1)])
        for metric in request.metrics[: request.numMetrics]:
            answer = self.percent[metric.metricId]
            if isinstance(answer, pynvml.NVMLError):
                metric.nvmlReturn = answer.value
            else:
                metric.value = answer
        return request


def address(sample: Any) -> int | None:
    return ctypes.cast(sample, ctypes.c_void_p).value


SUPPORTED = {"nvmlGpmQueryDeviceSupport": SimpleNamespace(isSupportedDevice=1)}
PERCENT = {2: 50.0, 3: 25.0, 5: 80.0, 10: 10.0}


def test_gpm_gives_fractions_between_two_samples(install: Callable[..., FakeNvml]) -> None:
    board = Board(SUPPORTED)
    counters = Counters(install({UUID: board}), board, dict(PERCENT))
    gpm = nvidia.open_board(UUID).gpm(lambda: counters.now)
    told = {"sm_active": 0.5, "sm_occupancy": 0.25, "tensor_active": 0.8, "dram_active": 0.1}
    for _ in range(3):
        counters.now += 0.11
        assert gpm.read() == pytest.approx(told)
    assert counters.windows_s == pytest.approx([0.11] * 3)
    gpm.close()
    assert len(counters.samples) == counters.freed == 2


def test_closing_the_sensors_frees_their_counters(install: Callable[..., FakeNvml]) -> None:
    board = Board(SUPPORTED)
    counters = Counters(install({UUID: board}), board, dict(PERCENT))
    sensors = nvidia.open_board(UUID)
    sensors.since_last()
    sensors.close()
    sensors.close()
    assert counters.freed == 2


def test_gpm_refuses_samples_that_are_too_close(install: Callable[..., FakeNvml]) -> None:
    board = Board(SUPPORTED)
    counters = Counters(install({UUID: board}), board, dict(PERCENT))
    gpm = nvidia.open_board(UUID).gpm(lambda: counters.now)
    counters.now += 0.05
    with pytest.raises(Withheld, match=r"0\.050 s apart"):
        gpm.read()
    counters.now += 0.06  # the first sample still counts
    assert gpm.read()["sm_active"] == 0.5
    counters.now += 0.09  # after the second, that is
    with pytest.raises(Withheld):
        gpm.read()


def test_gpm_leaves_out_a_metric_that_is_withheld(install: Callable[..., FakeNvml]) -> None:
    board = Board(SUPPORTED)
    percent = PERCENT | {5: NOT_SUPPORTED, 10: float("nan")}
    counters = Counters(install({UUID: board}), board, percent)
    gpm = nvidia.open_board(UUID).gpm(lambda: counters.now)
    counters.now += 1
    assert gpm.read() == {"sm_active": 0.5, "sm_occupancy": 0.25}
    board.calls["nvmlGpmSampleGet"] = GPU_IS_LOST
    counters.now += 1
    with pytest.raises(Lost):
        gpm.read()


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ({"nvmlGpmQueryDeviceSupport": SimpleNamespace(isSupportedDevice=0)}, "no GPM counters"),
        ({"nvmlGpmQueryDeviceSupport": FUNCTION_NOT_FOUND}, "Function Not Found"),
        (SUPPORTED | {"nvmlGpmSampleGet": NO_PERMISSION}, "Insufficient Permissions"),
        (SUPPORTED | {"nvmlDeviceGetMigMode": [1, 1]}, "slice"),
    ],
)
def test_no_gpm_is_withheld(calls: dict[str, Any], why: str, install: Callable[..., FakeNvml]) -> None:
    board = Board(calls)
    fake = install({UUID: board})
    Counters(fake, board, {})
    board.calls |= calls
    sensors = nvidia.open_board(UUID)
    sensors.probe()
    with pytest.raises(Withheld, match=why):
        sensors.gpm()

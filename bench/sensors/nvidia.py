"""NVIDIA's boards, through NVML.

CUDA's index, NVML's index and the order in CUDA_VISIBLE_DEVICES are three different things, so a board is only ever
looked up by the UUID that torch reports for it. Nothing is assumed from an architecture's name: each quantity is asked
for in the ways that drivers have had for it, and the first that works is the way it is asked from then on. Names,
units and meanings are those of nvml.h (API 13).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

from bench.sensors.base import Lost, Reading, Sensors, Withheld, finite
from bench.sensors.nvml import Gpm, Xids, asking


@dataclass(frozen=True)
class Field:
    """A quantity told by nvmlDeviceGetFieldValues, of which many fit into one call."""

    constant: str
    per_unit: float = 1  # how many of the driver's units make one of ours
    scope: int | None = None  # whose power it is; None where that is no question
    unknown: float | None = None  # the number that stands for none


Way = Field | Callable[[Any, Any], float]

_GPU, _MODULE = 0, 1  # NVML_POWER_SCOPE_*; older bindings know the fields and not these names
# The header's nvmlValueType_t, in its order: which member of the union holds the value.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
# Asked of the MIG slice itself; everything else is only told of the whole GPU.
_OF_SLICE = {"memory_used_bytes", "memory_total_bytes", "compute_processes"}


def _power_usage(*, averaged: bool) -> Way:
    """nvmlDeviceGetPowerUsage, where it means what is asked: by the header a mean over 1 s on Ampere (except GA100,
    compute capability 8.0) and newer, else the power of the moment.
    """

    def ask(nvml: Any, board: Any) -> float:
        if (nvml.nvmlDeviceGetCudaComputeCapability(board) > (8, 0)) != averaged:
            raise Withheld("not what nvmlDeviceGetPowerUsage tells on this GPU")
        return float(nvml.nvmlDeviceGetPowerUsage(board) / 1e3)

    return ask


def _performance_state(nvml: Any, board: Any) -> float:
    state = nvml.nvmlDeviceGetPerformanceState(board)
    if state == nvml.NVML_PSTATE_UNKNOWN:
        raise Withheld("NVML does not know the performance state")
    return float(state)


def _ecc_errors(nvml: Any, board: Any, kind: int) -> float:
    """Since the driver was loaded."""
    return float(nvml.nvmlDeviceGetTotalEccErrors(board, kind, nvml.NVML_VOLATILE_ECC))


# Vendor units are converted here and nowhere else: milliwatts, millijoules, megahertz, percent, nanoseconds.
_QUANTITIES: dict[str, tuple[Way, ...]] = {
    "power_w": (
        Field("NVML_FI_DEV_POWER_INSTANT", 1e3, _GPU),
        Field("NVML_FI_DEV_POWER_INSTANT", 1e3, _MODULE),
        _power_usage(averaged=False),
    ),
    "power_average_w": (
        Field("NVML_FI_DEV_POWER_AVERAGE", 1e3, _GPU),
        Field("NVML_FI_DEV_POWER_AVERAGE", 1e3, _MODULE),
        _power_usage(averaged=True),
    ),
    "energy_j": (
        Field("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e3, _GPU),
        Field("NVML_FI_DEV_ENERGY", 1e3, _MODULE),
        lambda nvml, board: nvml.nvmlDeviceGetTotalEnergyConsumption(board) / 1e3,
    ),
    "clock_hz": (lambda nvml, board: nvml.nvmlDeviceGetClockInfo(board, nvml.NVML_CLOCK_SM) * 1e6,),
    "clock_max_hz": (lambda nvml, board: nvml.nvmlDeviceGetMaxClockInfo(board, nvml.NVML_CLOCK_SM) * 1e6,),
    "memory_clock_hz": (lambda nvml, board: nvml.nvmlDeviceGetClockInfo(board, nvml.NVML_CLOCK_MEM) * 1e6,),
    "memory_clock_max_hz": (lambda nvml, board: nvml.nvmlDeviceGetMaxClockInfo(board, nvml.NVML_CLOCK_MEM) * 1e6,),
    "temperature_c": (
        lambda nvml, board: nvml.nvmlDeviceGetTemperatureV(board, nvml.NVML_TEMPERATURE_GPU),
        lambda nvml, board: nvml.nvmlDeviceGetTemperature(board, nvml.NVML_TEMPERATURE_GPU),
    ),
    "memory_temperature_c": (Field("NVML_FI_DEV_MEMORY_TEMP", unknown=0),),
    "temperature_margin_c": (lambda nvml, board: nvml.nvmlDeviceGetMarginTemperature(board),),  # up to the slowdown
    # Shares of the driver's last sample period (1/6 s to 1 s) with at least one kernel, and with traffic to memory:
    # neither occupancy nor efficiency nor bandwidth.
    "kernel_active": (lambda nvml, board: nvml.nvmlDeviceGetUtilizationRates(board).gpu / 100,),
    "memory_active": (lambda nvml, board: nvml.nvmlDeviceGetUtilizationRates(board).memory / 100,),
    # What is enforced may be less than what was requested: there are limits set past the driver.
    "power_limit_w": (lambda nvml, board: nvml.nvmlDeviceGetEnforcedPowerLimit(board) / 1e3,),
    "power_limit_requested_w": (lambda nvml, board: nvml.nvmlDeviceGetPowerManagementLimit(board) / 1e3,),
    "power_limit_default_w": (lambda nvml, board: nvml.nvmlDeviceGetPowerManagementDefaultLimit(board) / 1e3,),
    "power_limit_min_w": (lambda nvml, board: nvml.nvmlDeviceGetPowerManagementLimitConstraints(board)[0] / 1e3,),
    "power_limit_max_w": (lambda nvml, board: nvml.nvmlDeviceGetPowerManagementLimitConstraints(board)[1] / 1e3,),
    "throttle_power_cap_s": (Field("NVML_FI_DEV_PERF_POLICY_POWER", 1e9),),
    "throttle_sync_boost_s": (Field("NVML_FI_DEV_PERF_POLICY_SYNC_BOOST", 1e9),),
    "throttle_thermal_s": (Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN", 1e9),),
    "throttle_hw_thermal_s": (Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN", 1e9),),
    "throttle_power_brake_s": (Field("NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN", 1e9),),
    "throttle_reasons": (
        lambda nvml, board: nvml.nvmlDeviceGetCurrentClocksEventReasons(board),
        lambda nvml, board: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(board),
    ),
    "performance_state": (_performance_state,),
    "ecc": (lambda nvml, board: nvml.nvmlDeviceGetEccMode(board)[0],),
    "ecc_corrected": (lambda nvml, board: _ecc_errors(nvml, board, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),),
    "ecc_uncorrected": (lambda nvml, board: _ecc_errors(nvml, board, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),),
    "remapped_rows_pending": (lambda nvml, board: nvml.nvmlDeviceGetRemappedRows(board)[2],),
    "remapped_rows_failed": (lambda nvml, board: nvml.nvmlDeviceGetRemappedRows(board)[3],),
    "recovery_action": (Field("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"),),
    "pcie_generation": (lambda nvml, board: nvml.nvmlDeviceGetCurrPcieLinkGeneration(board),),
    "pcie_width": (lambda nvml, board: nvml.nvmlDeviceGetCurrPcieLinkWidth(board),),
    "pcie_generation_max": (lambda nvml, board: nvml.nvmlDeviceGetMaxPcieLinkGeneration(board),),
    "pcie_width_max": (lambda nvml, board: nvml.nvmlDeviceGetMaxPcieLinkWidth(board),),
    "pcie_replays": (
        Field("NVML_FI_DEV_PCIE_REPLAY_COUNTER"),
        lambda nvml, board: nvml.nvmlDeviceGetPcieReplayCounter(board),
    ),
    # The first version counts the driver's own reserve as used.
    "memory_used_bytes": (
        lambda nvml, board: nvml.nvmlDeviceGetMemoryInfo(board, version=nvml.nvmlMemory_v2).used,
        lambda nvml, board: nvml.nvmlDeviceGetMemoryInfo(board).used,
    ),
    "memory_total_bytes": (
        lambda nvml, board: nvml.nvmlDeviceGetMemoryInfo(board, version=nvml.nvmlMemory_v2).total,
        lambda nvml, board: nvml.nvmlDeviceGetMemoryInfo(board).total,
    ),
    # The driver knows no PID namespaces: in a container the list is the host's, wrong or empty.
    "compute_processes": (lambda nvml, board: len(nvml.nvmlDeviceGetComputeRunningProcesses(board)),),
    "mig": (lambda nvml, board: nvml.nvmlDeviceGetMigMode(board)[0],),
    "persistence": (lambda nvml, board: nvml.nvmlDeviceGetPersistenceMode(board),),
}

# XIDs by which a program failed and the board is well, as NVIDIA's device plug-in for Kubernetes has them: exceptions
# and page faults of a kernel, its end, the clean-up after it, and exceptions of the video unit.
_PROGRAMS_OWN = {13, 31, 43, 45, 68}


def open_board(board: str | None) -> "Nvidia":
    """The sensors of the board that torch knows as `GPU-<uuid>`, which may be a slice of one. Raises Withheld."""
    if board is None:
        raise Withheld("this torch does not report the UUID of a board")
    nvml, reason = _nvml()
    if nvml is None:
        raise Withheld(reason)
    refused = []
    for uuid in (board, board.replace("GPU-", "MIG-", 1)):
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:  # "lost" too: here it may be another board that is gone
            refused.append(error)
        else:
            return Nvidia(nvml, handle, is_slice=uuid.startswith("MIG-"))
    raise Withheld(f"NVML finds no board of this UUID: {refused[0]}")


def driver_version() -> str | None:
    """Version of the kernel driver; None where NVML cannot be asked."""
    nvml, _ = _nvml()
    if nvml is None:
        return None
    try:
        version = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError:
        return None
    return version.decode() if isinstance(version, bytes) else str(version)


class Nvidia(Sensors):
    """One board by NVML, or a MIG slice of one."""

    def __init__(self, nvml: ModuleType, handle: Any, *, is_slice: bool) -> None:
        super().__init__()
        self._nvml, self._handle, self._is_slice = nvml, handle, is_slice
        self._board = _whole_gpu(nvml, handle) if is_slice else handle
        self._ways: dict[str, Way] = {}  # the way that worked
        self._gpm: Gpm | None = None
        self._xids: Xids | None = None
        self._scope: int | None = None  # whose power and energy are told, once one of them is

    def asks(self) -> dict[str, Callable[[], float]]:
        """Every quantity, in the first of its ways that works."""
        return {name: partial(self._ask, name) for name in _QUANTITIES}

    def probe(self) -> dict[str, Reading]:
        """Asks for everything once, and finds what power and energy cover."""
        readings = super().probe()
        if not any(self.has(name) for name in ("power_w", "power_average_w", "energy_j")):
            self.boundary = None
        elif self._scope == _MODULE:
            self.boundary = "module"
        elif self._is_slice or readings["mig"].value:
            self.boundary = "whole_gpu"
        return readings

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """As in base; whatever is a field goes into one call, because each call may wait for the board's firmware."""
        wanted = [name for name in names if self.has(name)]
        fields = {name: way for name in wanted if isinstance(way := self._ways[name], Field)}
        told = dict(zip(fields, self._field_values(list(fields.values())), strict=True)) if fields else {}
        others = super().read(name for name in wanted if name not in fields)
        return others | {name: reading.value for name, reading in told.items() if reading.value is not None}

    def since_last(self) -> dict[str, float]:
        """Activity by GPM: shares of the time in which multiprocessors, matrix units and memory had work. The first
        XID that says of the board that it is not well, where the driver tells them.
        """
        told: dict[str, float] = {}
        # Either is missing from some GPUs, permissions and bindings.
        with suppress(Withheld, AttributeError):
            if self._gpm is None:
                self._gpm = self.gpm()
            else:
                told |= self._gpm.read()
        with suppress(Withheld, AttributeError):
            if self._xids is None:
                self._xids = Xids(self._nvml, self._board)
            elif found := [xid for xid in self._xids.read() if xid not in _PROGRAMS_OWN]:
                told["xid"] = float(found[0])
        return told

    def others(self) -> list[Sensors]:
        """Every GPU that NVML numbers, without this one. A number is nobody's identity: each is asked for its UUID.

        Raises Lost.
        """
        found: list[Sensors] = []
        with suppress(Withheld), asking(self._nvml):
            own = self._nvml.nvmlDeviceGetUUID(self._board)
            for index in range(self._nvml.nvmlDeviceGetCount()):
                with suppress(Withheld, Lost), asking(self._nvml):  # another one may be in trouble
                    handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                    if self._nvml.nvmlDeviceGetUUID(handle) != own:
                        found.append(Nvidia(self._nvml, handle, is_slice=False))
        return found

    def close(self) -> None:
        """Frees what counters and events take. NVML itself stays until the process ends."""
        for held in (self._gpm, self._xids):
            if held is not None:
                with suppress(Withheld, Lost):
                    held.close()
        self._gpm = self._xids = None

    def gpm(self, now: Callable[[], float] = time.perf_counter) -> Gpm:
        """The GPU's own counters, from now on. Raises Withheld where there are none, and Lost."""
        if self._is_slice or self.boundary == "whole_gpu":
            raise Withheld("these counters cover the whole GPU, and this is a slice")
        return Gpm(self._nvml, self._board, now)

    def _ask(self, name: str) -> float:
        if name in self._ways:
            return self._by(self._ways[name], name)
        refused: list[Exception] = []
        for way in _QUANTITIES[name]:
            scope = way.scope if isinstance(way, Field) else None
            if scope is not None and self._scope not in (None, scope):
                continue  # power of the GPU beside energy of the module would pass for one another
            try:
                value = self._by(way, name)
            except (Withheld, TypeError) as error:  # TypeError: an argument that an older binding lacks
                refused.append(error)
            else:
                self._ways[name] = way
                self._scope = scope if scope is not None else self._scope
                return value
        raise refused[0]

    def _by(self, way: Way, name: str) -> float:
        if isinstance(way, Field):
            (reading,) = self._field_values([way])
            if reading.value is None:
                raise Withheld(reading.reason)
            return reading.value
        with asking(self._nvml):
            return float(way(self._nvml, self._handle if name in _OF_SLICE else self._board))

    def _field_values(self, fields: Sequence[Field]) -> list[Reading]:
        """These fields, asked for in one call. Raises Lost."""
        try:
            with asking(self._nvml):
                asked = [(getattr(self._nvml, field.constant), field.scope or _GPU) for field in fields]
                entries = self._nvml.nvmlDeviceGetFieldValues(self._board, asked)
        except Withheld as error:
            return [Reading(None, str(error))] * len(fields)
        return [self._decoded(field, entry) for field, entry in zip(fields, entries, strict=True)]

    def _decoded(self, field: Field, entry: Any) -> Reading:
        """One entry: the call as a whole succeeds even where every entry of it has failed."""
        try:
            with asking(self._nvml):
                if entry.nvmlReturn != self._nvml.NVML_SUCCESS:
                    raise self._nvml.NVMLError(entry.nvmlReturn)
        except Withheld as error:
            return Reading(None, str(error))
        member = dict(enumerate(_MEMBERS)).get(entry.valueType, "")
        if not hasattr(entry.value, member):  # a type that came later than this file, or than the binding
            return Reading(None, f"NVML gives it as type {entry.valueType}, which is not known here")
        value = float(getattr(entry.value, member))
        if value == field.unknown:
            return Reading(None, f"NVML tells {value:g}, which stands for unknown")
        return finite(value / field.per_unit)


@cache
def _nvml() -> tuple[ModuleType | None, str]:
    """NVML's binding, initialised once in this process and until its end, or None and why not."""
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed"
    if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        return None, "the module pynvml here is not the one of nvidia-ml-py: pip uninstall pynvml, install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        stale = error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        advice = " The driver was upgraded under a running kernel module: reboot." if stale else ""
        return None, f"NVML: {error}{advice}"
    return pynvml, ""


def _whole_gpu(nvml: ModuleType, handle: Any) -> Any:
    """The GPU of a MIG slice, or the slice itself where a container may not ask for its GPU."""
    try:
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except nvml.NVMLError:
        return handle

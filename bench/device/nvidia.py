"""NVIDIA: CUDA through torch; sensors through NVML, by UUID.

CUDA's index, NVML's index and the order in CUDA_VISIBLE_DEVICES are three different things, so a board is only ever
looked up by the UUID that torch reports for it. Every quantity is asked for and none assumed from an architecture's
name: what a board, a driver or a permission withholds becomes a reason.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.device.base import FALLBACK_CACHE_BYTES, Absence, Device, Reading
from bench.errors import Unsupported


class Nvidia(Device):
    """One CUDA device."""

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """`run` recorded as a CUDA graph."""
        import torch

        stream = torch.cuda.Stream(self.torch_device)
        stream.wait_stream(torch.cuda.current_stream(self.torch_device))
        with torch.cuda.stream(stream):  # torch asks for warm-up on the side stream that will capture
            for _ in range(3):
                run()
        torch.cuda.current_stream(self.torch_device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                run()
        except RuntimeError as error:
            self.spoilt = True  # before 2.12 torch's allocator does not recover from a failed capture
            if type(error).__name__ == "OutOfMemoryError":
                raise
            raise Unsupported(f"graph capture: {str(error).splitlines()[0]}") from error
        return lambda: graph.replay()

    def supports(self, dtype: str) -> bool:
        """TF32 from Ampere on; other types as they are found to work."""
        import torch

        if dtype == "tf32":
            return torch.version.cuda is not None and torch.cuda.get_device_capability(self.index) >= (8, 0)
        return super().supports(dtype)

    def use_precision(self, dtype: str) -> None:
        """TF32 only where it is what is measured."""
        import torch

        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"

    def cache_bytes(self) -> int:
        """The L2 cache."""
        return int(getattr(self._properties(), "L2_cache_size", 0)) or FALLBACK_CACHE_BYTES

    def uuid(self) -> str | None:
        """`GPU-...` as NVML writes it."""
        found = getattr(self._properties(), "uuid", None)
        return f"GPU-{found}" if found is not None else None

    def driver(self) -> str | None:
        """Version of the kernel driver."""
        nvml, _ = _nvml()
        if nvml is None:
            return None
        try:
            return _text(nvml.nvmlSystemGetDriverVersion())
        except nvml.NVMLError:
            return None

    def read_sensors(self) -> dict[str, Reading]:
        """NVML's quantities in SI units."""
        nvml, reason = _nvml()
        if nvml is None:
            return dict.fromkeys(_QUANTITIES, Reading(None, reason))
        try:
            handle = self._handle(nvml)
        except (nvml.NVMLError, LookupError) as error:
            return dict.fromkeys(_QUANTITIES, Reading(None, f"board not found by UUID: {error}"))
        return {quantity: _read(nvml, ask, handle) for quantity, ask in _QUANTITIES.items()}

    def _handle(self, nvml: ModuleType) -> Any:
        uuid = self.uuid()
        if uuid is None:
            raise LookupError("this torch does not report a UUID")
        try:
            return nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError_NotFound:
            return nvml.nvmlDeviceGetHandleByUUID(uuid.replace("GPU-", "MIG-", 1))

    def _properties(self) -> Any:
        import torch

        return torch.cuda.get_device_properties(self.index)


# Vendor units are converted here and nowhere else: NVML has milliwatts, megahertz, percent and millijoules.
_QUANTITIES: dict[str, Callable[[Any, Any], float]] = {
    "power_w": lambda nvml, board: _field(nvml, board, nvml.NVML_FI_DEV_POWER_INSTANT) / 1e3,
    "energy_j": lambda nvml, board: nvml.nvmlDeviceGetTotalEnergyConsumption(board) / 1e3,
    "power_limit_w": lambda nvml, board: nvml.nvmlDeviceGetEnforcedPowerLimit(board) / 1e3,
    "power_limit_default_w": lambda nvml, board: nvml.nvmlDeviceGetPowerManagementDefaultLimit(board) / 1e3,
    "sm_clock_hz": lambda nvml, board: nvml.nvmlDeviceGetClockInfo(board, nvml.NVML_CLOCK_SM) * 1e6,
    "sm_clock_max_hz": lambda nvml, board: nvml.nvmlDeviceGetMaxClockInfo(board, nvml.NVML_CLOCK_SM) * 1e6,
    "memory_clock_hz": lambda nvml, board: nvml.nvmlDeviceGetClockInfo(board, nvml.NVML_CLOCK_MEM) * 1e6,
    "temperature_c": lambda nvml, board: nvml.nvmlDeviceGetTemperature(board, nvml.NVML_TEMPERATURE_GPU),
    # Share of time in which at least one kernel ran: neither occupancy nor efficiency.
    "kernel_active": lambda nvml, board: nvml.nvmlDeviceGetUtilizationRates(board).gpu / 100,
    "memory_used_bytes": lambda nvml, board: nvml.nvmlDeviceGetMemoryInfo(board).used,
    "compute_processes": lambda nvml, board: len(nvml.nvmlDeviceGetComputeRunningProcesses(board)),
    "pcie_generation": lambda nvml, board: nvml.nvmlDeviceGetCurrPcieLinkGeneration(board),
    "pcie_width": lambda nvml, board: nvml.nvmlDeviceGetCurrPcieLinkWidth(board),
    "ecc": lambda nvml, board: nvml.nvmlDeviceGetEccMode(board)[0],
    "mig": lambda nvml, board: nvml.nvmlDeviceGetMigMode(board)[0],
    "persistence": lambda nvml, board: nvml.nvmlDeviceGetPersistenceMode(board),
}


def detect() -> list[Device]:
    """Every CUDA device that torch sees; none where torch is missing, of another vendor, or finds no driver."""
    try:
        import torch
    except ImportError:
        return []
    if torch.version.cuda is None or not torch.cuda.is_available():
        return []
    return [
        Nvidia(vendor="nvidia", index=index, name=torch.cuda.get_device_name(index), backend="cuda")
        for index in range(torch.cuda.device_count())
    ]


def why_not() -> Absence:
    """What keeps torch from a CUDA device, and whether the driver knows of one."""
    hardware = Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidiactl").exists()
    try:
        import torch
    except ImportError:
        return Absence("torch is not installed", hardware)
    if torch.version.cuda is None:
        return Absence(f"this torch ({torch.__version__}) is built without CUDA", hardware)
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return Absence("CUDA_VISIBLE_DEVICES is empty", hardware)
    return Absence(
        f"torch for CUDA {torch.version.cuda} finds no device: is the driver loaded and new enough?", hardware
    )


@cache
def _nvml() -> tuple[ModuleType | None, str]:
    """NVML's bindings, initialised once in this process, or None and why not."""
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed"
    if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        return None, "the module pynvml here is not the one of nvidia-ml-py: pip uninstall pynvml, install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    return pynvml, ""


def _read(nvml: ModuleType, ask: Callable[[Any, Any], float], handle: Any) -> Reading:
    try:
        return Reading(float(ask(nvml, handle)))
    except nvml.NVMLError as error:
        return Reading(None, str(error))
    # A name, a type or a shape that this driver or binding lacks.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return Reading(None, f"{type(error).__name__}: {error}")


def _field(nvml: ModuleType, handle: Any, field: int) -> float:
    """One field value, decoded by the type that the driver says it has."""
    value = nvml.nvmlDeviceGetFieldValues(handle, [field])[0]
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    members = {
        nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
        nvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    }
    return float(getattr(value.value, members[value.valueType]))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value

"""The CPU: a first-class device. Work is done in the call itself, so the host clock is exact and a launch is free."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.device.base import FALLBACK_CACHE_BYTES, Absence, Device, Reading

if TYPE_CHECKING:
    import torch

_CACHE_BYTES_PER_CORE = 32 << 20
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Cpu(Device):
    """All cores that this process may use, as one device."""

    clock = "host"
    asynchronous = False

    def event(self) -> Any:
        """A moment: everything called so far is done."""
        return time.perf_counter_ns()

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def use(self) -> None:
        """There is only one."""

    @property
    def torch_device(self) -> "torch.device":
        """Host memory."""
        import torch

        return torch.device("cpu")

    def cache_bytes(self) -> int:
        """The largest cache that a core reports, at most 32 MiB for each core.

        A virtual machine reports its host's whole cache, 480 MiB on one with two cores here, though the other guests
        hold most of it: copies that rotated through more than 128 MiB ran at the speed of memory there.
        """
        sizes = [_kibibytes(path.read_text()) for path in _CACHES.glob("index*/size")]
        return min(max(sizes, default=FALLBACK_CACHE_BYTES), _CACHE_BYTES_PER_CORE * (os.cpu_count() or 1))

    def reset_peak_memory(self) -> None:
        """The kernel's peak cannot be reset without privileges."""

    def peak_memory(self) -> Reading:
        """A process's peak covers all cases before this one, so it says nothing of this case."""
        return Reading(None, "the kernel keeps one peak per process, not per case")

    def release(self) -> None:
        """Freed memory stays with the allocator on purpose: see `allocator` in measure/worker.py."""

    def _memory_info(self) -> tuple[int | None, int | None]:
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)


def detect() -> list[Device]:
    """The CPU, always."""
    return [Cpu(vendor="cpu", index=0, name=model_name(), backend="cpu")]


def model_name() -> str:
    """The processor as it names itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "cpu model"))]
    if names:
        return names[0]
    import platform

    return platform.processor() or platform.machine() or "unknown CPU"


def _kibibytes(text: str) -> int:
    """Bytes of sysfs' `480K`."""
    return int(text.strip().rstrip("K")) << 10


def why_not() -> Absence:
    """Never asked: there always is one."""
    return Absence("it is always there")

"""The CPU: a first-class device. Work is done in the call itself, so the host clock is exact and a launch is free."""

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.device.base import FALLBACK_CACHE_BYTES, Absence, Device
from bench.sensors import Reading

if TYPE_CHECKING:
    import torch

_CACHE_BYTES_PER_CORE = 32 << 20
_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")


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
        """All last-level caches of the cores that this process may use, at most 32 MiB for each core.

        A virtual machine reports its host's whole cache, 480 MiB on one with two cores here, though the other guests
        hold most of it: copies that rotated through more than 128 MiB ran at the speed of memory there.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        found: dict[tuple[int, str], int] = {}
        for core in cores:
            for path in _CPUS.glob(f"cpu{core}/cache/index*"):
                with contextlib.suppress(OSError, ValueError):
                    level, shared = int((path / "level").read_text()), (path / "shared_cpu_list").read_text()
                    found[level, shared] = _kibibytes((path / "size").read_text())
        last = max((level for level, _ in found), default=0)
        total = sum(size for (level, _), size in found.items() if level == last)
        return min(total or FALLBACK_CACHE_BYTES, _CACHE_BYTES_PER_CORE * len(cores))

    def reset_peak_memory(self) -> None:
        """The kernel's peak cannot be reset without privileges."""

    def peak_memory(self) -> Reading:
        """A process's peak covers all cases before this one, so it says nothing of this case."""
        return Reading(None, "the kernel keeps one peak per process, not per case")

    def release(self) -> None:
        """Freed memory stays with the allocator on purpose: see `allocator_settings` in measure/process.py."""

    def _memory_info(self) -> tuple[int | None, int | None]:
        """What the system has free, and no more than what a batch system or a container leaves of it."""
        memory = psutil.virtual_memory()
        return min([int(memory.available), *_left_in_groups()]), int(memory.total)


def _left_in_groups() -> list[int]:
    """Bytes that each control group (version 2) round this process still allows, from its own up to the root."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip().lstrip("/")
    except OSError:
        return []
    left, group = [], _CGROUPS / own
    for folder in [group, *group.parents]:
        with contextlib.suppress(OSError, ValueError):  # no such limit there, or the word `max`
            limit, used = int((folder / "memory.max").read_text()), int((folder / "memory.current").read_text())
            left.append(max(0, limit - used + _cached_bytes(folder)))
        if folder == _CGROUPS:
            break
    return left


def _cached_bytes(group: Path) -> int:
    """Files that the kernel keeps in memory for a group: counted as used, and given up when memory is asked for."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (group / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["inactive_file"])
    return 0


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

"""What a measurement depends on and nobody remembers afterwards: host, software, device, and what else is running.

Everything here is read and nothing is set. Nothing that names a person or a machine is kept: no host name, no user, no
path, no address.
"""

import contextlib
import getpass
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from bench import chip, record
from bench.device import Device
from bench.device.cpu import model_name
from bench.errors import without_paths

# Environment variables that change speed. Their values are stored; no other variable is ever looked at.
_RELEVANT = (
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "KMP_AFFINITY", "KMP_BLOCKTIME", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "OMP_PROC_BIND", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING", "TORCHDYNAMO_DISABLE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
)  # fmt: skip
# NGC's and ROCm's builds of torch have a triton of another name.
_PACKAGES = (
    "torch", "triton", "pytorch-triton", "pytorch-triton-rocm", "numpy", "nvidia-ml-py", "psutil", "torch_npu",
    "intel-extension-for-pytorch",
)  # fmt: skip
_CGROUP = Path("/sys/fs/cgroup")


def usable_threads() -> int:
    """Worker threads for compute: physical cores that this process may use, within its CPU quota, at least one.

    `os.cpu_count()` counts what the machine has, not what a batch system or a container leaves of it.
    """
    cores = _physical_cores()
    quota = _cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def host(threads: int) -> record.Host:
    """The machine round the devices."""
    return record.Host(
        cpu=model_name(),
        architecture=platform.machine(),
        cores=_physical_cores(),
        threads=threads,
        memory_bytes=psutil.virtual_memory().total,
        system=platform.system(),
        kernel=platform.release(),
        virtualisation=_virtualisation(),
        container=_in_container(),
        governor=_first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        settings=_settings(),
    )


def software() -> dict[str, str]:
    """Versions of what the numbers depend on. Call it where torch is imported to have its own build in it."""
    versions = {"python": platform.python_version(), "implementation": platform.python_implementation()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None:
        versions["torch"] = str(torch.__version__)  # a class of its own, that no encoder knows
        for name in ("cuda", "hip", "xpu"):
            if version := getattr(torch.version, name, None):
                versions[name] = str(version)
        # Beside another cuDNN than it was built with, torch gives no version but an error.
        with contextlib.suppress(RuntimeError):
            if torch.backends.cudnn.is_available():
                versions["cudnn"] = str(torch.backends.cudnn.version())
        versions["matmul_precision"] = torch.get_float32_matmul_precision()
        versions["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return versions


def device_facts(device: Device) -> record.DeviceFacts:
    """`device` as found: identity, memory, and every quantity that its sensors tell or why they do not."""
    sensors = device.read_sensors()
    known = chip.match(device.name)
    uuid = device.uuid()
    return record.DeviceFacts(
        spec=device.spec,
        vendor=device.vendor,
        name=device.name,
        chip=known.name if known else None,
        uuid_hash=record.anonymous(uuid) if uuid else None,
        memory_bytes=device.memory_bytes(),
        last_level_cache_bytes=device.cache_bytes(),
        driver=device.driver(),
        readings={name: reading.value for name, reading in sensors.items() if reading.value is not None},
        capabilities={
            name: "ok" if reading.value is not None else without_paths(reading.reason)
            for name, reading in sensors.items()
        },
    )


def for_children() -> dict[str, str]:
    """Environment of a process of ours, started with -P: this package is found from any folder, while a torch.py in the
    working folder is not.
    """
    root = str(Path(__file__).resolve().parent.parent.parent)
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container started under a number that its /etc/passwd lacks. Before 2.13 torch's compiler, which its
        # optimizers import, asks for the name and ends there (pytorch issue 140765); any name will do.
        found["USER"] = f"uid_{os.getuid()}"
    return found


def harness() -> record.Harness:
    """Version of this program; from a git clone also the commit, and whether files were changed since."""
    from bench import __version__

    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return record.Harness(
        version=__version__,
        method=record.METHOD,
        commit=commit[:12] if commit else None,
        dirty=None if status is None else bool(status),
    )


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _physical_cores() -> int:
    """Cores that the affinity mask leaves, hyper-threads of one core counted once."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS
        return psutil.cpu_count(logical=False) or 1
    siblings = (
        _first_line(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed
    )
    return len(set(siblings)) or 1


def _cpu_quota() -> float | None:
    """Cores' worth of CPU time that our control group and those above it allow, None without a limit; versions 2 and 1.

    In a container the root that it sees is its own group; outside, the path from the root is in /proc/self/cgroup.
    """
    own = _CGROUP / (_first_line("/proc/self/cgroup") or "").partition("::")[2].strip("/")
    groups = [group for group in (own, *own.parents) if group.is_relative_to(_CGROUP)]
    if lines := [line for group in groups if (line := _first_line(group / "cpu.max"))]:
        limits = [line.split() for line in lines if not line.startswith("max")]
        return min((float(quota) / float(period) for quota, period in limits), default=None)
    quota_us, period_us = _first_line(_CGROUP / "cpu/cpu.cfs_quota_us"), _first_line(_CGROUP / "cpu/cpu.cfs_period_us")
    if quota_us is None or period_us is None or float(quota_us) <= 0:
        return None
    return float(quota_us) / float(period_us)


def _virtualisation() -> str | None:
    """`virtual machine` where the processor says so; None means that it does not say."""
    try:
        return "virtual machine" if " hypervisor" in Path("/proc/cpuinfo").read_text() else None
    except OSError:
        return None


def _in_container() -> bool:
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"), Path("/.singularity.d"))
    return any(mark.exists() for mark in marks) or "APPTAINER_CONTAINER" in os.environ


def _settings() -> dict[str, str]:
    settings = {name: without_paths(os.environ[name])[:200] for name in _RELEVANT if name in os.environ}
    if pages := _first_line("/sys/kernel/mm/transparent_hugepage/enabled"):
        settings["transparent_hugepage"] = pages.partition("[")[2].partition("]")[0]
    if smt := _first_line("/sys/devices/system/cpu/smt/active"):
        settings["smt"] = smt
    if boost := _first_line("/sys/devices/system/cpu/cpufreq/boost"):
        settings["boost"] = boost
    return settings


def _first_line(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().partition("\n")[0].strip()
    except OSError:
        return None

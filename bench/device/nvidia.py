"""NVIDIA: CUDA through torch. Its sensors are found by the UUID that torch reports: see bench/sensors/nvidia.py."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.device.base import FALLBACK_CACHE_BYTES, Absence, Device
from bench.errors import Unsupported, describe
from bench.sensors.nvidia import driver_version


class Nvidia(Device):
    """One CUDA device."""

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """`run` recorded as a CUDA graph."""
        import torch

        current = torch.cuda.current_stream(self.torch_device)
        stream = torch.cuda.Stream(self.torch_device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # torch asks for warm-up on the side stream that will capture
            for _ in range(3):
                run()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                run()
        except RuntimeError as error:
            # Up to 2.13 `torch.cuda.graph` stays on its stream when the end of a capture fails, and before 2.12 torch's
            # allocator does not recover from that.
            torch.cuda.set_stream(current)
            self.spoilt = True
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
        return driver_version()

    def _properties(self) -> Any:
        import torch

        return torch.cuda.get_device_properties(self.index)


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
    # Torch's own words: no driver, one too old, or a fabric manager that is not running (error 802).
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = describe(error)
    else:
        said = "is the driver loaded and new enough?"
    return Absence(f"torch for CUDA {torch.version.cuda} finds no device: {said}", hardware)

"""Huawei Ascend: the NPU back end that the package torch_npu adds to torch."""

import importlib.util
import os
from pathlib import Path

from bench.device.base import Absence, Device


class Ascend(Device):
    """One NPU."""

    def board(self) -> str | None:
        """The driver's own number of the NPU; None where an environment variable has renumbered them for torch."""
        return None if os.environ.get("ASCEND_RT_VISIBLE_DEVICES") else str(self.index)


def detect() -> list[Device]:
    """Every NPU that torch sees."""
    try:
        import torch
        import torch_npu  # type: ignore[import-not-found]  # noqa: F401  registers the device type
    except (ImportError, OSError):  # OSError: the package is there and the driver's libraries are not
        return []
    if not torch.npu.is_available():
        return []
    return [
        Ascend(vendor="ascend", index=index, name=torch.npu.get_device_name(index), backend="npu")
        for index in range(torch.npu.device_count())
    ]


def why_not() -> Absence:
    """What keeps torch from an NPU, and whether the driver is there."""
    hardware = Path("/dev/davinci_manager").exists()
    if importlib.util.find_spec("torch_npu") is None:
        return Absence("torch_npu is not installed", hardware)
    return Absence("torch_npu finds no NPU: is its environment set (set_env.sh)?", hardware)

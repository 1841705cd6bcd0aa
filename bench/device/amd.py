"""AMD: ROCm through torch, which keeps CUDA's names there."""

from collections.abc import Callable
from pathlib import Path

from bench.device.base import Absence, Device
from bench.device.nvidia import Nvidia


class Amd(Device):
    """One HIP device: a board, or one die of a board that has two."""

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """`run` recorded as a HIP graph, which torch drives by the same calls."""
        return Nvidia.capture(self, run)  # type: ignore[arg-type]

    def board(self) -> str | None:
        """By its place on the bus, else by UUID, else by HIP's own index: whatever this torch tells."""
        import torch

        found = torch.cuda.get_device_properties(self.index)
        if hasattr(found, "pci_bus_id") and hasattr(found, "pci_domain_id"):
            return f"pci:{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
        uuid = getattr(found, "uuid", None)
        return f"uuid:{uuid}" if uuid is not None else f"hip:{self.index}"

    # cache_bytes: the reported L2 is not the Infinity Cache, so the assumption of the base stands.


def detect() -> list[Device]:
    """Every HIP device that torch sees."""
    try:
        import torch
    except ImportError:
        return []
    if getattr(torch.version, "hip", None) is None or not torch.cuda.is_available():
        return []
    return [
        Amd(vendor="amd", index=index, name=torch.cuda.get_device_name(index), backend="cuda")
        for index in range(torch.cuda.device_count())
    ]


def why_not() -> Absence:
    """What keeps torch from a HIP device, and whether the kernel driver is there."""
    hardware = Path("/dev/kfd").exists()
    try:
        import torch
    except ImportError:
        return Absence("torch is not installed", hardware)
    if getattr(torch.version, "hip", None) is None:
        return Absence(f"this torch ({torch.__version__}) is built without ROCm", hardware)
    return Absence("torch finds no HIP device: may you read /dev/kfd and /dev/dri?", hardware)

"""Intel GPUs: XPU through torch."""

from bench.device.base import FALLBACK_CACHE_BYTES, Absence, Device


class Intel(Device):
    """One XPU device."""

    def board(self) -> str | None:
        """By UUID, where torch tells it."""
        import torch

        uuid = getattr(torch.xpu.get_device_properties(self.index), "uuid", None)
        return None if uuid is None else f"uuid:{uuid}"

    def cache_bytes(self) -> int:
        """The last-level cache as the runtime reports it."""
        import torch

        properties = torch.xpu.get_device_properties(self.index)
        return int(getattr(properties, "last_level_cache_size", 0)) or FALLBACK_CACHE_BYTES


def detect() -> list[Device]:
    """Every XPU that torch sees."""
    try:
        import torch
    except ImportError:
        return []
    if not hasattr(torch, "xpu") or not torch.xpu.is_available():
        return []
    return [
        Intel(vendor="intel", index=index, name=torch.xpu.get_device_name(index), backend="xpu")
        for index in range(torch.xpu.device_count())
    ]


def why_not() -> Absence:
    """What keeps torch from an XPU."""
    try:
        import torch
    except ImportError:
        return Absence("torch is not installed")
    if not hasattr(torch, "xpu") or torch.version.xpu is None:
        return Absence(f"this torch ({torch.__version__}) is built without XPU")
    return Absence("torch finds no XPU: is the Level Zero driver installed?")

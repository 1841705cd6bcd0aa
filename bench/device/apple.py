"""Apple silicon: MPS through torch. Timed by the host clock, because its events cannot be read without a full wait."""

from bench.device.base import Absence, Device
from bench.device.cpu import model_name


class Apple(Device):
    """The GPU of the chip; it shares the host's memory."""

    clock = "host"

    def use(self) -> None:
        """There is only one."""

    def synchronize(self) -> None:
        """Waits until everything enqueued is done."""
        self._module().synchronize()

    def _memory_info(self) -> tuple[int | None, int | None]:
        """What Metal recommends to use, less what is in use."""
        module = self._module()
        total = int(module.recommended_max_memory())
        return total - int(module.driver_allocated_memory()), total


def detect() -> list[Device]:
    """The GPU where torch can use it."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.backends.mps.is_available():
        return []
    return [Apple(vendor="apple", index=0, name=model_name(), backend="mps")]


def why_not() -> Absence:
    """What keeps torch from the GPU."""
    try:
        import torch
    except ImportError:
        return Absence("torch is not installed")
    return Absence(
        "macOS is too old for MPS" if torch.backends.mps.is_built() else "not an Apple silicon build of torch"
    )

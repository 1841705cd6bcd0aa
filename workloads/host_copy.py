"""Copies between host and device over their link: offloading, loading weights, feeding data, writing checkpoints."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import Unsupported
from bench.workload import Scalar, Step, Workload
from workloads._buffer import length
from workloads._reference import poison, relative_error, wide


@dataclass(frozen=True, kw_only=True)
class HostCopy(Workload):
    """`num_bytes` from the host to the device or back; the host's side in pinned or in pageable memory."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    capturable: ClassVar[bool] = False  # a graph may hold no copy of pageable memory
    smoke: ClassVar[dict[str, Scalar]] = {"num_bytes": 1 << 16, "direction": "to_device", "memory": "pinned"}

    num_bytes: int
    direction: Literal["to_device", "from_device"]
    memory: Literal["pinned", "pageable"]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Whole elements only."""
        super().__post_init__()
        length(self.num_bytes, self.dtype, self.dtype_bytes)

    @property
    def waits(self) -> bool:
        """The driver copies pageable memory through a buffer of its own, and the caller waits."""
        return self.memory == "pageable"

    def cost(self) -> Cost:
        """Once over the link, once into or out of the device's memory."""
        return Cost(link_bytes=self.num_bytes, bytes=self.num_bytes)

    def memory_bytes(self) -> int:
        """The device's side. The host holds as much."""
        return self.num_bytes

    def tolerance(self) -> float:
        """A copy is exact."""
        return 0.0

    def prepare(self, device: Device) -> Step:
        """A buffer on each side. Raises Unsupported where there is no link, or no memory that can be pinned."""
        import torch

        if device.backend == "cpu":
            raise Unsupported("the CPU's memory is the host's: there is no link to copy over")
        far = device.normal(length(self.num_bytes, self.dtype, self.dtype_bytes), dtype=self.dtype)
        near = torch.empty(far.shape, dtype=far.dtype, device="cpu").copy_(far)
        if self.memory == "pinned":
            try:
                near = near.pin_memory()
            except (RuntimeError, NotImplementedError):
                raise Unsupported(f"{device.name}: torch cannot pin the host's memory for it") from None
        source, target = (near, far) if self.direction == "to_device" else (far, near)
        target.zero_()

        def run() -> "torch.Tensor":
            # In the order of the device's other work, so that events around it are right; pinned, the host goes on.
            return target.copy_(source, non_blocking=self.memory == "pinned")

        def error() -> float:
            device.synchronize()
            poison(target)
            run()
            device.synchronize()
            left, right = target.cpu(), source.cpu()
            return relative_error(left[::97], wide(right[::97])) if torch.equal(left, right) else float("inf")

        return Step(run=run, error=error)

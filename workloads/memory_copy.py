"""Copy inside device memory: the ceiling on bandwidth that decode, norms and optimizers are judged against."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._buffer import length
from workloads._reference import poison, relative_error


@dataclass(frozen=True, kw_only=True)
class MemoryCopy(Workload):
    """`num_bytes` read from one buffer and written to another; the rate counts both."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"num_bytes": 1 << 16, "dtype": "float32"}

    num_bytes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Whole elements only."""
        super().__post_init__()
        length(self.num_bytes, self.dtype, self.dtype_bytes)

    def cost(self) -> Cost:
        """Read once, written once."""
        return Cost(bytes=2 * self.num_bytes)

    def memory_bytes(self) -> int:
        """Source and target."""
        return 2 * self.num_bytes

    def tolerance(self) -> float:
        """A copy is exact."""
        return 0.0

    def prepare(self, device: Device) -> Step:
        """Two buffers of normal numbers."""
        import torch

        source = device.normal(length(self.num_bytes, self.dtype, self.dtype_bytes), dtype=self.dtype)
        target = torch.zeros_like(source)

        def error() -> float:
            poison(target)
            target.copy_(source)
            return relative_error(target[::97], source[::97]) if torch.equal(target, source) else float("inf")

        return Step(run=lambda: target.copy_(source), error=error)

"""Writing device memory and reading nothing: gradients and caches that are cleared, outputs of a prompt."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._buffer import length
from workloads._reference import poison

_VALUE = 1.5  # exact in every type


@dataclass(frozen=True, kw_only=True)
class MemoryWrite(Workload):
    """`num_bytes` filled with one number."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    data: ClassVar[str] = "constant"
    smoke: ClassVar[dict[str, Scalar]] = {"num_bytes": 1 << 16, "dtype": "float32"}

    num_bytes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Whole elements only."""
        super().__post_init__()
        length(self.num_bytes, self.dtype, self.dtype_bytes)

    def cost(self) -> Cost:
        """Written once."""
        return Cost(bytes=self.num_bytes)

    def memory_bytes(self) -> int:
        """The buffer."""
        return self.num_bytes

    def tolerance(self) -> float:
        """A fill is exact."""
        return 0.0

    def prepare(self, device: Device) -> Step:
        """One buffer."""
        import torch

        count = length(self.num_bytes, self.dtype, self.dtype_bytes)
        target = torch.zeros(count, device=device.torch_device, dtype=getattr(torch, self.dtype))

        def error() -> float:
            poison(target)
            target.fill_(_VALUE)
            least, greatest = float(target.amin().item()), float(target.amax().item())  # NaN if any element is
            return 0.0 if least == greatest == _VALUE else float("inf")

        return Step(run=lambda: target.fill_(_VALUE), error=error)

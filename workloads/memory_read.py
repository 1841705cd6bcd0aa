"""Reading device memory and writing nothing: what weights and a cache cost while decoding."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._buffer import length
from workloads._reference import poison, wide


@dataclass(frozen=True, kw_only=True)
class MemoryRead(Workload):
    """`num_bytes` read once, and summed up to one number."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"num_bytes": 1 << 16, "dtype": "float32"}

    num_bytes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Whole elements only."""
        super().__post_init__()
        length(self.num_bytes, self.dtype, self.dtype_bytes)

    def cost(self) -> Cost:
        """Read once; an addition each."""
        return Cost(elementwise_flops=self.num_bytes // self.dtype_bytes, bytes=self.num_bytes)

    def memory_bytes(self) -> int:
        """The buffer and the sum."""
        return self.num_bytes + self.dtype_bytes

    def prepare(self, device: Device) -> Step:
        """Numbers so small that not even float16's sum of 4 GiB overflows."""
        import torch

        source = device.normal(length(self.num_bytes, self.dtype, self.dtype_bytes), dtype=self.dtype, std=1 / 64)
        total = torch.zeros(1, device=source.device, dtype=source.dtype)

        # A sum in the buffer's own type is the only reduction of torch that reads as fast as memory in every type: on a
        # CPU of two cores 16.8 GB/s, what its hypervisor allows, where sums of bfloat16 into float32 reach 1.4, its
        # `amax` 8.4 and `dot` 0.9. It adds up in float32 and by halves all the same.
        def run() -> "torch.Tensor":
            return torch.sum(source, 0, keepdim=True, out=total)

        def error() -> float:
            poison(total)
            run()
            parts = source.split(1 << 24)  # a whole copy in float64 might not fit
            expected = sum(float(wide(part).sum()) for part in parts)
            spread = sum(float(wide(part).square().sum()) for part in parts) ** 0.5
            # By the spread of such a sum: its value may be close to zero by chance. One element has no other.
            difference = abs(float(total.item()) - expected) / spread
            return difference if difference < float("inf") else float("inf")  # also for NaN

        return Step(run=run, error=error)

"""Two buffers read, one written: the mix of the elementwise operations of a model, and STREAM's own figure."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._buffer import length
from workloads._reference import poison, relative_error, wide

_FACTOR = 3.0


@dataclass(frozen=True, kw_only=True)
class MemoryTriad(Workload):
    """a = b + 3 c, each of `num_bytes` (McCalpin 1995, STREAM); the rate counts all three, and no read of `a`."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"num_bytes": 1 << 16, "dtype": "float32"}

    num_bytes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Whole elements only."""
        super().__post_init__()
        length(self.num_bytes, self.dtype, self.dtype_bytes)

    def cost(self) -> Cost:
        """Two read, one written; a multiply-add each."""
        return Cost(elementwise_flops=2 * (self.num_bytes // self.dtype_bytes), bytes=3 * self.num_bytes)

    def memory_bytes(self) -> int:
        """Three buffers."""
        return 3 * self.num_bytes

    def prepare(self, device: Device) -> Step:
        """Normal numbers, and room for their sum."""
        import torch

        count = length(self.num_bytes, self.dtype, self.dtype_bytes)
        b, c = (device.normal(count, dtype=self.dtype) for _ in range(2))
        a = torch.zeros_like(b)

        def run() -> "torch.Tensor":
            return torch.add(b, c, alpha=_FACTOR, out=a)

        def error() -> float:
            poison(a)
            run()
            some = slice(None, None, max(1, count >> 20))
            reference = wide(b[some]) + _FACTOR * wide(c[some])
            return relative_error(a[some], reference) if bool(a.isfinite().all()) else float("inf")

        return Step(run=run, error=error)

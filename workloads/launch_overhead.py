"""Launch overhead: what one call costs that does almost nothing. It bounds decode at batch 1 and small models."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload


@dataclass(frozen=True, kw_only=True)
class LaunchOverhead(Workload):
    """A chain of `num_launches` in-place additions to one number, one after the other."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    rotate: ClassVar[bool] = False  # nothing to find in a cache
    smoke: ClassVar[dict[str, Scalar]] = {"num_launches": 10, "dtype": "float32"}

    num_launches: int = 200
    dtype: str = "float32"

    def cost(self) -> Cost:
        """One addition each."""
        return Cost(
            launches=self.num_launches,
            elementwise_flops=self.num_launches,
            bytes=2 * self.num_launches * self.dtype_bytes,
        )

    def memory_bytes(self) -> int:
        """One number."""
        return self.dtype_bytes

    def tolerance(self) -> float:
        """Whole numbers this small are exact."""
        return 0.0

    def prepare(self, device: Device) -> Step:
        """One tensor of one element."""
        import torch

        number = torch.zeros(1, device=device.torch_device, dtype=getattr(torch, self.dtype))

        def run() -> None:
            for _ in range(self.num_launches):
                number.add_(1.0)

        def error() -> float:
            number.zero_()
            run()
            return abs(float(number.item()) - self.num_launches)

        return Step(run=run, error=error)

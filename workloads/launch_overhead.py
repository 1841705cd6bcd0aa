"""Launch overhead: what one call costs that does almost nothing. It bounds decode at batch 1 and small models."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import Scalar, Step, Workload
from workloads._compiled import compiled

# Beyond these a narrow type cannot count by ones.
_LARGEST = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24}


@dataclass(frozen=True, kw_only=True)
class LaunchOverhead(Workload):
    """A chain of `num_launches` in-place additions to one number, one after the other; of 1, the least launch there is.

    Compiled, the chain becomes one kernel or a few, in which every addition is left, because torch's compiler does not
    reorder sums. It then counts as one launch: what is measured is a call of a compiled function, guards and all.
    """

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    rotate: ClassVar[bool] = False  # nothing to find in a cache
    smoke: ClassVar[dict[str, Scalar]] = {"num_launches": 10, "dtype": "float32"}

    num_launches: int = 200
    dtype: str = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        """As many additions as the type can count."""
        super().__post_init__()
        if self.num_launches > _LARGEST[self.dtype]:
            raise UserError(f"num_launches={self.num_launches}: {self.dtype} counts to {_LARGEST[self.dtype]} only")

    def cost(self) -> Cost:
        """One addition each."""
        return Cost(
            launches=1 if self.compiled else self.num_launches,
            elementwise_flops=self.num_launches,
            bytes=2 * (1 if self.compiled else self.num_launches) * self.dtype_bytes,
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

        def chain() -> None:
            for _ in range(self.num_launches):
                number.add_(1.0)

        run, facts = compiled(chain) if self.compiled else (chain, dict)

        def error() -> float:
            number.zero_()
            run()
            difference = abs(float(number.item()) - self.num_launches)
            return difference if difference < float("inf") else float("inf")  # also for NaN

        return Step(run=run, error=error, facts=facts)

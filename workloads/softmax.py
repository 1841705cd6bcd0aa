"""Softmax over long rows: what unfused attention and the choice of a token do between two passes over memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._backward import passes, rows_error

if TYPE_CHECKING:
    from torch import Tensor

# R rows, C columns


@dataclass(frozen=True, kw_only=True)
class Softmax(Workload):
    """y = exp(x - max(x)) / sum(exp(x - max(x))) over the last dimension."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"rows": 64, "columns": 128, "dtype": "float32"}

    rows: int
    columns: int
    dtype: str
    backward: bool = False

    def cost(self) -> Cost:
        """Maximum, subtract, exponential, sum, divide: five FLOP an element; x read, y written.

        The backward pass counts twice; it reads y and its gradient and writes that of x.
        """
        elements = self.rows * self.columns
        tensors, times = (5, 3) if self.backward else (2, 1)
        return Cost(elementwise_flops=times * 5 * elements, bytes=tensors * elements * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """Input and output, and their gradients."""
        return (4 if self.backward else 2) * self.rows * self.columns * self.dtype_bytes

    def prepare(self, device: Device) -> Step:
        """torch's own operation; it allocates its output, as it does inside a model."""
        x_RC, *incoming = (
            device.normal(self.rows, self.columns, dtype=self.dtype) for _ in range(2 if self.backward else 1)
        )

        def forward(x_RC: "Tensor") -> "tuple[Tensor]":
            return (x_RC.softmax(-1),)

        run, kept = passes(forward, [x_RC], incoming)

        def reference(x_RC: "Tensor") -> "tuple[Tensor]":
            powers_RC = (x_RC - x_RC.detach().amax(-1, keepdim=True)).exp()
            return (powers_RC / powers_RC.sum(-1, keepdim=True),)

        def error() -> float:
            run()
            return rows_error(kept, reference, [x_RC], incoming)

        return Step(run=run, error=error)

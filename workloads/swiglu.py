"""SwiGLU's own part: the gate that joins the two products of a gated MLP, at its widest place."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._backward import passes, rows_error

if TYPE_CHECKING:
    from torch import Tensor

# T tokens, F intermediate_size


@dataclass(frozen=True, kw_only=True)
class Swiglu(Workload):
    """silu(gate) * up, where silu(x) = x / (1 + exp(-x)) (Shazeer 2020, equation 6)."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"tokens": 64, "intermediate_size": 128, "dtype": "float32"}

    tokens: int
    intermediate_size: int
    dtype: str
    backward: bool = False

    def cost(self) -> Cost:
        """Negate, exponential, add, divide, multiply: five FLOP an element; gate and up read, the product written.

        The backward pass counts twice; it reads gate, up and the product's gradient and writes two gradients.
        """
        elements = self.tokens * self.intermediate_size
        tensors, times = (8, 3) if self.backward else (3, 1)
        return Cost(elementwise_flops=times * 5 * elements, bytes=tensors * elements * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """Gate, up, the product and what silu gives, which is kept; with the gradients of all four."""
        return (8 if self.backward else 4) * self.tokens * self.intermediate_size * self.dtype_bytes

    def prepare(self, device: Device) -> Step:
        """Two operations, as models write it."""
        from torch.nn.functional import silu

        gate_TF, up_TF, *incoming = (
            device.normal(self.tokens, self.intermediate_size, dtype=self.dtype)
            for _ in range(3 if self.backward else 2)
        )

        def forward(gate_TF: "Tensor", up_TF: "Tensor") -> "tuple[Tensor]":
            return (silu(gate_TF) * up_TF,)

        run, kept = passes(forward, [gate_TF, up_TF], incoming)

        def error() -> float:
            run()
            reference = lambda gate_TF, up_TF: (gate_TF / (1 + (-gate_TF).exp()) * up_TF,)  # noqa: E731
            return rows_error(kept, reference, [gate_TF, up_TF], incoming)

        return Step(run=run, error=error)

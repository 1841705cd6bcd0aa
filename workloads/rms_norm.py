"""RMSNorm: the memory-bound operation that stands between all the others; forward, or with its gradients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._backward import passes, rows_error, sum_over_rows
from workloads._reference import relative_error, wide

if TYPE_CHECKING:
    from torch import Tensor

# T tokens, E hidden_size


@dataclass(frozen=True, kw_only=True)
class RmsNorm(Workload):
    """y = x / sqrt(mean(x^2) + 1e-6) * w over the last dimension (Zhang & Sennrich 2019)."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"tokens": 64, "hidden_size": 128, "dtype": "float32"}

    tokens: int
    hidden_size: int
    dtype: str
    backward: bool = False

    def cost(self) -> Cost:
        """Square, add, multiply by the inverse root and by the weight: four FLOP an element; x read, y written.

        The backward pass counts twice; it reads x and the gradient of y and writes that of x; the weight likewise.
        """
        elements = self.tokens * self.hidden_size
        tensors, weights, times = (5, 3, 3) if self.backward else (2, 1, 1)
        return Cost(
            elementwise_flops=times * 4 * elements,
            bytes=(tensors * elements + weights * self.hidden_size) * self.dtype_bytes,
        )

    def memory_bytes(self) -> int:
        """Input and output, and their gradients."""
        return (2 if self.backward else 1) * (2 * self.tokens + 1) * self.hidden_size * self.dtype_bytes

    def prepare(self, device: Device) -> Step:
        """torch's own fused operation; it allocates its output, as it does inside a model."""
        from torch.nn.functional import rms_norm

        x_TE = device.normal(self.tokens, self.hidden_size, dtype=self.dtype)
        weight_E = 1 + device.normal(self.hidden_size, dtype=self.dtype, std=0.1)
        incoming = [device.normal(self.tokens, self.hidden_size, dtype=self.dtype)] if self.backward else []

        def forward(x_TE: "Tensor", weight_E: "Tensor") -> "tuple[Tensor]":
            return (rms_norm(x_TE, (self.hidden_size,), weight_E, 1e-6),)

        run, kept = passes(forward, [x_TE, weight_E], incoming)

        def error() -> float:
            run()
            worst = rows_error(kept, lambda x_TE: (_normed(x_TE) * wide(weight_E),), [x_TE], incoming)
            if incoming:
                expected_E = sum_over_rows(lambda x_TE, incoming_TE: incoming_TE * _normed(x_TE), x_TE, *incoming)
                worst = max(worst, relative_error(kept[-1], expected_E))
            return worst

        return Step(run=run, error=error)


def _normed(x_TE: "Tensor") -> "Tensor":
    return x_TE * (x_TE.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

"""LayerNorm: as RMSNorm, but for the mean that it takes away and the bias that it adds (GPT-2, OPT, Falcon)."""

import math
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
class LayerNorm(Workload):
    """y = (x - mean(x)) / sqrt(var(x) + 1e-5) * w + b over the last dimension (Ba, Kiros & Hinton 2016)."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"tokens": 64, "hidden_size": 128, "dtype": "float32"}

    tokens: int
    hidden_size: int
    dtype: str
    backward: bool = False

    def cost(self) -> Cost:
        """Sum, subtract, square, add, multiply by the inverse root and by w, add b: seven FLOP; x read, y written.

        The backward pass counts twice; it reads x, w and the gradient of y and writes those of x, w and b.
        """
        elements = self.tokens * self.hidden_size
        tensors, weights, times = (5, 5, 3) if self.backward else (2, 2, 1)
        return Cost(
            elementwise_flops=times * 7 * elements,
            bytes=(tensors * elements + weights * self.hidden_size) * self.dtype_bytes,
        )

    def memory_bytes(self) -> int:
        """Input and output, and their gradients."""
        return (2 if self.backward else 1) * (2 * self.tokens + 2) * self.hidden_size * self.dtype_bytes

    def prepare(self, device: Device) -> Step:
        """torch's own fused operation; it allocates its output, as it does inside a model."""
        from torch.nn.functional import layer_norm

        x_TE = device.normal(self.tokens, self.hidden_size, dtype=self.dtype)
        weight_E = 1 + device.normal(self.hidden_size, dtype=self.dtype, std=0.1)
        bias_E = device.normal(self.hidden_size, dtype=self.dtype, std=0.1)
        incoming = [device.normal(self.tokens, self.hidden_size, dtype=self.dtype)] if self.backward else []

        def forward(x_TE: "Tensor", weight_E: "Tensor", bias_E: "Tensor") -> "tuple[Tensor]":
            return (layer_norm(x_TE, (self.hidden_size,), weight_E, bias_E, 1e-5),)

        run, kept = passes(forward, [x_TE, weight_E, bias_E], incoming)

        def error() -> float:
            run()
            reference = lambda x_TE: (_normed(x_TE) * wide(weight_E) + wide(bias_E),)  # noqa: E731
            worst = rows_error(kept, reference, [x_TE], incoming)
            if incoming:
                weight_gradient_E, bias_gradient_E = kept[-2:]
                expected_E = sum_over_rows(lambda x_TE, incoming_TE: incoming_TE * _normed(x_TE), x_TE, *incoming)
                bias_error = relative_error(bias_gradient_E, sum_over_rows(lambda one: one, *incoming))
                weight_error = relative_error(weight_gradient_E, expected_E)
                worst = max(worst, max(weight_error, bias_error) * self._strictness(x_TE))
            return worst

        return Step(run=run, error=error)

    def _strictness(self, x_TE: "Tensor") -> float:
        """How much less the error of a sum over all tokens weighs than that of one token's output.

        On a CPU torch 2.13 adds up these gradients in their own type, and what is rounded away goes as the square root
        of the number of tokens: 0.1 epsilon sqrt(tokens) as measured, 7 % of the gradient at 8192 in bfloat16.
        """
        import torch

        epsilon = float(torch.finfo(x_TE.dtype).eps)
        return min(1.0, self.tolerance() / (0.2 * epsilon * math.sqrt(self.tokens)))


def _normed(x_TE: "Tensor") -> "Tensor":
    centred_TE = x_TE - x_TE.mean(-1, keepdim=True)
    return centred_TE * (centred_TE.square().mean(-1, keepdim=True) + 1e-5).rsqrt()

"""RMSNorm: the memory-bound operation that stands between all the others."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._reference import relative_error, wide


@dataclass(frozen=True, kw_only=True)
class RmsNorm(Workload):
    """y = x / sqrt(mean(x^2) + 1e-6) * w over the last dimension (Zhang & Sennrich 2019)."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"tokens": 64, "hidden_size": 128, "dtype": "float32"}

    tokens: int
    hidden_size: int
    dtype: str

    def cost(self) -> Cost:
        """Square, add, multiply by the inverse root and by the weight: four FLOP an element; x read, y written."""
        elements = self.tokens * self.hidden_size
        return Cost(elementwise_flops=4 * elements, bytes=(2 * elements + self.hidden_size) * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """Input and output."""
        return self.cost().bytes

    def prepare(self, device: Device) -> Step:
        """torch's own fused operation; it allocates its output, as it does inside a model."""
        import torch
        from torch.nn.functional import rms_norm

        x_TE = device.normal(self.tokens, self.hidden_size, dtype=self.dtype)
        weight_E = 1 + device.normal(self.hidden_size, dtype=self.dtype, std=0.1)

        kept: list[torch.Tensor] = []

        def run() -> torch.Tensor:
            # The output stays until the next one is there: steps in rotation then write to different memory.
            kept[:] = [rms_norm(x_TE, (self.hidden_size,), weight_E, 1e-6)]
            return kept[0]

        def error() -> float:
            out_TE = run()
            rows = slice(None, None, max(1, self.tokens // 64))  # the reference of a few rows costs little at any size
            x = wide(x_TE[rows])
            reference_TE = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * wide(weight_E)
            return relative_error(out_TE[rows], reference_TE) if bool(out_TE.isfinite().all()) else float("inf")

        return Step(run=run, error=error)

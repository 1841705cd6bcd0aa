"""Products with weights in 8 or 4 bits, activations in more: what a quantised model does while it writes a text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import Facts, Scalar, Step, Workload
from workloads._reference import relative_error, wide

if TYPE_CHECKING:
    from torch import Tensor

# Columns of a row that share a scale in 4 bits.
_GROUP = 32


@dataclass(frozen=True, kw_only=True)
class DequantisedMatmul(Workload):
    """y[M, N] = x[M, K] @ W[N, K]^T by torch's best kernel: int8 with a scale a row, int4 with one for 32 columns."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"m": 4, "n": 48, "k": 64, "weights": "int4", "dtype": "float32"}

    m: int
    n: int
    k: int
    weights: Literal["int8", "int4"]
    dtype: str  # of the activations, in which products are summed and scales kept

    def __post_init__(self) -> None:
        """Groups of four bits are whole."""
        super().__post_init__()
        if self.weights == "int4" and self.k % _GROUP:
            raise UserError(f"k={self.k}: weights of int4 go in groups of {_GROUP} columns, so k must be a multiple")

    def cost(self) -> Cost:
        """2 M N K; activations, packed weights with their scales and the product cross memory once."""
        activations = self.m * (self.k + self.n) * self.dtype_bytes
        return Cost(gemm_flops=2 * self.m * self.n * self.k, bytes=activations + self._weight_bytes())

    def memory_bytes(self) -> int:
        """What a step reads and writes. For the check the host keeps the codes once more."""
        return self.cost().bytes

    def _weight_bytes(self) -> int:
        """Codes; a scale for each row, or in 4 bits a scale and the value of the middle code for each group."""
        if self.weights == "int8":
            return self.n * self.k + self.n * self.dtype_bytes
        return self.n * self.k // 2 + self.n * (self.k // _GROUP) * 2 * self.dtype_bytes

    def prepare(self, device: Device) -> Step:
        """The weight is quantised here, so that the check judges the kernel and not the quantisation."""
        from workloads._quantized import pack

        x_MK = device.normal(self.m, self.k, dtype=self.dtype)
        packed = pack(device.normal(self.n, self.k, dtype=self.dtype, std=self.k**-0.5), self.weights, self.m, device)
        multiply = packed.multiply
        kept: list[Tensor] = []

        def run() -> "Tensor":
            # The output stays until the next one is there: steps in rotation then write to different memory.
            kept[:] = [multiply(x_MK)]
            return kept[0]

        def error() -> float:
            out_MN = run()
            rows = slice(None, None, max(1, self.m // 8))
            x_rows_MK = wide(x_MK[rows])
            reference_MN = x_rows_MK @ packed.wide().to(x_rows_MK.device).T
            return relative_error(out_MN[rows], reference_MN) if bool(out_MN.isfinite().all()) else float("inf")

        def facts() -> Facts:
            return {"kernel": packed.kernel.name}

        return Step(run=run, error=error, facts=facts)

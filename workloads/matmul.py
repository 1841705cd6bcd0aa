"""Matrix product: the ceiling on compute that every other workload is judged against."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._reference import poison, relative_error, wide


@dataclass(frozen=True, kw_only=True)
class Matmul(Workload):
    """C[M, N] = A[M, K] @ B[K, N], both operands row-major."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"m": 32, "n": 48, "k": 64, "dtype": "float32"}

    m: int
    n: int
    k: int
    dtype: str

    def cost(self) -> Cost:
        """2 M N K; each operand and the product cross memory once."""
        elements = self.m * self.k + self.k * self.n + self.m * self.n
        return Cost(gemm_flops=2 * self.m * self.n * self.k, bytes=elements * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """Operands and product."""
        return self.cost().bytes

    def prepare(self, device: Device) -> Step:
        """B is scaled by 1 / sqrt(K), so that the product has the operands' spread."""
        import torch

        a_MK = device.normal(self.m, self.k, dtype=self.dtype)
        b_KN = device.normal(self.k, self.n, dtype=self.dtype, std=self.k**-0.5)
        c_MN = torch.zeros(self.m, self.n, device=a_MK.device, dtype=a_MK.dtype)

        def error() -> float:
            poison(c_MN)
            torch.mm(a_MK, b_KN, out=c_MN)
            rows = slice(None, None, max(1, self.m // 8))  # the reference of a few rows costs little at any size
            return relative_error(c_MN[rows], wide(a_MK[rows]) @ wide(b_KN))

        return Step(run=lambda: torch.mm(a_MK, b_KN, out=c_MN), error=error)

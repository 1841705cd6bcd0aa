"""Matrix product: the ceiling on compute that every other workload is judged against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import Unsupported, UserError
from bench.workload import FLOATS, Scalar, Step, Workload
from workloads._reference import poison, relative_error, wide

if TYPE_CHECKING:
    import torch

# Products of narrow types are summed and written in a wider one.
_OUTPUT = {"float8_e4m3fn": ("bfloat16", 2), "int8": ("int32", 4)}
# Numbers of one byte use their range: a spread of a few steps would be mostly rounding.
_SPREAD = {"float8_e4m3fn": 16.0, "int8": 40.0}


@dataclass(frozen=True, kw_only=True)
class Matmul(Workload):
    """C[M, N] = A[M, K] @ B[K, N], as a linear layer has it: forward (nt), gradient of input (nn), of weight (tn)."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    dtypes: ClassVar[tuple[str, ...]] = (*FLOATS, "tf32", "float8_e4m3fn", "int8")
    smoke: ClassVar[dict[str, Scalar]] = {"m": 32, "n": 48, "k": 64, "dtype": "float32"}

    m: int
    n: int
    k: int
    dtype: str
    layout: Literal["nt", "nn", "tn"] = "nt"  # t: stored transposed, so that K (of A: M) varies slowest
    duty: Literal["sustained", "burst", "held"] = "sustained"

    def __post_init__(self) -> None:
        """Matrix units take numbers of one byte in one layout and in whole sixteens."""
        super().__post_init__()
        if self.dtype in _OUTPUT and (self.layout != "nt" or self.k % 16 or self.n % 16):
            raise UserError(f"{self.label()}: products of {self.dtype} need layout=nt and n and k in multiples of 16")

    def cost(self) -> Cost:
        """2 M N K; each operand and the product cross memory once."""
        operands, product = self.m * self.k + self.k * self.n, self.m * self.n
        _, product_bytes = _OUTPUT.get(self.dtype, (self.dtype, self.dtype_bytes))
        return Cost(
            gemm_flops=2 * self.m * self.n * self.k, bytes=operands * self.dtype_bytes + product * product_bytes
        )

    def memory_bytes(self) -> int:
        """Operands and product."""
        return self.cost().bytes

    def prepare(self, device: Device) -> Step:
        """B is scaled by 1 / sqrt(K), so that the product has the operands' spread.

        Raises Unsupported for few rows of int8, which torch multiplies on CUDA from 17 on.
        """
        import torch

        if self.dtype == "int8" and self.m <= 16 and device.backend == "cuda":
            raise Unsupported(f"m={self.m}: torch multiplies int8 on CUDA from 17 rows on")
        spread = _SPREAD.get(self.dtype, 1.0)
        a_shape = (self.k, self.m) if self.layout == "tn" else (self.m, self.k)
        b_shape = (self.n, self.k) if self.layout == "nt" else (self.k, self.n)
        b_spread = spread if self.dtype in _SPREAD else self.k**-0.5
        a = device.normal(*a_shape, dtype=self.stored_dtype, std=spread)
        b = device.normal(*b_shape, dtype=self.stored_dtype, std=b_spread)
        a_MK, b_KN = a.T if self.layout == "tn" else a, b.T if self.layout == "nt" else b
        product_dtype, _ = _OUTPUT.get(self.dtype, (self.stored_dtype, 0))
        c_MN = torch.zeros(self.m, self.n, device=a.device, dtype=getattr(torch, product_dtype))
        multiply = {"float8_e4m3fn": _float8_product(a.device), "int8": torch._int_mm}.get(self.dtype, torch.mm)

        def error() -> float:
            if c_MN.is_floating_point():
                poison(c_MN)
            multiply(a_MK, b_KN, out=c_MN)
            rows = slice(None, None, max(1, self.m // 8))  # the reference of a few rows costs little at any size
            return relative_error(c_MN[rows], wide(a_MK[rows]) @ wide(b_KN))

        return Step(run=lambda: multiply(a_MK, b_KN, out=c_MN), error=error)


def _float8_product(device: "torch.device") -> Callable[..., "torch.Tensor"]:
    """Each operand has one scale, here 1, which costs what any other does. Fast accumulation is what training uses."""
    import torch

    one = torch.ones((), device=device)

    def multiply(a_MK: torch.Tensor, b_KN: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(a_MK, b_KN, one, one, out_dtype=out.dtype, use_fast_accum=True, out=out)

    return multiply

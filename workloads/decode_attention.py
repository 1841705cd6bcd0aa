"""Attention of one new token for each sequence over what is in its cache: how fast a cache is read while decoding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import Scalar, Step, Workload
from workloads._attend import attend
from workloads._backend import backend_of
from workloads._backward import passes
from workloads._reference import relative_error, wide

if TYPE_CHECKING:
    from torch import Tensor

# B batch, H query heads, G key-value heads, C context, D head_dim, 1 query


@dataclass(frozen=True, kw_only=True)
class DecodeAttention(Workload):
    """softmax(Q K^T / sqrt(head_dim)) V with one query a sequence, which sees the whole context: bound by memory."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {
        "batch": 2, "num_heads": 4, "num_kv_heads": 2, "context": 64, "head_dim": 32, "dtype": "float32",
    }  # fmt: skip

    batch: int
    num_heads: int
    num_kv_heads: int
    context: int
    head_dim: int
    dtype: str

    def __post_init__(self) -> None:
        """Query heads must divide into the key-value heads."""
        super().__post_init__()
        if self.num_heads % self.num_kv_heads:
            raise UserError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}")

    def cost(self) -> Cost:
        """Two products of 2 D FLOP for each head and position; the cache and the query read, the output written."""
        cache = 2 * self.batch * self.num_kv_heads * self.context * self.head_dim
        queries = self.batch * self.num_heads * self.head_dim
        return Cost(attention_flops=4 * queries * self.context, bytes=(cache + 2 * queries) * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """The cache, the query and the output."""
        return self.cost().bytes

    def prepare(self, device: Device) -> Step:
        """The back end is torch's own choice for this device, type and shape."""
        q_BH1D = device.normal(self.batch, self.num_heads, 1, self.head_dim, dtype=self.dtype)
        k_BGCD, v_BGCD = (
            device.normal(self.batch, self.num_kv_heads, self.context, self.head_dim, dtype=self.dtype)
            for _ in range(2)
        )

        def forward(q_BH1D: "Tensor", k_BGCD: "Tensor", v_BGCD: "Tensor") -> "tuple[Tensor]":
            return (attend(q_BH1D, k_BGCD, v_BGCD, is_causal=False),)

        run, _ = passes(forward, [q_BH1D, k_BGCD, v_BGCD])

        def error() -> float:
            out_BH1D = run()
            worst = 0.0 if bool(out_BH1D.isfinite().all()) else float("inf")
            for one in {0, self.batch - 1}:
                q_GND = wide(q_BH1D[one]).view(self.num_kv_heads, -1, self.head_dim)  # N query heads of a group
                k_GCD, v_GCD = wide(k_BGCD[one]), wide(v_BGCD[one])
                expected_GND = (q_GND @ k_GCD.mT * self.head_dim**-0.5).softmax(-1) @ v_GCD
                worst = max(worst, relative_error(out_BH1D[one], expected_GND.view(-1, 1, self.head_dim)))
            return worst

        return Step(run=run, error=error, facts=lambda: {"backend": backend_of(run)})

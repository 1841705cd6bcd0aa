"""Attention, forward: causal, with grouped queries, by torch's scaled_dot_product_attention."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import Scalar, Step, Workload
from workloads._attend import attend
from workloads._reference import relative_error, wide


@dataclass(frozen=True, kw_only=True)
class Attention(Workload):
    """Causal softmax(Q K^T / sqrt(head_dim)) V; query heads share key-value heads in groups."""

    # B batch, H query heads, G key-value heads, S sequence, D head_dim
    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {
        "batch": 2, "num_heads": 4, "num_kv_heads": 2, "seq": 64, "head_dim": 32, "dtype": "float32",
    }  # fmt: skip

    batch: int
    num_heads: int
    num_kv_heads: int
    seq: int
    head_dim: int
    dtype: str

    def __post_init__(self) -> None:
        """Query heads must divide into the key-value heads."""
        super().__post_init__()
        if self.num_heads % self.num_kv_heads:
            raise UserError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}")

    def cost(self) -> Cost:
        """Two products of 2 D FLOP for each query and attended key; a query attends (S + 1) / 2 keys on average."""
        pairs = self.batch * self.num_heads * self.seq * (self.seq + 1) // 2
        elements = 2 * self.batch * (self.num_heads + self.num_kv_heads) * self.seq * self.head_dim
        return Cost(attention_flops=4 * pairs * self.head_dim, bytes=elements * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """Queries, keys, values and output; a backend that stores the scores needs more and may run out."""
        return self.cost().bytes

    def prepare(self, device: Device) -> Step:
        """The backend is torch's own choice for this device, type and shape."""
        import torch

        q_BHSD = device.normal(self.batch, self.num_heads, self.seq, self.head_dim, dtype=self.dtype)
        k_BGSD, v_BGSD = (
            device.normal(self.batch, self.num_kv_heads, self.seq, self.head_dim, dtype=self.dtype) for _ in range(2)
        )

        kept: list[torch.Tensor] = []

        def run() -> torch.Tensor:
            # The output stays until the next one is there: steps in rotation then write to different memory.
            kept[:] = [attend(q_BHSD, k_BGSD, v_BGSD, is_causal=True)]
            return kept[0]

        def error() -> float:
            group = self.num_heads // self.num_kv_heads
            out_BHSD = run()
            worst = 0.0 if bool(out_BHSD.isfinite().all()) else float("inf")
            for head in {0, self.num_heads - 1}:  # a reference of one head at a time fits in memory
                pair = head // group
                q_SD, k_SD, v_SD = (wide(x) for x in (q_BHSD[-1, head], k_BGSD[-1, pair], v_BGSD[-1, pair]))
                keys = torch.arange(self.seq, device=q_SD.device)
                rows = keys[:: max(1, self.seq // 64)]
                scores = q_SD[rows] @ k_SD.T * self.head_dim**-0.5
                scores.masked_fill_(keys > rows[:, None], float("-inf"))
                out_SD = out_BHSD[-1, head].to(q_SD.device)
                worst = max(worst, relative_error(out_SD[rows], scores.softmax(-1) @ v_SD))
            return worst

        return Step(run=run, error=error)

"""Rotary position embedding of queries and keys, as the transformer here computes it: many small passes over memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import Scalar, Step, Workload
from workloads._backward import passes, rows, rows_error

if TYPE_CHECKING:
    from torch import Tensor

# T tokens, H query heads, G key-value heads, D head_dim; the batch is 1
_THETA = 10_000.0


@dataclass(frozen=True, kw_only=True)
class Rope(Workload):
    """Both halves of each head rotated against each other by the position's angles (Su et al. 2021, section 3.4.2)."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {
        "tokens": 64, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "dtype": "float32",
    }  # fmt: skip

    tokens: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    backward: bool = False

    def __post_init__(self) -> None:
        """A head has two halves."""
        super().__post_init__()
        if self.head_dim % 2:
            raise UserError(f"head_dim={self.head_dim}: heads that rotate have an even number of dimensions")

    def cost(self) -> Cost:
        """Two products and a sum an element; queries, keys, cosines and sines read, both written.

        The backward pass is the rotation back: the same again, from the outputs' gradients to the inputs'.
        """
        elements = self.tokens * (self.num_heads + self.num_kv_heads) * self.head_dim
        tables, times = 2 * self.tokens * self.head_dim, 2 if self.backward else 1
        return Cost(elementwise_flops=times * 3 * elements, bytes=times * (2 * elements + tables) * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """Inputs, outputs, their gradients, tables, and the halves that change places on the way."""
        elements = self.tokens * (self.num_heads + self.num_kv_heads) * self.head_dim
        return ((6 if self.backward else 4) * elements + 2 * self.tokens * self.head_dim) * self.dtype_bytes

    def prepare(self, device: Device) -> Step:
        """Heads lie as the projections leave them, all of a token together. Angles are exact before they are rounded:
        at position 32768 those of float32 are off by 0.002.
        """
        import torch

        from workloads.models.position import rotate

        q_BHTD, k_BGTD, *incoming = (
            device.normal(1, self.tokens, heads, self.head_dim, dtype=self.dtype).transpose(1, 2)
            for heads in (self.num_heads, self.num_kv_heads) * (2 if self.backward else 1)
        )
        inverse = _THETA ** -(torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim)
        angles_TD = torch.outer(torch.arange(self.tokens, dtype=torch.float64), inverse).repeat(1, 2)
        signed_TD = angles_TD.sin()
        signed_TD[:, : self.head_dim // 2] *= -1  # as `rotate` takes it
        cosine_TD, sine_TD = (table.to(q_BHTD.device, q_BHTD.dtype) for table in (angles_TD.cos(), signed_TD))

        def forward(q_BHTD: "Tensor", k_BGTD: "Tensor") -> "tuple[Tensor, Tensor]":
            return rotate(q_BHTD, cosine_TD, sine_TD), rotate(k_BGTD, cosine_TD, sine_TD)

        run, kept = passes(forward, [q_BHTD, k_BGTD], incoming)

        def turned(x_BHTD: "Tensor") -> "Tensor":
            # Written out with complex numbers: a product with exp(i angle) is the rotation.
            first, second = x_BHTD.chunk(2, -1)
            angles = rows(angles_TD[:, : self.head_dim // 2]).to(x_BHTD.device)
            both = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
            return torch.cat((both.real, both.imag), -1)

        def error() -> float:
            run()
            return rows_error(kept, lambda q, k: (turned(q), turned(k)), [q_BHTD, k_BGTD], incoming)

        return Step(run=run, error=error)

"""Attention: causal, with grouped queries, by torch's scaled_dot_product_attention; forward, or with its gradients."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import Facts, Scalar, Step, Workload
from workloads._attend import attend
from workloads._backend import backend_of, restricted
from workloads._backward import passes
from workloads._reference import relative_error, wide

if TYPE_CHECKING:
    from torch import Tensor

# B batch, H query heads, G key-value heads, S sequence, D head_dim, N query heads of one group, R some of the queries


@dataclass(frozen=True, kw_only=True)
class Attention(Workload):
    """Causal softmax(Q K^T / sqrt(head_dim)) V; query heads share key-value heads in groups."""

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
    backward: bool = False
    backend: Literal["auto", "flash", "cudnn", "efficient", "math"] = "auto"

    def __post_init__(self) -> None:
        """Query heads must divide into the key-value heads."""
        super().__post_init__()
        if self.num_heads % self.num_kv_heads:
            raise UserError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}")

    def cost(self) -> Cost:
        """Two products of 2 D FLOP for each query and attended key; a query attends (S + 1) / 2 keys on average.

        The backward pass has four such products, and a fifth where the scores were not kept. It reads Q, K, V, the
        output and its gradient and writes three gradients: with the forward pass three times the latter's bytes.
        """
        pairs = self.batch * self.num_heads * self.seq * (self.seq + 1) // 2
        elements = 2 * self.batch * (self.num_heads + self.num_kv_heads) * self.seq * self.head_dim
        times = 3 if self.backward else 1
        recomputes = self.backward and self.backend != "math"
        return Cost(
            attention_flops=times * 4 * pairs * self.head_dim,
            bytes=times * elements * self.dtype_bytes,
            recomputed_flops=2 * pairs * self.head_dim if recomputes else 0,
        )

    def work(self, facts: Facts) -> Cost:
        """Torch may have chosen the back end that keeps the scores."""
        return replace(self, backend="math").cost() if facts.get("backend") == "math" else self.cost()

    def memory_bytes(self) -> int:
        """Queries, keys, values and output, and as much again of gradients; scores where the back end stores them.

        Where that is torch's own choice, it is not known beforehand: the case needs more then and may run out.
        """
        elements = 2 * self.batch * (self.num_heads + self.num_kv_heads) * self.seq * self.head_dim
        scores = self.batch * self.num_heads * self.seq**2 if self.backend == "math" else 0
        return (2 if self.backward else 1) * (elements * self.dtype_bytes + 12 * scores)

    def tolerance(self) -> float:
        """Gradients have been rounded several times, those of keys and values for each head of a group on a CPU."""
        return super().tolerance() * (2 if self.backward else 1)

    def prepare(self, device: Device) -> Step:
        """The gradient of the output is normal too."""
        q_BHSD = device.normal(self.batch, self.num_heads, self.seq, self.head_dim, dtype=self.dtype)
        k_BGSD, v_BGSD = (
            device.normal(self.batch, self.num_kv_heads, self.seq, self.head_dim, dtype=self.dtype) for _ in range(2)
        )
        inputs = [q_BHSD, k_BGSD, v_BGSD]
        incoming = [device.normal(*q_BHSD.shape, dtype=self.dtype)] if self.backward else []

        def forward(q_BHSD: "Tensor", k_BGSD: "Tensor", v_BGSD: "Tensor") -> "tuple[Tensor]":
            return (attend(q_BHSD, k_BGSD, v_BGSD, is_causal=True),)

        run, kept = passes(restricted(forward, self.backend), inputs, incoming)

        def error() -> float:
            run()
            if not all(bool(result.isfinite().all()) for result in kept):
                return float("inf")
            if self.backend != "auto" and backend_of(run) != self.backend:
                return float("inf")  # right, but not what was asked for
            grouped = [[x[-1].unflatten(0, (self.num_kv_heads, -1)) for x in some] for some in (kept, inputs, incoming)]
            # The reference of one group at a time fits in memory.
            return max(_error(*([x[group] for x in some] for some in grouped)) for group in {0, self.num_kv_heads - 1})

        return Step(run=run, error=error, facts=lambda: {"backend": backend_of(run)})


def _error(kept: "list[Tensor]", inputs: "list[Tensor]", incoming: "list[Tensor]") -> float:
    """The largest error of one group's output on some queries; with gradients, of all queries in blocks."""
    import torch

    q_NSD, k_1SD, v_1SD = (wide(x).requires_grad_(bool(incoming)) for x in inputs)
    seq = q_NSD.shape[1]
    queries_S = torch.arange(seq, device=q_NSD.device)
    if not incoming:
        queries_R = queries_S[:: max(1, seq // 64)]
        out_NRD = kept[0][:, :: max(1, seq // 64)]
        return relative_error(out_NRD, _attended(q_NSD[:, queries_R], k_1SD, v_1SD, queries_R))
    outputs = []
    for queries_R in queries_S.split(max(1, 2**24 // (seq * len(q_NSD)))):
        with torch.enable_grad():
            outputs.append(_attended(q_NSD[:, queries_R], k_1SD, v_1SD, queries_R))
        outputs[-1].backward(wide(incoming[0])[:, queries_R])  # adds to the gradients of the blocks before
    references = [torch.cat([out.detach() for out in outputs], 1), q_NSD.grad, k_1SD.grad, v_1SD.grad]
    return max(relative_error(result, right) for result, right in zip(kept, references, strict=True))


def _attended(q_NRD: "Tensor", k_1SD: "Tensor", v_1SD: "Tensor", queries_R: "Tensor") -> "Tensor":
    """Attention written out for the queries at some positions."""
    import torch

    keys_S = torch.arange(k_1SD.shape[1], device=k_1SD.device)
    scores_NRS = q_NRD @ k_1SD.mT * k_1SD.shape[2] ** -0.5
    return scores_NRS.masked_fill(keys_S > queries_R[:, None], float("-inf")).softmax(-1) @ v_1SD

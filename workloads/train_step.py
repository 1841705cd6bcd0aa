"""Training step of a whole model: forward, backward, clipping, AdamW."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from bench import model
from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._shape import activation_bytes, attention_flops, check_length

# Bytes that one parameter keeps in memory: weight, gradient and AdamW's two moments, float32 each.
_STATE_BYTES = 16
# Traffic of one AdamW step: weight, gradient and both moments read, weight and both moments written, float32.
_OPTIMIZER_BYTES = 28


@dataclass(frozen=True, kw_only=True)
class TrainStep(Workload):
    """One optimizer step on random tokens; bfloat16 is autocast with float32 weights."""

    scale: ClassVar[Literal["micro", "macro"]] = "macro"
    rotate: ClassVar[bool] = False  # a step's weights and activations exceed any cache, or live in it in real life too
    capturable: ClassVar[bool] = False  # the optimizer keeps its count of steps on the host
    data: ClassVar[str] = "tokens"
    smoke: ClassVar[dict[str, Scalar]] = {"model": "tiny", "batch": 1, "seq": 32, "dtype": "float32"}

    model: str
    batch: int
    seq: int
    dtype: str

    def __post_init__(self) -> None:
        """The model must exist and know positions that far."""
        super().__post_init__()
        check_length(self.model, self.seq)

    def cost(self) -> Cost:
        """Three times the forward pass: 6 FLOP a weight and token, attention likewise (Chowdhery et al. 2022, B)."""
        shape, tokens = model.find(self.model), self.batch * self.seq
        weights, states = shape.matmul_parameters, shape.total_parameters
        return Cost(
            gemm_flops=6 * tokens * weights,
            attention_flops=3 * attention_flops(shape, self.batch, self.seq),
            bytes=2 * weights * self.dtype_bytes + _OPTIMIZER_BYTES * states,
            tokens=tokens,
        )

    def memory_bytes(self) -> int:
        """States, one layer's activations a layer, and the logits with their gradient in float32."""
        shape, tokens = model.find(self.model), self.batch * self.seq
        activations = activation_bytes(shape, self.dtype_bytes) * shape.num_hidden_layers
        return _STATE_BYTES * shape.total_parameters + tokens * (activations + 12 * shape.vocab_size)

    def tolerance(self) -> float:
        """Of the loss, which averages over tokens."""
        return {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}[self.dtype]

    def extras(self) -> dict[str, float | str]:
        """Which optimizer, because defaults differ by 1.4 times on a CPU; and how large the model is."""
        return {"optimizer": "AdamW fused", "num_parameters": model.find(self.model).total_parameters}

    def prepare(self, device: Device) -> Step:
        """Weights in float32; the same batch every step, so that the loss must fall."""
        import torch
        from torch.nn.functional import cross_entropy
        from torch.nn.utils import clip_grad_norm_

        from workloads.models.transformer import Transformer, reference_logits

        shape = model.find(self.model)
        transformer = Transformer(shape, device, "float32", self.seq)
        optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4, fused=True)
        tokens_BS = device.tokens(self.batch, self.seq + 1, vocab_size=shape.vocab_size)
        inputs_BS, targets_BS = tokens_BS[:, :-1], tokens_BS[:, 1:]
        mixed = torch.autocast(device.backend, dtype=getattr(torch, self.dtype), enabled=self.dtype != "float32")

        first_loss: list[torch.Tensor] = []

        def run() -> torch.Tensor:
            with mixed:
                loss = transformer.loss(inputs_BS, targets_BS)
            loss.backward()
            clip_grad_norm_(transformer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if not first_loss:
                first_loss.append(loss.detach())
            return loss.detach()

        def error() -> float:
            # On one batch the loss must fall; and that of a short beginning must be what float64 makes of the weights.
            later = min(float(run()) for _ in range(2))
            if not later < float(first_loss[0]):
                return float("inf")
            short = min(self.seq, 16)
            with torch.no_grad(), mixed:
                loss = float(transformer.loss(inputs_BS[:1, :short], targets_BS[:1, :short]))
            logits_SV = reference_logits(transformer, inputs_BS[0, :short])
            reference = float(cross_entropy(logits_SV, targets_BS[0, :short].to(logits_SV.device)))
            # Relative to the loss of a guess, ln V, because a batch seen often enough leaves almost none.
            return abs(loss - reference) / math.log(shape.vocab_size)

        return Step(run=run, error=error)

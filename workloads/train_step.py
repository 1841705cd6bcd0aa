"""Training step of a whole model: forward, backward, clipping, AdamW."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import FLOATS, Facts, Scalar, Step, Workload
from workloads._shape import activation_bytes, check_experts, check_length, facts_of, recomputed_weights, stack

if TYPE_CHECKING:
    from workloads.models.transformer import Transformer

# Bytes that one parameter keeps in memory: weight, gradient and AdamW's two moments, float32 each.
STATE_BYTES = 16
# Traffic of one AdamW step: weight, gradient and both moments read, weight and both moments written, float32.
_OPTIMIZER_BYTES = 28


@dataclass(frozen=True, kw_only=True)
class TrainStep(Workload):
    """One optimizer step on random tokens; weights are float32, and bfloat16 and float8 are what products take."""

    scale: ClassVar[Literal["micro", "macro"]] = "macro"
    rotate: ClassVar[bool] = False  # a step's weights and activations exceed any cache, or live in it in real life too
    capturable: ClassVar[bool] = False  # the optimizer keeps its count of steps on the host
    data: ClassVar[str] = "tokens"
    dtypes: ClassVar[tuple[str, ...]] = (*FLOATS, "float8_e4m3fn")
    experts: ClassVar[bool] = False  # whether models have them: `moe_train_step` is the other kind
    smoke: ClassVar[dict[str, Scalar]] = {"model": "tiny", "batch": 1, "seq": 32, "dtype": "float32"}

    model: str
    batch: int  # sequences of one micro-batch
    seq: int
    dtype: str
    recompute: Literal["none", "selective", "full"] = "none"  # activations in the backward pass; see `Transformer`
    accumulate: int = 1  # micro-batches in one step
    loss_chunk: int = 0  # tokens whose logits exist at a time; 0: all of the micro-batch
    compiled: bool = False  # by torch.compile
    layers: int = 0  # of the model only the first so many; 0: all of them

    def __post_init__(self) -> None:
        """The model must exist, know positions that far, and be of this workload's kind."""
        super().__post_init__()
        check_length(self.model, self.layers, self.seq)
        self.check_model()

    def check_model(self) -> None:
        """Raises UserError for a model of another kind, or one that does not divide as products of FP8 must: each of
        their three sizes is the inner one in the forward pass or in one of the two products of the backward pass.
        """
        check_experts(self.name, self.model, self.experts)
        shape = stack(self.model, self.layers)
        widths = ("hidden_size", "intermediate_size", "query_size", "key_value_size")
        sizes = {"batch·seq": self.batch * self.seq, **{name: getattr(shape, name) for name in widths}}
        for name, size in sizes.items():
            if self.dtype == "float8_e4m3fn" and size % 16:
                raise UserError(f"{name} is {size}: float8 needs multiples of 16")

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.batch * self.seq * self.accumulate

    def cost(self) -> Cost:
        """Three times the forward pass: 6 FLOP a weight and token, attention likewise (Chowdhery et al. 2022, B).

        Besides, fused attention computes its scores anew in the backward pass, half a forward pass of attention, and
        full recomputation the forward pass of the layers, but not of the head (Korthikanti et al. 2022, section 5).
        """
        shape = stack(self.model, self.layers)
        attention = self.accumulate * shape.attention_flops(self.batch, self.seq)
        layers = 2 * self.tokens * recomputed_weights(shape) + attention
        logits = 2 * self.tokens * shape.head_matmul_parameters if self.loss_chunk else 0
        return Cost(
            gemm_flops=6 * self.tokens * shape.matmul_parameters,
            attention_flops=3 * attention,
            recomputed_flops=attention // 2 + (layers if self.recompute == "full" else 0) + logits,
            bytes=2 * self.accumulate * shape.matmul_parameters * self.dtype_bytes
            + _OPTIMIZER_BYTES * shape.total_parameters,
            tokens=self.tokens,
        )

    def memory_bytes(self) -> int:
        """States, what each layer keeps of each token, and the logits with their gradient in float32."""
        shape, tokens = stack(self.model, self.layers), self.batch * self.seq
        width = max(2, self.dtype_bytes)
        in_layer, stream = activation_bytes(shape, width), width * shape.hidden_size
        kept = {
            "none": in_layer * shape.num_hidden_layers,
            "selective": in_layer * shape.num_hidden_layers,
            "full": stream * shape.num_hidden_layers + in_layer,
        }[self.recompute]
        logits = min(tokens, self.loss_chunk or tokens) * 12 * shape.vocab_size
        cast = width * shape.matmul_parameters if self.dtype != "float32" else 0  # autocast's copy of the weights
        return STATE_BYTES * shape.total_parameters + cast + tokens * kept + logits

    def tolerance(self) -> float:
        """Of the loss, which averages over tokens, and of its slope along the gradients."""
        return {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2, "float8_e4m3fn": 5e-2}[self.dtype]

    def extras(self) -> Facts:
        """Which optimizer, because defaults differ by 1.4 times on a CPU; and how large the model is."""
        return {"optimizer": "AdamW fused", **facts_of(self.model, self.layers)}

    def build(self, device: Device) -> "Transformer":
        """The model with weights in float32, its linear layers in FP8 where that is asked for."""
        from workloads.models.float8 import with_float8
        from workloads.models.transformer import Transformer

        transformer = Transformer(stack(self.model, self.layers), device, "float32", self.seq)
        if self.dtype == "float8_e4m3fn":
            with_float8(transformer)
        return transformer

    def prepare(self, device: Device) -> Step:
        """Weights in float32; the same batch every step, so that the loss must fall."""
        import torch
        from torch.nn.functional import cross_entropy
        from torch.nn.utils import clip_grad_norm_

        from workloads._compiled import compiled
        from workloads._profile import shares
        from workloads._slope import slope_error
        from workloads.models.mlp import recorded_choices
        from workloads.models.reference import reference_logits

        shape = stack(self.model, self.layers)
        transformer = self.build(device)
        transformer.recompute = self.recompute
        parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        tokens_ABS = device.tokens(self.accumulate, self.batch, self.seq + 1, vocab_size=shape.vocab_size)
        mixed_dtype = torch.float16 if self.dtype == "float16" else torch.bfloat16
        mixed = torch.autocast(device.backend, dtype=mixed_dtype, enabled=self.dtype != "float32")
        loss_of, facts = compiled(transformer.loss) if self.compiled else (transformer.loss, dict)

        first_loss: list[torch.Tensor] = []

        def run() -> torch.Tensor:
            total = torch.zeros((), device=tokens_ABS.device)
            for tokens_BS in tokens_ABS:
                with mixed:
                    loss = loss_of(tokens_BS[:, :-1], tokens_BS[:, 1:], chunk=self.loss_chunk or None)
                (loss / self.accumulate).backward()
                total += loss.detach() / self.accumulate
            clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if not first_loss:
                first_loss.append(total)
            return total

        def error() -> float:
            # On one batch the loss must fall; and that of a short beginning must be what float64 makes of the weights.
            later = min(float(run()) for _ in range(2))
            if not later < float(first_loss[0]):
                return float("inf")
            short = min(self.seq, 16)
            inputs_BS, targets_BS = tokens_ABS[0, :1, :short], tokens_ABS[0, :1, 1 : short + 1]
            with recorded_choices(transformer):
                with torch.no_grad(), mixed:
                    loss = float(transformer.loss(inputs_BS, targets_BS))
                reference = reference_loss(inputs_BS, targets_BS)
            # Relative to the loss of a guess, ln V, because a batch seen often enough leaves almost none.
            wrong = abs(loss - reference) / math.log(shape.vocab_size)
            if self.dtype == "float8_e4m3fn" and short % 16:  # too few tokens for its backward pass
                return wrong
            return max(wrong, gradient_error(short))

        def reference_loss(inputs_BS: torch.Tensor, targets_BS: torch.Tensor) -> float:
            with torch.no_grad():
                logits_SV = reference_logits(transformer, inputs_BS[0])
            return float(cross_entropy(logits_SV, targets_BS[0].to(logits_SV.device)))

        def gradient_error(length: int) -> float:
            # On tokens not seen before, of which the loss is no remainder.
            fresh_BS = device.tokens(1, length + 1, vocab_size=shape.vocab_size)
            inputs_BS, targets_BS = fresh_BS[:, :-1], fresh_BS[:, 1:]

            def mixed_loss() -> torch.Tensor:
                with mixed:
                    return transformer.loss(inputs_BS, targets_BS)

            # One token attends to itself alone, and one expert has all of a token: whatever chooses then has no slope.
            each = length > 1 and shape.num_experts_per_tok != 1
            with recorded_choices(transformer):
                return slope_error(mixed_loss, lambda: reference_loss(inputs_BS, targets_BS), parameters, each=each)

        return Step(run=run, error=error, facts=facts, shares=lambda: shares(run, device))

"""Decode: one more token for each sequence of a batch, with everything before it in the cache. Its time is the TPOT."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Facts, Scalar, Step, Workload
from workloads._reference import relative_error
from workloads._shape import activation_bytes, check_experts, check_length, facts_of, stack, weight_bytes


@dataclass(frozen=True, kw_only=True)
class Decode(Workload):
    """The token at position `context` again and again: all weights and the cache are read."""

    scale: ClassVar[Literal["micro", "macro"]] = "macro"
    version: ClassVar[int] = 2
    rotate: ClassVar[bool] = False  # the weights are one set in real life too
    data: ClassVar[str] = "tokens"
    experts: ClassVar[bool] = False  # whether models have them: `moe_decode` is the other kind
    smoke: ClassVar[dict[str, Scalar]] = {"model": "tiny", "batch": 2, "context": 32, "dtype": "float32"}

    model: str
    batch: int
    context: int
    dtype: str  # of activations and the cache, and of weights that are full
    weights: Literal["full", "int8", "int4"] = "full"
    compiled: bool = False  # by torch.compile
    layers: int = 0  # of the model only the first so many; 0: all of them

    def __post_init__(self) -> None:
        """The model must exist and know positions that far."""
        super().__post_init__()
        check_length(self.model, self.layers, self.context + 1)
        check_experts(self.name, self.model, self.experts)

    def cost(self) -> Cost:
        """2 FLOP a weight and token; all weights read once, the cache once, the new keys and values written."""
        shape = stack(self.model, self.layers)
        cache = shape.kv_cache_bytes(self.dtype_bytes, self.context + 1)
        written = shape.kv_cache_bytes_per_token(self.dtype_bytes)
        return Cost(
            gemm_flops=2 * shape.matmul_parameters * self.batch,
            attention_flops=shape.decode_attention_flops(self.batch, self.context),
            bytes=weight_bytes(shape, self.weights, self.dtype_bytes, self.batch) + self.batch * (cache + written),
            tokens=self.batch,
        )

    def memory_bytes(self) -> int:
        """Weights, as they are before they are quantised, and cache."""
        shape = stack(self.model, self.layers)
        cache = shape.kv_cache_bytes_per_token(self.dtype_bytes) * (self.context + 1)
        weights = shape.total_parameters * self.dtype_bytes
        return weights + self.batch * (cache + activation_bytes(shape, self.dtype_bytes))

    def tolerance(self) -> float:
        """Rounding adds up over the layers."""
        return {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}[self.dtype]

    def extras(self) -> Facts:
        """How large the model is."""
        return facts_of(self.model, self.layers)

    def prepare(self, device: Device) -> Step:
        """Weights in `dtype`, no gradients, a cache of normal numbers, one tensor for each layer's keys and values."""
        import torch

        from workloads._compiled import compiled
        from workloads.models.layout import choose_layouts
        from workloads.models.mlp import recorded_choices
        from workloads.models.quantized import quantize
        from workloads.models.reference import reference_logits
        from workloads.models.transformer import Transformer, empty_caches

        shape = stack(self.model, self.layers)
        transformer = Transformer(shape, device, self.dtype, self.context + 1).requires_grad_(False)
        caches = empty_caches(shape, device, self.dtype, self.batch, self.context + 1)
        kernels = quantize(transformer, self.weights, device, self.batch, 1) if self.weights != "full" else frozenset()
        layout = choose_layouts(transformer, self.batch) if device.backend == "cpu" else ""
        tokens_BS = device.tokens(self.batch, 1, vocab_size=shape.vocab_size)

        next_logits, facts = compiled(transformer.next_logits) if self.compiled else (transformer.next_logits, dict)

        def run() -> torch.Tensor:
            with torch.inference_mode():
                return next_logits(tokens_BS, caches, self.context)

        def error() -> float:
            # A short sequence token by token through the cache, against the whole sequence at once in float64.
            if not bool(run().isfinite().all()):
                return float("inf")
            # All sequences are the same, so that one reference is every one's; but with experts, whose choices are
            # recorded for the first.
            short, rows = min(self.context, 8), 1 if shape.num_experts else self.batch
            sequence_BS = device.tokens(1, short, vocab_size=shape.vocab_size).expand(self.batch, -1)
            with recorded_choices(transformer):
                for position in range(short):
                    logits_BV = transformer.next_logits(sequence_BS[:, position : position + 1], caches, position)
                expected_V = reference_logits(transformer, sequence_BS[0])[-1]
            return max(relative_error(logits_V, expected_V) for logits_V in logits_BV[:rows])

        told: Facts = {"kernel": ", ".join(sorted(kernels))} if kernels else {}
        told |= {"layout": layout} if layout else {}
        return Step(run=run, error=error, facts=lambda: facts() | told)

"""Prefill: a prompt through the whole model, up to the first token. Its time is the TTFT of an idle server."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Facts, Scalar, Step, Workload
from workloads._reference import relative_error
from workloads._shape import activation_bytes, check_length, facts_of, stack, weight_bytes


@dataclass(frozen=True, kw_only=True)
class Prefill(Workload):
    """A prompt of `prompt` tokens into an empty cache; the head reads the last token only."""

    scale: ClassVar[Literal["micro", "macro"]] = "macro"
    rotate: ClassVar[bool] = False  # the weights are one set in real life too
    data: ClassVar[str] = "tokens"
    smoke: ClassVar[dict[str, Scalar]] = {"model": "tiny", "batch": 2, "prompt": 32, "dtype": "float32"}

    model: str
    batch: int
    prompt: int
    dtype: str  # of activations and the cache, and of weights that are full
    weights: Literal["full", "int8", "int4"] = "full"
    compiled: bool = False  # by torch.compile
    layers: int = 0  # of the model only the first so many; 0: all of them

    def __post_init__(self) -> None:
        """The model must exist and know positions that far."""
        super().__post_init__()
        check_length(self.model, self.layers, self.prompt)

    def cost(self) -> Cost:
        """2 FLOP a weight and token, but the head's for the last token only; weights read, keys and values written."""
        shape, tokens = stack(self.model, self.layers), self.batch * self.prompt
        cache = shape.kv_cache_bytes_per_token(self.dtype_bytes)
        return Cost(
            gemm_flops=2 * shape.layer_matmul_parameters * tokens + 2 * shape.head_matmul_parameters * self.batch,
            attention_flops=shape.attention_flops(self.batch, self.prompt),
            bytes=weight_bytes(shape, self.weights, self.dtype_bytes, tokens) + tokens * cache,
            tokens=tokens,
        )

    def memory_bytes(self) -> int:
        """Weights, as they are before they are quantised, cache and the activations of the layer at work."""
        shape, tokens = stack(self.model, self.layers), self.batch * self.prompt
        cache = shape.kv_cache_bytes_per_token(self.dtype_bytes)
        weights = shape.total_parameters * self.dtype_bytes
        return weights + tokens * (cache + activation_bytes(shape, self.dtype_bytes))

    def tolerance(self) -> float:
        """Rounding adds up over the layers."""
        return {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}[self.dtype]

    def extras(self) -> Facts:
        """How large the model is."""
        return facts_of(self.model, self.layers)

    def prepare(self, device: Device) -> Step:
        """Weights in `dtype`, no gradients, a cache that every step overwrites."""
        import torch

        from workloads._compiled import compiled
        from workloads._reference import poison
        from workloads.models.mlp import recorded_choices
        from workloads.models.quantized import quantize
        from workloads.models.reference import reference_head, reference_layers
        from workloads.models.transformer import Transformer, empty_caches

        shape = stack(self.model, self.layers)
        transformer = Transformer(shape, device, self.dtype, self.prompt).requires_grad_(False)
        caches = empty_caches(shape, device, self.dtype, self.batch, self.prompt)
        kernels = (
            quantize(transformer, self.weights, device, self.batch, self.prompt)
            if self.weights != "full"
            else frozenset()
        )
        tokens_BS = device.tokens(self.batch, self.prompt, vocab_size=shape.vocab_size)

        next_logits, facts = compiled(transformer.next_logits) if self.compiled else (transformer.next_logits, dict)

        def run() -> torch.Tensor:
            with torch.inference_mode():
                return next_logits(tokens_BS, caches, 0)

        def error() -> float:
            # Keys and values of the last layer depend on every layer before; the first tokens see no later ones. What
            # follows them, and the head, show in the logits of these first tokens alone.
            poison(*(tensor for cache in caches for tensor in cache.parts))
            short = min(self.prompt, 16)
            with recorded_choices(transformer), torch.no_grad():
                if not bool(transformer.next_logits(tokens_BS, caches, 0).isfinite().all()):
                    return float("inf")
                *_, (keys, values, x_SE) = reference_layers(transformer, tokens_BS[0, :short])
                pairs = zip(caches[-1].parts, (keys, values), strict=True)
                worst = max(relative_error(part[0, ..., :short, :], expected) for part, expected in pairs)
                logits_BV = transformer.next_logits(tokens_BS[:, :short], caches, 0)
                return max(worst, relative_error(logits_BV[0], reference_head(transformer, x_SE[-1:])[0]))

        told: Facts = {"kernel": ", ".join(sorted(kernels))} if kernels else {}
        return Step(run=run, error=error, facts=lambda: facts() | told)

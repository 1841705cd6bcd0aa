"""Fine-tuning step: all weights, or adapters of low rank beside frozen ones, which may be in four bits."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import FLOATS, Facts, Scalar
from workloads._shape import activation_bytes, stack
from workloads.train_step import STATE_BYTES, TrainStep

if TYPE_CHECKING:
    from workloads.models.transformer import Transformer

# Bytes of a frozen weight in four bits: half a byte, and one float32 scale for each block of 64.
_FOUR_BITS = 0.5 + 4 / 64


@dataclass(frozen=True, kw_only=True)
class FinetuneStep(TrainStep):
    """One optimizer step of all weights (full), of adapters (lora: Hu et al. 2021), or of adapters beside weights in
    four bits (qlora: Dettmers et al. 2023). Adapters stand at every linear layer of the blocks.
    """

    dtypes: ClassVar[tuple[str, ...]] = FLOATS
    smoke: ClassVar[dict[str, Scalar]] = {
        "model": "tiny", "batch": 1, "seq": 32, "dtype": "float32", "method": "lora", "rank": 4,
    }  # fmt: skip

    method: Literal["full", "lora", "qlora"]
    rank: int = 16  # of the adapters

    def check_model(self) -> None:
        """Latent attention and experts have other matrices than the adapters know."""
        super().check_model()
        if self.method != "full" and stack(self.model, self.layers).kv_lora_rank is not None:
            raise UserError(f"{self.model} has latent attention, which has no adapters here: method=full")

    @property
    def adapter_parameters(self) -> int:
        """Two matrices for each linear layer of the blocks: rank times the sum of its sides."""
        shape = stack(self.model, self.layers)
        sides = [
            shape.hidden_size + shape.query_size,
            *[shape.hidden_size + shape.key_value_size] * 2,
            shape.query_size + shape.hidden_size,
            *[shape.hidden_size + shape.intermediate_size] * shape.num_mlp_matrices,
        ]
        return self.rank * sum(sides) * shape.num_hidden_layers

    def cost(self) -> Cost:
        """Of a frozen weight 4 FLOP a token, because its gradient is not wanted, and of an adapter's 6.

        Less what lies below the lowest adapters: nothing asks for the gradient of the first queries', keys' and values'
        input. The optimizer touches adapters alone.
        """
        whole = super().cost()
        if self.method == "full":
            return whole
        shape, tokens = stack(self.model, self.layers), self.tokens
        lowest = shape.hidden_size * (shape.query_size + 2 * shape.key_value_size)
        lowest_adapters = 3 * self.rank * shape.hidden_size
        weight_bytes = _FOUR_BITS if self.method == "qlora" else self.dtype_bytes
        frozen_bytes = round(shape.layer_matmul_parameters * weight_bytes)
        head_bytes = shape.head_matmul_parameters * self.dtype_bytes
        return Cost(
            gemm_flops=tokens
            * (4 * shape.matmul_parameters - 2 * lowest + 6 * self.adapter_parameters - 2 * lowest_adapters),
            attention_flops=whole.attention_flops,
            recomputed_flops=whole.recomputed_flops,
            bytes=2 * self.accumulate * (frozen_bytes + head_bytes) + 28 * self.adapter_parameters,
            tokens=tokens,
        )

    def memory_bytes(self) -> int:
        """Frozen weights, the adapters with their states, what each layer keeps, and the logits."""
        if self.method == "full":
            return super().memory_bytes()
        shape, tokens = stack(self.model, self.layers), self.batch * self.seq
        layers = shape.layer_matmul_parameters
        frozen = (shape.total_parameters - layers) * self.dtype_bytes
        frozen += round(layers * _FOUR_BITS) if self.method == "qlora" else layers * self.dtype_bytes
        width = max(2, self.dtype_bytes)
        kept = (activation_bytes(shape, width) + 4 * width * self.rank) * shape.num_hidden_layers
        if self.recompute == "full":
            kept = width * shape.hidden_size * shape.num_hidden_layers + activation_bytes(shape, width)
        logits = min(tokens, self.loss_chunk or tokens) * 12 * shape.vocab_size
        dequantised = 4 * shape.hidden_size * max(shape.intermediate_size, shape.query_size)
        return frozen + STATE_BYTES * self.adapter_parameters + tokens * kept + logits + dequantised

    def extras(self) -> Facts:
        """How many parameters are trained."""
        trained = self.adapter_parameters if self.method != "full" else stack(self.model, self.layers).total_parameters
        return super().extras() | {"trained_parameters": trained}

    def build(self, device: Device) -> "Transformer":
        """Frozen weights in `dtype` or in four bits, adapters in float32."""
        from workloads.models.adapters import add_lora, quantize_base
        from workloads.models.transformer import Transformer

        if self.method == "full":
            return super().build(device)
        transformer = Transformer(stack(self.model, self.layers), device, self.dtype, self.seq)
        if self.method == "qlora":
            quantize_base(transformer)
        add_lora(transformer, self.rank)
        return transformer

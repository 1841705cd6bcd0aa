"""Arithmetic on a model's shape that the macro workloads share."""

from bench import model
from bench.errors import UserError


def check_length(name: str, length: int) -> None:
    """Raises UserError for an unknown model or for more positions than it has."""
    shape = model.find(name)
    if length > shape.max_position_embeddings:
        raise UserError(f"{name} knows {shape.max_position_embeddings} positions, {length} were asked for")


def attention_flops(shape: model.Model, batch: int, seq: int) -> int:
    """Forward, causal, all layers: 4 FLOP x head width for each query and attended key."""
    pairs = batch * seq * (seq + 1) // 2
    return 4 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * pairs


def activation_bytes(shape: model.Model, width: int) -> int:
    """What one layer keeps of one token for the backward pass, with attention that does not store its scores.

    Inputs of the norms and linear layers, queries, keys, values, attention's output and the MLP's hidden vectors
    (counted after Korthikanti et al. 2022, section 4, for a block without dropout).
    """
    heads = (2 * shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
    return width * (4 * shape.hidden_size + heads + 4 * shape.intermediate_size) + 4 * shape.num_attention_heads

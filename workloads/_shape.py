"""Arithmetic on a model's shape that the macro workloads share."""

from bench import model
from bench.device import Facts
from bench.errors import UserError
from bench.workload import names


def stack(name: str, layers: int) -> model.Model:
    """The model of that name, or of its layers only the first `layers` where that is not 0. Raises UserError."""
    whole = model.find(name)
    return whole.with_layers(layers) if layers else whole


def check_length(name: str, layers: int, length: int) -> None:
    """Raises UserError for an unknown model, for more layers or for more positions than it has."""
    shape = stack(name, layers)
    if length > shape.max_position_embeddings:
        raise UserError(f"{name} knows {shape.max_position_embeddings} positions, {length} were asked for")


def check_experts(workload: str, name: str, wanted: bool) -> None:
    """Raises UserError for a model with experts in a workload for dense ones, and the other way round."""
    if bool(model.find(name).num_experts) != wanted:
        other = workload.removeprefix("moe_") if wanted else f"moe_{workload}"
        hint = f"{other} is the workload for it" if other in names() else f"{workload} knows dense models only"
        raise UserError(f"{name} has {'no ' if wanted else ''}experts: {hint}")


def facts_of(name: str, layers: int) -> Facts:
    """How large the model is; and, where a stack of some of its layers stands for it, of how many."""
    facts: Facts = {"num_parameters": stack(name, layers).total_parameters}
    return facts | ({"extrapolated_from_layers": layers} if layers else {})


def weights_read(shape: model.Model, tokens: int) -> int:
    """Weights that a forward pass over `tokens` tokens must read, head included: of experts those that are chosen."""
    chosen = shape.num_experts_per_tok or 0
    unread = chosen - shape.expected_experts_read(tokens)
    return shape.matmul_parameters - round(unread * shape.num_expert_layers * shape.expert_matmul_parameters)


# Bytes of one weight: 4 bits have a scale and a middle of two bytes for every 32; 8 bits one scale a row, which is left
# out.
_QUANTISED_BYTES = {"int8": 1.0, "int4": 0.5 + 4 / 32}


def weight_bytes(shape: model.Model, weights: str, width: int, tokens: int) -> int:
    """Bytes of weights that a forward pass over `tokens` tokens must read, of `width` bytes each where `full`.

    Quantised are the layers' and the head's, unless that is the embedding too.
    """
    if weights == "full":
        return weights_read(shape, tokens) * width
    head = shape.head_matmul_parameters * (width if shape.tie_word_embeddings else _QUANTISED_BYTES[weights])
    return round(shape.layer_matmul_parameters * _QUANTISED_BYTES[weights] + head)


def recomputed_weights(shape: model.Model) -> int:
    """Weights that a token is multiplied with once more where each block is computed anew in the backward pass.

    All of the layers', but for the last product of a block: nothing in the backward pass asks for what it gives, and
    torch stops there. Unless a norm follows it, or the router's weights are multiplied with it.
    """
    needed = shape.norm_place != "pre"
    last = shape.intermediate_size * (shape.num_blocks - shape.num_expert_layers)
    last += (shape.shared_expert_intermediate_size or 0) * shape.num_expert_layers
    return shape.layer_matmul_parameters - (0 if needed else last * shape.hidden_size)


def activation_bytes(shape: model.Model, width: int) -> int:
    """What one layer keeps of one token for the backward pass, with attention that does not store its scores.

    Inputs of the norms and linear layers, queries, keys, values, attention's output and the MLP's hidden vectors
    (counted after Korthikanti et al. 2022, section 4, for a block without dropout).
    """
    heads = (2 * shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
    hidden = shape.intermediate_size
    if shape.num_experts:
        chosen = (shape.num_experts_per_tok or 0) * (shape.moe_intermediate_size or 0)
        hidden = max(hidden if shape.num_dense_layers else 0, chosen + (shape.shared_expert_intermediate_size or 0))
    return width * (4 * shape.hidden_size + heads + 4 * hidden) + 4 * shape.num_attention_heads

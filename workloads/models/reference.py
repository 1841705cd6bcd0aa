"""What a transformer must compute, in float64 and written out plainly: no kernel, no cache, no grouping, no chunks.

Nothing of the transformer is used but its weights and its model's shape. Weights are widened one layer at a time, so
that a large model needs little extra memory.

    S sequence, E hidden_size, H query heads, G key-value heads, D head_dim, F intermediate_size, X experts,
    R latent vector
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.model import Model
from workloads._reference import wide

if TYPE_CHECKING:
    from workloads.models.transformer import Transformer


def reference_layers(transformer: "Transformer", tokens_S: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each layer what its cache must hold and the stream [S, E] after it.

    A cache holds keys and values [G, S, D], or a latent vector [S, R] and the rotated key [S, D] of all heads.
    """
    model, length = transformer.model, tokens_S.shape[0]
    x_SE = wide(transformer.embedding.weight[tokens_S])
    if model.embedding_scale:
        x_SE = x_SE * model.hidden_size**0.5
    if transformer.positions is not None:
        x_SE = x_SE + wide(transformer.positions.weight)[model.position_offset :][:length]
    if transformer.embedding_norm is not None:
        x_SE = _norm(transformer.embedding_norm, x_SE)
    for layer, block in enumerate(transformer.blocks):
        attention = _latent_attention if model.kv_lora_rank is not None else _attention
        if model.block != "serial":
            y_SE = _norm(block.attention_norm, x_SE)
            z_SE = y_SE if model.block == "parallel_one_norm" else _norm(block.mlp_norm, x_SE)
            keys, values, mixed_SE = attention(model, layer, block, y_SE)
            x_SE = x_SE + mixed_SE + _mlp(model, block.mlp, z_SE)
        elif model.norm_place == "post":
            keys, values, mixed_SE = attention(model, layer, block, x_SE)
            x_SE = x_SE + _norm(block.attention_norm, mixed_SE)
            x_SE = x_SE + _norm(block.mlp_norm, _mlp(model, block.mlp, x_SE))
        elif model.norm_place == "both":
            keys, values, mixed_SE = attention(model, layer, block, _norm(block.attention_norm, x_SE))
            x_SE = x_SE + _norm(block.attention_out_norm, mixed_SE)
            x_SE = x_SE + _norm(block.mlp_out_norm, _mlp(model, block.mlp, _norm(block.mlp_norm, x_SE)))
        else:
            keys, values, mixed_SE = attention(model, layer, block, _norm(block.attention_norm, x_SE))
            x_SE = x_SE + mixed_SE
            x_SE = x_SE + _mlp(model, block.mlp, _norm(block.mlp_norm, x_SE))
        yield keys, values, x_SE


def reference_logits(transformer: "Transformer", tokens_S: Tensor) -> Tensor:
    """Logits [S, V] in float64; see `reference_layers`."""
    *_, (_, _, x_SE) = reference_layers(transformer, tokens_S)
    return reference_head(transformer, x_SE)


def reference_head(transformer: "Transformer", x_SE: Tensor) -> Tensor:
    """Logits [S, V] of the stream behind the last layer."""
    logits_SV = _linear(transformer.head, _norm(transformer.norm, x_SE))
    cap = transformer.model.logit_softcap
    return logits_SV if cap is None else (logits_SV / cap).tanh() * cap


def _attention(model: Model, layer: int, block: Any, x_SE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attention, length = block.attention, x_SE.shape[0]
    is_on_top = layer == model.num_hidden_layers  # the query layer
    asking_SE = wide(block.queries.weight)[:length].to(x_SE.device) if is_on_top else x_SE
    q_SHD, k_SGD, v_SGD = (
        _linear(projection, source_SE).unflatten(-1, (-1, model.head_dim))
        for projection, source_SE in (
            (attention.query, asking_SE),
            (attention.key, x_SE),
            (attention.value, x_SE),
        )
    )
    if model.qk_norm != "none":
        q_SHD, k_SGD = _norm(attention.query_norm, q_SHD), _norm(attention.key_norm, k_SGD)
    is_windowed = not is_on_top and model.is_windowed(layer)
    if model.rope_theta is not None:
        theta = model.rope_local_theta if is_windowed and model.rope_local_theta else model.rope_theta
        size = model.rotary_dim or model.head_dim
        q_SHD, k_SGD = (
            torch.cat((_rotated(x_SHD[..., :size], theta), x_SHD[..., size:]), -1) for x_SHD in (q_SHD, k_SGD)
        )
    k_GSD, v_GSD = k_SGD.transpose(0, 1), v_SGD.transpose(0, 1)
    group = model.num_attention_heads // model.num_key_value_heads
    mixed_HSD = _mixed(
        model,
        q_SHD.transpose(0, 1),
        k_GSD.repeat_interleave(group, 0),
        v_GSD.repeat_interleave(group, 0),
        model.sliding_window if is_windowed else None,
        wide(attention.sinks_H) if model.attention_sinks else None,
    )
    return k_GSD, v_GSD, _linear(attention.output, mixed_HSD.transpose(0, 1).flatten(1))


def _latent_attention(model: Model, layer: int, block: Any, x_SE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attention, heads = block.attention, model.num_attention_heads
    rank, plain, value = model.kv_lora_rank, model.qk_nope_head_dim, model.v_head_dim
    assert rank is not None and plain is not None and value is not None and model.rope_theta is not None
    if model.q_lora_rank is None:
        q_SN = _linear(attention.query, x_SE)
    else:
        q_SN = _linear(attention.query_up, _norm(attention.query_norm, _linear(attention.query_down, x_SE)))
    q_SHD = q_SN.unflatten(-1, (heads, -1))
    q_SHD = torch.cat((q_SHD[..., :plain], _rotated(q_SHD[..., plain:], model.rope_theta)), -1)
    down_SR = _linear(attention.latent_down, x_SE)
    latent_SR = _norm(attention.latent_norm, down_SR[:, :rank])
    rotated_SD = _rotated(down_SR[:, None, rank:], model.rope_theta)[:, 0]
    both_SHD = _linear(attention.latent_up, latent_SR).unflatten(-1, (heads, -1))
    k_SHD = torch.cat((both_SHD[..., :plain], rotated_SD[:, None].expand(-1, heads, -1)), -1)
    q_HSD, k_HSD, v_HSD = (x_SHD.transpose(0, 1) for x_SHD in (q_SHD, k_SHD, both_SHD[..., plain:]))
    mixed_HSD = _mixed(model, q_HSD, k_HSD, v_HSD, None, None)
    return latent_SR, rotated_SD, _linear(attention.output, mixed_HSD.transpose(0, 1).flatten(1))


def _mixed(
    model: Model, q_HSD: Tensor, k_HSD: Tensor, v_HSD: Tensor, window: int | None, sinks_H: Tensor | None
) -> Tensor:
    """Values [H, S, D] mixed by the softmax of scores."""
    heads, length, head_dim = q_HSD.shape
    places_S = torch.arange(length, device=q_HSD.device)
    distance_SS = places_S[:, None] - places_S
    scores_HSS = q_HSD @ k_HSD.mT * head_dim**-0.5
    if model.attention_softcap is not None:
        scores_HSS = (scores_HSS / model.attention_softcap).tanh() * model.attention_softcap
    if model.position == "alibi":
        scores_HSS = scores_HSS - _alibi_slopes(heads).to(q_HSD.device)[:, None, None] * distance_SS
    hidden_SS = distance_SS < 0 if window is None else (distance_SS < 0) | (distance_SS >= window)
    weights_HSS = scores_HSS.masked_fill(hidden_SS, float("-inf")).exp()
    sums_HS1 = weights_HSS.sum(-1, keepdim=True)
    if sinks_H is not None:
        sums_HS1 = sums_HS1 + sinks_H[:, None, None].exp()
    return weights_HSS / sums_HS1 @ v_HSD


def _rotated(x_SHD: Tensor, theta: float) -> Tensor:
    """Each pair of numbers, one from either half, as a complex number turned by position · theta^(-2i/D)."""
    length, _, size = x_SHD.shape
    places_S = torch.arange(length, device=x_SHD.device, dtype=torch.float64)
    speeds_D = theta ** -(torch.arange(0, size, 2, device=x_SHD.device, dtype=torch.float64) / size)
    turns_S1D = torch.polar(
        torch.ones((), dtype=torch.float64, device=x_SHD.device), places_S[:, None, None] * speeds_D
    )
    turned_SHD = torch.complex(*x_SHD.chunk(2, -1)) * turns_S1D
    return torch.cat((turned_SHD.real, turned_SHD.imag), -1)


def _alibi_slopes(heads: int) -> Tensor:
    """Press et al. 2022: a geometric series that begins with its own ratio; see also BLOOM's build_alibi_tensor."""
    whole = 2 ** math.floor(math.log2(heads))
    ratio, finer = 2 ** (-8 / whole), 2 ** (-4 / whole)
    return torch.tensor([ratio**n for n in range(1, whole + 1)] + [finer**n for n in range(1, 2 * (heads - whole), 2)])


def _mlp(model: Model, mlp: Any, x_SE: Tensor) -> Tensor:
    if not hasattr(mlp, "router"):
        hidden_SF = _linear(mlp.up, x_SE)
        gate_SF = _linear(mlp.gate, x_SE) if model.num_mlp_matrices == 3 else hidden_SF
        activated_SF = _activated(model, gate_SF)
        return _linear(mlp.down, activated_SF * hidden_SF if model.num_mlp_matrices == 3 else activated_SF)
    weights_SX = _routed(model, mlp, x_SE)
    out_SE = torch.zeros_like(x_SE) if mlp.shared is None else _mlp(model, mlp.shared, x_SE)
    for expert in range(weights_SX.shape[1]):
        rows = weights_SX[:, expert].nonzero()[:, 0]
        if len(rows):
            out_SE[rows] += weights_SX[rows, expert, None] * _expert(model, mlp, expert, x_SE[rows])
    return out_SE


def _routed(model: Model, mlp: Any, x_SE: Tensor) -> Tensor:
    """Weight of each expert for each token [S, X], 0 for those that are not chosen.

    Choices that were recorded are taken over, those of the first sequence of the batch; see `recorded_choices`.
    """
    router = mlp.router
    logits_SX = _linear(router.linear, x_SE)
    scores_SX = logits_SX.sigmoid() if model.router == "sigmoid" else logits_SX.softmax(-1)
    ranked_SX = scores_SX if router.choice_bias is None else scores_SX + wide(router.choice_bias)
    if mlp.recorded:
        chosen_SK = torch.cat([chosen_BSK[0] for chosen_BSK in mlp.recorded])[: len(x_SE)].to(x_SE.device)
    else:
        chosen_SK = ranked_SX.sort(-1, descending=True).indices[:, : model.num_experts_per_tok]
    weights_SX = torch.zeros_like(scores_SX).scatter(-1, chosen_SK, scores_SX.gather(-1, chosen_SK))
    return weights_SX / weights_SX.sum(-1, keepdim=True)


def _expert(model: Model, mlp: Any, expert: int, x_SE: Tensor) -> Tensor:
    def product(name: str, x: Tensor) -> Tensor:
        out = x @ wide(getattr(mlp, f"{name}_weight")[expert]).T
        return out + wide(getattr(mlp, f"{name}_bias")[expert]) if model.mlp_bias else out

    up_SF = product("up", x_SE)
    if model.num_mlp_matrices == 3:
        return product("down", _activated(model, product("gate", x_SE)) * up_SF)
    return product("down", _activated(model, up_SF))


def _activated(model: Model, x: Tensor) -> Tensor:
    if model.hidden_act == "silu":
        return x * x.sigmoid()
    if model.hidden_act == "relu":
        return x.clamp(min=0)
    return functional.gelu(x, approximate="tanh")


def _linear(layer: Any, x: Tensor) -> Tensor:
    """A linear layer, or one that stands in for it and gives its weight in float64 (quantised, with an adapter)."""
    weight = layer.wide_weight() if hasattr(layer, "wide_weight") else wide(layer.weight)
    return x @ weight.T if layer.bias is None else x @ weight.T + wide(layer.bias)


def _norm(layer: Any, x: Tensor) -> Tensor:
    """Over as many of the last dimensions as the norm has."""
    dims = tuple(range(-len(layer.normalized_shape), 0))
    if isinstance(layer, nn.LayerNorm):
        x = x - x.mean(dims, keepdim=True)
    out = x * (x.square().mean(dims, keepdim=True) + layer.eps).rsqrt() * wide(layer.weight)
    return out + wide(layer.bias) if getattr(layer, "bias", None) is not None else out

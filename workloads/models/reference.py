"""The transformer's arithmetic once more, in float64 and written out plainly: what its outputs are checked against.

Names of tensors carry their dimensions as in transformer.py, and T tokens, X experts, K experts for each token.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bench.model import Model
from workloads._reference import wide
from workloads.models.mlp import Experts, activate
from workloads.models.transformer import Attention, Rotation, Transformer


def reference_layers(transformer: Transformer, tokens_S: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each layer its keys and values [G, S, D] and the stream [S, E] after it.

    Weights are widened one layer at a time, so a large model needs little extra memory.
    """
    model, length = transformer.model, tokens_S.shape[0]
    x_SE = wide(transformer.embedding.weight[tokens_S])
    if model.embedding_scale:
        x_SE = x_SE * model.hidden_size**0.5
    if transformer.positions is not None:
        x_SE = x_SE + wide(transformer.positions.weight[model.position_offset : model.position_offset + length])
    x_SE = _wide_norm(transformer.embedding_norm, x_SE)
    for block in transformer.blocks:
        rotation = transformer.local_rotation if block.windowed else transformer.rotation
        y_SE = _wide_norm(block.attention_norm, x_SE)
        k_GSD, v_GSD, out_SE = _attention(model, block.attention, rotation, y_SE)
        if block.parallel:
            mlp_input_SE = _wide_norm(block.mlp_norm, x_SE) if block.mlp_norm is not None else y_SE
            x_SE = x_SE + out_SE + _mlp(block.mlp, mlp_input_SE)
        else:
            x_SE = x_SE + _wide_norm(block.attention_after, out_SE)
            x_SE = x_SE + _wide_norm(block.mlp_after, _mlp(block.mlp, _wide_norm(block.mlp_norm, x_SE)))
        yield k_GSD, v_GSD, x_SE


def reference_logits(transformer: Transformer, tokens_S: Tensor) -> Tensor:
    """Logits [S, V]; see `reference_layers`."""
    *_, (_, _, x_SE) = reference_layers(transformer, tokens_S)
    logits_SV, cap = _wide_linear(transformer.head, _wide_norm(transformer.norm, x_SE)), transformer.model.logit_softcap
    return logits_SV if cap is None else cap * (logits_SV / cap).tanh()


def _attention(
    model: Model, attention: Attention, rotation: Rotation | None, y_SE: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values [G, S, D] and the output [S, E]."""
    q, k, v = (_wide_linear(projection, y_SE) for projection in (attention.query, attention.key, attention.value))
    if model.qk_norm == "all_heads":
        q, k = _wide_norm(attention.query_norm, q), _wide_norm(attention.key_norm, k)
    q_HSD, k_GSD, v_GSD = (x.unflatten(-1, (-1, model.head_dim)).transpose(0, 1) for x in (q, k, v))
    if model.qk_norm == "head":
        q_HSD, k_GSD = _wide_norm(attention.query_norm, q_HSD), _wide_norm(attention.key_norm, k_GSD)
    if rotation is not None:
        q_HSD, k_GSD = _rotated(rotation, q_HSD), _rotated(rotation, k_GSD)
    group, length = model.num_attention_heads // model.num_key_value_heads, y_SE.shape[0]
    places = torch.arange(length, device=y_SE.device)
    hidden_SS = places[:, None] < places  # the future
    if attention.window is not None:
        hidden_SS = hidden_SS | (places[:, None] - places >= attention.window)
    scores_HSS = q_HSD @ k_GSD.repeat_interleave(group, 0).mT * model.head_dim**-0.5
    mixed_HSD = scores_HSS.masked_fill(hidden_SS, float("-inf")).softmax(-1) @ v_GSD.repeat_interleave(group, 0)
    return k_GSD, v_GSD, _wide_linear(attention.output, mixed_HSD.transpose(0, 1).flatten(1))


def _rotated(rotation: Rotation, x_HSD: Tensor) -> Tensor:
    """Pairs of dimensions, half of the rotated part apart, turned by the angle of their position."""
    angles_SD = wide(rotation.angles_CD[: x_HSD.shape[1]])
    turned = angles_SD.shape[1]
    angles_SD = angles_SD[:, : turned // 2]
    first, second, rest = x_HSD[..., : turned // 2], x_HSD[..., turned // 2 : turned], x_HSD[..., turned:]
    cosine, sine = angles_SD.cos(), angles_SD.sin()
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), dim=-1)


def _mlp(mlp: nn.Module, y_TE: Tensor) -> Tensor:
    if isinstance(mlp, Experts):
        return _experts(mlp, y_TE)
    hidden_TF = activate(mlp.kind, _wide_linear(getattr(mlp, "gate", mlp.up), y_TE))
    if hasattr(mlp, "gate"):
        hidden_TF = hidden_TF * _wide_linear(mlp.up, y_TE)
    return _wide_linear(mlp.down, hidden_TF)


def _experts(experts: Experts, y_TE: Tensor) -> Tensor:
    """Token by token, each expert's whole MLP for those that chose it."""
    logits_TX = _wide_linear(experts.router, y_TE)
    scores_TX = logits_TX.sigmoid() if experts.scores == "sigmoid" else logits_TX.softmax(-1)
    if experts.recorded:  # the choices of the first sequence of the batch, from its first token on
        experts_TK = torch.cat([choices_BSK[0] for choices_BSK in experts.recorded])[: len(y_TE)].to(y_TE.device)
    else:
        experts_TK = scores_TX.topk(experts.chosen, dim=-1).indices
    weights_TK = scores_TX.gather(-1, experts_TK)
    weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    out_TE = torch.zeros_like(y_TE) if experts.shared is None else _mlp(experts.shared, y_TE)
    for expert in experts_TK.unique().tolist():
        tokens, places = (experts_TK == expert).nonzero(as_tuple=True)
        gate_EF, up_EF, down_FE = (wide(x[expert]) for x in (experts.gate, experts.up, experts.down))
        hidden_TF = activate(experts.kind, y_TE[tokens] @ gate_EF) * (y_TE[tokens] @ up_EF)
        out_TE[tokens] += weights_TK[tokens, places, None] * (hidden_TF @ down_FE)
    return out_TE


def _wide_linear(layer: nn.Module, x: Tensor) -> Tensor:
    out = x @ wide(layer.weight).T
    return out if layer.bias is None else out + wide(layer.bias)


def _wide_norm(layer: nn.Module | None, x: Tensor) -> Tensor:
    if layer is None:
        return x
    if isinstance(layer, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    assert isinstance(layer, nn.LayerNorm | nn.RMSNorm) and layer.eps is not None
    out = x * (x.square().mean(-1, keepdim=True) + layer.eps).rsqrt() * wide(layer.weight)
    bias = getattr(layer, "bias", None)
    return out if bias is None else out + wide(bias)

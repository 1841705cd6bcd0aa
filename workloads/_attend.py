"""Attention as every workload here calls it.

B batch, H query heads, G key-value heads, S queries, C keys, D head_dim, W window
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Queries whose scores exist at one time where attention is not fused.
_ROWS = 1024


def attend(
    q_BHSD: "Tensor", k_BGCD: "Tensor", v_BGCD: "Tensor", *, is_causal: bool, bias: "Tensor | None" = None
) -> "Tensor":
    """torch's fused attention, the backend being its own choice; query heads share key-value heads in groups.

    CUDA's fused kernels take groups in two-byte types from Ampere on, and without a bias; the CPU's a bias that is the
    same for all heads. Elsewhere torch would store all scores, three times slower (pytorch issue 154363), so keys and
    values are repeated for their group as most models do. A bias, added to scores, must rule out the future itself.
    """
    from torch.nn.functional import scaled_dot_product_attention

    group = q_BHSD.shape[1] // k_BGCD.shape[1]
    if group > 1 and not _takes_groups(q_BHSD, bias):
        k_BGCD, v_BGCD = k_BGCD.repeat_interleave(group, 1), v_BGCD.repeat_interleave(group, 1)
        group = 1
    if bias is None:
        return scaled_dot_product_attention(q_BHSD, k_BGCD, v_BGCD, is_causal=is_causal, enable_gqa=group > 1)
    # Of four dimensions, without which the CPU's fused kernel is not taken.
    bias = bias[(None,) * (4 - bias.dim())]
    return scaled_dot_product_attention(q_BHSD, k_BGCD, v_BGCD, attn_mask=bias, enable_gqa=group > 1)


def attend_unfused(
    q_BHSD: "Tensor",
    k_BGCD: "Tensor",
    v_BGCD: "Tensor",
    *,
    is_causal: bool,
    bias: "Tensor | None" = None,
    softcap: float | None = None,
    sinks_H: "Tensor | None" = None,
) -> "Tensor":
    """Attention with a soft cap on scores or a sink in each head, of which torch's fused attention has neither.

    Matrix product, softmax, matrix product, for a slice of queries at a time; for a backward pass all scores are kept.
    A cap makes cap · tanh(score / cap) of each score (Gemma 2, 2024, section 2). A sink is one more score without a
    value (GPT-OSS): it takes a share of the softmax, which leaves the others sigmoid(log-sum-exp - sink).
    """
    length = q_BHSD.shape[2]
    if is_causal and length > _ROWS:
        import torch

        ends = [*range(_ROWS, length, _ROWS), length]
        return torch.cat(
            [
                attend_unfused(
                    q_BH1D, k_BGCD[:, :, :end], v_BGCD[:, :, :end], is_causal=True, softcap=softcap, sinks_H=sinks_H
                )
                for end, q_BH1D in zip(ends, q_BHSD.split(_ROWS, 2), strict=True)
            ],
            2,
        )
    groups, keys = k_BGCD.shape[1], k_BGCD.shape[2]
    # The rows of a group's heads side by side: one product for each key-value head, which is not repeated.
    q_BGSD = (q_BHSD * q_BHSD.shape[-1] ** -0.5).reshape(q_BHSD.shape[0], groups, -1, q_BHSD.shape[-1])
    scores_BHSC = (q_BGSD @ k_BGCD.mT).view(*q_BHSD.shape[:3], keys)
    if softcap is not None:
        scores_BHSC = (scores_BHSC / softcap).tanh() * softcap
    if bias is not None:
        scores_BHSC = scores_BHSC + bias
    elif is_causal and length > 1:
        # The last query sees all keys, so that a slice of queries can do with the keys up to its end.
        future_SC = scores_BHSC.new_ones(length, keys).triu(keys - length + 1).bool()
        scores_BHSC = scores_BHSC.masked_fill(future_SC, float("-inf"))
    weights_BHSC = scores_BHSC.softmax(-1).to(v_BGCD.dtype)
    out_BHSD = (weights_BHSC.view(*q_BGSD.shape[:3], keys) @ v_BGCD).view(*q_BHSD.shape[:3], -1)
    if sinks_H is not None:
        share_BHS1 = (scores_BHSC.logsumexp(-1, keepdim=True) - sinks_H[:, None, None]).sigmoid()
        out_BHSD = out_BHSD * share_BHS1.to(out_BHSD.dtype)
    return out_BHSD


def attend_window(
    kernel: "Callable[..., Tensor]", q_BHSD: "Tensor", k_BGSD: "Tensor", v_BGSD: "Tensor", bias_WC: "Tensor"
) -> "Tensor":
    """Attention of each query to the W keys up to itself, for a sequence longer than W.

    Queries go in chunks of W to the W keys before their chunk and their own: 2·W scores for each in place of S. The
    bias [W, 2W] is the same for every chunk; see `window_bias` in position.py.
    """
    import torch

    window = bias_WC.shape[0]
    first_BHWD, *later = q_BHSD.split(window, 2)
    keys, values = k_BGSD.split(window, 2), v_BGSD.split(window, 2)
    chunks = [kernel(first_BHWD, keys[0], values[0], is_causal=True)]
    for q_BHWD, two_keys, two_values in zip(later, pairwise(keys), pairwise(values), strict=True):
        rows = q_BHWD.shape[2]
        k_BGCD, v_BGCD = torch.cat(two_keys, 2), torch.cat(two_values, 2)
        chunks.append(kernel(q_BHWD, k_BGCD, v_BGCD, is_causal=False, bias=bias_WC[:rows, : window + rows]))
    return torch.cat(chunks, 2)


def _takes_groups(q_BHSD: "Tensor", bias: "Tensor | None") -> bool:
    if q_BHSD.device.type != "cuda":
        return True
    import torch

    from workloads._capability import is_of_ampere

    two_bytes = q_BHSD.dtype.itemsize == 2 or torch.is_autocast_enabled("cuda")
    return bool(bias is None and two_bytes and is_of_ampere(q_BHSD.device))

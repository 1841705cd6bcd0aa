"""Attention as every workload here calls it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# B batch, H query heads, G key-value heads, S queries, C keys, D head_dim


def attend(
    q_BHSD: "Tensor", k_BGCD: "Tensor", v_BGCD: "Tensor", *, is_causal: bool, seen_SC: "Tensor | None" = None
) -> "Tensor":
    """torch's fused attention, the backend being its own choice; query heads share key-value heads in groups.

    `seen_SC` is True where a query sees a key, in place of the causal mask.

    CUDA's fused kernels take groups in two-byte types from Ampere on. Elsewhere there torch would store all scores,
    three times slower (pytorch issue 154363), so keys and values are repeated for their group as most models do.
    """
    from torch.nn.functional import scaled_dot_product_attention

    group = q_BHSD.shape[1] // k_BGCD.shape[1]
    if group > 1 and not _takes_groups(q_BHSD):
        k_BGCD, v_BGCD = k_BGCD.repeat_interleave(group, 1), v_BGCD.repeat_interleave(group, 1)
        group = 1
    return scaled_dot_product_attention(
        q_BHSD, k_BGCD, v_BGCD, attn_mask=seen_SC, is_causal=is_causal, enable_gqa=group > 1
    )


def _takes_groups(q_BHSD: "Tensor") -> bool:
    import torch

    if q_BHSD.device.type != "cuda":
        return True
    two_bytes = q_BHSD.dtype.itemsize == 2 or torch.is_autocast_enabled("cuda")
    return bool(two_bytes and torch.cuda.get_device_capability(q_BHSD.device) >= (8, 0))

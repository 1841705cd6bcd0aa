"""Blocks whose activations are worked out again in the backward pass instead of being kept (Chen et al. 2016)."""

from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

Recompute = Literal["none", "selective", "full"]

# What is dear to compute: matrix products and fused attention. Names that a torch lacks are passed over.
_KEPT = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_grouped_mm",
    "_scaled_mm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)


def recomputed(block: nn.Module, how: Recompute, *inputs: Any) -> Tensor:
    """`block(*inputs)`, of which "full" keeps the inputs alone, and "selective" the outputs of dear operations too.

    Selective recomputes norms, rotation and activations (Korthikanti et al. 2022, section 5, in the form that torch
    has for fused attention).
    """
    contexts = noop_context_fn if how == "full" else partial(create_selective_checkpoint_contexts, _policy)
    # Nothing here draws random numbers.
    out: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return out


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _kept() else CheckpointPolicy.PREFER_RECOMPUTE


@cache
def _kept() -> frozenset[Any]:
    return frozenset(getattr(torch.ops.aten, name).default for name in _KEPT if hasattr(torch.ops.aten, name))

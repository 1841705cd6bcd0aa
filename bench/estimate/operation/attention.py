"""Attention without a measurement of it: what its authors state they reached at most, carried to other sizes.

No trusted source among results/published/ has measured attention alone. The statements, of dense 16-bit peaks:

- Dao 2023, FlashAttention-2, section 4.1: up to 73 % forward and 63 % backward, on an A100;
- Shah et al. 2024, FlashAttention-3, abstract: FlashAttention-2 reaches 35 % on an H100, FlashAttention-3 75 %.

What they leave open is assumed: backward on an H100 in the A100's proportion; those figures at the largest head_dim
that was tried, 128 and 256, and others by its fourth root, since the exponentials cost the same at any; half of the
rate at 300 tokens; and blocks of 128 on the diagonal of a causal mask that are computed whole. So the class is L3.
"""

from bench.chip import Chip
from bench.estimate.operation.curves import Attention

# By generation and version of the kernel: the share of peak, and the head_dim that it was reached at.
_FORWARD = {"Ampere": {2: (0.73, 128)}, "Hopper": {2: (0.35, 128), 3: (0.75, 256)}}
_BACKWARD = 0.63 / 0.73
_POWER = 0.25
_HALF_SEQ = 300
_BLOCK = 128
SOURCES = "what the authors of FlashAttention-2 and -3 state, with assumptions for other sizes"


def seconds(shape: Attention, chip: Chip, peak_flops_per_s: float, words: str) -> float | str:
    """The time on a chip of a generation that they name, by a kernel that `words` names; or why there is none."""
    if any(word in words for word in ("standard", "eager", "unfused", "naive", "math")):
        return "unfused attention has been measured by no source that is trusted: measure it"
    known = _FORWARD.get(chip.generation)
    if known is None:
        return f"attention on {chip.generation} has been measured by no source that is trusted: measure it"
    newest = any(word in words for word in ("v3", "flash3", "fa3", "attention-3", "attention 3", "flash_3", "cudnn"))
    share, head_dim = known[max(known) if newest else 2]
    if shape.direction == "backward":
        share *= _BACKWARD
    share *= float((shape.head_dim / head_dim) ** _POWER) * shape.seq / (shape.seq + _HALF_SEQ)
    if shape.causal:
        share *= shape.seq / (shape.seq + _BLOCK)
    return shape.flops / (share * peak_flops_per_s)

"""Fine-tuning of few parameters: low-rank adapters (LoRA, Hu et al. 2022) on weights that are frozen, and may be kept
in 4 bits (QLoRA, Dettmers et al. 2023).

N rows (outputs), K columns (inputs), R rank, M blocks of 64 weights
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import Unsupported
from workloads._reference import wide
from workloads.models.linears import linears

if TYPE_CHECKING:
    from workloads.models.transformer import Transformer

# alpha / rank of the LoRA paper: what it leaves to choice, and twice the rank is a usual alpha.
_SCALE = 2.0
# Weights that share a scale.
_BLOCK = 64
# Quantiles of the normal distribution, from -1 to 1 with 0 among them (QLoRA 2023, appendix E: NormalFloat).
_NORMAL_FLOATS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def add_lora(transformer: "Transformer", rank: int) -> None:
    """Freezes all parameters and adds an adapter to every linear layer of the blocks, routers excepted.

    Experts' stacked weights get none, as in peft's "all-linear".
    """
    transformer.requires_grad_(False)
    for parent, name, linear in linears(transformer, (nn.Linear, NormalFloatLinear)):
        setattr(parent, name, LoraLinear(linear, rank))


def quantize_base(transformer: "Transformer") -> None:
    """Keeps the weights of all linear layers of the blocks in 4 bits, before or after `add_lora`."""
    for parent, name, linear in linears(transformer, (nn.Linear,)):
        setattr(parent, name, NormalFloatLinear(linear))


class LoraLinear(nn.Module):
    """A frozen layer and a product of two narrow matrices beside it, the second of which begins at zero.

    The narrow ones are in float32, because a 16-bit sum of weight and step loses most steps; autocast narrows them.
    """

    def __init__(self, base: Any, rank: int) -> None:
        super().__init__()
        device = base.weight.device if isinstance(base, nn.Linear) else base.packed.device
        self.base = base
        self.down_RK = nn.Parameter(torch.randn(rank, base.in_features, device=device) * base.in_features**-0.5)
        self.up_NR = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        out: Tensor = self.base(x)
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.down_RK.dtype)
        narrow = functional.linear(x, self.down_RK)
        return out + (functional.linear(narrow, self.up_NR) * _SCALE).to(out.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's."""
        bias: Tensor | None = self.base.bias
        return bias

    @property
    def weight(self) -> Tensor:
        """Both merged into one matrix [N, K], which latent attention reads when it decodes."""
        merged_NK: Tensor = self.base.weight + (_SCALE * self.up_NR @ self.down_RK).to(self.base.weight.dtype)
        return merged_NK

    def wide_weight(self) -> Tensor:
        """The same in float64; see reference.py."""
        base_NK = wide(self.base.weight) if isinstance(self.base, nn.Linear) else self.base.wide_weight()
        return base_NK + _SCALE * (wide(self.up_NR) @ wide(self.down_RK))


class NormalFloatLinear(nn.Module):
    """A frozen linear layer with its weight in 4 bits: 16 levels for each block of 64 weights, times their largest.

    Scales are in float32: QLoRA's second quantisation, of the scales, saves a twelfth of these bytes and is left out.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.bias = linear.bias
        if linear.weight.numel() % _BLOCK:
            raise Unsupported(f"4-bit weights go in blocks of {_BLOCK}, and a layer has {tuple(linear.weight.shape)}")
        blocks_MB = linear.weight.detach().float().view(-1, _BLOCK)
        scales_M1 = blocks_MB.abs().amax(1, keepdim=True).clamp(min=1e-12)
        levels = torch.tensor(_NORMAL_FLOATS, device=blocks_MB.device)
        # The nearest level is that between whose neighbours' middles a weight lies.
        codes_MB = torch.bucketize(blocks_MB / scales_M1, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        self.scales_M1 = scales_M1
        self.packed = (codes_MB[:, ::2] << 4 | codes_MB[:, 1::2]).contiguous()
        # Both weights of a byte at one look-up, which halves the look-ups.
        self.pairs = torch.stack((levels.repeat_interleave(16), levels.repeat(16)), -1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        out: Tensor = _Product.apply(x.to(dtype), self)
        return out if self.bias is None else out + self.bias.to(dtype)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [N, K]."""
        blocks_MB = self.pairs.to(dtype)[self.packed.int()].flatten(1) * self.scales_M1.to(dtype)
        return blocks_MB.view(self.out_features, self.in_features)

    @property
    def weight(self) -> Tensor:
        """The weight [N, K] in bfloat16, written out at each look."""
        return self.dequantized(torch.bfloat16)

    @property
    def weight_bytes(self) -> int:
        """What is kept: codes and scales."""
        return int(self.packed.nbytes + self.scales_M1.nbytes)

    def wide_weight(self) -> Tensor:
        """The weight in float64; see reference.py."""
        return self.dequantized(torch.float64)


class _Product(torch.autograd.Function):
    """x times the weight, which is written out for the product and again for its gradient, and kept in 4 bits only."""

    @staticmethod
    def forward(context: Any, x: Tensor, linear: NormalFloatLinear) -> Tensor:
        context.linear = linear
        return functional.linear(x, linear.dequantized(x.dtype))

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope @ context.linear.dequantized(slope.dtype), None

"""Adapters of low rank beside frozen weights, which may be kept in four bits.

Names of tensors carry their dimensions: T tokens, E inputs, F outputs, R rank, N blocks of 64 numbers.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads.models.transformer import Transformer

_BLOCK = 64
# Sixteen levels at equal shares of a normal distribution, the outermost ones at -1 and 1 and one at 0: what four bits
# hold best of weights that are normal (Dettmers et al. 2023, section 3).
_NUM_LEVELS = 16


def add_lora(transformer: Transformer, rank: int) -> None:
    """Freezes all weights and puts an adapter beside every linear layer of the blocks."""
    transformer.requires_grad_(False)
    for parent in list(transformer.blocks.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear | FourBitLinear) and not isinstance(parent, Adapted):
                setattr(parent, name, Adapted(layer, rank))


def quantize_base(transformer: Transformer) -> None:
    """Puts a FourBitLinear in the place of every linear layer of the blocks."""
    for parent in list(transformer.blocks.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, FourBitLinear(layer))


class Adapted(nn.Module):
    """y = W x + B A x, with W frozen; A normal and B zero at the start, so that nothing changes (Hu et al. 2021, 4.1).

    The paper's factor alpha / r is 1.
    """

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.base = base
        inputs, outputs = cast(int, base.in_features), cast(int, base.out_features)
        device = next(iter([*base.parameters(), *base.buffers()])).device
        self.down_RE = nn.Parameter(torch.randn(rank, inputs, device=device) * inputs**-0.5)
        self.up_FR = nn.Parameter(torch.zeros(outputs, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] to [..., F]."""
        base: Tensor = self.base(x)
        return base + functional.linear(functional.linear(x, self.down_RE), self.up_FR)

    @property
    def weight(self) -> Tensor:
        """The weight that the layer comes to, in float64, for the reference."""
        return self.base.weight.detach().double() + self.up_FR.detach().double() @ self.down_RE.detach().double()

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return cast("Tensor | None", self.base.bias)


class FourBitLinear(nn.Module):
    """A frozen weight of 16 levels with a scale for each block of 64, made wide again whenever it is used."""

    def __init__(self, like: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = like.in_features, like.out_features
        self.bias = like.bias
        wide_FE = like.weight.detach().float()
        levels = _levels(wide_FE.device)
        blocks_NB = wide_FE.reshape(-1, _BLOCK)
        scales_N = blocks_NB.abs().amax(-1).clamp(min=1e-12)
        places = torch.bucketize(blocks_NB / scales_N[:, None], (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        pairs = places.flatten().unflatten(0, (-1, 2))
        self.register_buffer("packed", pairs[:, 0] << 4 | pairs[:, 1])
        self.register_buffer("scales_N", scales_N)
        self.register_buffer("levels", levels)

    @property
    def weight(self) -> Tensor:
        """The numbers that are multiplied with, [F, E] in float32."""
        packed, levels = cast(Tensor, self.packed), cast(Tensor, self.levels)
        places = torch.stack((packed >> 4, packed & 15), dim=-1).flatten().int()
        wide = levels[places].unflatten(0, (-1, _BLOCK)) * cast(Tensor, self.scales_N)[:, None]
        return wide.reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] to [..., F]."""
        y: Tensor = _Frozen.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Frozen(torch.autograd.Function):
    """The product with a weight that is made wide in the backward pass too, instead of being kept for it."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: FourBitLinear) -> Tensor:
        context.layer, context.dtype = layer, x.dtype
        narrow = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        return x.to(narrow) @ layer.weight.to(narrow).T

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (gradient @ context.layer.weight.to(gradient.dtype)).to(context.dtype), None


def _levels(device: torch.device) -> Tensor:
    """From -1 to 1: quantiles of a normal distribution, eight below zero and seven above it, and zero."""
    normal = torch.distributions.Normal(0.0, 1.0)
    offset = 0.5 * ((1 - 1 / (2 * 15)) + (1 - 1 / (2 * 16)))  # so that neither end is infinite
    below = -normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
    above = normal.icdf(torch.linspace(0.5, offset, 8)[1:])
    levels = torch.cat((below / below.abs().max(), torch.zeros(1), above / above.max()))
    assert len(levels) == _NUM_LEVELS
    return levels.sort().values.to(device)

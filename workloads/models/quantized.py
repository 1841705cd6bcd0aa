"""Weights in 8 or 4 bits, activations as they are: what a decoding step reads shrinks, its arithmetic does not.

N rows (outputs), K columns (inputs), T tokens, C groups of columns, P packed columns
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.device import Device
from bench.errors import Unsupported
from workloads._reference import wide
from workloads.models.linears import linears

if TYPE_CHECKING:
    from workloads.models.transformer import Transformer

# Columns of a row that share a scale in 4 bits.
_GROUP = 32


def quantize(transformer: "Transformer", kind: Literal["int8", "int4"], device: Device) -> frozenset[str]:
    """Puts quantised layers in the place of linear ones, and of the head's unless it is the embedding too.

    Gives the names of the kernels that they use. Left as they are: `latent_up`, which latent attention reads as a
    matrix for each head. Raises Unsupported for experts, whose grouped product torch does not have in these types.
    """
    if transformer.model.num_experts is not None:
        raise Unsupported(f"torch has no grouped product of {kind} weights, which experts would need")
    kernels = set()
    places: list[tuple[nn.Module, str, Any]] = [place for place in linears(transformer) if place[1] != "latent_up"]
    if type(transformer.head) is nn.Linear and not transformer.model.tie_word_embeddings:
        places.append((transformer, "head", transformer.head))
    for parent, name, linear in places:
        quantized = QuantizedLinear(linear, kind)
        setattr(parent, name, quantized)
        kernels.add(quantized.kernel)
    device.release()
    return frozenset(kernels)


@dataclass(frozen=True)
class Codes:
    """A weight as whole numbers: code · scale + low, with a scale and a low for each group of a row's columns."""

    codes_NK: Tensor  # int8 around 0, or uint8 from 0 to 15
    scales_NC: Tensor  # float32
    lows_NC: Tensor | None  # None: 0, in 8 bits

    def wide(self) -> Tensor:
        """The weight [N, K] that the codes stand for, in float64."""
        grouped_NCK = wide(self.codes_NK).unflatten(1, (self.scales_NC.shape[1], -1)) * wide(self.scales_NC)[..., None]
        return (grouped_NCK if self.lows_NC is None else grouped_NCK + wide(self.lows_NC)[..., None]).flatten(1)


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is kept in 8 or 4 bits. No gradient reaches the weight."""

    def __init__(self, linear: nn.Linear, kind: Literal["int8", "int4"]) -> None:
        super().__init__()
        weight_NK = linear.weight.detach()
        self.bias = linear.bias
        dtype, device, shape = weight_NK.dtype, weight_NK.device, tuple(weight_NK.shape)
        codes = _to_int8(weight_NK) if kind == "int8" else _to_int4(weight_NK, dtype)
        kernel = next(one for one in _KERNELS[kind] if _works(one, kind, device, dtype, shape))
        self.kernel = kernel.name
        self._multiply = kernel.multiply
        self.packed, self.scales = kernel.pack(codes, dtype)
        # For `wide_weight` alone, on the host, because a kernel's own layout cannot be read back.
        lows_NC = None if codes.lows_NC is None else codes.lows_NC.cpu()
        self._codes = Codes(codes.codes_NK.cpu(), codes.scales_NC.cpu(), lows_NC)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        out = self._multiply(x.flatten(0, -2), self.packed, self.scales).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias

    @property
    def weight_bytes(self) -> int:
        """What a step reads of it: codes, scales and lows."""
        return int(self.packed.nbytes + self.scales.nbytes)

    def wide_weight(self) -> Tensor:
        """The weight [N, K] in float64 that the codes stand for; see reference.py."""
        return self._codes.wide().to(self.packed.device)


def _to_int8(weight_NK: Tensor) -> Codes:
    """Symmetric, with one scale a row."""
    scales_N1 = weight_NK.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return Codes((weight_NK.float() / scales_N1).round().to(torch.int8), scales_N1, None)


def _to_int4(weight_NK: Tensor, dtype: torch.dtype) -> Codes:
    """From the least to the greatest of each group in 15 steps; scale and low as they are after rounding to `dtype`."""
    if weight_NK.shape[1] % _GROUP:
        raise Unsupported(f"4-bit weights go in groups of {_GROUP} columns, and a layer has {weight_NK.shape[1]}")
    grouped_NCK = weight_NK.float().unflatten(1, (-1, _GROUP))
    lows_NC1, highs_NC1 = grouped_NCK.amin(-1, keepdim=True), grouped_NCK.amax(-1, keepdim=True)
    scales_NC1 = ((highs_NC1 - lows_NC1).clamp(min=1e-6) / 15).to(dtype).float()
    # Kernels keep the value of code 8.
    lows_NC1 = (lows_NC1 + 8 * scales_NC1).to(dtype).float() - 8 * scales_NC1
    codes_NCK = ((grouped_NCK - lows_NC1) / scales_NC1).round().clamp(0, 15).to(torch.uint8)
    return Codes(codes_NCK.flatten(1), scales_NC1[..., 0], lows_NC1[..., 0])


@dataclass(frozen=True)
class Kernel:
    """One of torch's products with such a weight: how the weight is laid out for it, and the call."""

    name: str
    pack: Callable[[Codes, torch.dtype], tuple[Tensor, Tensor]]
    multiply: Callable[[Tensor, Tensor, Tensor], Tensor]


def _pack_int8(codes: Codes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return codes.codes_NK, codes.scales_NC[:, 0].to(dtype)


def _multiply_int8(x_TK: Tensor, packed_NK: Tensor, scales_N: Tensor) -> Tensor:
    out_TN: Tensor = torch._weight_int8pack_mm(x_TK, packed_NK, scales_N)
    return out_TN


def _widen_int8(x_TK: Tensor, packed_NK: Tensor, scales_N: Tensor) -> Tensor:
    return functional.linear(x_TK, packed_NK.to(x_TK.dtype)) * scales_N


def _scales_and_middles(codes: Codes, dtype: torch.dtype) -> Tensor:
    """[C, N, 2]: scale and the value of code 8, as torch's kernels want them."""
    assert codes.lows_NC is not None
    return (
        torch.stack((codes.scales_NC, codes.lows_NC + 8 * codes.scales_NC), -1).transpose(0, 1).contiguous().to(dtype)
    )


def _pack_int4_cpu(codes: Codes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    packed_NP = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.codes_NK.int(), 1)
    return packed_NP, _scales_and_middles(codes, dtype)


def _multiply_int4_cpu(x_TK: Tensor, packed_NP: Tensor, scales_CN2: Tensor) -> Tensor:
    out_TN: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_TK, packed_NP, _GROUP, scales_CN2)
    return out_TN


def _pack_int4(codes: Codes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # Tiles of 8 · 16 columns for each thread, the most that the kernel takes.
    return torch.ops.aten._convert_weight_to_int4pack(_pairs(codes.codes_NK), 8), _scales_and_middles(codes, dtype)


def _multiply_int4(x_TK: Tensor, packed: Tensor, scales_CN2: Tensor) -> Tensor:
    out_TN: Tensor = torch.ops.aten._weight_int4pack_mm(x_TK, packed, _GROUP, scales_CN2)
    return out_TN


def _pack_pairs(codes: Codes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return _pairs(codes.codes_NK), _scales_and_middles(codes, dtype)


def _widen_int4(x_TK: Tensor, packed_NP: Tensor, scales_CN2: Tensor) -> Tensor:
    codes_NK = torch.stack((packed_NP >> 4, packed_NP & 15), -1).flatten(1)
    scales_NC1, middles_NC1 = (part_CN.T[..., None] for part_CN in scales_CN2.unbind(-1))
    grouped_NCK = (codes_NK.to(x_TK.dtype) - 8).unflatten(1, (-1, _GROUP)) * scales_NC1 + middles_NC1
    return functional.linear(x_TK, grouped_NCK.flatten(1))


def _pairs(codes_NK: Tensor) -> Tensor:
    """Two codes in one byte, the first in the upper half."""
    return codes_NK[:, ::2] << 4 | codes_NK[:, 1::2]


# Fastest first; the last works everywhere and writes the whole weight out in each step.
_KERNELS = {
    "int8": (
        Kernel("_weight_int8pack_mm", _pack_int8, _multiply_int8),
        Kernel("dequantise and multiply", _pack_int8, _widen_int8),
    ),
    "int4": (
        Kernel("_weight_int4pack_mm", _pack_int4, _multiply_int4),
        Kernel("_weight_int4pack_mm_for_cpu", _pack_int4_cpu, _multiply_int4_cpu),
        Kernel("dequantise and multiply", _pack_pairs, _widen_int4),
    ),
}


@cache
def _works(kernel: Kernel, kind: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> bool:
    """Whether the kernel exists for such weights and multiplies rightly. Found by trying, once for each shape."""
    if kernel is _KERNELS[kind][-1]:
        return True
    weight_NK, x_TK = (
        torch.randn(shape, device=device, dtype=dtype),
        torch.randn(2, shape[1], device=device, dtype=dtype),
    )
    codes = _to_int8(weight_NK) if kind == "int8" else _to_int4(weight_NK, dtype)
    try:
        out_TN: Any = wide(kernel.multiply(x_TK, *kernel.pack(codes, dtype)))
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    expected_TN = wide(x_TK) @ codes.wide().T
    return bool((out_TN - expected_TN).norm() < 0.02 * expected_TN.norm())

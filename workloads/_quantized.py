"""Weights in 8 or 4 bits under activations in more: packed once for a kernel, which multiplies without widening them.

F rows (outputs), E columns (inputs), T tokens, G groups of columns, P packed columns
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.device import Device
from bench.errors import Unsupported
from workloads._reference import wide

Bits = Literal["int8", "int4"]

# Columns of a row that share a scale in 4 bits.
GROUP = 32
_TURNS = 5


@dataclass(frozen=True)
class Packed:
    """A quantised weight [F, E] as the fastest kernel of its device has it."""

    kernel: "_Kernel"
    tensors: tuple[Tensor, Tensor]  # codes as the kernel lays them out, and their scales
    codes: "_Codes"  # on the host, because a kernel's own layout cannot be read back

    def multiply(self, x_TE: Tensor) -> Tensor:
        """[T, E] to [T, F]."""
        return self.kernel.multiply(x_TE, *self.tensors)

    def wide(self) -> Tensor:
        """The weight [F, E] in float64 that the codes stand for, on the host."""
        return self.codes.wide()

    @property
    def weight_bytes(self) -> int:
        """What a product reads of it."""
        return sum(int(tensor.nbytes) for tensor in self.tensors)


def pack(weight_FE: Tensor, bits: Bits, num_tokens: int, device: Device) -> Packed:
    """The weight in 8 bits, symmetric with a scale for each row, or in 4, from least to greatest of each 32 columns.

    Its kernel is the one that multiplies so many tokens fastest. Raises Unsupported for columns that fill no group.
    """
    coded = _to_int8(weight_FE) if bits == "int8" else _to_int4(weight_FE)
    place = (bits, num_tokens, tuple(weight_FE.shape), weight_FE.dtype, device.spec)
    if place not in _chosen:
        _chosen[place] = _fastest(coded, bits, weight_FE, num_tokens, device)
    return Packed(_chosen[place], _chosen[place].pack(coded), coded.on_host())


# Kernels of this process, so that layers of one shape are tried once and steps in rotation are alike.
_chosen: dict[object, "_Kernel"] = {}


def _fastest(coded: "_Codes", bits: Bits, weight_FE: Tensor, num_tokens: int, device: Device) -> "_Kernel":
    """The kernel with the quickest of some products, among those that this torch, chip and shape have.

    Which it is changes from version to version: torch's own for int8 on CUDA reads the weight column by column.
    """
    here = (None, weight_FE.device.type) if weight_FE.dtype == torch.bfloat16 else (None,)
    candidates = [kernel for kernel in _KERNELS[bits] if kernel.device in here]
    if len(candidates) == 1:
        return candidates[0]
    x_TE = weight_FE[torch.arange(num_tokens, device=weight_FE.device) % len(weight_FE)]
    best, best_s = candidates[-1], float("inf")
    for kernel in candidates:
        try:
            tensors = kernel.pack(coded)
            for _ in range(_TURNS):
                device.synchronize()
                start_s = device.now_s()
                kernel.multiply(x_TE, *tensors)
                device.synchronize()
                if (spent_s := device.now_s() - start_s) < best_s:
                    best, best_s = kernel, spent_s
        except (RuntimeError, AttributeError):  # not of this torch, this chip or these sizes; the last one always works
            if kernel.device is None:
                raise
    return best


@dataclass(frozen=True)
class _Codes:
    """A weight as whole numbers: (code - 8) * scale + middle in 4 bits, code * scale in 8.

    Scales and middles are in the type of the activations, as kernels have them.
    """

    codes_FE: Tensor  # int8 around 0, or uint8 from 0 to 15
    scales_FG: Tensor
    middles_FG: Tensor | None  # None in 8 bits

    def wide(self) -> Tensor:
        grouped_FGC = wide(self.codes_FE).unflatten(1, (self.scales_FG.shape[1], -1))
        scales_FG1 = wide(self.scales_FG)[..., None]
        if self.middles_FG is None:
            return (grouped_FGC * scales_FG1).flatten(1)
        return ((grouped_FGC - 8) * scales_FG1 + wide(self.middles_FG)[..., None]).flatten(1)

    def on_host(self) -> "_Codes":
        middles_FG = None if self.middles_FG is None else self.middles_FG.cpu()
        return _Codes(self.codes_FE.cpu(), self.scales_FG.cpu(), middles_FG)


def _to_int8(weight_FE: Tensor) -> _Codes:
    scales_F1 = (weight_FE.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127).to(weight_FE.dtype)
    codes_FE = (weight_FE.float() / scales_F1.float()).round().clamp(-127, 127)
    return _Codes(codes_FE.to(torch.int8), scales_F1, None)


def _to_int4(weight_FE: Tensor) -> _Codes:
    if weight_FE.shape[1] % GROUP:
        raise Unsupported(f"4-bit weights go in groups of {GROUP} columns, and a layer has {weight_FE.shape[1]}")
    grouped_FGC = weight_FE.float().unflatten(1, (-1, GROUP))
    least_FG1, greatest_FG1 = grouped_FGC.amin(-1, keepdim=True), grouped_FGC.amax(-1, keepdim=True)
    scales_FG1 = ((greatest_FG1 - least_FG1).clamp(min=1e-6) / 15).to(weight_FE.dtype)
    middles_FG1 = (least_FG1 + 8 * scales_FG1.float()).to(weight_FE.dtype)
    codes_FGC = ((grouped_FGC - middles_FG1.float()) / scales_FG1.float() + 8).round().clamp(0, 15)
    return _Codes(codes_FGC.to(torch.uint8).flatten(1), scales_FG1[..., 0], middles_FG1[..., 0])


@dataclass(frozen=True)
class _Kernel:
    """One of torch's products with such a weight: how the weight is laid out for it, and the call."""

    name: str
    device: str | None  # where it is made for bfloat16, the only type that is worth it; None: it is no kernel of torch
    pack: Callable[[_Codes], tuple[Tensor, Tensor]]
    multiply: Callable[[Tensor, Tensor, Tensor], Tensor]


def _pack_int8(coded: _Codes) -> tuple[Tensor, Tensor]:
    return coded.codes_FE, coded.scales_FG[:, 0].contiguous()


def _multiply_int8(x_TE: Tensor, packed_FE: Tensor, scales_F: Tensor) -> Tensor:
    y_TF: Tensor = torch._weight_int8pack_mm(x_TE, packed_FE, scales_F)
    return y_TF


def _widen_int8(x_TE: Tensor, packed_FE: Tensor, scales_F: Tensor) -> Tensor:
    return functional.linear(x_TE, packed_FE.to(x_TE.dtype)) * scales_F


def _scales_and_middles(coded: _Codes) -> Tensor:
    """[G, F, 2], as torch's kernels want them."""
    assert coded.middles_FG is not None
    return torch.stack((coded.scales_FG, coded.middles_FG), -1).transpose(0, 1).contiguous()


def _pairs(codes_FE: Tensor) -> Tensor:
    """Two codes in one byte, the first in the upper half."""
    return codes_FE[:, ::2] << 4 | codes_FE[:, 1::2]


def _pack_int4(coded: _Codes) -> tuple[Tensor, Tensor]:
    # Tiles of 8 * 16 columns for each thread, the most that the kernel takes.
    packed = torch.ops.aten._convert_weight_to_int4pack(_pairs(coded.codes_FE), 8)
    return packed, _scales_and_middles(coded)


def _multiply_int4(x_TE: Tensor, packed: Tensor, scales_GF2: Tensor) -> Tensor:
    y_TF: Tensor = torch.ops.aten._weight_int4pack_mm(x_TE, packed, GROUP, scales_GF2)
    return y_TF


def _pack_int4_cpu(coded: _Codes) -> tuple[Tensor, Tensor]:
    packed_FP = torch.ops.aten._convert_weight_to_int4pack_for_cpu(coded.codes_FE.int(), 1)
    return packed_FP, _scales_and_middles(coded)


def _multiply_int4_cpu(x_TE: Tensor, packed_FP: Tensor, scales_GF2: Tensor) -> Tensor:
    y_TF: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_TE, packed_FP, GROUP, scales_GF2)
    return y_TF


def _pack_pairs(coded: _Codes) -> tuple[Tensor, Tensor]:
    return _pairs(coded.codes_FE), _scales_and_middles(coded)


def _widen_int4(x_TE: Tensor, packed_FP: Tensor, scales_GF2: Tensor) -> Tensor:
    codes_FGC = torch.stack((packed_FP >> 4, packed_FP & 15), -1).view(packed_FP.shape[0], -1, GROUP)
    scales_FG1, middles_FG1 = (part_GF.T[..., None] for part_GF in scales_GF2.unbind(-1))
    weight_FGC = (codes_FGC.to(x_TE.dtype) - 8) * scales_FG1 + middles_FG1
    return functional.linear(x_TE, weight_FGC.flatten(1))


# The last of each works everywhere and writes the whole weight out in each step. For other types than bfloat16 torch's
# kernels are plain loops: on a CPU of two cores 2 to 5 GFLOP/s, where the last reaches 19 to 38.
_KERNELS: dict[Bits, tuple[_Kernel, ...]] = {
    "int8": (
        _Kernel("_weight_int8pack_mm", "cpu", _pack_int8, _multiply_int8),
        _Kernel("_weight_int8pack_mm", "cuda", _pack_int8, _multiply_int8),
        _Kernel("dequantise and multiply", None, _pack_int8, _widen_int8),
    ),
    "int4": (
        _Kernel("_weight_int4pack_mm", "cuda", _pack_int4, _multiply_int4),
        _Kernel("_weight_int4pack_mm_for_cpu", "cpu", _pack_int4_cpu, _multiply_int4_cpu),
        _Kernel("dequantise and multiply", None, _pack_pairs, _widen_int4),
    ),
}

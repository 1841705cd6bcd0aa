"""How a layer knows where tokens stand: rotation of queries and keys, or a bias on scores that falls with distance.

S queries, C keys, D the rotated part of a head, H heads, W window
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.device import Device


class Positions(NamedTuple):
    """What the layers of one kind must know of the positions `start` and after. Worked out once in a forward."""

    start: int
    angles: tuple[Tensor, Tensor] | None  # cosine and signed sine [S, D], where positions are rotated
    # Added to scores: [H, S, C] of alibi, or [W, 2W] of a window that is shorter than the sequence.
    bias: Tensor | None


class Rotation:
    """Rotary position embedding (Su et al. 2021), the two halves of a head rotated against each other as in Llama."""

    def __init__(self, theta: float, size: int, device: Device, length: int) -> None:
        half = torch.arange(0, size, 2, device=device.torch_device, dtype=torch.float32) / size
        places = torch.arange(length, device=device.torch_device, dtype=torch.float32)
        angles_CD = torch.outer(places, theta**-half)
        self.cosine_CD = angles_CD.cos().repeat(1, 2)
        # The sign of the first half, which is turned the other way, is kept here so that `rotate` need not turn it.
        self.sine_CD = torch.cat((-angles_CD.sin(), angles_CD.sin()), dim=-1)

    def at(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [S, D] of the positions."""
        cosine_SD, sine_SD = self.cosine_CD[start:stop], self.sine_CD[start:stop]
        return (cosine_SD, sine_SD) if dtype == torch.float32 else (cosine_SD.to(dtype), sine_SD.to(dtype))


def rotate(x_BHSD: Tensor, cosine_SD: Tensor, sine_SD: Tensor) -> Tensor:
    """`x_BHSD` turned by its positions' angles, as given by `Rotation.at`.

    In three operations: halving, negating and joining again takes 1.4 to 2 times as long on a CPU.
    """
    return torch.addcmul(x_BHSD * cosine_SD, x_BHSD.roll(x_BHSD.shape[-1] // 2, -1), sine_SD)


def rotate_first(x_BHSD: Tensor, cosine_SR: Tensor, sine_SR: Tensor) -> Tensor:
    """The first R of each head's D numbers turned, the others as they are (GPT-J, GPT-NeoX, Phi)."""
    size = cosine_SR.shape[-1]
    turned_BHSR = rotate(x_BHSD[..., :size], cosine_SR, sine_SR)
    return torch.cat((turned_BHSR, x_BHSD[..., size:]), dim=-1)


class Alibi:
    """A bias on scores in proportion to the distance, with a slope for each head (Press et al. 2022)."""

    def __init__(self, heads: int, device: Device) -> None:
        self.slopes_H11 = torch.tensor(alibi_slopes(heads), device=device.torch_device)[:, None, None]

    def at(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Bias [H, S, C] of the queries at `start` to `stop` to all keys before `stop`, -inf for those after them.

        Written anew in each forward: as much as one layer's scores, next to those of all layers.
        """
        places_C = torch.arange(stop, device=self.slopes_H11.device)
        ahead_SC = places_C - places_C[start:, None]
        return (self.slopes_H11 * ahead_SC).masked_fill(ahead_SC > 0, -math.inf).to(dtype)


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n heads; for another number those of the next lower power of two n, then every
    second of the next higher's (Press et al. 2022, section 3 and their released code).
    """
    whole = 1 << (heads.bit_length() - 1)
    lower = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
    return lower + [2.0 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]


def window_bias(window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bias [W, 2W] of W queries to the W keys before them and their own: 0 for the last W up to each, else -inf."""
    ahead_WC = torch.arange(2 * window, device=device) - torch.arange(window, 2 * window, device=device)[:, None]
    bias_WC = torch.zeros(window, 2 * window, device=device, dtype=dtype)
    return bias_WC.masked_fill((ahead_WC > 0) | (ahead_WC <= -window), -math.inf)

"""What each layer keeps of the tokens before: keys and values, or the narrow vectors that they are made of.

    B batch, G key-value heads, S new tokens, C positions in the cache, D head_dim, R latent vector and rotated key

One tensor per layer and kind: a single stacked tensor is copied whole for each layer under torch.compile.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.device import Device
from bench.model import Model


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, [B, G, C, D] each."""

    keys_BGCD: Tensor
    values_BGCD: Tensor

    def extend(self, k_BGSD: Tensor, v_BGSD: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Writes at `start` and gives everything up to there."""
        stop = start + k_BGSD.shape[2]
        self.keys_BGCD[:, :, start:stop] = k_BGSD
        self.values_BGCD[:, :, start:stop] = v_BGSD
        return self.keys_BGCD[:, :, :stop], self.values_BGCD[:, :, :stop]

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """What `reference_layers` gives for each layer, with a batch before it; positions are the last but one."""
        return self.keys_BGCD, self.values_BGCD


@dataclass(frozen=True)
class LatentCache:
    """The latent vector and the rotated part of the key, which all heads share, side by side: [B, C, R]."""

    joined_BCR: Tensor
    rank: int  # so many of R are the latent vector

    def extend(self, joined_BSR: Tensor, start: int) -> Tensor:
        """Writes at `start` and gives everything up to there."""
        stop = start + joined_BSR.shape[1]
        self.joined_BCR[:, start:stop] = joined_BSR
        return self.joined_BCR[:, :stop]

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """What `reference_layers` gives for each layer, with a batch before it; positions are the last but one."""
        return self.joined_BCR[..., : self.rank], self.joined_BCR[..., self.rank :]


def empty_caches(model: Model, device: Device, dtype: str, batch: int, length: int) -> list[Any]:
    """A LayerCache of normal numbers for each layer, which is what a filled cache looks like to the memory system.

    In latent attention a LatentCache. In a layer with a window it is no shorter: what lies before is not read.
    """
    if model.kv_lora_rank is not None:
        assert model.qk_rope_head_dim is not None
        latent_shape = (batch, length, model.kv_lora_rank + model.qk_rope_head_dim)
        return [
            LatentCache(device.normal(*latent_shape, dtype=dtype), model.kv_lora_rank) for _ in range(model.num_blocks)
        ]
    shape = (batch, model.num_key_value_heads, length, model.head_dim)
    return [
        LayerCache(device.normal(*shape, dtype=dtype), device.normal(*shape, dtype=dtype))
        for _ in range(model.num_blocks)
    ]

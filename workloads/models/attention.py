"""Attention of one layer: with grouped queries, which most models have, or from narrow latent vectors.

    B batch, S sequence, E hidden_size, H query heads, G key-value heads, D head_dim, C positions in the cache,
    R latent vector, or latent vector and rotated key

What a layer does is settled when it is built. After a filled cache there is one token at a time.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.model import Model
from workloads._attend import attend, attend_unfused, attend_window
from workloads.models.cache import LatentCache, LayerCache
from workloads.models.norm import norm
from workloads.models.position import Positions, rotate, rotate_first


class Attention(nn.Module):
    """Causal attention with grouped queries (Ainslie et al. 2023)."""

    def __init__(self, model: Model, window: int | None) -> None:
        super().__init__()
        heads, groups, head_dim = model.num_attention_heads, model.num_key_value_heads, model.head_dim
        self.head_dim = head_dim
        self.window = window
        self.query = nn.Linear(model.hidden_size, heads * head_dim, bias="qkv" in model.attention_bias)
        self.key = nn.Linear(model.hidden_size, groups * head_dim, bias="qkv" in model.attention_bias)
        self.value = nn.Linear(model.hidden_size, groups * head_dim, bias="qkv" in model.attention_bias)
        self.output = nn.Linear(heads * head_dim, model.hidden_size, bias="o" in model.attention_bias)
        self.query_norm, self.key_norm = _head_norms(model)
        self.rotate = rotate if model.rotary_dim in (None, head_dim) else rotate_first
        self.sinks_H = nn.Parameter(torch.empty(heads)) if model.attention_sinks else None
        self.softcap = model.attention_softcap
        is_fused = self.sinks_H is None and self.softcap is None
        self.kernel: Callable[..., Tensor] = attend if is_fused else self._attend_unfused

    def forward(
        self, x_BSE: Tensor, positions: Positions, cache: LayerCache | None, asking_BSE: Tensor | None = None
    ) -> Tensor:
        """Attends to the sequence itself, or with a cache to everything up to it; queries come from `asking_BSE`."""
        heads = (*x_BSE.shape[:2], -1, self.head_dim)  # by `view`: `unflatten` takes three times as long
        q_BSHD = self.query(x_BSE if asking_BSE is None else asking_BSE).view(heads)
        k_BSGD, v_BSGD = self.key(x_BSE).view(heads), self.value(x_BSE).view(heads)
        if self.query_norm is not None and self.key_norm is not None:
            q_BSHD, k_BSGD = self.query_norm(q_BSHD), self.key_norm(k_BSGD)
        q_BHSD, k_BGSD, v_BGSD = q_BSHD.transpose(1, 2), k_BSGD.transpose(1, 2), v_BSGD.transpose(1, 2)
        if positions.angles is not None:
            q_BHSD, k_BGSD = self.rotate(q_BHSD, *positions.angles), self.rotate(k_BGSD, *positions.angles)
        if cache is not None:
            # torch's causal mask stands at the top left: after a filled cache it suits a single token only.
            assert positions.start == 0 or x_BSE.shape[1] == 1, "after a filled cache, one token at a time"
            k_BGSD, v_BGSD = cache.extend(k_BGSD, v_BGSD, positions.start)
        if self.window is not None and k_BGSD.shape[2] > self.window:
            out_BHSD = self._attend_window(q_BHSD, k_BGSD, v_BGSD, positions.bias)
        else:
            out_BHSD = self.kernel(q_BHSD, k_BGSD, v_BGSD, is_causal=positions.start == 0, bias=positions.bias)
        out_BSE: Tensor = self.output(out_BHSD.transpose(1, 2).flatten(2))
        return out_BSE

    def _attend_unfused(self, *qkv: Tensor, is_causal: bool, bias: Tensor | None = None) -> Tensor:
        return attend_unfused(*qkv, is_causal=is_causal, bias=bias, softcap=self.softcap, sinks_H=self.sinks_H)

    def _attend_window(self, q_BHSD: Tensor, k_BGCD: Tensor, v_BGCD: Tensor, bias_WC: Tensor | None) -> Tensor:
        """For more keys than the window holds: a token after them reads the last of them only."""
        assert self.window is not None
        if q_BHSD.shape[2] == 1:
            return self.kernel(q_BHSD, k_BGCD[:, :, -self.window :], v_BGCD[:, :, -self.window :], is_causal=False)
        assert bias_WC is not None
        return attend_window(self.kernel, q_BHSD, k_BGCD, v_BGCD, bias_WC)


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2 2024, section 2.1): keys and values from one narrow vector a token."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        rank, plain, rotated, value = (
            model.kv_lora_rank,
            model.qk_nope_head_dim,
            model.qk_rope_head_dim,
            model.v_head_dim,
        )
        assert rank is not None and plain is not None and rotated is not None and value is not None
        assert model.sliding_window is None and model.attention_softcap is None and not model.attention_sinks
        self.rank, self.plain, self.rotated, self.value = rank, plain, rotated, value
        hidden, heads = model.hidden_size, model.num_attention_heads
        queries = partial(nn.Linear, out_features=heads * model.head_dim, bias=False)
        self.query = queries(hidden) if model.q_lora_rank is None else None
        if model.q_lora_rank is not None:
            self.query_down = nn.Linear(hidden, model.q_lora_rank, bias=False)
            self.query_norm = norm(model, model.q_lora_rank)
            self.query_up = queries(model.q_lora_rank)
        self.latent_down = nn.Linear(hidden, rank + rotated, bias=False)
        self.latent_norm = norm(model, rank)
        self.latent_up = nn.Linear(rank, heads * (plain + value), bias=False)
        self.output = nn.Linear(heads * value, hidden, bias=False)

    def forward(self, x_BSE: Tensor, positions: Positions, cache: LatentCache | None) -> Tensor:
        """Attends to the sequence itself, or with a cache to everything up to it."""
        assert positions.angles is not None
        q_BSN = self.query(x_BSE) if self.query is not None else self.query_up(self.query_norm(self.query_down(x_BSE)))
        q_BHSD = q_BSN.unflatten(-1, (-1, self.plain + self.rotated)).transpose(1, 2)
        plain_BHSD, turning_BHSD = q_BHSD.split((self.plain, self.rotated), dim=-1)
        turned_BHSD = rotate(turning_BHSD, *positions.angles)
        latent_BSR, turning_BSD = self.latent_down(x_BSE).split((self.rank, self.rotated), dim=-1)
        latent_BSR, key_BSD = self.latent_norm(latent_BSR), rotate(turning_BSD, *positions.angles)
        if cache is not None:
            assert positions.start == 0 or x_BSE.shape[1] == 1, "after a filled cache, one token at a time"
            joined_BCR = cache.extend(torch.cat((latent_BSR, key_BSD), dim=-1), positions.start)
        if cache is not None and x_BSE.shape[1] == 1:
            out_BHSD = self._absorbed(plain_BHSD, turned_BHSD, joined_BCR)
        else:
            out_BHSD = self._expanded(torch.cat((plain_BHSD, turned_BHSD), dim=-1), latent_BSR, key_BSD)
        out_BSE: Tensor = self.output(out_BHSD.transpose(1, 2).flatten(2))
        return out_BSE

    def _expanded(self, q_BHSD: Tensor, latent_BSR: Tensor, key_BSD: Tensor) -> Tensor:
        """Each head's keys and values written out, for a whole sequence."""
        both_BHSD = self.latent_up(latent_BSR).unflatten(-1, (-1, self.plain + self.value)).transpose(1, 2)
        plain_BHSD, v_BHSD = both_BHSD.split((self.plain, self.value), dim=-1)
        shared_BHSD = key_BSD[:, None].expand(-1, plain_BHSD.shape[1], -1, -1)
        k_BHSD = torch.cat((plain_BHSD, shared_BHSD), dim=-1)
        if q_BHSD.device.type == "cpu" and self.value < k_BHSD.shape[-1]:
            # The CPU's fused kernel wants keys and values of one width, and torch would store all scores instead.
            v_BHSD = functional.pad(v_BHSD, (0, k_BHSD.shape[-1] - self.value))
        return attend(q_BHSD, k_BHSD, v_BHSD, is_causal=True)[..., : self.value]

    def _absorbed(self, plain_BHSD: Tensor, turned_BHSD: Tensor, joined_BCR: Tensor) -> Tensor:
        """One query for each head and sequence, carried into the latent space: no key or value is ever written out.

        Heads then share keys of width R and values that are a part of them, so that both are two matrix products for
        each sequence; fused kernels end at a width of 256.
        """
        key_HDR, value_HDR = self.latent_up.weight.unflatten(0, (-1, self.plain + self.value)).split(
            (self.plain, self.value), dim=1
        )
        latent_BHR = (plain_BHSD[:, :, 0].transpose(0, 1) @ key_HDR).transpose(0, 1)
        q_BHR = torch.cat((latent_BHR, turned_BHSD[:, :, 0]), dim=-1) * (self.plain + self.rotated) ** -0.5
        weights_BHC = (q_BHR @ joined_BCR.mT).softmax(-1)
        mixed_BHR = weights_BHC @ joined_BCR[..., : self.rank]
        out_HBD = mixed_BHR.transpose(0, 1) @ value_HDR.mT
        return out_HBD.transpose(0, 1)[:, :, None]


def _head_norms(model: Model) -> tuple[nn.Module | None, nn.Module | None]:
    """Of queries and of keys: over one head, the weights being the same for all, or over all heads at once."""
    if model.qk_norm == "none":
        return None, None
    if model.qk_norm == "head":
        return norm(model, model.head_dim), norm(model, model.head_dim)
    heads, groups = model.num_attention_heads, model.num_key_value_heads
    return norm(model, heads, model.head_dim), norm(model, groups, model.head_dim)

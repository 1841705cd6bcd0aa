"""One plain transformer for all macro workloads: built from a Model's shape, with random weights and no download.

Names of tensors carry their dimensions:
    B batch, S sequence, E hidden_size, V vocabulary, T tokens of a batch

A layer's parts lie beside this file: attention.py, mlp.py, norm.py, position.py, cache.py.
"""

from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bench.device import Device
from bench.model import Model
from workloads.models.attention import Attention, LatentAttention
from workloads.models.cache import LatentCache, LayerCache, empty_caches
from workloads.models.mlp import mlp
from workloads.models.norm import norm
from workloads.models.position import Alibi, Positions, Rotation, window_bias
from workloads.models.recompute import Recompute, recomputed
from workloads.models.reference import reference_layers, reference_logits

__all__ = ["LatentCache", "LayerCache", "Transformer", "empty_caches", "reference_layers", "reference_logits"]

Caches = Sequence[LayerCache] | Sequence[LatentCache]


class Transformer(nn.Module):
    """Embedding, blocks, norm and head for sequences up to `length`, with seeded normal weights."""

    # What of the blocks a backward pass works out again; see recompute.py.
    recompute: Recompute = "none"

    def __init__(self, model: Model, device: Device, dtype: str, length: int) -> None:
        super().__init__()
        self.model = model
        hidden, layers = model.hidden_size, model.num_hidden_layers
        # Built without memory, then given the device's data: default initialisation would take minutes for 8 B.
        with torch.device("meta"):
            self.embedding = nn.Embedding(model.vocab_size, hidden)
            num_positions = model.position_offset + model.max_position_embeddings
            self.positions = nn.Embedding(num_positions, hidden) if model.position == "learned" else None
            self.embedding_norm = norm(model, hidden) if model.embedding_norm else None
            self.blocks = nn.ModuleList(block(model, layer) for layer in range(layers))
            if model.query_layer:
                self.blocks.append(QueryBlock(model))
            self.norm = norm(model, hidden)
            head = nn.Linear if model.logit_softcap is None else CappedLinear
            self.head = head(hidden, model.vocab_size, bias=model.head_bias)
        _fill(self, device, dtype)
        if model.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        if model.logit_softcap is not None:
            self.head.cap = model.logit_softcap
        self.embedding_scale = hidden**0.5 if model.embedding_scale else None
        self.rotation, self.local_rotation = _rotations(model, device, length)
        self.alibi = Alibi(model.num_attention_heads, device) if model.position == "alibi" else None

    def forward(self, tokens_BS: Tensor, caches: Caches | None = None, start: int = 0) -> Tensor:
        """Hidden states [B, S, E] of `tokens_BS`, which stand at positions `start` and after."""
        x_BSE = self._embed(tokens_BS, start)
        full, windowed = self._places(tokens_BS.shape[1], start, x_BSE)
        recompute = self.recompute != "none" and torch.is_grad_enabled()
        for one, cache in zip(self.blocks, caches or repeat(None), strict=False):
            positions = windowed if one.is_windowed else full
            if recompute:
                x_BSE = recomputed(one, self.recompute, x_BSE, positions, cache)
            else:
                x_BSE = one(x_BSE, positions, cache)
        normed_BSE: Tensor = self.norm(x_BSE)
        return normed_BSE

    def loss(self, tokens_BS: Tensor, targets_BS: Tensor, chunk: int | None = None) -> Tensor:
        """Mean cross-entropy in float32, a scalar.

        With `chunk` the head takes so many tokens at a time, and takes them again in the backward pass: logits of all
        tokens, the largest tensor of a training step with a large vocabulary, never exist.
        """
        x_BSE = self(tokens_BS)
        if chunk is None:
            return functional.cross_entropy(self.head(x_BSE).float().flatten(0, 1), targets_BS.flatten())
        pairs = zip(x_BSE.flatten(0, 1).split(chunk), targets_BS.flatten().split(chunk), strict=True)
        losses = [checkpoint(self._summed_loss, *pair, use_reentrant=False, preserve_rng_state=False) for pair in pairs]
        return torch.stack(losses).sum() / targets_BS.numel()

    def next_logits(self, tokens_BS: Tensor, caches: Caches, start: int) -> Tensor:
        """Logits [B, V] after the last token; keys and values of `tokens_BS` are left in the caches."""
        logits_BV: Tensor = self.head(self(tokens_BS, caches, start)[:, -1])
        return logits_BV

    def _summed_loss(self, x_TE: Tensor, targets_T: Tensor) -> Tensor:
        return functional.cross_entropy(self.head(x_TE).float(), targets_T, reduction="sum")

    def _embed(self, tokens_BS: Tensor, start: int) -> Tensor:
        x_BSE: Tensor = self.embedding(tokens_BS)
        if self.embedding_scale is not None:
            x_BSE = x_BSE * self.embedding_scale
        if self.positions is not None:
            first = start + self.model.position_offset
            x_BSE = x_BSE + self.positions.weight[first : first + tokens_BS.shape[1]]
        return x_BSE if self.embedding_norm is None else self.embedding_norm(x_BSE)

    def _places(self, length: int, start: int, x_BSE: Tensor) -> tuple[Positions, Positions]:
        """For layers that see all, and for those with a window. In the type that queries have, under autocast too."""
        stop, dtype, kind = start + length, x_BSE.dtype, x_BSE.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        angles = None if self.rotation is None else self.rotation.at(start, stop, dtype)
        bias = None if self.alibi is None else self.alibi.at(start, stop, dtype)
        full = Positions(start, angles, bias)
        window = self.model.sliding_window
        if window is None:
            return full, full
        if self.local_rotation is not None:
            angles = self.local_rotation.at(start, stop, dtype)
        is_longer = length > window
        return full, Positions(start, angles, window_bias(window, x_BSE.device, dtype) if is_longer else None)


def block(model: Model, layer: int) -> nn.Module:
    """A layer, counted from 0, as the model arranges it."""
    if model.block != "serial":
        return ParallelBlock(model, layer)
    return {"pre": Block, "post": PostNormBlock, "both": SandwichBlock}[model.norm_place](model, layer)


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to the stream."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        self.is_windowed = layer < model.num_hidden_layers and model.is_windowed(layer)
        self.attention_norm = norm(model, model.hidden_size)
        if model.kv_lora_rank is not None:
            self.attention: nn.Module = LatentAttention(model)
        else:
            self.attention = Attention(model, model.sliding_window if self.is_windowed else None)
        self.mlp_norm = norm(model, model.hidden_size)
        self.mlp = mlp(model, layer)

    def forward(self, x_BSE: Tensor, positions: Positions, cache: LayerCache | LatentCache | None) -> Tensor:
        """The stream [B, S, E] after this block."""
        x_BSE = x_BSE + self.attention(self.attention_norm(x_BSE), positions, cache)
        return x_BSE + self.mlp(self.mlp_norm(x_BSE))


class PostNormBlock(Block):
    """Attention and MLP read the stream as it is, and what they add to it is normed (OLMo 2)."""

    def forward(self, x_BSE: Tensor, positions: Positions, cache: LayerCache | LatentCache | None) -> Tensor:
        """The stream [B, S, E] after this block."""
        x_BSE = x_BSE + self.attention_norm(self.attention(x_BSE, positions, cache))
        return x_BSE + self.mlp_norm(self.mlp(x_BSE))


class SandwichBlock(Block):
    """Norms before attention and MLP, and on what they add to the stream (Gemma 2)."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__(model, layer)
        self.attention_out_norm = norm(model, model.hidden_size)
        self.mlp_out_norm = norm(model, model.hidden_size)

    def forward(self, x_BSE: Tensor, positions: Positions, cache: LayerCache | LatentCache | None) -> Tensor:
        """The stream [B, S, E] after this block."""
        x_BSE = x_BSE + self.attention_out_norm(self.attention(self.attention_norm(x_BSE), positions, cache))
        return x_BSE + self.mlp_out_norm(self.mlp(self.mlp_norm(x_BSE)))


class ParallelBlock(Block):
    """Attention and MLP read the same stream (GPT-J), after one norm for both or one for each."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__(model, layer)
        self.has_one_norm = model.block == "parallel_one_norm"
        if self.has_one_norm:
            self.mlp_norm = self.attention_norm

    def forward(self, x_BSE: Tensor, positions: Positions, cache: LayerCache | LatentCache | None) -> Tensor:
        """The stream [B, S, E] after this block."""
        y_BSE = self.attention_norm(x_BSE)
        z_BSE = y_BSE if self.has_one_norm else self.mlp_norm(x_BSE)
        return x_BSE + self.attention(y_BSE, positions, cache) + self.mlp(z_BSE)


class QueryBlock(Block):
    """A layer on top whose queries are learned for each position (PanGu-alpha 2021, section 2.2)."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, model.num_hidden_layers)
        assert model.block == "serial" and model.norm_place == "pre" and model.kv_lora_rank is None
        self.queries = nn.Embedding(model.max_position_embeddings, model.hidden_size)

    def forward(self, x_BSE: Tensor, positions: Positions, cache: LayerCache | LatentCache | None) -> Tensor:
        """The stream [B, S, E] after this block."""
        start, length = positions.start, x_BSE.shape[1]
        asking_BSE = self.queries.weight[start : start + length].expand(x_BSE.shape[0], -1, -1)
        x_BSE = x_BSE + self.attention(self.attention_norm(x_BSE), positions, cache, asking_BSE)
        return x_BSE + self.mlp(self.mlp_norm(x_BSE))


class CappedLinear(nn.Linear):
    """A head whose logits stay within `cap`: cap · tanh(logit / cap) (Gemma 2)."""

    cap: float

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[..., E] to [..., V]."""
        return torch.tanh(super().forward(x_BSE) / self.cap) * self.cap


def _rotations(model: Model, device: Device, length: int) -> tuple[Rotation | None, Rotation | None]:
    """Of all layers, and of those with a window where it differs."""
    if model.rope_theta is None:
        return None, None
    size = model.qk_rope_head_dim or model.rotary_dim or model.head_dim
    local = model.rope_local_theta
    return Rotation(model.rope_theta, size, device, length), (
        None if local is None else Rotation(local, size, device, length)
    )


def _fill(module: nn.Module, device: Device, dtype: str) -> None:
    """Gives every parameter the device's data: norms near one, biases near zero, matrices of 1 / sqrt(columns).

    For a linear layer that keeps the spread of its input; an embedding row gets length one, which suits it as a head.
    """
    for layer in module.modules():
        is_norm = isinstance(layer, nn.LayerNorm | nn.RMSNorm)
        for name, parameter in list(layer.named_parameters(recurse=False)):
            shape = parameter.shape
            is_matrix = len(shape) > 1 and not is_norm and "bias" not in name
            tensor = device.normal(*shape, dtype=dtype, std=shape[-1] ** -0.5 if is_matrix else 0.02)
            if is_norm and name == "weight":
                tensor += 1
            setattr(layer, name, nn.Parameter(tensor, requires_grad=parameter.requires_grad))

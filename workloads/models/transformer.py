"""One plain transformer for all macro workloads: built from a Model's shape, with random weights and no download.

Names of tensors carry their dimensions:
    B batch, S sequence, E hidden_size, H query heads, G key-value heads, D head_dim, F intermediate_size, V vocabulary,
    C positions in the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.device import Device
from bench.model import Model
from workloads._attend import attend
from workloads._reference import wide


class Transformer(nn.Module):
    """Embedding, blocks, norm and head for sequences up to `length`, with seeded normal weights."""

    def __init__(self, model: Model, device: Device, dtype: str, length: int) -> None:
        super().__init__()
        self.model = model
        # Built without memory, then given the device's data: default initialisation would take minutes for 8 B.
        with torch.device("meta"):
            self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
            self.positions = (
                nn.Embedding(model.max_position_embeddings, model.hidden_size) if model.position == "learned" else None
            )
            self.blocks = nn.ModuleList(Block(model) for _ in range(model.num_hidden_layers))
            self.norm = _norm(model, model.hidden_size)
            self.head = nn.Linear(model.hidden_size, model.vocab_size, bias=False)
        _fill(self, device, dtype)
        if model.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        self.rotation = Rotation(model, device, length) if model.position == "rope" else None

    def forward(self, tokens_BS: Tensor, caches: "list[LayerCache] | None" = None, start: int = 0) -> Tensor:
        """Hidden states [B, S, E] of `tokens_BS`, which stand at positions `start` and after."""
        x_BSE = self.embedding(tokens_BS)
        if self.positions is not None:
            x_BSE = x_BSE + self.positions.weight[start : start + tokens_BS.shape[1]]
        for index, block in enumerate(self.blocks):
            x_BSE = block(x_BSE, self.rotation, caches[index] if caches else None, start)
        normed_BSE: Tensor = self.norm(x_BSE)
        return normed_BSE

    def loss(self, tokens_BS: Tensor, targets_BS: Tensor) -> Tensor:
        """Mean cross-entropy in float32, a scalar."""
        logits_BSV = self.head(self(tokens_BS))
        return functional.cross_entropy(logits_BSV.float().flatten(0, 1), targets_BS.flatten())

    def next_logits(self, tokens_BS: Tensor, caches: "list[LayerCache]", start: int) -> Tensor:
        """Logits [B, V] after the last token; keys and values of `tokens_BS` are left in the caches."""
        logits_BV: Tensor = self.head(self(tokens_BS, caches, start)[:, -1])
        return logits_BV


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to the stream."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.attention_norm = _norm(model, model.hidden_size)
        self.attention = Attention(model)
        self.mlp_norm = _norm(model, model.hidden_size)
        self.mlp = GatedMlp(model) if model.hidden_act == "silu" else Mlp(model)

    def forward(self, x_BSE: Tensor, rotation: "Rotation | None", cache: "LayerCache | None", start: int) -> Tensor:
        """The stream [B, S, E] after this block."""
        x_BSE = x_BSE + self.attention(self.attention_norm(x_BSE), rotation, cache, start)
        return x_BSE + self.mlp(self.mlp_norm(x_BSE))


class Attention(nn.Module):
    """Causal attention with grouped queries (Ainslie et al. 2023)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        heads, groups, head_dim = model.num_attention_heads, model.num_key_value_heads, model.head_dim
        self.head_dim = head_dim
        self.query = nn.Linear(model.hidden_size, heads * head_dim, bias="qkv" in model.attention_bias)
        self.key = nn.Linear(model.hidden_size, groups * head_dim, bias="qkv" in model.attention_bias)
        self.value = nn.Linear(model.hidden_size, groups * head_dim, bias="qkv" in model.attention_bias)
        self.output = nn.Linear(heads * head_dim, model.hidden_size, bias="o" in model.attention_bias)
        self.query_norm = _norm(model, head_dim) if model.qk_norm == "head" else None
        self.key_norm = _norm(model, head_dim) if model.qk_norm == "head" else None

    def forward(self, x_BSE: Tensor, rotation: "Rotation | None", cache: "LayerCache | None", start: int) -> Tensor:
        """Attends to the sequence itself, or with a cache to everything up to it."""
        q_BSHD, k_BSGD, v_BSGD = (
            projection(x_BSE).unflatten(-1, (-1, self.head_dim)) for projection in (self.query, self.key, self.value)
        )
        if self.query_norm is not None and self.key_norm is not None:
            q_BSHD, k_BSGD = self.query_norm(q_BSHD), self.key_norm(k_BSGD)
        q_BHSD, k_BGSD, v_BGSD = q_BSHD.transpose(1, 2), k_BSGD.transpose(1, 2), v_BSGD.transpose(1, 2)
        if rotation is not None:
            angles = rotation.at(start, start + x_BSE.shape[1], q_BHSD.dtype)
            q_BHSD, k_BGSD = rotate(q_BHSD, *angles), rotate(k_BGSD, *angles)
        if cache is not None:
            # torch's causal mask stands at the top left: after a filled cache it suits a single token only.
            assert start == 0 or x_BSE.shape[1] == 1, "after a filled cache, one token at a time"
            k_BGSD, v_BGSD = cache.extend(k_BGSD, v_BGSD, start)
        out_BHSD = attend(q_BHSD, k_BGSD, v_BGSD, is_causal=start == 0)
        out_BSE: Tensor = self.output(out_BHSD.transpose(1, 2).flatten(2))
        return out_BSE


class GatedMlp(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.gate = nn.Linear(model.hidden_size, model.intermediate_size, bias=model.mlp_bias)
        self.up = nn.Linear(model.hidden_size, model.intermediate_size, bias=model.mlp_bias)
        self.down = nn.Linear(model.intermediate_size, model.hidden_size, bias=model.mlp_bias)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        out_BSE: Tensor = self.down(functional.silu(self.gate(x_BSE)) * self.up(x_BSE))
        return out_BSE


class Mlp(nn.Module):
    """Two linear layers and GELU, by its tanh form as GPT-2 has it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.up = nn.Linear(model.hidden_size, model.intermediate_size, bias=model.mlp_bias)
        self.down = nn.Linear(model.intermediate_size, model.hidden_size, bias=model.mlp_bias)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        out_BSE: Tensor = self.down(functional.gelu(self.up(x_BSE), approximate="tanh"))
        return out_BSE


class Rotation:
    """Rotary position embedding (Su et al. 2021), the two halves of a head rotated against each other as in Llama."""

    def __init__(self, model: Model, device: Device, length: int) -> None:
        half = torch.arange(0, model.head_dim, 2, device=device.torch_device, dtype=torch.float32) / model.head_dim
        inverse = model.rope_theta**-half
        positions = torch.arange(length, device=device.torch_device, dtype=torch.float32)
        self.angles_CD = torch.outer(positions, inverse).repeat(1, 2)
        self._by_dtype: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def at(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine [S, D] of the positions."""
        if dtype not in self._by_dtype:
            self._by_dtype[dtype] = self.angles_CD.cos().to(dtype), self.angles_CD.sin().to(dtype)
        cosine_CD, sine_CD = self._by_dtype[dtype]
        return cosine_CD[start:stop], sine_CD[start:stop]


def rotate(x_BHSD: Tensor, cosine_SD: Tensor, sine_SD: Tensor) -> Tensor:
    """`x_BHSD` turned by its positions' angles."""
    first, second = x_BHSD.chunk(2, dim=-1)
    return x_BHSD * cosine_SD + torch.cat((-second, first), dim=-1) * sine_SD


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, [B, G, C, D] each.

    One tensor per layer: a single stacked tensor is copied whole for each layer under torch.compile.
    """

    keys_BGCD: Tensor
    values_BGCD: Tensor

    def extend(self, k_BGSD: Tensor, v_BGSD: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Writes at `start` and gives everything up to there."""
        stop = start + k_BGSD.shape[2]
        self.keys_BGCD[:, :, start:stop] = k_BGSD
        self.values_BGCD[:, :, start:stop] = v_BGSD
        return self.keys_BGCD[:, :, :stop], self.values_BGCD[:, :, :stop]


def empty_caches(model: Model, device: Device, dtype: str, batch: int, length: int) -> list[LayerCache]:
    """A cache of normal numbers for each layer: what a filled cache looks like to the memory system."""
    shape = (batch, model.num_key_value_heads, length, model.head_dim)
    return [
        LayerCache(device.normal(*shape, dtype=dtype), device.normal(*shape, dtype=dtype))
        for _ in range(model.num_hidden_layers)
    ]


def reference_layers(transformer: Transformer, tokens_S: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same arithmetic in float64, written out plainly: for each layer its keys and values [G, S, D] and
    the stream [S, E] after it. Weights are widened one layer at a time, so a large model needs little extra memory.
    """
    model, length = transformer.model, tokens_S.shape[0]
    x_SE = wide(transformer.embedding.weight[tokens_S])
    if transformer.positions is not None:
        x_SE = x_SE + wide(transformer.positions.weight[:length])
    future_SS = torch.ones(length, length, dtype=torch.bool, device=x_SE.device).triu(1)
    group = model.num_attention_heads // model.num_key_value_heads
    for block in transformer.blocks:
        attention, mlp = block.attention, block.mlp
        y_SE = _wide_norm(block.attention_norm, x_SE)
        q_HSD, k_GSD, v_GSD = (
            _wide_linear(projection, y_SE).unflatten(-1, (-1, model.head_dim)).transpose(0, 1)
            for projection in (attention.query, attention.key, attention.value)
        )
        if attention.query_norm is not None:
            q_HSD, k_GSD = _wide_norm(attention.query_norm, q_HSD), _wide_norm(attention.key_norm, k_GSD)
        if transformer.rotation is not None:
            angles_SD = wide(transformer.rotation.angles_CD[:length])
            q_HSD, k_GSD = (rotate(x, angles_SD.cos(), angles_SD.sin()) for x in (q_HSD, k_GSD))
        scores_HSS = q_HSD @ k_GSD.repeat_interleave(group, 0).mT * model.head_dim**-0.5
        mixed_HSD = scores_HSS.masked_fill(future_SS, float("-inf")).softmax(-1) @ v_GSD.repeat_interleave(group, 0)
        x_SE = x_SE + _wide_linear(attention.output, mixed_HSD.transpose(0, 1).flatten(1))
        y_SE = _wide_norm(block.mlp_norm, x_SE)
        if isinstance(mlp, GatedMlp):
            hidden_SF = functional.silu(_wide_linear(mlp.gate, y_SE)) * _wide_linear(mlp.up, y_SE)
        else:
            hidden_SF = functional.gelu(_wide_linear(mlp.up, y_SE), approximate="tanh")
        x_SE = x_SE + _wide_linear(mlp.down, hidden_SF)
        yield k_GSD, v_GSD, x_SE


def reference_logits(transformer: Transformer, tokens_S: Tensor) -> Tensor:
    """Logits [S, V] in float64; see `reference_layers`."""
    *_, (_, _, x_SE) = reference_layers(transformer, tokens_S)
    return _wide_linear(transformer.head, _wide_norm(transformer.norm, x_SE))


def _wide_linear(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    out = x @ wide(layer.weight).T
    return out if layer.bias is None else out + wide(layer.bias)


def _wide_norm(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    assert isinstance(layer, nn.LayerNorm | nn.RMSNorm) and layer.eps is not None
    out = x * (x.square().mean(-1, keepdim=True) + layer.eps).rsqrt() * wide(layer.weight)
    return out + wide(layer.bias) if isinstance(layer, nn.LayerNorm) else out


def _norm(model: Model, size: int) -> nn.Module:
    if model.norm == "layer_norm":
        return nn.LayerNorm(size, eps=model.norm_eps)
    return nn.RMSNorm(size, eps=model.norm_eps)


def _fill(module: nn.Module, device: Device, dtype: str) -> None:
    """Gives every parameter the device's data: norms near one, biases near zero, matrices of 1 / sqrt(columns).

    For a linear layer that keeps the spread of its input; an embedding row gets length one, which suits it as a head.
    """
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            shape = parameter.shape
            spread = shape[1] ** -0.5 if len(shape) == 2 else 0.02
            tensor = device.normal(*shape, dtype=dtype, std=spread)
            if len(shape) == 1 and name == "weight":
                tensor += 1
            setattr(layer, name, nn.Parameter(tensor))

"""One plain transformer for all macro workloads: built from a Model's shape, with random weights and no download.

Names of tensors carry their dimensions:
    B batch, S sequence, E hidden_size, H query heads, G key-value heads, D head_dim, F intermediate_size, V vocabulary,
    C positions in the cache.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from bench.device import Device
from bench.errors import Unsupported
from bench.model import Model
from workloads._attend import attend
from workloads.models.mlp import Experts, GatedMlp, Mlp


class Transformer(nn.Module):
    """Embedding, blocks, norm and head for sequences up to `length`, with seeded normal weights.

    `recompute` says what a training step keeps of each block for the backward pass: everything (none); the outputs of
    products and attention, while the cheap rest is computed anew (selective); or the block's input alone (full).
    Raises Unsupported for a model with parts that are not built here.
    """

    def __init__(self, model: Model, device: Device, dtype: str, length: int) -> None:
        super().__init__()
        _refuse_what_is_missing(model)
        self.model = model
        self.recompute: Recompute = "none"
        # Built without memory, then given the device's data: default initialisation would take minutes for 8 B.
        with torch.device("meta"):
            self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
            self.embedding_norm = _norm(model, model.hidden_size) if model.embedding_norm else None
            places = model.max_position_embeddings + model.position_offset
            self.positions = nn.Embedding(places, model.hidden_size) if model.position == "learned" else None
            self.blocks = nn.ModuleList(Block(model, layer) for layer in range(model.num_hidden_layers))
            self.norm = _norm(model, model.hidden_size)
            self.head = nn.Linear(model.hidden_size, model.vocab_size, bias=model.head_bias)
        _fill(self, device, dtype)
        if model.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        self.rotation, self.local_rotation = None, None
        if model.rope_theta is not None:
            self.rotation = Rotation(model, model.rope_theta, device, length)
            self.local_rotation = self.rotation
            if model.rope_local_theta is not None:
                self.local_rotation = Rotation(model, model.rope_local_theta, device, length)

    def forward(self, tokens_BS: Tensor, caches: "list[LayerCache] | None" = None, start: int = 0) -> Tensor:
        """Hidden states [B, S, E] of `tokens_BS`, which stand at positions `start` and after."""
        x_BSE = self.embed(tokens_BS, start)
        for index, block in enumerate(self.blocks):
            rotation = self.local_rotation if block.windowed else self.rotation
            cache = caches[index] if caches else None
            if self.recompute == "none" or caches:
                x_BSE = block(x_BSE, rotation, cache, start)
            else:
                x_BSE = checkpoint(
                    block, x_BSE, rotation, None, start, use_reentrant=False, context_fn=_KEPT[self.recompute]
                )
        normed_BSE: Tensor = self.norm(x_BSE)
        return normed_BSE

    def embed(self, tokens_BS: Tensor, start: int) -> Tensor:
        """The stream before the first block."""
        x_BSE = self.embedding(tokens_BS)
        if self.model.embedding_scale:
            x_BSE = x_BSE * self.model.hidden_size**0.5
        if self.positions is not None:
            first = start + self.model.position_offset
            x_BSE = x_BSE + self.positions.weight[first : first + tokens_BS.shape[1]]
        embedded_BSE: Tensor = x_BSE if self.embedding_norm is None else self.embedding_norm(x_BSE)
        return embedded_BSE

    def logits(self, x: Tensor) -> Tensor:
        """Scores [..., V] of hidden states [..., E]."""
        scores: Tensor = self.head(x)
        cap = self.model.logit_softcap
        return scores if cap is None else cap * torch.tanh(scores / cap)

    def loss(self, tokens_BS: Tensor, targets_BS: Tensor, chunk: int | None = None) -> Tensor:
        """Mean cross-entropy in float32, a scalar. With `chunk`, logits of so many tokens exist at a time: they are
        computed anew in the backward pass, and no tensor holds those of all.
        """
        x_TE, targets_T = self(tokens_BS).flatten(0, 1), targets_BS.flatten()
        if chunk is None:
            return functional.cross_entropy(self.logits(x_TE).float(), targets_T)
        total = torch.zeros((), device=x_TE.device)
        for x, targets in zip(x_TE.split(chunk), targets_T.split(chunk), strict=True):
            total = total + checkpoint(self._summed_loss, x, targets, use_reentrant=False)
        return total / targets_T.numel()

    def _summed_loss(self, x_TE: Tensor, targets_T: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(x_TE).float(), targets_T, reduction="sum")

    def next_logits(self, tokens_BS: Tensor, caches: "list[LayerCache]", start: int) -> Tensor:
        """Logits [B, V] after the last token; keys and values of `tokens_BS` are left in the caches."""
        return self.logits(self(tokens_BS, caches, start)[:, -1])


Recompute = Literal["none", "selective", "full"]


def _keep_products() -> Any:
    """For checkpointing: outputs of matrix products and fused attention are kept, all else is computed anew."""
    aten = torch.ops.aten
    names = (
        "mm", "addmm", "bmm", "_scaled_mm", "_grouped_mm", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )  # fmt: skip
    return create_selective_checkpoint_contexts([getattr(aten, name).default for name in names if hasattr(aten, name)])


_KEPT: dict[str, Any] = {"selective": _keep_products, "full": noop_context_fn}


class Block(nn.Module):
    """Attention and MLP or experts. Norms stand before them, after them on what they add to the stream, or both; in a
    parallel block both read the same stream.
    """

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        self.windowed = model.is_windowed(layer)
        self.parallel = model.block != "serial"
        before, after = model.norm_place in ("pre", "both"), model.norm_place in ("post", "both")
        size = model.hidden_size
        self.attention_norm = _norm(model, size) if before else None
        self.attention = Attention(model, model.sliding_window if self.windowed else None)
        self.attention_after = _norm(model, size) if after else None
        self.mlp_norm = _norm(model, size) if before and model.block != "parallel_one_norm" else None
        self.mlp = _mlp(model, layer)
        self.mlp_after = _norm(model, size) if after else None

    def forward(self, x_BSE: Tensor, rotation: "Rotation | None", cache: "LayerCache | None", start: int) -> Tensor:
        """The stream [B, S, E] after this block."""
        y_BSE = x_BSE if self.attention_norm is None else self.attention_norm(x_BSE)
        a_BSE = self.attention(y_BSE, rotation, cache, start)
        if self.parallel:
            y_BSE = y_BSE if self.mlp_norm is None else self.mlp_norm(x_BSE)
            parallel_BSE: Tensor = x_BSE + a_BSE + self.mlp(y_BSE)
            return parallel_BSE
        x_BSE = x_BSE + (a_BSE if self.attention_after is None else self.attention_after(a_BSE))
        m_BSE = self.mlp(x_BSE if self.mlp_norm is None else self.mlp_norm(x_BSE))
        return x_BSE + (m_BSE if self.mlp_after is None else self.mlp_after(m_BSE))


def _mlp(model: Model, layer: int) -> nn.Module:
    if not model.is_dense(layer):
        return Experts(model)
    return GatedMlp(model, model.intermediate_size) if model.num_mlp_matrices == 3 else Mlp(model)


class Attention(nn.Module):
    """Causal attention with grouped queries (Ainslie et al. 2023), over all keys or a window of the last ones."""

    def __init__(self, model: Model, window: int | None) -> None:
        super().__init__()
        heads, groups, head_dim = model.num_attention_heads, model.num_key_value_heads, model.head_dim
        self.head_dim, self.window = head_dim, window
        self.query = nn.Linear(model.hidden_size, heads * head_dim, bias="qkv" in model.attention_bias)
        self.key = nn.Linear(model.hidden_size, groups * head_dim, bias="qkv" in model.attention_bias)
        self.value = nn.Linear(model.hidden_size, groups * head_dim, bias="qkv" in model.attention_bias)
        self.output = nn.Linear(heads * head_dim, model.hidden_size, bias="o" in model.attention_bias)
        self.norm_heads = model.qk_norm == "head"
        sizes = {"none": None, "head": (head_dim, head_dim), "all_heads": (heads * head_dim, groups * head_dim)}
        normed = sizes[model.qk_norm]
        self.query_norm = _norm(model, normed[0]) if normed else None
        self.key_norm = _norm(model, normed[1]) if normed else None

    def forward(self, x_BSE: Tensor, rotation: "Rotation | None", cache: "LayerCache | None", start: int) -> Tensor:
        """Attends to the sequence itself, or with a cache to everything up to it."""
        q, k, v = self.query(x_BSE), self.key(x_BSE), self.value(x_BSE)
        if self.query_norm is not None and self.key_norm is not None and not self.norm_heads:
            q, k = self.query_norm(q), self.key_norm(k)
        q_BSHD, k_BSGD, v_BSGD = (x.unflatten(-1, (-1, self.head_dim)) for x in (q, k, v))
        if self.query_norm is not None and self.key_norm is not None and self.norm_heads:
            q_BSHD, k_BSGD = self.query_norm(q_BSHD), self.key_norm(k_BSGD)
        q_BHSD, k_BGSD, v_BGSD = q_BSHD.transpose(1, 2), k_BSGD.transpose(1, 2), v_BSGD.transpose(1, 2)
        if rotation is not None:
            angles = rotation.at(start, start + x_BSE.shape[1], q_BHSD.dtype)
            q_BHSD, k_BGSD = rotate(q_BHSD, *angles), rotate(k_BGSD, *angles)
        if cache is not None:
            # torch's causal mask stands at the top left: after a filled cache it suits a single token only.
            assert start == 0 or x_BSE.shape[1] == 1, "after a filled cache, one token at a time"
            k_BGSD, v_BGSD = cache.extend(k_BGSD, v_BGSD, start)
        out_BHSD = self._attend(q_BHSD, k_BGSD, v_BGSD)
        out_BSE: Tensor = self.output(out_BHSD.transpose(1, 2).flatten(2))
        return out_BSE

    def _attend(self, q_BHSD: Tensor, k_BGCD: Tensor, v_BGCD: Tensor) -> Tensor:
        queries, keys = q_BHSD.shape[2], k_BGCD.shape[2]
        if self.window is None or keys <= self.window:
            return attend(q_BHSD, k_BGCD, v_BGCD, is_causal=queries > 1)
        if queries == 1:
            return attend(q_BHSD, k_BGCD[:, :, -self.window :], v_BGCD[:, :, -self.window :], is_causal=False)
        return attend(q_BHSD, k_BGCD, v_BGCD, is_causal=False, seen_SC=window_of(queries, self.window, q_BHSD.device))


def window_of(seq: int, window: int, device: torch.device) -> Tensor:
    """True [S, S] where a query sees a key: itself and the window - 1 before it."""
    behind = torch.arange(seq, device=device)[:, None] - torch.arange(seq, device=device)
    return (behind >= 0) & (behind < window)


class Rotation:
    """Rotary position embedding (Su et al. 2021), the two halves of a head rotated against each other as in Llama, or
    of the part of it that is rotated at all.
    """

    def __init__(self, model: Model, theta: float, device: Device, length: int) -> None:
        turned = model.rotary_dim or model.head_dim
        half = torch.arange(0, turned, 2, device=device.torch_device, dtype=torch.float32) / turned
        inverse = theta**-half
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
    """`x_BHSD` turned by its positions' angles, in as many of its dimensions as there are angles."""
    turned = cosine_SD.shape[-1]
    if turned < x_BHSD.shape[-1]:
        return torch.cat((rotate(x_BHSD[..., :turned], cosine_SD, sine_SD), x_BHSD[..., turned:]), dim=-1)
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


def _refuse_what_is_missing(model: Model) -> None:
    """A model is measured as it is or not at all."""
    missing = {
        "latent attention": model.kv_lora_rank is not None,
        "positions by ALiBi": model.position == "alibi",
        "attention sinks": model.attention_sinks,
        "a soft cap on attention scores": model.attention_softcap is not None,
        "a query layer": model.query_layer,
        "experts with biases": model.mlp_bias and model.num_experts is not None,
    }
    if found := [name for name, is_there in missing.items() if is_there]:
        raise Unsupported(f"{model.name} has {' and '.join(found)}, which this version does not build")


def _norm(model: Model, size: int) -> nn.Module:
    if model.norm == "layer_norm":
        return nn.LayerNorm(size, eps=model.norm_eps, bias=model.norm_bias)
    return nn.RMSNorm(size, eps=model.norm_eps)


def _fill(module: nn.Module, device: Device, dtype: str) -> None:
    """Gives every parameter the device's data: norms near one, biases near zero, matrices of 1 / sqrt(columns).

    For a linear layer that keeps the spread of its input; an embedding row gets length one, which suits it as a head.
    """
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            shape = parameter.shape
            # A linear layer has a row for each output; an expert's matrix has a column for it.
            spread = {1: 0.02, 2: shape[-1] ** -0.5}.get(len(shape), shape[-2] ** -0.5 if len(shape) > 1 else 0.0)
            tensor = device.normal(*shape, dtype=dtype, std=spread)
            if len(shape) == 1 and name == "weight":
                tensor += 1
            setattr(layer, name, nn.Parameter(tensor))

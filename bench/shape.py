"""Shape: the numbers that make up a decoder-only transformer, and which of them can stand together.

The fields are named as in a Hugging Face config.json, so that a figure can be compared with the published one key by
key.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bench.errors import UserError

PROJECTIONS = ("qkv", "o")

_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
_COUNTS_OR_NONE = (
    "sliding_window",
    "full_attention_every",
    "rotary_dim",
    "kv_lora_rank",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
)
_COUNTS_OR_ZERO = ("position_offset", "num_dense_layers")
_POSITIVE_OR_NONE = ("rope_local_theta", "attention_softcap", "logit_softcap")
_FLAGS = (
    "tie_word_embeddings",
    "mlp_bias",
    "head_bias",
    "norm_bias",
    "embedding_norm",
    "embedding_scale",
    "attention_sinks",
    "query_layer",
    "router_bias",
)
_CHOICES = {
    "hidden_act": ("silu", "geglu", "gelu", "relu"),
    "norm": ("rms_norm", "layer_norm"),
    "norm_place": ("pre", "post", "both"),
    "block": ("serial", "parallel", "parallel_one_norm"),
    "position": ("rope", "learned", "alibi"),
    "qk_norm": ("none", "head", "all_heads"),
    "router": ("softmax", "sigmoid"),
}
# Given together or not at all; and what is left at its default without them.
_LATENT = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_EXPERTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
_ONLY_WITH_EXPERTS = ("shared_expert_intermediate_size", "num_dense_layers", "router_bias")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a decoder-only transformer. Raises UserError for one that cannot be."""

    hidden_size: int
    intermediate_size: int  # of a dense MLP; a model whose layers are all of experts gives what its file gives
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int  # heads · head_dim need not be hidden_size: it is twice that in Qwen3-0.6B
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool

    # The MLP. silu and geglu are gated, three matrices (Shazeer 2020); gelu and relu are not, two.
    hidden_act: Literal["silu", "geglu", "gelu", "relu"]
    mlp_bias: bool
    head_bias: bool = False  # on the logits, as in CodeGen and Phi-2

    # Norms: before attention and MLP, after them on what they add to the stream (OLMo 2), or both (Gemma 2).
    norm: Literal["rms_norm", "layer_norm"]
    norm_eps: float
    norm_bias: bool = True  # of a layer norm; MPT has none. An RMS norm never has one
    norm_place: Literal["pre", "post", "both"] = "pre"
    embedding_norm: bool = False  # on the embedding, as in BLOOM
    embedding_scale: bool = False  # the embedding times sqrt(d), as in Gemma
    # Parallel: attention and MLP read the same stream and are added together (GPT-J); with one norm for both, or two.
    block: Literal["serial", "parallel", "parallel_one_norm"] = "serial"

    position: Literal["rope", "learned", "alibi"]
    rope_theta: float | None = None  # None where positions are not rotated
    rope_local_theta: float | None = None  # of the layers with a window, where it differs (Gemma 3)
    rotary_dim: int | None = None  # the part of each head that is rotated; None: all of it
    position_offset: int = 0  # rows of the table of positions before the first one: 2 in OPT

    attention_bias: tuple[str, ...]  # the projections that carry one: "qkv", "o"; Qwen2 has qkv alone
    # A norm of queries and keys before they are rotated: of each head, its weights shared by the heads (Qwen3), or of
    # all heads together (OLMo 2).
    qk_norm: Literal["none", "head", "all_heads"] = "none"
    attention_sinks: bool = False  # a learned score for each head that attends to nothing (GPT-OSS)
    attention_softcap: float | None = None  # scores become cap · tanh(score / cap) (Gemma 2)
    logit_softcap: float | None = None  # and so do logits
    sliding_window: int | None = None  # a query sees so many keys, itself included
    full_attention_every: int | None = None  # layers n - 1, 2n - 1, ... see all keys; None: with a window, none does
    query_layer: bool = False  # one more layer on top, whose queries are learned for each position (PanGu-alpha)

    # Latent attention (DeepSeek-V2 2024, section 2.1): keys and values come from one narrow vector a token, and a
    # head's queries and keys have a part that is not rotated and one that is. Then head_dim is the sum of both parts.
    kv_lora_rank: int | None = None
    q_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None

    # Experts (Shazeer et al. 2017): of num_experts MLPs a router chooses num_experts_per_tok for each token.
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None  # of the MLP that every token passes besides, all such as one
    num_dense_layers: int = 0  # the first layers that have a dense MLP in place of experts
    router: Literal["softmax", "sigmoid"] = "softmax"
    router_bias: bool = False  # one number for each expert, added to the router's scores

    def __post_init__(self) -> None:
        for key in _COUNTS:
            self._check(key, is_count, "a whole number from 1 to 1,000,000,000")
        for key in _COUNTS_OR_NONE:
            self._check(key, lambda n: n is None or is_count(n), "a whole number from 1 to 1,000,000,000, or left out")
        for key in _COUNTS_OR_ZERO:
            self._check(key, lambda n: type(n) is int and 0 <= n <= 10**9, "a whole number from 0 to 1,000,000,000")
        for key in _POSITIVE_OR_NONE:
            self._check(key, lambda x: x is None or _is_positive(x), "a number above 0, or left out")
        for key in _FLAGS:
            self._check(key, lambda flag: type(flag) is bool, "true or false")
        for key, choices in _CHOICES.items():
            self._check(key, choices.__contains__, " or ".join(choices))
        self._check("norm_eps", _is_positive, "a number above 0")
        self._check("attention_bias", _are_projections, "a list of qkv and o, each at most once")
        heads = self.num_attention_heads
        self._check(
            "num_key_value_heads", lambda k: heads % k == 0, f"a divisor of num_attention_heads, which is {heads}"
        )
        self._check_positions()
        self._check_windows()
        if self.block != "serial":
            self._check("norm_place", lambda place: place == "pre", f"pre where block is {self.block}")
        self._check_latent()
        self._check_experts()

    def _check_positions(self) -> None:
        if self.position == "rope":
            self._check("rope_theta", _is_positive, "a number above 0 where position is rope")
            if self.rotary_dim is None:
                self._check("head_dim", _is_even, "even where position is rope, which turns pairs")
            else:
                fits = f"even and at most head_dim, which is {self.head_dim}"
                self._check("rotary_dim", lambda size: _is_even(size) and size <= self.head_dim, fits)
        else:
            for key in ("rope_theta", "rope_local_theta", "rotary_dim"):
                self._check_unset(key, None, f"where position is {self.position}")
        if self.position != "learned":
            self._check_unset("position_offset", 0, f"where position is {self.position}")

    def _check_windows(self) -> None:
        if self.sliding_window is None:
            self._check_unset("full_attention_every", None, "without sliding_window")
            self._check_unset("rope_local_theta", None, "without sliding_window")
        self._check("full_attention_every", lambda n: n is None or n > 1, "2 or more: with 1 no layer has a window")

    def _check_latent(self) -> None:
        if not self._check_together(_LATENT):
            self._check_unset("q_lora_rank", None, "without kv_lora_rank")
            return
        parts = (self.qk_nope_head_dim or 0) + (self.qk_rope_head_dim or 0)
        self._check("head_dim", lambda size: size == parts, f"qk_nope_head_dim + qk_rope_head_dim, which is {parts}")
        heads = self.num_attention_heads
        self._check("num_key_value_heads", lambda k: k == heads, f"num_attention_heads, {heads}, with kv_lora_rank")
        self._check("position", lambda position: position == "rope", "rope with kv_lora_rank")
        self._check("qk_rope_head_dim", _is_even, "even: it is turned in pairs")
        self._check_unset("rotary_dim", None, "with qk_rope_head_dim")
        self._check_unset("attention_bias", (), "with kv_lora_rank")
        self._check_unset("qk_norm", "none", "with kv_lora_rank")

    def _check_experts(self) -> None:
        if not self._check_together(_EXPERTS):
            for key in _ONLY_WITH_EXPERTS:
                self._check(key, lambda value: not value, "left out without num_experts")
            self._check_unset("router", "softmax", "without num_experts")
            return
        experts, layers = self.num_experts or 0, self.num_hidden_layers
        self._check("num_experts_per_tok", lambda num: num <= experts, f"at most num_experts, which is {experts}")
        self._check("num_dense_layers", lambda num: num <= layers, f"at most num_hidden_layers, which is {layers}")

    def _check_together(self, keys: tuple[str, ...]) -> bool:
        """Whether the keys are given. Raises UserError where some are and others not."""
        given = [key for key in keys if getattr(self, key) is not None]
        if given:
            for key in keys:
                self._check(key, lambda value: value is not None, f"given with {given[0]}")
        return bool(given)

    def _check_unset(self, key: str, default: object, where: str) -> None:
        self._check(key, lambda value: value == default, f"left out {where}")

    def _check(self, key: str, is_right: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, key)
        if not is_right(value):
            given = "missing" if value is None else f"{value!r:.80}"
            raise UserError(f"{key} is {given}, it must be {allowed}")


def is_count(value: object) -> bool:
    """Whether it is a whole number that a size can be."""
    return type(value) is int and 1 <= value <= 10**9


def _is_even(value: int) -> bool:
    return value % 2 == 0


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _are_projections(value: object) -> bool:
    return isinstance(value, tuple) and all(one in PROJECTIONS for one in value) and len(set(value)) == len(value)

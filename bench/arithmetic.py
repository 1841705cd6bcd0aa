"""Arithmetic: a model, and what follows from its shape alone: parameters, FLOPs, bytes of the cache.

Symbols in the formulas: L layers, d hidden_size, a attention heads, k key-value heads, h head_dim, f intermediate_size,
V vocabulary, E experts, e experts for each token, W window, s sequence. Of latent attention: h_v v_head_dim, h_r
qk_rope_head_dim, h_n qk_nope_head_dim, r kv_lora_rank, r_q q_lora_rank.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from bench.errors import UserError
from bench.shape import Shape


@dataclass(frozen=True, kw_only=True)
class Model(Shape):
    """A shape with a name and a source. Raises UserError where the shape is not as large as was published."""

    name: str
    num_parameters: int | None = None  # as published; checked against the shape. None: nobody published it
    source: str  # where the figures come from

    def __post_init__(self) -> None:
        for key in ("name", "source"):
            self._check(key, _is_text, "a text that is not empty")
        super().__post_init__()
        total = self.total_parameters
        self._check(
            "num_parameters",
            lambda num: num is None or (type(num) is int and num == total),
            f"{total}, which is what the shape adds up to, or left out",
        )

    def with_layers(self, num_layers: int) -> "Model":
        """The model cut down to its first layers, for a device that does not hold all. Raises UserError."""
        if not 1 <= num_layers <= self.num_hidden_layers:
            raise UserError(f"{self.name} has {self.num_hidden_layers} layers, {num_layers} were asked for")
        return dataclasses.replace(
            self,
            num_hidden_layers=num_layers,
            num_dense_layers=min(self.num_dense_layers, num_layers),
            num_parameters=None,
        )

    @property
    def num_blocks(self) -> int:
        """Layers, with the query layer on top of them where there is one."""
        return self.num_hidden_layers + self.query_layer

    @property
    def num_expert_layers(self) -> int:
        """Layers that have experts in place of a dense MLP."""
        return self.num_hidden_layers - self.num_dense_layers if self.num_experts else 0

    @property
    def num_windowed_layers(self) -> int:
        """Layers whose queries see a window."""
        return sum(self.is_windowed(layer) for layer in range(self.num_hidden_layers))

    def is_windowed(self, layer: int) -> bool:
        """Whether queries of this layer, counted from 0, see a window and no more."""
        every = self.full_attention_every
        return self.sliding_window is not None and (every is None or (layer + 1) % every != 0)

    def is_dense(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has a dense MLP and no experts."""
        return self.num_experts is None or layer < self.num_dense_layers

    @property
    def query_size(self) -> int:
        """Width of the queries of one token, all heads together: a·h."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of the keys of one token, which is that of its values but in latent attention: k·h."""
        return self.num_key_value_heads * self.head_dim

    @property
    def value_head_dim(self) -> int:
        """Width of one head's values: h, but h_v in latent attention."""
        return self.v_head_dim or self.head_dim

    @property
    def num_mlp_matrices(self) -> int:
        """Matrices in one MLP: gate, up and down where it is gated, up and down where it is not."""
        return 3 if self.hidden_act in ("silu", "geglu") else 2

    @property
    def embedding_parameters(self) -> int:
        """The token table, V·d, the table of positions where these are learned, and that of the query layer."""
        positions = self.max_position_embeddings + self.position_offset if self.position == "learned" else 0
        queries = self.max_position_embeddings if self.query_layer else 0
        return (self.vocab_size + positions + queries) * self.hidden_size

    @property
    def attention_parameters(self) -> int:
        """Weights and biases of the projections of all layers, and the sinks, one a head, without any norm."""
        qkv_bias = self.query_size + 2 * self.key_value_size if "qkv" in self.attention_bias else 0
        o_bias = self.hidden_size if "o" in self.attention_bias else 0
        sinks = self.num_attention_heads if self.attention_sinks else 0
        return self.num_blocks * (self._attention_weights + qkv_bias + o_bias + sinks)

    @property
    def mlp_parameters(self) -> int:
        """Weights and biases of the MLPs of all layers; in a layer of experts of all experts and the router."""
        dense = self.num_blocks - self.num_expert_layers
        return dense * self._mlp_parameters(self.intermediate_size) + self.num_expert_layers * (
            self._routed_parameters * (self.num_experts or 0) + self._unrouted_parameters
        )

    @property
    def norm_parameters(self) -> int:
        """Norms of the stream in each layer and after the last, on the embedding, and on queries and keys."""
        in_layer = {"serial": 2, "parallel": 2, "parallel_one_norm": 1}[self.block]
        if self.norm_place == "both":
            in_layer *= 2
        stream = self.num_blocks * in_layer + 1 + self.embedding_norm
        return stream * self._norm(self.hidden_size) + self.num_blocks * self._inner_norm_parameters

    @property
    def head_parameters(self) -> int:
        """The matrix that gives the logits, V·d, 0 where it is the token table itself; and its bias, V."""
        matrix = 0 if self.tie_word_embeddings else self.head_matmul_parameters
        return matrix + (self.vocab_size if self.head_bias else 0)

    @cached_property  # a search over layouts asks thousands of times
    def total_parameters(self) -> int:
        """Every parameter once: what a checkpoint holds and an optimizer keeps state for."""
        return (
            self.embedding_parameters
            + self.attention_parameters
            + self.mlp_parameters
            + self.norm_parameters
            + self.head_parameters
        )

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes: all but those of the experts that its router did not choose."""
        idle = (self.num_experts or 0) - (self.num_experts_per_tok or 0)
        return self.total_parameters - self.num_expert_layers * idle * self._routed_parameters

    @property
    def layer_matmul_parameters(self) -> int:
        """Weights of all layers that a token is multiplied with: two FLOP each, forward (Kaplan et al. 2020, 2.1).

        Of experts those that its router chooses for it.
        """
        dense = self.num_blocks - self.num_expert_layers
        return (
            self.num_blocks * self._attention_weights
            + dense * self._mlp_weights(self.intermediate_size)
            + self.num_expert_layers
            * (
                (self.num_experts_per_tok or 0) * self.expert_matmul_parameters
                + self._mlp_weights(self.shared_expert_intermediate_size or 0)
                + self.hidden_size * (self.num_experts or 0)
            )
        )

    @property
    def expert_matmul_parameters(self) -> int:
        """Weights of one expert of one layer, 3·d·f_e gated; 0 without experts."""
        return self._mlp_weights(self.moe_intermediate_size or 0)

    @property
    def head_matmul_parameters(self) -> int:
        """Weights that a token is multiplied with to give its logits: V·d, tied or not. Prefill needs the last only."""
        return self.vocab_size * self.hidden_size

    @property
    def matmul_parameters(self) -> int:
        """Weights that a token is multiplied with, head included. An embedding is looked up, which costs no FLOP."""
        return self.layer_matmul_parameters + self.head_matmul_parameters

    def expected_experts_read(self, tokens: int) -> float:
        """Experts of one layer that at least one of `tokens` tokens needs: E·(1 - (1 - e/E)^tokens).

        For a router that chooses each expert equally often and each token on its own; a real one has favourites and
        reads fewer. 0 without experts.
        """
        if self.num_experts is None or self.num_experts_per_tok is None:
            return 0.0
        return self.num_experts * (1.0 - (1.0 - self.num_experts_per_tok / self.num_experts) ** tokens)

    def attended_pairs(self, seq: int) -> int:
        """Pairs of a query and a key that it sees in a sequence, causal, summed over all layers.

        s·(s + 1)/2 in a layer that sees all, s·W - W·(W - 1)/2 in one with a window W of at most s.
        """
        width = min(self.sliding_window or seq, seq)
        windowed = seq * width - width * (width - 1) // 2
        full = seq * (seq + 1) // 2
        return self.num_windowed_layers * windowed + (self.num_blocks - self.num_windowed_layers) * full

    def attention_flops(self, batch: int, seq: int) -> int:
        """Forward, causal, all layers: 2·a·(h + h_v) for each pair of a query and a key, which is 4·a·h in most."""
        return batch * self._flops_for_each_pair * self.attended_pairs(seq)

    def decode_attention_flops(self, batch: int, context: int) -> int:
        """One query for each sequence over the `context` tokens before it and its own, all layers."""
        return batch * self._flops_for_each_pair * self._cached_tokens(context + 1)

    def kv_cache_bytes_per_token(self, dtype_bytes: int) -> int:
        """Bytes that one token of context leaves behind: 2·L·k·h values; L·(r + h_r) in latent attention."""
        return self.num_blocks * self._cached_values * dtype_bytes

    def kv_cache_bytes(self, dtype_bytes: int, context: int) -> int:
        """Bytes of the cache of one sequence; a layer with a window holds at most its window."""
        return self._cached_tokens(context) * self._cached_values * dtype_bytes

    def _cached_tokens(self, context: int) -> int:
        """Keys that the next layers' queries find, summed over all layers."""
        windowed = min(self.sliding_window or context, context)
        return self.num_windowed_layers * windowed + (self.num_blocks - self.num_windowed_layers) * context

    @property
    def _cached_values(self) -> int:
        """Of one token and layer."""
        if self.kv_lora_rank is not None:
            return self.kv_lora_rank + (self.qk_rope_head_dim or 0)
        return 2 * self.key_value_size

    @property
    def _flops_for_each_pair(self) -> int:
        return 2 * self.num_attention_heads * (self.head_dim + self.value_head_dim)

    @property
    def _attention_weights(self) -> int:
        """d·(a + 2k)·h for q, k and v, and a·h·d for o.

        In latent attention d·r_q + r_q·a·h for queries, or d·a·h without r_q; d·(r + h_r) + r·a·(h_n + h_v) for keys
        and values; a·h_v·d for o.
        """
        d, a = self.hidden_size, self.num_attention_heads
        if self.kv_lora_rank is None:
            return d * (2 * self.query_size + 2 * self.key_value_size)
        rank = self.q_lora_rank
        queries = d * self.query_size if rank is None else rank * (d + self.query_size)
        down = d * (self.kv_lora_rank + (self.qk_rope_head_dim or 0))
        up = self.kv_lora_rank * a * ((self.qk_nope_head_dim or 0) + self.value_head_dim)
        return queries + down + up + a * self.value_head_dim * d

    @property
    def _inner_norm_parameters(self) -> int:
        """Norms of queries and keys; in latent attention those of the narrow vectors."""
        if self.kv_lora_rank is not None:
            return self._norm(self.kv_lora_rank) + self._norm(self.q_lora_rank or 0)
        heads = {"none": 0, "head": 2 * self.head_dim, "all_heads": self.query_size + self.key_value_size}
        return self._norm(heads[self.qk_norm])

    @property
    def _routed_parameters(self) -> int:
        """Of one expert, biases included."""
        return self._mlp_parameters(self.moe_intermediate_size or 0)

    @property
    def _unrouted_parameters(self) -> int:
        """Of the shared expert and the router in a layer of experts."""
        width, experts = self.shared_expert_intermediate_size, self.num_experts or 0
        shared = self._mlp_parameters(width) if width else 0
        return shared + (self.hidden_size + self.router_bias) * experts

    def _mlp_parameters(self, width: int) -> int:
        bias = (self.num_mlp_matrices - 1) * width + self.hidden_size if self.mlp_bias else 0
        return self._mlp_weights(width) + bias

    def _mlp_weights(self, width: int) -> int:
        """3·d·f gated, 2·d·f not."""
        return self.num_mlp_matrices * self.hidden_size * width

    def _norm(self, size: int) -> int:
        return size * (2 if self.norm == "layer_norm" and self.norm_bias else 1)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())

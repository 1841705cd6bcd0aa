"""The transformer against Hugging Face's, family by family: a tiny config.json, read as a user's would be, random
weights copied by name, equal logits.

That proves what a field of a Model means, and the reading of a config.json with it. It needs `transformers`, which the
project does not: an environment with it is made by
    pip install torch==2.13.0
    pip install transformers==5.23.0 pytest click msgspec nvidia-ml-py psutil tabulate numpy
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import device as devices
from bench import huggingface
from bench.model import Model
from workloads.models.transformer import Transformer, empty_caches

transformers = pytest.importorskip("transformers")

LENGTH = 20
Pick = Callable[[Tensor, Model], Tensor]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one family's weights are named and laid out. Names within a layer stand without the layer."""

    config: dict[str, Any]
    names: dict[str, str]  # of modules or parameters: ours, theirs
    layers: str = "model.layers"
    picks: dict[str, Pick] = field(default_factory=dict)  # what of theirs is ours
    # Arithmetic that changes neither FLOP nor bytes and that a Model does not tell apart is made equal first.
    align: Callable[[Any], None] = lambda _: None


# Parts of fused or otherwise arranged weights


def third(index: int) -> Pick:
    return lambda w, _: w.chunk(3)[index]


def third_of_heads(index: int) -> Pick:
    """Query, key and value of a head after each other (BLOOM, GPT-NeoX)."""
    return lambda w, model: w.unflatten(0, (model.num_attention_heads, 3, -1))[:, index].flatten(0, 1)


def of_groups(which: slice) -> Pick:
    """A group's queries, then its key and its value (Falcon)."""
    return lambda w, m: w.unflatten(0, (m.num_key_value_heads, -1, m.head_dim))[:, which].flatten(0, 2)


def of_sizes(index: int) -> Pick:
    """All queries, all keys, all values (Phi-3)."""
    return lambda w, m: w.split((m.query_size, m.key_value_size, m.key_value_size))[index]


def of_slices(index: int) -> Pick:
    """As on four TPU cores, each with queries, values and keys; heads rotated in neighbouring pairs (CodeGen)."""

    def pick(w: Tensor, m: Model) -> Tensor:
        part = w.unflatten(0, (4, 3, -1))[:, index].flatten(0, 1)
        return part if index == 1 else halves(part.unflatten(0, (-1, m.head_dim)), m.rotary_dim or 0).flatten(0, 1)

    return pick


def halves(w: Tensor, rotated: int, first: int = 0) -> Tensor:
    """Rows that are rotated with their neighbour, put where their half of the head is; of `rotated` after `first`."""
    places = torch.arange(w.shape[1])
    turned = places[first : first + rotated]
    places = torch.cat((places[:first], turned[::2], turned[1::2], places[first + rotated :]))
    return w[:, places]


def latent_queries(w: Tensor, m: Model) -> Tensor:
    heads = w.unflatten(0, (m.num_attention_heads, m.head_dim))
    return halves(heads, m.qk_rope_head_dim or 0, m.qk_nope_head_dim or 0).flatten(0, 1)


def latent_keys(w: Tensor, m: Model) -> Tensor:
    return halves(w[None], m.qk_rope_head_dim or 0, m.kv_lora_rank or 0)[0]


def transposed(w: Tensor, _: Model) -> Tensor:
    return w.T


def after_transposing(pick: Pick) -> Pick:
    return lambda w, model: pick(w.T, model)


def one_more(w: Tensor, _: Model) -> Tensor:
    """Norms of Gemma multiply by 1 + w."""
    return w + 1


def part_of_experts(index: int) -> Pick:
    return lambda w, _: w.chunk(2, dim=1)[index]


def every_second(index: int) -> Pick:
    """Gate and up in turn, and a column for each output (GPT-OSS)."""
    return lambda w, _: w[..., index::2].mT if w.dim() == 3 else w[..., index::2]


# Names that families share

ATTENTION = {f"attention.{ours}": f"self_attn.{theirs}_proj" for ours, theirs in
             {"query": "q", "key": "k", "value": "v", "output": "o"}.items()}  # fmt: skip
NORMS_OF_HEADS = {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}
GATED = {"mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
ENDS = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
LLAMA = ENDS | ATTENTION | GATED | {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
OLMO = LLAMA | NORMS_OF_HEADS | {"attention_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"}
GEMMA = LLAMA | {
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}
GEMMA_NORMS: dict[str, Pick] = dict.fromkeys(
    ("norm", "attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm"), one_more
)
EXPERTS = {
    "mlp.router.linear": "mlp.gate",
    "mlp.gate_weight": "mlp.experts.gate_up_proj",
    "mlp.up_weight": "mlp.experts.gate_up_proj",
    "mlp.down_weight": "mlp.experts.down_proj",
}
EXPERTS_PICKS = {"mlp.gate_weight": part_of_experts(0), "mlp.up_weight": part_of_experts(1)}
LATENT = {
    "attention.query": "self_attn.q_proj",
    "attention.query_down": "self_attn.q_a_proj",
    "attention.query_norm": "self_attn.q_a_layernorm",
    "attention.query_up": "self_attn.q_b_proj",
    "attention.latent_down": "self_attn.kv_a_proj_with_mqa",
    "attention.latent_norm": "self_attn.kv_a_layernorm",
    "attention.latent_up": "self_attn.kv_b_proj",
}
DEEPSEEK = LLAMA | LATENT | EXPERTS | {
    "mlp.router.choice_bias": "mlp.gate.e_score_correction_bias",
    **{f"mlp.shared.{part}": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")},
}  # fmt: skip
DEEPSEEK_PICKS = EXPERTS_PICKS | {
    "attention.query": latent_queries, "attention.query_up": latent_queries, "attention.latent_down": latent_keys,
}  # fmt: skip


def fused(theirs: str) -> dict[str, str]:
    return {f"attention.{ours}": theirs for ours in ("query", "key", "value")}


def fused_picks(pick: Callable[[Any], Pick], *indices: Any) -> dict[str, Pick]:
    return {f"attention.{ours}": pick(i) for ours, i in zip(("query", "key", "value"), indices, strict=True)}


BLOOM = {
    "embedding": "transformer.word_embeddings",
    "embedding_norm": "transformer.word_embeddings_layernorm",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    **fused("self_attention.query_key_value"),
    "attention.output": "self_attention.dense",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
FALCON_PICKS = fused_picks(of_groups, slice(None, -2), slice(-2, -1), slice(-1, None))

# Where arithmetic differs that is not in a Model


def plain_swiglu(hf: Any) -> None:
    """GPT-OSS clamps the gate, sharpens its sigmoid and adds one to what it gates."""
    for layer in hf.model.layers:
        layer.mlp.experts._apply_gate = lambda both: nn.functional.silu(both[..., ::2]) * both[..., 1::2]


def weights_sum_to_one(hf: Any) -> None:
    """DeepSeek-V2 weighs the chosen experts by softmax over all."""
    for layer in hf.model.layers[1:]:
        layer.mlp.gate.register_forward_hook(lambda _, __, out: (out[0], out[1] / out[1].sum(-1, keepdim=True), out[2]))


def tanh_gelu(hf: Any) -> None:
    """MPT has the exact GELU, and no key to say otherwise."""
    for block in hf.transformer.blocks:
        block.ffn.act = nn.GELU("tanh")


# The families

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 32,
}  # fmt: skip
WIDE_HEADS = SIZES | {"head_dim": 12}
DEEPSEEK_SIZES = SIZES | {
    "num_key_value_heads": 4, "kv_lora_rank": 20, "q_lora_rank": 24, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6,
    "v_head_dim": 8, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
}  # fmt: skip
OLD_SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GPT_SIZES = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 61, "n_positions": 32}

FAMILIES = {
    "gpt2": Family(
        config=GPT_SIZES,
        layers="transformer.h",
        names={
            "embedding": "transformer.wte", "positions": "transformer.wpe", "norm": "transformer.ln_f",
            "attention_norm": "ln_1", "mlp_norm": "ln_2", **fused("attn.c_attn"), "attention.output": "attn.c_proj",
            "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
        },
        picks=fused_picks(lambda i: after_transposing(third(i)), 0, 1, 2)
        | dict.fromkeys(("attention.output", "mlp.up", "mlp.down"), transposed),
    ),
    "llama": Family(config=SIZES | {"attention_bias": True, "mlp_bias": True}, names=LLAMA),
    "mistral": Family(config=SIZES | {"sliding_window": 6}, names=LLAMA),
    "mixtral": Family(config=SIZES | {"num_local_experts": 6}, names=LLAMA | EXPERTS, picks=EXPERTS_PICKS),
    "qwen2": Family(config=SIZES, names=LLAMA),
    "qwen3": Family(config=WIDE_HEADS, names=LLAMA | NORMS_OF_HEADS),
    "qwen3_moe": Family(
        config=WIDE_HEADS | {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
                             "norm_topk_prob": True},
        names=LLAMA | NORMS_OF_HEADS | EXPERTS,
        picks=EXPERTS_PICKS,
    ),
    "gemma2": Family(
        config=WIDE_HEADS | {"sliding_window": 6, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 0.8,
                             "final_logit_softcapping": 2.0},
        names=GEMMA,
        picks=GEMMA_NORMS,
    ),
    "gemma3_text": Family(
        config=WIDE_HEADS | {"sliding_window": 6, "query_pre_attn_scalar": 12, "num_hidden_layers": 7},
        names=GEMMA | NORMS_OF_HEADS,
        picks=GEMMA_NORMS | dict.fromkeys(NORMS_OF_HEADS, one_more),
    ),
    "phi": Family(
        config=SIZES | {"num_key_value_heads": 4, "hidden_size": 64},
        names=LLAMA | {"norm": "model.final_layernorm", "attention.output": "self_attn.dense",
                       "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"},
    ),
    "phi3": Family(
        config=SIZES | {"sliding_window": 6, "pad_token_id": 0},
        names=LLAMA | fused("self_attn.qkv_proj") | {"mlp.gate": "mlp.gate_up_proj", "mlp.up": "mlp.gate_up_proj"},
        picks=fused_picks(of_sizes, 0, 1, 2)
        | {"mlp.gate": lambda w, _: w.chunk(2)[0], "mlp.up": lambda w, _: w.chunk(2)[1]},
    ),
    "olmo2": Family(config=SIZES, names=OLMO),
    "olmo3": Family(config=SIZES | {"sliding_window": 6}, names=OLMO),
    "gpt_neox": Family(
        config=OLD_SIZES | {"hidden_size": 64, "intermediate_size": 48, "hidden_act": "gelu_new",
                            "max_position_embeddings": 32},
        layers="gpt_neox.layers",
        names={
            "embedding": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "head": "lm_head",
            "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
            **fused("attention.query_key_value"), "attention.output": "attention.dense",
            "mlp.up": "mlp.dense_h_to_4h", "mlp.down": "mlp.dense_4h_to_h",
        },
        picks=fused_picks(third_of_heads, 0, 1, 2),
    ),
    "bloom": Family(
        config={"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 61, "seq_length": 32},
        layers="transformer.h",
        names=BLOOM,
        picks=fused_picks(third_of_heads, 0, 1, 2),
    ),
    "bloom of 6 heads": Family(
        config={"hidden_size": 48, "n_layer": 3, "n_head": 6, "vocab_size": 61, "seq_length": 32},
        layers="transformer.h",
        names=BLOOM,
        picks=fused_picks(third_of_heads, 0, 1, 2),
    ),
    "opt": Family(
        config=OLD_SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32},
        layers="model.decoder.layers",
        names=ATTENTION | {
            "embedding": "model.decoder.embed_tokens", "positions": "model.decoder.embed_positions",
            "norm": "model.decoder.final_layer_norm", "attention.output": "self_attn.out_proj",
            "attention_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm",
            "mlp.up": "fc1", "mlp.down": "fc2",
        },
    ),
    "mpt": Family(
        config={"d_model": 32, "n_heads": 4, "n_layers": 3, "expansion_ratio": 4, "vocab_size": 61, "max_seq_len": 32},
        layers="transformer.blocks",
        names={
            "embedding": "transformer.wte", "norm": "transformer.norm_f", "attention_norm": "norm_1",
            "mlp_norm": "norm_2", **fused("attn.Wqkv"), "attention.output": "attn.out_proj",
            "mlp.up": "ffn.up_proj", "mlp.down": "ffn.down_proj",
        },
        picks=fused_picks(third, 0, 1, 2),
        align=tanh_gelu,
    ),
    "falcon": Family(
        config=OLD_SIZES | {"activation": "gelu_new", "multi_query": True, "parallel_attn": True,
                            "new_decoder_architecture": False},
        layers="transformer.h",
        names=BLOOM,
        picks=FALCON_PICKS,
    ),
    "falcon of 40b": Family(
        config=OLD_SIZES | {"activation": "gelu_new", "new_decoder_architecture": True, "num_kv_heads": 2},
        layers="transformer.h",
        names=BLOOM | {"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"},
        picks=FALCON_PICKS,
    ),
    "deepseek_v2": Family(
        config=DEEPSEEK_SIZES, names=DEEPSEEK, picks=DEEPSEEK_PICKS, align=weights_sum_to_one
    ),
    "deepseek_v2 lite": Family(
        config=DEEPSEEK_SIZES | {"q_lora_rank": None}, names=DEEPSEEK, picks=DEEPSEEK_PICKS, align=weights_sum_to_one
    ),
    "deepseek_v3": Family(config=DEEPSEEK_SIZES, names=DEEPSEEK, picks=DEEPSEEK_PICKS),
    "gpt_oss": Family(
        config=WIDE_HEADS | {"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 6,
                             "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}},
        names=LLAMA | {
            "attention.sinks_H": "self_attn.sinks", "mlp.router.linear": "mlp.router",
            "mlp.gate_weight": "mlp.experts.gate_up_proj", "mlp.gate_bias": "mlp.experts.gate_up_proj_bias",
            "mlp.up_weight": "mlp.experts.gate_up_proj", "mlp.up_bias": "mlp.experts.gate_up_proj_bias",
            "mlp.down_weight": "mlp.experts.down_proj", "mlp.down_bias": "mlp.experts.down_proj_bias",
        },
        picks=dict.fromkeys(("mlp.gate_weight", "mlp.gate_bias"), every_second(0))
        | dict.fromkeys(("mlp.up_weight", "mlp.up_bias"), every_second(1))
        | {"mlp.down_weight": lambda w, _: w.mT},
        align=plain_swiglu,
    ),
    "codegen": Family(
        config=GPT_SIZES | {"rotary_dim": 4},
        layers="transformer.h",
        names={
            "embedding": "transformer.wte", "norm": "transformer.ln_f", "head": "lm_head", "attention_norm": "ln_1",
            **fused("attn.qkv_proj"), "attention.output": "attn.out_proj",
            "mlp.up": "mlp.fc_in", "mlp.down": "mlp.fc_out",
        },
        picks=fused_picks(of_slices, 0, 2, 1),
    ),
}  # fmt: skip


def hugging_face(kind: str, family: Family) -> Any:
    """Their model with weights at random, norms and biases too, which they would start at one and zero."""
    config = transformers.AutoConfig.for_model(kind, **family.config)
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, tensor in hf.state_dict().items():
        if tensor.dim() > 1 and "bias" not in name:
            tensor.normal_(std=tensor.shape[-1] ** -0.5)
        else:
            tensor += 0.1 * torch.randn(tensor.shape)
    family.align(hf)
    return hf


def ours(hf: Any, family: Family) -> Transformer:
    """The Model that their config.json is read as, with their weights in it."""
    fields = huggingface.fields(hf.config.to_dict())
    model = Model(name="tiny", source="a test", **fields)
    transformer = Transformer(model, devices.find("cpu")[0], "float32", 32).requires_grad_(False)
    theirs = hf.state_dict()
    for name, parameter in transformer.named_parameters():
        key, prefix = name, ""
        if name.startswith("blocks."):
            _, layer, key = name.split(".", 2)
            prefix = f"{family.layers}.{layer}."
        if key not in family.names:
            key, _, suffix = key.rpartition(".")
            tensor = theirs[f"{prefix}{family.names[key]}.{suffix}"]
        else:
            tensor = theirs[prefix + family.names[key]]
        tensor = family.picks.get(key, lambda w, _: w)(tensor, model)
        assert tensor.numel() == parameter.numel(), name
        parameter.copy_(tensor.reshape(parameter.shape))  # a norm of all heads together has one weight row for each
    return transformer


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_hugging_face(name: str) -> None:
    family = FAMILIES[name]
    hf = hugging_face(name.split()[0], family)
    transformer = ours(hf, family)
    assert sum(p.numel() for p in transformer.parameters()) == sum(p.numel() for p in hf.parameters()) + sum(
        buffer.numel() for key, buffer in hf.named_buffers() if "correction_bias" in key
    )
    tokens_BS = torch.randint(transformer.model.vocab_size, (2, LENGTH))
    with torch.no_grad():
        expected_BSV = hf(tokens_BS).logits
        logits_BSV = transformer.head(transformer(tokens_BS))
        assert float((logits_BSV - expected_BSV).norm() / expected_BSV.norm()) < 1e-4
        # And token by token.
        caches = empty_caches(transformer.model, devices.find("cpu")[0], "float32", 2, LENGTH)
        for place in range(LENGTH):
            logits_BV = transformer.next_logits(tokens_BS[:, place : place + 1], caches, place)
            assert float((logits_BV - expected_BSV[:, place]).norm() / expected_BSV[:, place].norm()) < 1e-4, place

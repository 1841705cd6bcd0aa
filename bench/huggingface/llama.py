"""Llama and its descendants: RMS norms, a gated MLP, rotated heads."""

from typing import Any

from bench.errors import UserError
from bench.huggingface import keys
from bench.huggingface.keys import Config, Fields
from bench.shape import PROJECTIONS


def llama(config: Config) -> Fields:
    """Llama itself, and all that keep its model_type: TinyLlama, Yi."""
    return _rms_decoder(config) | {
        "attention_bias": keys.attention_bias(config),
        "mlp_bias": config.get("mlp_bias", False),
    }


def mistral(config: Config) -> Fields:
    """Llama with a window in all layers, null since v0.2."""
    return _rms_decoder(config) | keys.windows(config, config.get("sliding_window", 4096))


def mixtral(config: Config) -> Fields:
    """Mistral with experts in all layers."""
    return (
        _rms_decoder(config)
        | keys.experts(config, "num_local_experts", config["intermediate_size"])
        | keys.windows(config, config.get("sliding_window"))
    )


def qwen2(config: Config) -> Fields:
    """A bias on q, k and v."""
    return _rms_decoder(config) | keys.qwen_windows(config) | {"attention_bias": ("qkv",)}


def qwen3(config: Config) -> Fields:
    """A norm on the queries and keys of each head."""
    return (
        _rms_decoder(config, head_dim=config["head_dim"])
        | keys.qwen_windows(config)
        | {"attention_bias": keys.attention_bias(config), "qk_norm": "head"}
    )


def qwen3_moe(config: Config) -> Fields:
    """Qwen3 with experts."""
    dense = config.get("mlp_only_layers") or []
    keys.expect(config, "decoder_sparse_step", 1)
    if not isinstance(dense, list) or dense != list(range(len(dense))):
        raise UserError(f"mlp_only_layers is {dense!r:.80}, only the first layers can be dense")
    number = "num_local_experts" if "num_local_experts" in config else "num_experts"  # its name since transformers 5
    experts = keys.experts(config, number, config["moe_intermediate_size"])
    return qwen3(config) | experts | {"num_dense_layers": len(dense)}


def gemma2(config: Config) -> Fields:
    """A window in every other layer, and soft caps."""
    return _gemma(config, theta=10000.0, every=2, window=4096)


def gemma3(config: Config) -> Fields:
    """A window in five of six layers, their heads rotated faster, and a norm on queries and keys."""
    every = config.get("sliding_window_pattern") or 6
    fields = _gemma(config, theta=1000000.0, every=every, window=4096) | {"qk_norm": "head"}
    if "sliding_window" in fields:
        nested = keys.nested(keys.nested(config, "rope_parameters"), "sliding_attention")
        fields["rope_local_theta"] = nested.get("rope_theta", config.get("rope_local_base_freq", 10000.0))
    return fields


def _gemma(config: Config, theta: float, every: int, window: int) -> Fields:
    act = config.get("hidden_activation") or config.get("hidden_act", "gelu_pytorch_tanh")
    return (
        _rms_decoder(config, act=act, theta=theta, tied=True, head_dim=config["head_dim"])
        | keys.windows(config, config.get("sliding_window", window), every)
        | {
            "attention_bias": keys.attention_bias(config),
            "norm_place": "both",
            "embedding_scale": True,
            "attention_softcap": config.get("attn_logit_softcapping"),
            "logit_softcap": config.get("final_logit_softcapping"),
        }
    )


def phi3(config: Config) -> Fields:
    """Llama with a window, and in some sizes partly rotated heads."""
    fields = _rms_decoder(config) | keys.windows(config, config.get("sliding_window"))
    return fields | keys.partly_rotated(config, fields["head_dim"], 1.0)


def olmo2(config: Config) -> Fields:
    """Norms after attention and MLP, and on all queries and all keys."""
    return llama(config) | {"mlp_bias": False, "norm_place": "post", "qk_norm": "all_heads"}


def olmo3(config: Config) -> Fields:
    """OLMo 2 with a window in three of four layers."""
    return olmo2(config) | keys.windows(config, config.get("sliding_window", 4096), every=4)


def deepseek(config: Config) -> Fields:
    """DeepSeek V2 and V3: latent attention, experts after the first layers."""
    nope, rope = keys.count(config, "qk_nope_head_dim"), keys.count(config, "qk_rope_head_dim")
    width = keys.count(config, "moe_intermediate_size")
    shared = keys.count(config, "n_shared_experts") * width if config.get("n_shared_experts") else None
    is_v3 = config["model_type"] == "deepseek_v3"
    keys.expect(config, "moe_layer_freq", 1)
    return (
        _rms_decoder(config, head_dim=nope + rope)
        | keys.experts(config, "n_routed_experts", width)
        | {
            "num_key_value_heads": config["num_attention_heads"],
            "attention_bias": keys.attention_bias(config),
            "kv_lora_rank": config["kv_lora_rank"],
            "q_lora_rank": config.get("q_lora_rank"),
            "qk_nope_head_dim": nope,
            "qk_rope_head_dim": rope,
            "v_head_dim": config["v_head_dim"],
            "shared_expert_intermediate_size": shared,
            "num_dense_layers": config["first_k_dense_replace"],
            "router": config.get("scoring_func", "sigmoid" if is_v3 else "softmax"),
            "router_bias": config.get("topk_method", "noaux_tc" if is_v3 else "greedy") == "noaux_tc",
        }
    )


def gpt_oss(config: Config) -> Fields:
    """Experts, sinks, a window in every other layer, and a bias on everything but the norms."""
    return (
        _rms_decoder(config, theta=150000.0, head_dim=config["head_dim"])
        | keys.experts(config, "num_local_experts", config["intermediate_size"])
        | keys.windows(config, config.get("sliding_window", 128), every=2)
        | {
            "attention_bias": PROJECTIONS if config.get("attention_bias", True) else (),
            "mlp_bias": True,
            "attention_sinks": True,
            "router_bias": True,
        }
    )


def chatglm(config: Config) -> Fields:
    """ChatGLM2 and after: half of each head is rotated."""
    keys.expect(config, "rmsnorm", True)
    keys.expect(config, "post_layer_norm", True)  # the norm after the last layer
    keys.expect(config, "apply_residual_connection_post_layernorm", False)
    heads, head_dim, biased = (
        config["num_attention_heads"],
        keys.count(config, "kv_channels"),
        config["add_bias_linear"],
    )
    qkv = ("qkv",) if biased or config["add_qkv_bias"] else ()
    return {
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["ffn_hidden_size"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": config["multi_query_group_num"] if config["multi_query_attention"] else heads,
        "head_dim": head_dim,
        "vocab_size": config["padded_vocab_size"],
        "max_position_embeddings": config["seq_length"],
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "hidden_act": "silu",
        "norm": "rms_norm",
        "norm_eps": config["layernorm_epsilon"],
        "position": "rope",
        "rope_theta": 10000.0 * keys.count({"rope_ratio": 1} | config, "rope_ratio"),
        "rotary_dim": head_dim // 2,
        "attention_bias": (*qkv, "o") if biased else qkv,
        "mlp_bias": biased,
    }


def baichuan(config: Config) -> Fields:
    """A head of the 7B is rotated, the 13B has ALiBi: the code beside them differs, the config.json hardly does."""
    positions = config.get("max_position_embeddings") or config["model_max_length"]
    fields = _rms_decoder(config | {"max_position_embeddings": positions})
    return fields if config["hidden_size"] == 4096 else fields | {"position": "alibi", "rope_theta": None}


def internlm(config: Config) -> Fields:
    """Llama with a bias on q, k, v and o, which the 20B has not."""
    return _rms_decoder(config) | {"attention_bias": PROJECTIONS if config.get("bias", True) else ()}


def _rms_decoder(
    config: Config, *, act: Any = None, theta: float = 10000.0, tied: bool = False, head_dim: int | None = None
) -> Fields:
    """What Llama and its descendants share, under the keys that they share."""
    heads = config["num_attention_heads"]
    # Left out by the models that have no grouped queries; the others always give it.
    grouped = ("mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "gpt_oss")
    groups = config["num_key_value_heads"] if config["model_type"] in grouped else config.get("num_key_value_heads")
    return {
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": groups or heads,
        "head_dim": head_dim or config.get("head_dim") or keys.quotient(config, "hidden_size", "num_attention_heads"),
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["max_position_embeddings"],
        "tie_word_embeddings": config.get("tie_word_embeddings", tied),
        "hidden_act": keys.gated(act or config["hidden_act"]),
        "norm": "rms_norm",
        "norm_eps": config["rms_norm_eps"],
        "position": "rope",
        "rope_theta": keys.rope_theta(config, theta),
        "attention_bias": (),
        "mlp_bias": False,
    }

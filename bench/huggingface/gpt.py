"""GPT-2 and its descendants: layer norms, an MLP of two matrices."""

from typing import Any

from bench.huggingface import keys
from bench.huggingface.keys import Config, Fields
from bench.shape import PROJECTIONS


def gpt2(config: Config) -> Fields:
    """Learned positions, everything with a bias."""
    return _openai_decoder(config, tied=True) | {"position": "learned"}


def codegen(config: Config) -> Fields:
    """CodeGen, and MOSS, which grew from it: attention and MLP in parallel."""
    return _openai_decoder(config, tied=False) | {
        "position": "rope",
        "rope_theta": 10000.0,
        "rotary_dim": config["rotary_dim"],
        "block": "parallel_one_norm",
        "attention_bias": (),
        "head_bias": True,
    }


def gpt_neox(config: Config) -> Fields:
    """GPT-NeoX and Pythia: attention and MLP in parallel, each with a norm of its own."""
    fields = _decoder(config, config["intermediate_size"], config["max_position_embeddings"], tied=False)
    return (
        fields
        | {"position": "rope", "rope_theta": keys.rope_theta(config, config.get("rotary_emb_base", 10000.0))}
        | keys.partly_rotated(config, fields["head_dim"], config.get("rotary_pct", 0.25))
        | {
            "block": "parallel" if config.get("use_parallel_residual", True) else "serial",
            "attention_bias": PROJECTIONS if config.get("attention_bias", True) else (),
        }
    )


def phi(config: Config) -> Fields:
    """Phi-1 and Phi-2: attention and MLP in parallel after one norm, a bias on the logits."""
    fields = _decoder(config, config["intermediate_size"], config["max_position_embeddings"], tied=False)
    return (
        fields
        | {"position": "rope", "rope_theta": keys.rope_theta(config)}
        | keys.partly_rotated(config, fields["head_dim"], 0.5)
        | {
            "num_key_value_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
            "block": "parallel_one_norm",
            "head_bias": True,
            "qk_norm": "head" if config.get("qk_layernorm", False) else "none",
        }
    )


def bloom(config: Config) -> Fields:
    """ALiBi, and a norm on the embedding. Older files name some keys otherwise."""
    keys.expect(config, "apply_residual_connection_post_layernorm", False)
    old = {"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    renamed = {old.get(key, key): value for key, value in config.items()}
    # Positions are not limited; all BLOOM models were trained with 2048.
    fields = _decoder(renamed, None, config.get("seq_length", 2048), tied=True)
    return fields | {"position": "alibi", "embedding_norm": True}


def opt(config: Config) -> Fields:
    """Learned positions, of which the first two rows stand before the first one."""
    keys.expect(config, "do_layer_norm_before", True)
    keys.expect(config, "enable_bias", True)
    keys.expect(config, "word_embed_proj_dim", config["hidden_size"])
    fields = _decoder(config, config["ffn_dim"], config["max_position_embeddings"], tied=True)
    return fields | {"position": "learned", "position_offset": 2}


def mpt(config: Config) -> Fields:
    """ALiBi, and no bias anywhere, the norms included."""
    attention = keys.nested(config, "attn_config")
    keys.expect(attention, "alibi", True)
    keys.expect(attention, "qk_ln", False)
    keys.expect(config, "no_bias", True)
    renamed = config | {
        "hidden_size": config["d_model"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
    }
    inner = keys.count({"expansion_ratio": 4} | config, "expansion_ratio") * keys.count(config, "d_model")
    groups = 1 if attention.get("attn_type") == "multiquery_attention" else attention.get("kv_n_heads")
    return _decoder(renamed, inner, config["max_seq_len"], tied=True) | {
        "num_key_value_heads": groups or config["n_heads"],
        "position": "alibi",
        "attention_bias": (),
        "mlp_bias": False,
        "norm_bias": False,
    }


def falcon(config: Config) -> Fields:
    """Attention and MLP in parallel: after one norm in the 7B, after one each in the new architecture of the 40B."""
    is_new, has_bias = config.get("new_decoder_architecture", False), config.get("bias", False)
    heads = config["num_attention_heads"]
    groups = config.get("num_kv_heads") or heads if is_new else 1 if config.get("multi_query", True) else heads
    num_norms = config.get("num_ln_in_parallel_attn") or (2 if is_new else 1)
    is_parallel = is_new or config.get("parallel_attn", True)
    rotated = {"position": "rope", "rope_theta": keys.rope_theta(config)}
    fields = _decoder(config, config.get("ffn_hidden_size"), config.get("max_position_embeddings", 2048), tied=True)
    return (
        fields
        | ({"position": "alibi"} if config.get("alibi", False) else rotated)
        | {
            "num_key_value_heads": groups,
            "block": ("parallel_one_norm" if num_norms == 1 else "parallel") if is_parallel else "serial",
            "attention_bias": PROJECTIONS if has_bias else (),
            "mlp_bias": has_bias,
        }
    )


def _openai_decoder(config: Config, tied: bool) -> Fields:
    """The keys as GPT-2 has them, which GPT-J and CodeGen kept."""
    keys.quotient(config, "n_embd", "n_head")  # refused by the names that the file has
    renamed = config | {
        "hidden_size": config["n_embd"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
    }
    return _decoder(renamed, config.get("n_inner"), config["n_positions"], tied)


def _decoder(config: Config, inner: Any, positions: Any, tied: bool) -> Fields:
    """What all of them share. Without `inner` the MLP is four times as wide as the stream."""
    head_dim = keys.quotient(config, "hidden_size", "num_attention_heads")
    act = next((config[key] for key in ("activation_function", "activation", "hidden_act") if key in config), "gelu")
    eps = next((config[key] for key in ("layer_norm_epsilon", "layer_norm_eps") if key in config), 1e-5)
    return {
        "hidden_size": config["hidden_size"],
        "intermediate_size": inner or 4 * config["hidden_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": head_dim,
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": positions,
        "tie_word_embeddings": config.get("tie_word_embeddings", tied),
        "hidden_act": keys.ungated(act),
        "norm": "layer_norm",
        "norm_eps": eps,
        "attention_bias": PROJECTIONS,
        "mlp_bias": True,
    }

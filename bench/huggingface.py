"""Hugging Face: a config.json of a known architecture, read as the fields of a Model.

What a key means, and what holds where one is left out, is read from the configuration and modeling files of
huggingface/transformers, src/transformers/models/<model_type>/. A KeyError is a key that must be there.
"""

from typing import Any

from bench.errors import UserError
from bench.shape import PROJECTIONS, is_count

# The values of model_type that can be read.
ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


def fields(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Model, without name and source. Raises UserError, or KeyError for a key that is missing."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"model_type is {kind!r:.80}, it must be one of {', '.join(ARCHITECTURES)}")
    return _from_gpt2(config) if kind == "gpt2" else _from_llama(config, kind)


def _from_gpt2(config: dict[str, Any]) -> dict[str, Any]:
    head_dim = _quotient(config, "n_embd", "n_head")
    activation = config.get("activation_function", "gelu_new")
    return {
        "hidden_size": config["n_embd"],
        "intermediate_size": config.get("n_inner") or 4 * config["n_embd"],
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "num_key_value_heads": config["n_head"],
        "head_dim": head_dim,
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["n_positions"],
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        # gelu_new, gelu_fast, gelu_pytorch_tanh: approximations of one function, and all one shape
        "hidden_act": "gelu" if str(activation).startswith("gelu") else activation,
        "norm": "layer_norm",
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "position": "learned",
        "attention_bias": PROJECTIONS,
        "mlp_bias": True,
    }


def _from_llama(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Llama and its descendants: Mistral adds windows, Qwen2 biases on q, k and v, Qwen3 norms on q and k."""
    _refuse_windows(config, kind)
    all_heads = config["num_attention_heads"] if kind == "llama" else config["num_key_value_heads"]
    head_dim = config["head_dim"] if kind == "qwen3" else config.get("head_dim")
    bias = PROJECTIONS if kind in ("llama", "qwen3") and config.get("attention_bias", False) else ()
    ropes = config.get("rope_parameters")  # where rope_theta lies since transformers 5
    return {
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config.get("num_key_value_heads") or all_heads,
        "head_dim": head_dim or _quotient(config, "hidden_size", "num_attention_heads"),
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["max_position_embeddings"],
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "hidden_act": config["hidden_act"],
        "norm": "rms_norm",
        "norm_eps": config["rms_norm_eps"],
        "position": "rope",
        "rope_theta": (ropes if isinstance(ropes, dict) else config).get("rope_theta", 10000.0),
        "attention_bias": ("qkv",) if kind == "qwen2" else bias,
        "mlp_bias": kind == "llama" and config.get("mlp_bias", False),
        "qk_norm": "head" if kind == "qwen3" else "none",
    }


def _refuse_windows(config: dict[str, Any], kind: str) -> None:
    """Attention over a window costs less than is counted here, so such a model must not pass for another."""
    window = config.get("sliding_window") if config.get("use_sliding_window", kind == "mistral") else None
    layers = config.get("layer_types")
    longest = config["max_position_embeddings"]
    if is_count(window) and is_count(longest) and window < longest:
        given = f"sliding_window is {window}"
    elif isinstance(layers, list) and any(layer != "full_attention" for layer in layers):
        given = "layer_types has other layers than full_attention"
    else:
        return
    raise UserError(f"{given}, only full attention is supported: to count it as that, set sliding_window to null")


def _quotient(config: dict[str, Any], whole: str, parts: str) -> int:
    if not (is_count(config[whole]) and is_count(config[parts]) and config[whole] % config[parts] == 0):
        raise UserError(f"{whole} is {config[whole]!r:.40}, it must be a multiple of {parts}, {config[parts]!r:.40}")
    return int(config[whole] // config[parts])

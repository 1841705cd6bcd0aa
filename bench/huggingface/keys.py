"""Keys of a config.json that mean the same in several architectures."""

from typing import Any

from bench.errors import UserError
from bench.shape import PROJECTIONS, is_count

Config = dict[str, Any]
Fields = dict[str, Any]


def count(config: Config, key: str) -> int:
    """A whole number that is reckoned with before the shape is checked. Raises UserError."""
    if not is_count(config[key]):
        raise UserError(f"{key} is {config[key]!r:.80}, it must be a whole number from 1 to 1,000,000,000")
    return int(config[key])


def quotient(config: Config, whole: str, parts: str) -> int:
    """The width of one part of `parts`. Raises UserError where they do not divide."""
    if not (is_count(config[whole]) and is_count(config[parts]) and config[whole] % config[parts] == 0):
        raise UserError(f"{whole} is {config[whole]!r:.40}, it must be a multiple of {parts}, {config[parts]!r:.40}")
    return int(config[whole] // config[parts])


def expect(config: Config, key: str, value: object) -> None:
    """Raises UserError where a key is given and is not as a Model has it."""
    if config.get(key, value) != value:
        raise UserError(f"{key} is {config[key]!r:.80}, only {value!r} can be read")


def attention_bias(config: Config) -> tuple[str, ...]:
    """On q, k, v and o, or on none of them."""
    return PROJECTIONS if config.get("attention_bias", False) else ()


def nested(config: Config, key: str) -> Config:
    """An object within the object, empty where it is left out. Raises UserError."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{key} is {value!r:.80}, it must be an object of keys and values")
    return value


def gated(act: Any) -> Any:
    """The activation of a gated MLP. gelu_pytorch_tanh and others approximate one function, and all are one shape."""
    return {"gelu": "geglu", "relu": "gated relu"}.get(_gelu(act), act)


def ungated(act: Any) -> Any:
    """The activation of an MLP of two matrices."""
    return "ungated silu" if act == "silu" else _gelu(act)


def rope(config: Config) -> Config:
    """What rope_parameters, where transformers 5 keeps rope_theta, says for the layers that see everything."""
    given = nested(config, "rope_parameters")
    return nested(given, "full_attention") or given


def rope_theta(config: Config, default: Any = 10000.0) -> Any:
    """Of the layers that see everything."""
    return rope(config).get("rope_theta", config.get("rope_theta", default))


def partly_rotated(config: Config, head_dim: int, default: float) -> Fields:
    """The part of each head that is rotated, as rotary_dim; nothing where it is all of it."""
    share = rope(config).get("partial_rotary_factor", config.get("partial_rotary_factor", default))
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
        raise UserError(f"partial_rotary_factor is {share!r:.80}, it must be a number above 0 and at most 1")
    return {} if int(head_dim * share) == head_dim else {"rotary_dim": int(head_dim * share)}


def experts(config: Config, num_key: str, width: Any) -> Fields:
    """Experts, whose number has another key in each architecture."""
    return {
        "num_experts": config[num_key],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "moe_intermediate_size": width,
    }


def windows(config: Config, window: Any, every: int | None = None) -> Fields:
    """The window and the layers without one: those of layer_types where it is given, else each `every`th.

    Nothing where no layer's window is narrower than the longest sequence.
    """
    layers, longest = config.get("layer_types"), config["max_position_embeddings"]
    if isinstance(layers, list):
        if all(layer == "full_attention" for layer in layers):
            return {}
        every = _period(layers)
        if window is None:
            raise UserError("sliding_window is missing, layer_types has layers with one")
    if window is None or (is_count(window) and is_count(longest) and window >= longest):
        return {}
    return {"sliding_window": window, "full_attention_every": every}


def qwen_windows(config: Config) -> Fields:
    """Qwen has windows from layer max_window_layers on, where it has them at all."""
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window", False) else None
    first = config.get("max_window_layers", 28)
    if window is not None and not isinstance(config.get("layer_types"), list) and first != 0:
        if is_count(first) and is_count(config["num_hidden_layers"]) and first >= config["num_hidden_layers"]:
            return {}
        raise UserError(f"max_window_layers is {first!r:.40}: windows in some layers can be read where they recur")
    return windows(config, window)


def _gelu(act: Any) -> str:
    """One name for gelu_new, gelu_fast, gelu_pytorch_tanh."""
    return "gelu" if str(act).startswith("gelu") else str(act)


def _period(layers: list[Any]) -> int | None:
    """The n of full attention in each nth layer and nowhere else; None where it is nowhere."""
    full = [index for index, layer in enumerate(layers) if layer == "full_attention"]
    if any(layer not in ("full_attention", "sliding_attention") for layer in layers) or (
        full and full != list(range(full[0], len(layers), full[0] + 1))
    ):
        raise UserError("layer_types has full_attention in other layers than each nth, which cannot be read")
    return full[0] + 1 if full else None

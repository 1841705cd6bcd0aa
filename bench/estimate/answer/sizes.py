"""Models that exist only as sizes: `7b`, or `layers=24,hidden=2048,heads=16`. Shaped like a Llama.

Loss hardly depends on the shape at a given size (Kaplan et al. 2020, section 3.1), time does: width makes efficient
products, depth makes many small ones. The ladder below follows what was trained and published.
"""

import re
from dataclasses import replace
from functools import cache
from math import ceil
from typing import Any

from bench.arithmetic import Model
from bench.errors import UserError

VOCABULARY = 32_000  # Touvron et al. 2023
_HEAD_DIM = 128
# hidden_size and num_hidden_layers, small to large: GPT-3 (Brown et al. 2020, table 2.1) below 3 B parameters, Llama 1
# to 3 above (Touvron et al. 2023, table 2; Grattafiori et al. 2024, table 3).
_LADDER = (
    (256, 4), (384, 6), (512, 8), (640, 10), (768, 12), (896, 16), (1024, 24), (1280, 24), (1536, 24), (2048, 24),
    (2560, 32), (3072, 32), (4096, 32), (5120, 40), (6656, 60), (8192, 80), (12288, 96), (16384, 126),
)  # fmt: skip
# Widths from so much on are multiples of so much: who trains billions of parameters splits heads over 4 or 8 devices.
_STEPS = ((4096, 1024), (2048, 512), (0, 128))
_KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "experts": "num_experts",
    "active_experts": "num_experts_per_tok",
    "expert_ffn": "moe_intermediate_size",
}


def is_size(text: str) -> bool:
    """Whether this names no model but sizes: `1.3B`, `350m`, `layers=24,hidden=2048`."""
    return "=" in text or re.fullmatch(r"\d+(\.\d+)?[mMbB]", text) is not None


def of(text: str) -> Model:
    """The model that `text` gives the sizes of. Raises UserError for a size that is unknown, missing or impossible."""
    if "=" not in text:
        number, unit = float(text[:-1]), text[-1].lower()
        return of_parameters(number * (1e6 if unit == "m" else 1e9))
    given: dict[str, int] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in _KEYS or not value.isdecimal():
            raise UserError(f"'{part:.80}' is no size: write KEY=NUMBER with the keys {', '.join(_KEYS)}")
        given[_KEYS[key]] = int(value)
    for needed in ("layers", "hidden", "heads"):
        if _KEYS[needed] not in given:
            raise UserError(f"'{text:.80}' lacks {needed}: layers, hidden and heads are the least that a model is")
    return _llama(text, **given)


def of_parameters(num_parameters: float) -> Model:
    """The layers of the ladder's nearest rung, a width that splits over devices, and an MLP that makes up the count."""
    if not 2e7 <= num_parameters <= 1e13:
        raise UserError(f"a model of {num_parameters:.3g} parameters: between 20M and 10000B can be shaped")
    rungs = [(_shaped(hidden, layers), layers) for hidden, layers in _LADDER]
    _, layers = min(rungs, key=lambda rung: abs(rung[0].total_parameters / num_parameters - 1))
    hidden = _HEAD_DIM
    while _shaped(hidden, layers).total_parameters < num_parameters:
        hidden += _HEAD_DIM
    step = next(step for least, step in _STEPS if hidden >= least)
    width = step * round(hidden / step)
    if _filled(width, layers, num_parameters).intermediate_size < width:  # of small models the table of tokens is most
        width -= step
    return _named(_filled(width, layers, num_parameters))


def _filled(width: int, layers: int, num_parameters: float) -> Model:
    near = _shaped(width, layers)
    missing = (num_parameters - near.total_parameters) / (3 * width * layers)
    return replace(near, intermediate_size=max(128, 128 * ceil((near.intermediate_size + missing) / 128)))


@cache
def _shaped(hidden: int, layers: int) -> Model:
    return _llama("", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=max(1, hidden // _HEAD_DIM))


def _llama(name: str, **sizes: int) -> Model:
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden % heads and "head_dim" not in sizes:
        raise UserError(f"hidden={hidden} does not divide into heads={heads}: give head_dim too")
    # Two thirds of four times the width, so that three matrices weigh what two did (Touvron et al. 2023).
    defaults: dict[str, Any] = {
        "intermediate_size": 256 * ceil(8 * hidden / 3 / 256),
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "vocab_size": VOCABULARY,
    }
    model = Model(
        name=name or "sizes",
        source="sizes given, the rest as in a Llama",
        max_position_embeddings=1_000_000,
        tie_word_embeddings=False,
        hidden_act="silu",
        mlp_bias=False,
        norm="rms_norm",
        norm_eps=1e-5,
        position="rope",
        rope_theta=10_000.0,
        attention_bias=(),
        **{**defaults, **sizes},
    )
    return model if name else _named(model)


def _named(model: Model) -> Model:
    billions = model.total_parameters / 1e9
    if billions >= 100:
        text = f"{billions:.0f}b"
    else:
        text = f"{billions:.3g}b" if billions >= 1 else f"{1e3 * billions:.3g}m"
    return replace(model, name=text)

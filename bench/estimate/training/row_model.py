"""Row to model: the shape that a row of published measurements is about, from what the row gives.

The catalog first, by name, for it knows shared experts, first dense layers and latent attention, which no column
gives. Then the row's own columns. Then a shape of usual proportions with as many parameters. `doubt` says how much
wider an estimate must be for it, as a standard deviation of the logarithm.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from bench import model as catalog
from bench.arithmetic import Model
from bench.errors import UserError
from bench.estimate.published import Row, number

_USUAL_VOCABULARY = 51_200  # GPT-2's table, padded as Megatron-LM pads it
# Models whose shape nobody published in a form that the catalog reads, by total and active parameters. Nemotron 3:
# NVIDIA's model cards for Nano; for the others the active ones are a sixth of what NVIDIA's own table (Megatron-Bridge,
# performance summary) prints as FLOP/s over tokens/s, and the totals are those in their names or announcements.
_SIZES = {
    "nemotron3nano": (31.6e9, 3.6e9),
    "nemotron35lightning": (31.6e9, 4.6e9),
    "nemotron3super": (120e9, 13.5e9),
    "nemotron3ultra": (500e9, 57e9),
    "deepseekv4flash": (284e9, 14.5e9),
    "kimik2": (1.03e12, 32.6e9),
    "mtnlg530b": (530e9, 530e9),
}


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A model and how far it may be off."""

    model: Model
    doubt: float = 0.0


def of(row: Row) -> Guess | None:
    """The model that a row names or describes; None where it gives neither a known name nor a size."""
    name = row.get("model") or ""
    known = _named(name)
    layers, hidden = _count(row, "layers"), _count(row, "hidden")
    if known and layers in (None, known.num_hidden_layers) and hidden in (None, known.hidden_size):
        return Guess(model=known)
    if layers and hidden:
        return _from_columns(row, layers, hidden)
    total, active = _SIZES.get(_plain(name), (None, None))
    total = total or _billions(row, "params_b") or _billions(row, "active_params_b") or _in_name(name)
    if total is None:
        return None
    active = min(total, active or _billions(row, "active_params_b") or total)
    vocab = _count(row, "vocab") or _USUAL_VOCABULARY
    return Guess(model=of_size(total, active, vocab), doubt=0.05 if active == total else 0.12)


@lru_cache(maxsize=256)
def of_size(total: float, active: float, vocab: int = _USUAL_VOCABULARY) -> Model:
    """A model of usual proportions: as wide as 120 times its layers, an MLP four times as wide, heads of 128.

    With fewer active than all parameters, experts take 3/4 of the active ones, eight chosen for each token.
    """
    layers = max(1, round((active / (12 * 120**2)) ** (1 / 3)))
    hidden = max(128, 128 * round(((active / (12 * layers)) ** 0.5) / 128))
    heads = hidden // 128
    fields: dict[str, object] = {}
    if active < 0.9 * total:
        width = max(16, round(0.75 * active / (layers * 8 * 3 * hidden)))
        experts = max(9, round((total - 0.25 * active) / (layers * 3 * hidden * width)))
        fields = {
            "num_experts": experts, "num_experts_per_tok": 8, "moe_intermediate_size": width, "hidden_act": "silu",
        }  # fmt: skip
    return _build(layers, hidden, heads, heads, 128, 4 * hidden, vocab, tied=True, **fields)


def _from_columns(row: Row, layers: int, hidden: int) -> Guess | None:
    heads = _count(row, "heads")
    head_dim = _count(row, "head_dim")
    doubt = 0.0
    if heads is None:
        heads, doubt = max(1, hidden // (head_dim or 128)), 0.02
    head_dim = head_dim or max(2, hidden // heads)
    kv = _count(row, "kv_heads") or heads
    kv = kv if heads % kv == 0 else heads
    gated = (row.get("mlp_type") or "").lower() in ("swiglu", "geglu", "glu", "silu", "reglu")
    ffn = _count(row, "ffn")
    if ffn is None:
        ffn, doubt = (8 * hidden // 3 if gated else 4 * hidden), max(doubt, 0.03)
    vocab = _count(row, "vocab") or _USUAL_VOCABULARY
    fields: dict[str, object] = {"hidden_act": "silu" if gated else "gelu"}
    experts, chosen = _count(row, "n_experts"), _count(row, "top_k")
    if experts and experts > 1:
        chosen = min(experts, chosen or 2)
        fields |= {"num_experts": experts, "num_experts_per_tok": chosen, "moe_intermediate_size": ffn}
        doubt = max(doubt, 0.05)
    tied = (row.get("tied_embeddings") or "").lower() == "true"
    try:
        return Guess(model=_build(layers, hidden, heads, kv, head_dim, ffn, vocab, tied=tied, **fields), doubt=doubt)
    except UserError:
        return None


@lru_cache(maxsize=4096)
def _build(
    layers: int, hidden: int, heads: int, kv: int, head_dim: int, ffn: int, vocab: int, *, tied: bool, **fields: object
) -> Model:
    values: dict[str, object] = {
        "name": "row", "source": "a row's columns", "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim,
        "vocab_size": vocab, "max_position_embeddings": 2048, "tie_word_embeddings": tied, "hidden_act": "gelu",
        "mlp_bias": False, "norm": "layer_norm", "norm_eps": 1e-5, "position": "alibi", "attention_bias": (),
    } | fields  # fmt: skip
    return Model(**values)  # type: ignore[arg-type]  # checked by the model itself


@lru_cache(maxsize=1024)
def _named(name: str) -> Model | None:
    plain = _plain(name)
    if not plain:
        return None
    known = {_plain(one): one for one in catalog.names()}
    # "Llama-3-8B" has the shape of 3.1; what stands in brackets or after them is a note.
    variants = (
        plain,
        plain.replace("llama3", "llama31") if "llama31" not in plain else plain,
        _plain(name.split("(")[0]),
    )
    found = next((known[one] for one in variants if one in known), None)
    return catalog.find(found) if found else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)", "", name.lower()))


def _in_name(name: str) -> float | None:
    found = re.search(r"(\d+(?:\.\d+)?)\s*([bmt])\b", name.lower().replace("_", " ").replace("-", " "))
    return float(found[1]) * {"m": 1e6, "b": 1e9, "t": 1e12}[found[2]] if found else None


def _billions(row: Row, column: str) -> float | None:
    value = number(row, column)
    return value * 1e9 if value and 0 < value < 1e5 else None


def _count(row: Row, column: str) -> int | None:
    value = number(row, column)
    return round(value) if value and 1 <= value < 1e9 else None

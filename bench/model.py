"""Model: the shape of a transformer, and the arithmetic that follows from the shape alone.

A shape lies in a TOML file under workloads/models/, its fields named as in a Hugging Face config.json, so that a figure
can be compared with the published one key by key. A config.json is read too, for the architectures in `ARCHITECTURES`.

Symbols in the formulas: L layers, d hidden_size, a attention heads, k key-value heads, h head_dim, f intermediate_size,
V vocabulary.
"""

import dataclasses
import json
import math
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bench.errors import UserError

# The values of model_type in a config.json that can be read; see `_from_gpt2` and `_from_llama`.
ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")

# Files besides the catalog, handed on to worker processes.
_ADOPTED = "ACCELMARK_MODEL_FILES"

_FOLDER = Path(__file__).parent.parent / "workloads" / "models"

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
    "hidden_act": ("silu", "gelu"),
    "norm": ("rms_norm", "layer_norm"),
    "position": ("rope", "learned"),
}
_PROJECTIONS = ("qkv", "o")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The shape of a decoder-only transformer. Raises UserError for a shape that cannot be."""

    name: str
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

    num_parameters: int | None = None  # as published; checked against the shape. None: nobody published it
    source: str  # where the figures come from

    def __post_init__(self) -> None:
        for key in ("name", "source"):
            self._check(key, _is_text, "a text that is not empty")
        for key in _COUNTS:
            self._check(key, _is_count, "a whole number from 1 to 1,000,000,000")
        for key in _FLAGS:
            self._check(key, _is_flag, "true or false")
        for key, choices in _CHOICES.items():
            self._check(key, choices.__contains__, " or ".join(choices))
        self._check("norm_eps", _is_positive, "a number above 0")
        self._check("attention_bias", _are_projections, "a list of qkv and o, each at most once")
        if self.position == "rope":
            self._check("rope_theta", _is_positive, "a number above 0 where position is rope")
            self._check("head_dim", lambda size: size % 2 == 0, "even where position is rope, which turns pairs")
        else:
            self._check("rope_theta", lambda theta: theta is None, "left out where position is learned")
        heads, total = self.num_attention_heads, self.total_parameters
        self._check(
            "num_key_value_heads", lambda num: heads % num == 0, f"a divisor of num_attention_heads, which is {heads}"
        )
        self._check(
            "num_parameters",
            lambda num: num is None or (type(num) is int and num == total),
            f"{total}, which is what the shape adds up to, or left out",
        )

    def _check(self, key: str, is_right: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, key)
        if not is_right(value):
            given = "missing" if value is None else f"{value!r:.80}"
            raise UserError(f"{key} is {given}, it must be {allowed}")

    @property
    def query_size(self) -> int:
        """Width of the queries of one token, all heads together: a·h."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of the keys of one token, which is that of its values: k·h."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_mlp_matrices(self) -> int:
        """Matrices in one MLP: gate, up and down where it is gated, up and down where it is not."""
        return 3 if self.hidden_act == "silu" else 2

    @property
    def embedding_parameters(self) -> int:
        """The token table, V·d, and the table of positions where these are learned."""
        positions = self.max_position_embeddings if self.position == "learned" else 0
        return (self.vocab_size + positions) * self.hidden_size

    @property
    def attention_parameters(self) -> int:
        """Weights and biases of the q, k, v and o projections of all layers, without any norm."""
        qkv_bias = self.query_size + 2 * self.key_value_size if "qkv" in self.attention_bias else 0
        o_bias = self.hidden_size if "o" in self.attention_bias else 0
        return self.num_hidden_layers * (self._attention_weights + qkv_bias + o_bias)

    @property
    def mlp_parameters(self) -> int:
        """Weights and biases of the MLPs of all layers."""
        bias = (self.num_mlp_matrices - 1) * self.intermediate_size + self.hidden_size if self.mlp_bias else 0
        return self.num_hidden_layers * (self._mlp_weights + bias)

    @property
    def norm_parameters(self) -> int:
        """Two norms a layer, one after the last layer, and those on queries and keys where there are any."""
        one = self.hidden_size * (2 if self.norm == "layer_norm" else 1)
        on_heads = 2 * self.head_dim if self.qk_norm == "head" else 0
        return self.num_hidden_layers * (2 * one + on_heads) + one

    @property
    def head_parameters(self) -> int:
        """The matrix that gives the logits, V·d; 0 where it is the token table itself."""
        return 0 if self.tie_word_embeddings else self.head_matmul_parameters

    @property
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
    def layer_matmul_parameters(self) -> int:
        """Weights of all layers that a token is multiplied with: two FLOP each, forward (Kaplan et al. 2020, 2.1)."""
        return self.num_hidden_layers * (self._attention_weights + self._mlp_weights)

    @property
    def head_matmul_parameters(self) -> int:
        """Weights that a token is multiplied with to give its logits: V·d, tied or not. Prefill needs the last only."""
        return self.vocab_size * self.hidden_size

    @property
    def matmul_parameters(self) -> int:
        """Weights that a token is multiplied with, head included. An embedding is looked up, which costs no FLOP."""
        return self.layer_matmul_parameters + self.head_matmul_parameters

    def kv_cache_bytes_per_token(self, dtype_bytes: int) -> int:
        """Bytes of keys and values that one token of context leaves behind: 2·L·k·h values."""
        return 2 * self.num_hidden_layers * self.key_value_size * dtype_bytes

    @property
    def _attention_weights(self) -> int:
        """Of one layer: d·(a + 2k)·h for q, k and v, and a·h·d for o."""
        return self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)

    @property
    def _mlp_weights(self) -> int:
        """Of one layer: 3·d·f gated, 2·d·f not."""
        return self.num_mlp_matrices * self.hidden_size * self.intermediate_size


def names() -> list[str]:
    """Every model in the catalog, by file name."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find(name: str) -> Model:
    """The model of that name: of the catalog, or of a file that was adopted. Raises UserError with the near misses.

    A name comes from a stranger's file too, so no path is ever opened here.
    """
    own = _FOLDER / f"{name}.toml"
    if own.parent == _FOLDER and own.is_file():
        return _from_catalog(name)
    for path in _adopted():
        if (model := read(path)).name == name:
            return model
    raise UserError(
        f"no model is named '{name:.80}'{_near(name, names())}: "
        "`accelmark list models` shows all, and a .toml file or a config.json will do as well"
    )


@cache
def _from_catalog(name: str) -> Model:
    """A plan asks for the same shape hundreds of times."""
    return load(_FOLDER / f"{name}.toml")


def adopt(name_or_path: str) -> str:
    """The name under which `find` knows a model, or that of a .toml file or a config.json, from now on.

    It holds in this process and in those that it starts. Cases and result files carry names and no paths. Raises
    UserError for a file that is wrong, or named like one of the catalog.
    """
    if not name_or_path.endswith((".toml", ".json")):
        return find(name_or_path).name
    path = os.path.abspath(name_or_path)
    model = read(path)
    if model.name in names():
        raise UserError(f"{Path(name_or_path).name}: the catalog has a {model.name} already, rename the file")
    os.environ[_ADOPTED] = os.pathsep.join(dict.fromkeys([*_adopted(), path]))
    return model.name


def read(path: str) -> Model:
    """The model in a .toml file or a config.json. Raises UserError."""
    return _load_config(Path(path)) if path.endswith(".json") else load(Path(path))


def load(path: Path) -> Model:
    """The model in a TOML file, named after the file. Raises UserError for a key too many, too few or wrong."""
    return _build(path, path.stem, _read(path, lambda text: tomllib.loads(text)))


def _load_config(path: Path) -> Model:
    """The model in a Hugging Face config.json. Rope scaling changes no shape and is not kept."""
    config = _read(path, json.loads)
    kind = config.get("model_type")
    try:
        if kind not in ARCHITECTURES:
            raise UserError(f"model_type is {kind!r:.80}, it must be one of {', '.join(ARCHITECTURES)}")
        fields = _from_gpt2(config) if kind == "gpt2" else _from_llama(config, kind)
    except KeyError as error:
        raise UserError(f"{path}: the key {error} is missing, model_type {kind} needs it") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    model = _build(path, kind, fields | {"source": f"a config.json of model_type {kind}"})
    # The folder's name could be a user's, and a model's name goes into result files: architecture and size say more.
    name = path.stem if path.name != "config.json" else f"{kind}-{_size(model.total_parameters)}"
    return dataclasses.replace(model, name=name)


def _size(parameters: int) -> str:
    """As models are named: 8b, 124m."""
    return f"{parameters / 1e9:.3g}b" if parameters >= 1e9 else f"{parameters / 1e6:.3g}m"


def _adopted() -> list[str]:
    return [path for path in os.environ.get(_ADOPTED, "").split(os.pathsep) if path]


# What a key of a config.json means, and what holds where one is left out, is read from the configuration and modeling
# files of huggingface/transformers, src/transformers/models/<model_type>/. A KeyError is a key that must be there.


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
        "attention_bias": _PROJECTIONS,
        "mlp_bias": True,
    }


def _from_llama(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Llama and its descendants: Mistral adds windows, Qwen2 biases on q, k and v, Qwen3 norms on q and k."""
    _refuse_windows(config, kind)
    all_heads = config["num_attention_heads"] if kind == "llama" else config["num_key_value_heads"]
    head_dim = config["head_dim"] if kind == "qwen3" else config.get("head_dim")
    bias = _PROJECTIONS if kind in ("llama", "qwen3") and config.get("attention_bias", False) else ()
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
    if _is_count(window) and _is_count(longest) and window < longest:
        given = f"sliding_window is {window}"
    elif isinstance(layers, list) and any(layer != "full_attention" for layer in layers):
        given = "layer_types has other layers than full_attention"
    else:
        return
    raise UserError(f"{given}, only full attention is supported: to count it as that, set sliding_window to null")


def _quotient(config: dict[str, Any], whole: str, parts: str) -> int:
    if not (_is_count(config[whole]) and _is_count(config[parts]) and config[whole] % config[parts] == 0):
        raise UserError(f"{whole} is {config[whole]!r:.40}, it must be a multiple of {parts}, {config[parts]!r:.40}")
    return int(config[whole] // config[parts])


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a model is a name, a .toml file or a config.json") from None
    except (ValueError, RecursionError) as error:  # the errors of both decoders and of UTF-8 are ValueErrors
        raise UserError(f"{path}: is not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, it must hold an object of keys and values")
    return content


def _build(path: Path, name: str, values: dict[str, Any]) -> Model:
    """A model from a file's keys, checked for being all there and known."""
    fields = [field for field in dataclasses.fields(Model) if field.name != "name"]
    known = [field.name for field in fields]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: a model has no key '{key:.80}'{_near(key, known)}: it has {', '.join(known)}")
    for key in required:
        if key not in values:
            raise UserError(f"{path}: the key '{key}' is missing, a model needs {', '.join(required)}")
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return Model(name=name, **tuples)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _near(name: str, known: list[str]) -> str:
    """What could have been meant, as part of a sentence: names that begin so, else names that look alike."""
    near = [other for other in known if other.startswith(name.lower())] or get_close_matches(name.lower(), known)
    return f" (did you mean {' or '.join(near)}?)" if name and near else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= 10**9


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _are_projections(value: object) -> bool:
    return isinstance(value, tuple) and all(one in _PROJECTIONS for one in value) and len(set(value)) == len(value)

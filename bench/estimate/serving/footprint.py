"""Footprint: what one token of a model asks of a device when it is served: weights, FLOPs, bytes of the cache.

Published rows name models as their authors did ("meta-llama/Llama-2-7b-hf", "gpt2_large"). A name leads to a shape of
the catalog, or to one of the few shapes below that the catalog cannot say or does not have, or, where only a number of
parameters is known, to a shape such as models of that size mostly have. `known` says which.
"""

import re
from dataclasses import dataclass
from functools import cache

from bench import model as catalog
from bench.arithmetic import Model


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The sizes that decide the time of serving. Weights are counted, not weighed: their format is the job's."""

    name: str
    layers: float
    hidden: float
    dense_parameters: float  # read at every step: attention, dense MLPs, head
    expert_parameters: float = 0.0  # of one expert, over all layers
    experts: float = 0.0
    experts_per_token: float = 0.0
    cached_values: float  # of one token of context, over all layers that see all of it
    windowed_values: float = 0.0  # the same over layers that see a window
    window: float = 0.0
    state_values: float = 0.0  # of one sequence whatever its length, in layers that keep a state in place of a cache
    head_parameters: float = 0.0  # of the dense ones; prefill needs it for the last token only
    query_values: float  # widths of the queries of one token, over all layers
    latent_values: float = 0.0  # in place of the queries' widths in decode, where all heads look at one latent cache
    cache_parts: float = 8.0  # key-value heads: devices that split a layer beyond these hold copies of its cache
    known: bool = True  # False: derived from a number of parameters alone

    @property
    def parameters(self) -> float:
        """Weights that are multiplied with, all experts."""
        return self.dense_parameters + self.experts * self.expert_parameters

    @property
    def active_parameters(self) -> float:
        """Weights that one token is multiplied with."""
        return self.dense_parameters + self.experts_per_token * self.expert_parameters

    def parameters_read(self, tokens: float) -> float:
        """Expected weights that a step of so many tokens reads: experts E·(1 - (1 - e/E)^tokens), and all others."""
        if not self.experts:
            return self.dense_parameters
        share = 1.0 - float((1.0 - self.experts_per_token / self.experts) ** tokens)
        return self.dense_parameters + self.experts * share * self.expert_parameters

    def attended(self, context: float) -> float:
        """Keys times widths of queries that the token at this place looks at, over all layers."""
        if not self.windowed_values:
            return (self.latent_values or self.query_values) * context
        near = self.windowed_values / (self.windowed_values + self.cached_values)
        return self.query_values * ((1.0 - near) * context + near * min(context, self.window))

    def attended_by(self, tokens: float) -> float:
        """The same over all tokens of a prompt, from no key to all of them."""
        over = max(0.0, tokens - self.window) if self.windowed_values else 0.0
        near = self.windowed_values / max(1.0, self.windowed_values + self.cached_values)
        return self.query_values * (tokens**2 - near * over**2) / 2.0

    def cached(self, context: float) -> float:
        """Values in the cache of one sequence."""
        return self.state_values + self.cached_values * context + self.windowed_values * min(context, self.window)


def of_model(model: Model) -> Footprint:
    """The footprint of a model's shape."""
    experts = float(model.num_experts or 0)
    active = float(model.num_experts_per_tok or 0)
    one_expert = float(model.expert_matmul_parameters * model.num_expert_layers)
    each = model.kv_cache_bytes_per_token(1) / model.num_blocks
    windowed = model.num_windowed_layers * each
    return Footprint(
        name=model.name,
        layers=model.num_blocks,
        hidden=model.hidden_size,
        dense_parameters=model.matmul_parameters - active * one_expert,
        expert_parameters=one_expert,
        experts=experts,
        experts_per_token=active,
        cached_values=each * model.num_blocks - windowed,
        windowed_values=windowed,
        window=float(model.sliding_window or 0),
        head_parameters=model.head_matmul_parameters,
        query_values=float(model.query_size * model.num_blocks),
        latent_values=_latent(model),
        cache_parts=1.0 if model.kv_lora_rank is not None else float(model.num_key_value_heads),
    )


def _latent(model: Model) -> float:
    """Half of what MLA multiplies in decode for each key: latent and position in the scores, latent in the values."""
    if model.kv_lora_rank is None:
        return 0.0
    wide = 2 * model.kv_lora_rank + (model.qk_rope_head_dim or 0)
    return float(model.num_attention_heads * wide * model.num_blocks) / 2


# What is found in a published name, and the catalog's model of that shape. The first that is found counts. Models that
# differ in their training only share a shape.
_ALIASES = (
    (r"mixtral.8x22b", "mixtral-8x22b"),
    (r"mixtral", "mixtral-8x7b"),
    (r"mistral.7b.v0\.[23]|mistral.7b.instruct.v0\.[23]", "mistral-7b-v0.3"),
    (r"mistral.7b", "mistral-7b-v0.1"),
    (r"tinyllama", "tinyllama-1.1b"),
    (r"llama.3\.1.405b", "llama-3.1-405b"),
    (r"llama.3(\.[13])?.70b", "llama-3.1-70b"),
    (r"llama.3(\.[13])?.8b", "llama-3.1-8b"),
    (r"llama.3\.2.1b", "llama-3.2-1b"),
    (r"llama.3\.2.3b", "llama-3.2-3b"),
    (r"(llama.2|codellama|vicuna).*70b", "llama-2-70b"),
    (r"(llama.2|codellama|vicuna).*13b", "llama-2-13b"),
    (r"(llama.2|codellama|vicuna|longchat).*7b", "llama-2-7b"),
    (r"llama.*65b", "llama-1-65b"),
    (r"llama.*3[03]b", "llama-1-33b"),
    (r"llama.*13b", "llama-1-13b"),
    (r"llama.*(^|[^0-9])7b", "llama-1-7b"),
    (r"qwen3.*235b", "qwen3-235b-a22b"),
    (r"qwen3.*30b", "qwen3-30b-a3b"),
    (r"qwen3.*?(32b|14b|8b|4b|1\.7b|0\.6b)", r"qwen3-\1"),
    (r"qwen2(?:\.5)?.*?(72b|32b|14b|7b|3b|1\.5b|0\.5b)", r"qwen2.5-\1"),
    (r"gemma.3.*?(27b|12b|4b|1b)", r"gemma-3-\1"),
    (r"gemma.2.*?(27b|9b|2b)", r"gemma-2-\1"),
    (r"gpt.oss.120b", "gpt-oss-120b"),
    (r"gpt.oss.20b", "gpt-oss-20b"),
    (r"deepseek.(r1|v3)(?!.*distill)", "deepseek-v3"),
    (r"deepseek.v2.lite", "deepseek-v2-lite"),
    (r"yi.*34b", "yi-34b"),
    (r"yi.*6b", "yi-6b"),
    (r"falcon.*?(40b|7b)", r"falcon-\1"),
    (r"mpt.*?(30b|7b)", r"mpt-\1"),
    (r"opt.*?(175b|66b|6\.7b|125m)", r"opt-\1"),
    (r"opt.*1\.?3b?", "opt-1.3b"),
    (r"pythia.*?(12b|6\.9b|1\.4b|160m)", r"pythia-\1"),
    (r"phi.4", "phi-4"),
    (r"phi.3.mini", "phi-3-mini"),
    (r"phi.2", "phi-2"),
    (r"bloom$|bloom.176b", "bloom-176b"),
    (r"gpt2.xl|gpt2.*1\.5b", "gpt2-1.5b"),
    (r"gpt2.large", "gpt2-774m"),
    (r"gpt2.medium", "gpt2-355m"),
    (r"gpt3.*2\.?7", "gpt3-2.7b"),
    (r"gpt3.*175b", "gpt3-175b"),
    (r"gpt3.*13b", "gpt3-13b"),
    (r"gpt3.*6\.?7b", "gpt3-6.7b"),
    (r"gpt2(-124m)?$", "gpt2-124m"),
    (r"chatglm3", "chatglm3-6b"),
    (r"chatglm2", "chatglm2-6b"),
    (r"glm.4.9b", "glm-4-9b"),
    (r"olmo.2.*?(32b|13b|7b)", r"olmo-2-\1"),
    (r"baichuan2.*?(13b|7b)", r"baichuan2-\1"),
    (r"internlm.*20b", "internlm-20b"),
)  # fmt: skip

# Shapes that the catalog does not have: layers, hidden size, width of keys and values, of queries, parameters of one
# MLP or expert in a layer, experts, of these for each token, vocabulary, and what is in every layer besides. Each from
# the model's public config.json (NeuSight's from scripts/asplos/label/README there).
_OTHERS = (
    (r"aquila.7b", (32, 4096, 4096, 4096, 3 * 4096 * 11008, 0, 0, 100008, 0)),
    (r"decilm.7b", (32, 4096, 268, 4096, 3 * 4096 * 14336, 0, 0, 32000, 0)),  # 67 key-value heads in 32 layers
    (r"qwen1\.5.7b", (32, 4096, 4096, 4096, 3 * 4096 * 11008, 0, 0, 151936, 0)),
    (r"bloom.7b1", (30, 4096, 4096, 4096, 8 * 4096 * 4096, 0, 0, 250880, 0)),
    (r"gpt.j.6b", (28, 4096, 4096, 4096, 8 * 4096 * 4096, 0, 0, 50400, 0)),
    (r"gemma(\.1\.1)?\.7b", (28, 3072, 4096, 4096, 3 * 3072 * 24576, 0, 0, 256000, 0)),
    (r"bert.large", (24, 1024, 1024, 1024, 8 * 1024 * 1024, 0, 0, 30522, 0)),
    (r"gpt3.xl", (24, 3072, 3072, 3072, 8 * 3072 * 3072, 0, 0, 50257, 0)),
    (r"switchxl", (48, 1024, 1024, 1024, 8 * 1024 * 1024, 4, 1, 32128, 0)),
    (r"llama.4.scout", (48, 5120, 1024, 5120, 3 * 5120 * 8192, 16, 1, 202048, 3 * 5120 * 8192)),
    (r"llama.4.maverick", (48, 5120, 1024, 5120, 3 * 5120 * 8192, 64, 0.5, 202048, 3 * 5120 * 8192)),
    (r"qwen3.coder.480b", (62, 6144, 1024, 12288, 3 * 6144 * 2560, 160, 8, 151936, 0)),
    (r"kimi.k2", (61, 7168, 288, 12288, 3 * 7168 * 2048, 384, 8, 163840, 3 * 7168 * 2048)),
)  # fmt: skip
# Three of four layers of Llama 4 look at their own chunk of the text alone (config.json, attention_chunk_size).
_CHUNK = 8192.0
# Kimi K2 has MLA: 61 layers of 64 heads, a latent of 512 and positions of 64.
_KIMI_LATENT = 61 * 64 * (2 * 512 + 64) / 2.0
# Hybrids keep a cache in few layers, and a state of fixed size in the others: (total parameters, layers, layers with
# attention, hidden, key-value width, layers with a state); NVIDIA 2025, Nemotron Nano 2, table 1. A state has 128 heads
# of 80 channels of 128 values, in 4 bytes, and is read and written at each step: as much as four values of two bytes.
_HYBRIDS = (
    (r"nemotron.nano.9b", (8.9e9, 56, 4, 4480, 1024, 27)),
    (r"nemotron.nano.12b", (12.3e9, 62, 6, 5120, 1024, 28)),
)
_STATE_VALUES = 4.0 * 128 * 80 * 128


@cache
def named(name: str, params_b: float | None = None, active_b: float | None = None) -> Footprint | None:
    """The footprint of what is published under that name; from its parameters where the name is new; else None."""
    text = re.sub(r"[-_ /]", ".", name.lower())
    special = next((build for build in (_other(text), _hybrid(text)) if build is not None), None)
    if special is not None:
        return special
    if name in catalog.names():
        return of_model(catalog.find(name))
    for pattern, target in _ALIASES:
        if found := re.search(pattern, text):
            return of_model(catalog.find(found.expand(target)))
    if params_b is None:
        stated = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", name.lower())
        params_b = float(stated[1]) / (1 if stated[2] == "b" else 1e3) if stated else None
    if params_b is None or params_b <= 0:
        return None
    return _typical(name, params_b * 1e9, (active_b or params_b) * 1e9)


def _other(text: str) -> Footprint | None:
    for pattern, (layers, hidden, kv, queries, mlp, experts, active, vocabulary, besides) in _OTHERS:
        if not re.search(pattern, text):
            continue
        attention = hidden * (2 * queries + 2 * kv)
        near_layers = 3 * layers // 4 if "llama.4" in pattern else 0
        head = vocabulary * hidden
        return Footprint(
            name=pattern,
            layers=layers,
            hidden=hidden,
            dense_parameters=layers * (attention + besides + (0 if experts else mlp)) + head,
            expert_parameters=layers * mlp if experts else 0.0,
            experts=experts,
            experts_per_token=active,
            cached_values=2.0 * kv * (layers - near_layers),
            windowed_values=2.0 * kv * near_layers,
            window=_CHUNK,
            head_parameters=head,
            query_values=float(queries * layers),
            latent_values=_KIMI_LATENT if "kimi" in pattern else 0.0,
            cache_parts=1.0 if "kimi" in pattern else max(1.0, kv // 128),
        )
    return None


def _hybrid(text: str) -> Footprint | None:
    for pattern, (parameters, layers, attending, hidden, kv, stateful) in _HYBRIDS:
        if re.search(pattern, text):
            return Footprint(
                name=pattern,
                layers=layers,
                hidden=hidden,
                dense_parameters=parameters - 131072 * hidden,
                cached_values=2.0 * kv * attending,
                state_values=_STATE_VALUES * stateful,
                head_parameters=131072.0 * hidden,
                query_values=float(hidden * attending),
            )
    return None


def _typical(name: str, parameters: float, active: float) -> Footprint:
    """A shape as models of that size mostly have: 12·L·d² weights and d = 128·L, keys and values of a quarter of d."""
    layers = max(2.0, (parameters / (12 * 128**2)) ** (1 / 3))
    hidden = 128 * layers
    sparse = active < 0.7 * parameters
    experts, chosen = (128.0, 8.0) if sparse else (0.0, 0.0)
    one = (parameters - active) / (experts - chosen) if sparse else 0.0
    return Footprint(
        name=name,
        layers=layers,
        hidden=hidden,
        dense_parameters=active - chosen * one,
        expert_parameters=one,
        experts=experts,
        experts_per_token=chosen,
        cached_values=2 * hidden / 4 * layers,
        head_parameters=min(0.1 * active, 32000 * hidden),
        query_values=hidden * layers,
        known=False,
    )

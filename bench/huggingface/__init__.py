"""Hugging Face: a config.json of a known architecture, read as the fields of a Model.

What a key means, and what holds where one is left out, is read from the configuration and modeling files of
huggingface/transformers, src/transformers/models/<model_type>/, and for chatglm, baichuan, internlm and moss from the
files that lie beside such a config.json. A KeyError is a key that must be there. A rope scaling changes no shape.
"""

from collections.abc import Callable

from bench.errors import UserError
from bench.huggingface import gpt, llama
from bench.huggingface.keys import Config, Fields

# By the values of model_type.
_READERS: dict[str, Callable[[Config], Fields]] = {
    "gpt2": gpt.gpt2,
    "llama": llama.llama,
    "mistral": llama.mistral,
    "mixtral": llama.mixtral,
    "qwen2": llama.qwen2,
    "qwen3": llama.qwen3,
    "qwen3_moe": llama.qwen3_moe,
    "gemma2": llama.gemma2,
    "gemma3_text": llama.gemma3,
    "phi": gpt.phi,
    "phi3": llama.phi3,
    "olmo2": llama.olmo2,
    "olmo3": llama.olmo3,
    "gpt_neox": gpt.gpt_neox,
    "bloom": gpt.bloom,
    "opt": gpt.opt,
    "mpt": gpt.mpt,
    "falcon": gpt.falcon,
    "deepseek_v2": llama.deepseek,
    "deepseek_v3": llama.deepseek,
    "gpt_oss": llama.gpt_oss,
    "codegen": gpt.codegen,
    "moss": gpt.codegen,
    "chatglm": llama.chatglm,
    "baichuan": llama.baichuan,
    "internlm": llama.internlm,
}

ARCHITECTURES = tuple(_READERS)


def fields(config: Config) -> Fields:
    """The fields of a Model, without name and source. Raises UserError, or KeyError for a key that is missing."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise UserError(f"model_type is {kind!r:.80}, it must be one of {', '.join(ARCHITECTURES)}")
    return _READERS[kind](config)

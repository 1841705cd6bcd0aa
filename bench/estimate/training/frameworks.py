"""Frameworks: what a framework's name, as people write it, says about how a step is run.

Names are free text ("llm-foundry/Composer (torch FSDP)"). The first pattern that occurs decides; a name that nobody
knows is a stack of its own, with the habits of plain PyTorch, and estimates for it are wider.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from bench.estimate.job import Recompute, Sharding


@dataclass(frozen=True, kw_only=True)
class Habits:
    """Of a framework, where a job does not say."""

    framework: str  # the name that evidence is grouped by
    group: str  # frameworks that share kernels and authors
    attention: Literal["flash", "unfused"] = "flash"
    fused: bool = True  # norms, activations and losses in few kernels
    sharding: Sharding = "none"
    recompute: Recompute | None = None
    sequence_parallel: bool = True  # where products are split: since 2022 in Megatron-LM (Korthikanti et al.)
    doubt: float = 0.0  # of the logarithm of time: what the name leaves open


_DEEPSPEED = Habits(
    framework="megatron-deepspeed", group="megatron", attention="unfused", recompute="full", sequence_parallel=False
)
_MEGATRON_V1 = Habits(
    framework="megatron-v1", group="megatron", attention="unfused", recompute="full", sequence_parallel=False
)
_NEMO = Habits(framework="megatron-nemo", group="megatron", sharding="zero1")
# What one kernel does is up to each author of a model: such rows are 27 % off in the median, others 9.
_EAGER = Habits(framework="hf-eager", group="eager", attention="unfused", fused=False, doubt=0.12)
_KNOWN: tuple[tuple[str, Habits], ...] = (
    (r"megatron.?deepspeed|megatron.?lm \+ deepspeed", _DEEPSPEED),
    (r"accelerate", Habits(framework="megatron-accelerate", group="megatron", attention="unfused")),
    (r"megatron.?(lm )?v1", _MEGATRON_V1),
    (r"megatron.?bridge|nemo|nvidia release|ngc|nvidia pytorch", _NEMO),
    (r"megatron", Habits(framework="megatron-lm", group="megatron", sharding="zero1")),
    (r"internevo|internlm", Habits(framework="internevo", group="megatron", sharding="zero1")),
    (r"neuron", Habits(framework="neuron", group="xla", sharding="zero1")),
    (r"maxtext|jax|xla|tpu", Habits(framework="maxtext", group="xla", sharding="zero3")),
    (r"torchtitan", Habits(framework="torchtitan", group="torch", sharding="zero3")),
    (r"foundry|composer|mosaic", Habits(framework="llm-foundry", group="torch", sharding="zero3")),
    (r"fms|torchtune|olmo", Habits(framework="torch-fsdp", group="torch", sharding="zero3")),
    (r"lit.?gpt|lightning", Habits(framework="litgpt", group="torch", sharding="zero3")),
    (r"fsdp", Habits(framework="torch-fsdp", group="torch", sharding="zero3")),
    (r"llm\.?c\b", Habits(framework="llm.c", group="torch", sharding="zero1")),
    (r"rocm|llmboost", Habits(framework="torch-rocm", group="torch", sharding="zero3")),
    (r"deepspeed|zero", Habits(framework="deepspeed", group="torch", sharding="zero3")),
    (r"eager", _EAGER),
    (r"hugging|\bhf\b|transformers|\btrl\b|peft|unsloth", Habits(framework="hf", group="torch", fused=False)),
    (r"accelmark", Habits(framework="accelmark", group="torch")),
    (r"torch", Habits(framework="torch", group="torch", sharding="zero3")),
)  # fmt: skip
_UNKNOWN = Habits(framework="", group="", sharding="zero3")


@lru_cache(maxsize=1024)
def habits(framework: str) -> Habits:
    """Of the framework with that name. One that nobody knows has an empty name."""
    text = framework.lower()
    return next((habits for pattern, habits in _KNOWN if re.search(pattern, text)), _UNKNOWN)


def attention(text: str, framework: str) -> Literal["flash", "unfused"]:
    """Which attention is meant by a free text, "" for the framework's habit."""
    lower = text.lower()
    if re.search(r"unfused|eager|math|naive|vanilla", lower):
        return "unfused"
    if re.search(r"flash|sdpa|fused|cudnn|splash|xformers|efficient|triton|fa[234]", lower):
        return "flash"
    return habits(framework).attention

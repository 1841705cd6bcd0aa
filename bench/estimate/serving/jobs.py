"""Rows of published inference as jobs: which figure was measured, of what work, with which software on which chip."""

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from bench import chip as chips
from bench.chip import Chip
from bench.errors import UserError
from bench.estimate.published import Row, number
from bench.estimate.serving import footprint
from bench.estimate.serving.step import MEMORY_SHARE, WEIGHT_BYTES, Serving, has_rate

# What a row measured. "offline": all tokens, read and written, over the latency of one batch. "output": tokens written
# a second, with as many sequences at once as fit. "online": the same at a given concurrency. "decode" and "prefill":
# one phase alone. "ttft": seconds to the first token of a batch.
Kind = Literal["offline", "output", "online", "decode", "prefill", "ttft"]

# Lengths of prompts where a row has none, by what is asked: questions of a chat, tasks to reason about, code to go on
# with. ML.ENERGY's prompts follow data sets whose lengths are not in the rows.
_CHAT, _REASONING, _CODE = 100.0, 250.0, 2500.0
# What a source says of its machine elsewhere than in its rows: LLM-Inference-Bench ran on Polaris and ThetaGPU.
_MEMORY_GB = {("argonne", "A100"): 40.0}
# Its TensorRT-LLM and DeepSpeed scripts give every sequence of a batch one word over and over (4211f5d,
# TensorRT-LLM/H100/run_precision_bench.py, Deepspeed-MII/A100/pipeline.py); those of vLLM draw tokens at random.
_ALIKE = {("argonne", "tensorrt-llm"), ("argonne", "deepspeed")}
# NVIDIA's table of throughputs (docs/source/performance/perf-overview.md, 00f3768) gives the number of its requests for
# each length of prompt and answer, and runs models of experts with attention_dp.
_REQUESTS = {
    (128, 128): 30000.0, (128, 2048): 3000.0, (500, 2000): 3000.0, (1000, 1000): 3000.0, (2048, 128): 3000.0,
    (128, 4096): 1500.0, (1000, 2000): 1500.0, (2048, 2048): 1500.0, (5000, 500): 1500.0, (20000, 2000): 1000.0,
}  # fmt: skip
COPIED = ", attention copied"
BY_LAYERS = ("llama.cpp",)  # software that gives each device some layers whole
# trtllm-bench takes 4,096 sequences at most (tensorrt_llm/bench/build/tuning.py).
_MOST_SEQUENCES = {"tensorrt-llm": 4096}
_MOST = {
    "params_b": 1e5, "active_params_b": 1e5, "input_len": 1e8, "output_len": 1e8, "batch": 1e6, "concurrency": 1e6,
    "n_gpus": 1e5, "tp": 1e5, "pp": 1e3, "gpu_mem_gb": 1e4,
}  # fmt: skip
# Eager attention writes the products, reads and writes them to scale, to mask and for the softmax, and reads them. Of
# llama.cpp's, without flash attention, the mask and softmax are one, and only the lower triangle is gone through.
UNFUSED_PASSES = 8.0
_SCORE_PASSES = {"hf": UNFUSED_PASSES, "pytorch": UNFUSED_PASSES, "llama.cpp": 4.0}
# Kernels of one layer that llama.cpp starts for a chunk of a prompt on CUDA, as of May 2024: a rough count and no fit.
# Seven products, each with conversions, attention, norms, positions and copies; more where weights are unpacked.
_LLAMA_KERNELS, _LLAMA_UNPACKING = 45.0, 10.0
# Models that were published in fewer than 16 bits, and llama.cpp's usual files from wide to narrow.
_PUBLISHED_IN = ((r"gpt.?oss", "mxfp4"), (r"deepseek.(r1|v3)(?!.*distill)|kimi.k2", "fp8"))
_GGUF = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
_LONG_ANSWER = 1500.0  # tokens: only reasoning writes so many


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Software, format of weights and chip: what coefficients belong to."""

    framework: str  # "vllm", "tensorrt-llm", "llama.cpp", ...
    variant: str  # as the row has it: version and edition
    weights: str
    chip: Chip

    @property
    def key(self) -> str:
        """One text for it."""
        return f"{self.variant}|{self.weights}|{self.chip.name}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row, read."""

    kind: Kind
    stack: Stack
    job: Serving
    source: str
    note: str = ""  # what was taken for granted of it, for its basis

    @property
    def block(self) -> str:
        """Rows of one sweep: same stack, model and number of devices. Such rows stand or fall together."""
        stack = self.stack.key.replace(COPIED, "")
        return f"{self.source}|{stack}|{self.job.footprint.name}|{self.job.devices}"


def read(row: Row) -> Case | str:
    """The row as a case, or why it cannot be one."""
    device, source = row.get("device", ""), row.get("source_id", "")
    for column, most in _MOST.items():
        value = number(row, column)
        if value is not None and not 0 <= value <= most:
            return f"{column} is '{row[column]:.40}', it must be a number from 0 to {most:g}"
    chip = _chip(device, number(row, "gpu_mem_gb") or _MEMORY_GB.get((source, device)))
    if chip is None:
        return f"no datasheet of the device '{device:.80}' is known: describe it in a .toml file"
    if not has_rate(chip):
        return f"no datasheet gives a rate of {chip.name}: describe it in a .toml file with flops_per_s"
    model = footprint.named(row.get("model", ""), number(row, "params_b"), number(row, "active_params_b"))
    if model is None:
        return f"the model '{row.get('model', '')}' is not in the catalog and the row has no params_b"
    kind = _kind(row)
    if kind is None:
        return f"the phase '{row.get('phase', '')}' is none of prefill, decode, prefill+decode, TTFT, online"
    if "INCONSISTENT" in row.get("metric_note", ""):
        return "the source contradicts itself here: throughput times latency leaves out the batch"
    framework = row.get("framework", "")
    family = family_of(framework)
    devices = max(1, round(number(row, "n_gpus") or 1))
    weights, note = weights_of(row), ""
    if weights is None:
        weights, note = _likely_weights(row.get("model", ""), family, chip, model, devices)
    if _share(model, weights, chip, devices) > 1:
        narrow = "" if weights == "full" else f" in {weights}"
        return f"the weights of {model.name}{narrow} do not fit into the memory of {devices} x {chip.name}"
    tp, pp = _layout(row, devices, family)
    prompt, output = _lengths(row, kind)
    if kind in ("prefill", "ttft") and prompt < 1:
        return "a prefill needs input_len, at least 1"
    if prompt + output < 1:
        return "there is nothing to do without input_len and output_len"
    batch = number(row, "batch") or number(row, "concurrency")
    whole_attention = bool(model.experts) and tp > 1 and (source == "trtllm" or _data_parallel(row) > 1)
    requests = _REQUESTS.get((round(prompt), round(output)), math.inf) if source == "trtllm" else math.inf
    # vLLM's data-parallel attention goes in lockstep, on paths of its own: another stack in all but name.
    variant = framework + COPIED if whole_attention and source != "trtllm" else framework
    job = Serving(
        footprint=model,
        chip=chip,
        devices=devices,
        tp=tp,
        pp=pp,
        whole_experts=whole_attention or (number(row, "ep") or 1) > 1 or "[ep]" in row.get("precision", "").lower(),
        whole_attention=whole_attention,
        prompt=prompt,
        output=output,
        requests=requests,
        batch=None if kind == "output" and batch is None else (batch or 1.0),
        weights=weights,
        cache_bytes=_cache_bytes(row, weights, family),
        alike=(source, family) in _ALIKE,
        every_logit=kind == "prefill" and family in ("hf", "pytorch"),
    )
    return Case(
        kind=kind,
        source=source,
        note=note,
        stack=Stack(framework=family, variant=variant, weights=weights, chip=chip),
        job=run_by(family, job, kind),
    )


def run_by(family: str, job: Serving, kind: Kind) -> Serving:
    """The job with all that this software does in its own way."""
    llama = family == "llama.cpp"
    return replace(
        job,
        score_passes=_SCORE_PASSES.get(family, 0.0),
        stage_kernels=(_LLAMA_KERNELS + (job.weights != "full") * _LLAMA_UNPACKING) if llama else 0.0,
        unpacks=llama and job.chip.vendor in ("NVIDIA", "AMD"),
        half_sums=llama,
        continuous=family not in ("tensorrt-llm", "deepspeed", "hf") or kind != "offline",
        reserves=family == "tensorrt-llm",
        most_sequences=_MOST_SEQUENCES.get(family, 2048),
    )


@cache
def _chip(device: str, memory_gb: float | None) -> Chip | None:
    try:
        return chips.resolve(device, memory_gb)
    except UserError:
        return None


def family_of(framework: str) -> str:
    """Which software it is, whatever its version and edition."""
    text = framework.lower()
    for pattern, name in (
        ("vllm", "vllm"),
        ("tensorrt|trt-?llm", "tensorrt-llm"),
        ("sglang", "sglang"),
        ("llama.?cpp", "llama.cpp"),
        ("deepspeed", "deepspeed"),
        ("gpt-?fast", "gpt-fast"),
        ("litgpt|lit-gpt", "litgpt"),
        ("neuron", "neuron"),
        ("sambaflow", "sambaflow"),
        (r"\bhf\b|hugging|transformers", "hf"),
        ("torch", "pytorch"),
    ):
        if re.search(pattern, text):
            return name
    return text


def weights_of(row: Row) -> str | None:
    """The format of the weights that the row states, a key of WEIGHT_BYTES; None where it says nothing."""
    text = f"{row.get('quant', '')} {row.get('precision', '')}".strip().lower()
    return _format(text) if text else None


def _likely_weights(name: str, family: str, chip: Chip, model: footprint.Footprint, devices: int) -> tuple[str, str]:
    """What a row that is silent ran: what the name of its model says, else the widest that fits, and why."""
    published = next((weights for pattern, weights in _PUBLISHED_IN if re.search(pattern, name.lower())), None)
    weights = published or _format(name.lower())
    if weights != "full":
        return weights, f"weights taken as {weights}, as their name says"
    eight, four = (wide if wide in chip.flops_per_s else other for wide, other in (("fp8", "int8"), ("fp4", "int4")))
    for weights in ("full", *(_GGUF if family == "llama.cpp" else (eight, four))):
        if _share(model, weights, chip, devices) <= MEMORY_SHARE:
            break
    return weights, "" if weights == "full" else f"weights taken as {weights}: nothing wider fits and none was stated"


def _share(model: footprint.Footprint, weights: str, chip: Chip, devices: int) -> float:
    """Of the memory that the weights take."""
    return model.parameters * WEIGHT_BYTES[weights] / (devices * chip.memory_bytes)


def _format(text: str) -> str:
    for pattern, name in (
        (r"q8_0", "Q8_0"), (r"q6_k", "Q6_K"), (r"q5_k", "Q5_K_M"), (r"q4_0", "Q4_0"), (r"q4", "Q4_K_M"),
        (r"q3_k", "Q3_K_M"), (r"q2_k", "Q2_K"), (r"mxfp4", "mxfp4"), (r"fp4|nf4", "fp4"),
        (r"int4|4.?bit|w4|awq|gptq|s4\b", "int4"), (r"int8|8.?bit|w8a|s8\b", "int8"), (r"fp8|f8|float8|e4m3", "fp8"),
        (r"bf16|bfloat16|fp16|\bf16|float16|16.?mixed|16.?true", "full"), (r"fp32|float32|32.?true|\bf32", "fp32"),
    ):  # fmt: skip
        if re.search(pattern, text):
            return "int4" if text.find("nf4") >= 0 else name
    return "full"


def _kind(row: Row) -> Kind | None:
    phase = row.get("phase", "").lower()
    if "ttft" in phase:
        return "ttft"
    if "online" in phase or "serving" in phase:
        return "online"
    if "max throughput" in phase or "OUTPUT throughput" in row.get("metric_note", ""):
        return "output"
    if ("prefill" in phase and "decode" in phase) or "offline" in phase or "generat" in phase:
        return "offline"
    if "decode" in phase:
        return "decode"
    return "prefill" if "prefill" in phase or "forward" in phase else None


def _layout(row: Row, devices: int, family: str) -> tuple[int, int]:
    """How many ways each layer is split, and into how many stages the layers are."""
    tp, pp = number(row, "tp"), number(row, "pp")
    note = row.get("precision", "").lower()
    if "hyb" in note and "ep = " not in note and devices >= 4:
        stages = 2
    elif pp is not None:
        stages = max(1, round(pp))
    elif "pipeline" in note or "[pp]" in note or family in BY_LAYERS:
        stages = devices
    else:
        stages = 1
    if tp is None or tp * stages < devices:  # experts or replicas take the other devices
        tp = max(1, devices // stages)
    return max(1, round(tp)), min(stages, devices)


def _data_parallel(row: Row) -> int:
    """Over how many devices attention is copied, as ML.ENERGY's notes have it ("dp 8")."""
    stated = re.search(r"\bdp (\d{1,4})\b", row.get("notes", ""))
    return int(stated[1]) if stated else 1


def _lengths(row: Row, kind: Kind) -> tuple[float, float]:
    prompt, output = number(row, "input_len"), number(row, "output_len")
    if output is None:
        output = 0.0 if kind in ("prefill", "ttft") else 128.0
    if prompt is None:
        asks_code = "coder" in row.get("model", "").lower() and output < _LONG_ANSWER
        typical = _CODE if asks_code else _REASONING if output > _LONG_ANSWER else _CHAT
        prompt = typical if kind == "online" else 0.0
    return max(0.0, prompt), max(0.0, output)


def _cache_bytes(row: Row, weights: str, family: str) -> float:
    """Of one cached value: what the row says, else what is usual."""
    stated = row.get("kv_dtype", "").lower()
    if "8" in stated:
        return 1.0
    return 2.0 if stated and weights != "fp32" else usual_cache_bytes(family, weights)


def usual_cache_bytes(family: str, weights: str) -> float:
    """Of one cached value; NVIDIA's FP8 and FP4 checkpoints have an FP8 cache."""
    if weights == "fp32":
        return 4.0
    return 1.0 if family == "tensorrt-llm" and weights in ("fp8", "fp4") else 2.0

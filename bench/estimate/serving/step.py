"""Serving: the time of prefill and of decode steps, by terms, from a footprint, a chip and a stack's rates.

Every term is first an ideal: the bytes at the datasheet's bandwidth, the FLOPs at its dense peak, the messages at its
link. `Rates` say what share of each ideal a stack reaches, and what it adds for each layer, sequence and message.

    prefill of T tokens   max(FLOPs / R, weights / BW) + activations / BW + L·host + exchange
    decode step, batch B  max((weights + B·C·cache) / BW, FLOPs / R) + L·host + B·sequence + exchange
    with prompts in it    the same with the FLOPs of the prompts that begin in a step, where requests come one by one

Weights are read no faster than the processors ask for them: so many bytes are under way for each SM and clock, whatever
the memory could give (Little's law). With llama.cpp's kernels that is about 7 bytes, which an RTX 4090 never feels and
an A100, with four times the bandwidth for each SM and clock, feels at 45 % of its own.

The larger of two terms is taken softly, (a³ + b³)^(1/3): kernels of both kinds follow each other in a step, and near
the ridge neither side is hidden whole.

Fields may be numbers or numpy arrays of many jobs, so fitting and predicting run the same lines.
"""

import math
import re
import statistics
from dataclasses import dataclass, fields
from typing import Any

from bench import chip as chips
from bench.chip import Chip
from bench.estimate.serving.footprint import Footprint

# Bytes of one weight with its scales. Q4_K_M mixes 4- and 6-bit blocks: llama.cpp's files of Llama 3 8B and 70B weigh
# 4.92 and 42.5 GB for 8.03 and 70.6 billion parameters. MXFP4: 4 bits and 8 bits for 32 of them; NVFP4 for 16.
WEIGHT_BYTES = {
    "fp32": 4.0, "full": 2.0, "fp8": 1.0, "int8": 1.02, "fp4": 0.5625, "mxfp4": 0.53, "int4": 0.53,
    "Q8_0": 1.0625, "Q6_K": 0.82, "Q5_K_M": 0.71, "Q4_K_M": 0.606, "Q4_0": 0.5625, "Q3_K_M": 0.49, "Q2_K": 0.42,
}  # fmt: skip
# The type whose dense peak a product of these weights runs at, the first that the chip has.
_PRODUCT = {
    "fp32": ("fp32",),
    "fp8": ("fp8", "bf16", "fp16"),
    "fp4": ("fp4", "fp8", "bf16", "fp16"),
}
# Where a sheet of a card for graphics gives FP32 alone: its tensor cores' dense rates are these multiples of it, as in
# all of Ampere's and Ada's professional cards.
_TENSOR_CORES = {"fp8": 8.0, "fp4": 16.0}
_HALVED = ("Ampere", "Ada", "Blackwell")  # whose GeForce cards sum in FP32 at half of the rate
_STREAM = 0.8  # of the bandwidth, that kernels reach which read and write activations
MEMORY_SHARE = 0.9  # of a device's memory that servers take for weights and cache; vLLM's gpu_memory_utilization
_WORKSPACE = 0.05  # of the memory, that activations, the links' buffers and CUDA's context take of that
_HEAD_DIM = 128.0  # of nearly all models; the number of heads is what the scores need
_PIPELINE_GAIN = 0.75  # of what the bubble leaves; stages are unequal and hand over (llama.cpp, 2 and 4 GPUs)
_CHUNK = 512.0  # tokens of a prompt that go through a pipeline together; llama.cpp's n_ubatch
# Kernels that a GPU holds in waiting before a launch blocks the host: some 1,000, as users of CUDA found out (NVIDIA's
# forum, topic 68937).
_QUEUE = 1024.0
_FEW_TOKENS = 64.0  # up to which llama.cpp multiplies weights without writing them out; MMQ_MAX_BATCH_SIZE of May 2024
_COPIES = 4.0  # chunks that llama.cpp has under way at most; GGML_SCHED_MAX_COPIES
# Bytes/s each way where the sheet gives no link: that of sixteen lanes of PCIe, less its overhead; 3.0, 4.0 and 5.0.
_LANES = {"Pascal": 12.5e9, "Volta": 12.5e9, "Turing": 12.5e9, "Hopper": 50e9, "Blackwell": 50e9}
_USUAL_LANES = 25e9


@dataclass(frozen=True, kw_only=True)
class Ideal:
    """A job's terms at the datasheet's rates, each a number or an array. Seconds, but for the counts."""

    prefill_flops: Any  # but those of experts, attention's in 16 bits
    prefill_expert_flops: Any
    prefill_bytes: Any  # weights, once for each batch that is prefilled
    prefill_activations: Any
    prefill_exchange: Any
    decode_weights: Any  # but those of experts
    decode_experts: Any
    decode_reach: Any  # the same weights, experts too, at one byte a clock and SM
    decode_cache: Any
    decode_flops: Any
    decode_exchange: Any
    layers: Any
    expert_layers: Any
    sequences: Any  # that a decode step advances
    scheduled: Any  # of these, by one host process
    messages: Any  # all-reduces and hand-overs in one forward pass
    steps: Any  # decode steps from the first to the last token
    waves: Any  # how often the steps are gone through, because the cache holds only so many sequences at once


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a stack on a device makes of the ideal: shares of it, and seconds on top."""

    weights: Any  # share of bandwidth when weights are read
    cache: Any  # share of bandwidth when the cache is read
    compute: Any  # share of the peak in decode
    prefill: Any  # share of the peak in prefill
    reach: Any  # bytes of weights a clock and SM
    experts: Any  # what experts reach, as a share of what dense weights do
    link: Any  # share of the link's rate
    host_s: Any  # for each layer and forward pass
    expert_s: Any  # for each layer with experts besides: routing, sorting, grouped products
    sequence_s: Any  # for each sequence and step: sampling, scheduling, detokenizing
    message_s: Any  # for each message between devices


NAMES = tuple(one.name for one in fields(Rates))


def prefill_s(ideal: Ideal, rates: Rates) -> dict[str, Any]:
    """Terms of the prefill of the whole batch."""
    flops = ideal.prefill_flops + ideal.prefill_expert_flops / rates.experts
    products = _larger(flops / rates.prefill, ideal.prefill_bytes / rates.weights)
    return {
        "prefill": products,
        "prefill memory": ideal.prefill_activations / _STREAM,
        "launch": ideal.waves * (ideal.layers * rates.host_s + ideal.expert_layers * rates.expert_s),
        "communication": ideal.prefill_exchange / rates.link + ideal.waves * ideal.messages * rates.message_s,
    }


def step_s(ideal: Ideal, rates: Rates) -> dict[str, Any]:
    """Terms of one decode step, halfway through the answer. They add up to it."""
    read = _read_s(ideal, rates)
    kernels = _larger(read, ideal.decode_flops / rates.compute)
    weights = _weights_s(ideal, rates) / read
    return {
        "weights": kernels * weights,
        "cache": kernels * (1.0 - weights),
        "launch": ideal.layers * rates.host_s + ideal.expert_layers * rates.expert_s,
        "scheduling": ideal.scheduled * rates.sequence_s,
        "communication": ideal.decode_exchange / rates.link + ideal.messages * rates.message_s,
    }


def mixed_step_s(ideal: Ideal, rates: Rates) -> Any:
    """Seconds of one step while sequences come and go, which prefills as many prompts as end in it, on average.

    Prompts ride along: the weights are read anyway, and where reading takes longer than arithmetic they are free. Where
    fewer than one begins in a step, some steps have one and the others none.
    """
    step, prefill = step_s(ideal, rates), prefill_s(ideal, rates)
    answers = ideal.waves * (ideal.steps + 1.0)
    some = ideal.sequences / answers
    some = some * (some < 1.0) + 1.0 * (some >= 1.0)
    read = _read_s(ideal, rates)
    flops = ideal.decode_flops / rates.compute
    prompts = (ideal.prefill_flops + ideal.prefill_expert_flops / rates.experts) / rates.prefill / answers
    kernels = (1.0 - some) * _larger(read, flops) + some * _larger(read, flops + prompts / some)
    beside = total(step) - step["weights"] - step["cache"]
    return kernels + beside + (prefill["prefill memory"] + ideal.prefill_exchange / rates.link) / answers


def _read_s(ideal: Ideal, rates: Rates) -> Any:
    """Seconds that a decode step reads weights and caches."""
    return _weights_s(ideal, rates) + ideal.decode_cache / rates.cache


def _weights_s(ideal: Ideal, rates: Rates) -> Any:
    return _larger(
        (ideal.decode_weights + ideal.decode_experts / rates.experts) / rates.weights, ideal.decode_reach / rates.reach
    )


def total(terms: dict[str, Any]) -> Any:
    """The sum of all terms."""
    return sum(terms.values())


def _larger(one: Any, other: Any) -> Any:
    return (one * one * one + other * other * other) ** (1.0 / 3.0)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A job in the sizes that its time depends on."""

    footprint: Footprint
    chip: Chip
    devices: int = 1
    tp: int = 1  # ways that weights and work are split; experts spread over devices count here
    pp: int = 1
    whole_experts: bool = False  # each device has some experts whole, not a slice of all
    whole_attention: bool = False  # each device has all attention and caches of its own sequences; experts are split
    prompt: float
    output: float
    batch: float | None  # sequences at once; None: as many as the memory holds
    requests: float = math.inf  # that there are in all, where no batch is given
    weights: str = "full"  # a key of WEIGHT_BYTES
    cache_bytes: float = 2.0
    score_passes: float = 0.0  # how often unfused attention writes or reads all pairs' scores; 0: it keeps them on chip
    stage_kernels: float = 0.0  # that a host starts one by one for each layer of a stage; 0: stages need no host
    unpacks: bool = False  # weights of fewer bits are written out in 16 for each chunk of a prompt, and read again
    half_sums: bool = False  # products are summed in 16 bits or as integers, which cards for games do at full rate
    every_logit: bool = False  # one forward pass that gives the logits of all tokens, not of the last
    alike: bool = False  # all sequences are the same text, whose tokens choose the same experts
    continuous: bool = True  # a sequence that ends makes room for the next; else a batch ends as one
    reserves: bool = False  # a sequence begins when there is room for all of it, not of what it has so far
    most_sequences: int = 2048  # that the software takes at once, on each device with whole attention

    @property
    def weight_bytes(self) -> float:
        """Of all weights."""
        return self.footprint.parameters * WEIGHT_BYTES[self.weights]

    @property
    def room(self) -> float:
        """Sequences whose caches fit beside the weights, at their mean length or whole; at least half a one."""
        copied = self.footprint.dense_parameters * WEIGHT_BYTES[self.weights] * (self.copies - 1)
        free = self.devices * self.chip.memory_bytes * (MEMORY_SHARE - _WORKSPACE) - self.weight_bytes - copied
        length = self.prompt + self.output * (1.0 if self.reserves or not self.continuous else 0.5)
        return max(0.5, free / max(1.0, self.cache_copies * self.cache_bytes * self.footprint.cached(length)))

    @property
    def copies(self) -> float:
        """Of all weights but the experts', among devices that share a layer."""
        return float(self.tp) if self.whole_attention else 1.0

    @property
    def cache_copies(self) -> float:
        """Of each sequence's cache: a device that splits a layer holds at least one key-value head."""
        return 1.0 if self.whole_attention else max(1.0, self.tp / self.footprint.cache_parts)

    @property
    def fits(self) -> bool:
        """Whether the weights and one sequence fit."""
        return self.room >= 1.0


def peak_flops_per_s(chip: Chip, weights: str, half_sums: bool = False) -> float:
    """The dense peak of the type that products with such weights run in."""
    if half_sums and chip.vendor == "NVIDIA" and chip.generation in _HALVED:
        return max(peak_flops_per_s(chip, weights), 4.0 * chip.flops_per_s.get("fp32", 0.0))
    for dtype in _PRODUCT.get(weights, ("bf16", "fp16", "fp32")):
        if (rate := chip.flops_per_s.get(dtype)) is not None:
            return rate
    if not chip.flops_per_s:
        return _rate_by_relatives(chip)
    known = max(rate for key, rate in chip.flops_per_s.items() if key != "fp64")
    return known * (_TENSOR_CORES.get(weights, 4.0) if chip.vendor == "NVIDIA" and weights != "fp32" else 1.0)


def has_rate(chip: Chip) -> bool:
    """Whether a sheet gives a rate of arithmetic, or its relatives say what one of its processors does."""
    return bool(chip.flops_per_s) or _rate_by_relatives(chip) > 0


def _rate_by_relatives(chip: Chip) -> float:
    """The FP32 rate where no sheet gives any, by processors of which the maker's others tell the rate; 0 if unknown."""
    rates = [
        one.flops_per_s["fp32"] / one.num_sms
        for one in map(chips.find, chips.names())
        if one.vendor == chip.vendor and one.num_sms and "fp32" in one.flops_per_s
    ]
    return statistics.median(rates) * chip.num_sms if rates and chip.num_sms else 0.0


def sm_clocks_per_s(chip: Chip) -> float | None:
    """Clocks a second of all SMs (compute units, cores) together, from the FP32 rate; None where no sheet gives it.

    None too for processors on memory modules, a CPU's: few cores, which fetch ahead and so are never what bounds it.
    """
    if (chip.memory_kind or "").startswith("DDR"):
        return None
    rate = chip.flops_per_s.get("fp32") if chip.flops_per_s else _rate_by_relatives(chip)
    if not rate:
        return None
    lanes = 64.0 if re.search(r"G[AVP]100$|TU\d+$", chip.architecture) else 128.0
    return rate / (2.0 * lanes)


def ideal(job: Serving) -> Ideal:
    """The job's terms at the datasheet's rates."""
    model, chip = job.footprint, job.chip
    bandwidth = chip.memory_bytes_per_s * job.tp
    wanted = _at_once(job) if job.batch is None else job.batch
    waves = _waves(job, wanted)
    batch = max(1.0, wanted / waves)
    flops_per_s = peak_flops_per_s(chip, job.weights, job.half_sums) * job.tp
    # Queries meet keys in 16 bits, or wider, whatever the weights have.
    scores_per_s = flops_per_s if job.weights == "fp32" else peak_flops_per_s(chip, "full", job.half_sums) * job.tp
    prompt_tokens = wanted * job.prompt
    # Of a pipeline's stages those are busy at a time that have a part of the batch, or a chunk of the prompt.
    stages = min(float(job.pp), batch)
    chunks = max(batch, prompt_tokens / _CHUNK)
    prefill_stages = 1.0 + _PIPELINE_GAIN * (_busy_stages(job, chunks) - 1.0)
    context = job.prompt + job.output / 2
    logits = prompt_tokens if job.every_logit else wanted
    element = 4.0 if job.weights == "fp32" else 2.0
    size = WEIGHT_BYTES[job.weights]
    unpacked = _unpacked_bytes(job, prompt_tokens)
    # Two sums over all devices a layer; or, round the experts alone, tokens given to all and their sums taken back.
    exchanged = 2.0 * (job.tp - 1) / job.tp * (2 - job.whole_attention) * model.layers * model.hidden * element
    read = model.parameters_read(1.0 if job.alike else batch / stages)
    dense = model.dense_parameters * job.copies
    asked = sm_clocks_per_s(chip)
    link = chip.link_bytes_per_s or _LANES.get(chip.generation, _USUAL_LANES)
    scores = job.score_passes * job.prompt**2 * wanted * model.query_values / _HEAD_DIM * element
    return Ideal(
        prefill_flops=(
            2.0
            * (prompt_tokens * (model.dense_parameters - model.head_parameters) + logits * model.head_parameters)
            / flops_per_s
            + 4.0 * wanted * model.attended_by(job.prompt) / scores_per_s
        )
        / prefill_stages,
        prefill_expert_flops=2.0
        * prompt_tokens
        * model.experts_per_token
        * model.expert_parameters
        / (flops_per_s * prefill_stages),
        prefill_bytes=size * model.parameters_read(prompt_tokens) / bandwidth,
        prefill_activations=(16.0 * prompt_tokens * model.layers * model.hidden * element + scores + unpacked)
        / (bandwidth * prefill_stages),
        prefill_exchange=exchanged * prompt_tokens / link,
        decode_weights=size * dense / bandwidth,
        decode_experts=size * (read - model.dense_parameters) * _unequal(job, read) / bandwidth,
        decode_reach=0.0 if asked is None else size * (read - model.dense_parameters + dense) / (asked * job.tp),
        decode_cache=batch * job.cache_copies * job.cache_bytes * model.cached(context) / (bandwidth * stages),
        decode_flops=batch
        * (2.0 * model.active_parameters / flops_per_s + 4.0 * model.attended(context) / scores_per_s)
        / stages,
        decode_exchange=exchanged * batch / link,
        layers=model.layers,
        expert_layers=model.layers if model.experts else 0.0,
        sequences=batch,
        scheduled=batch / job.copies,
        messages=2.0 * model.layers * (job.tp > 1) + (job.pp - 1),
        steps=max(0.0, job.output - 1),
        waves=waves,
    )


def _waves(job: Serving, wanted: float) -> float:
    """How often a batch that does not fit has to begin anew: as rooms become free, or all of them together."""
    if job.batch is None:
        return 1.0
    waves = wanted / job.room if job.continuous else math.ceil(wanted / max(1.0, job.room) - 1e-6)
    return max(1.0, float(waves))


def _unpacked_bytes(job: Serving, prompt_tokens: float) -> float:
    """What is read and written to widen the weights anew for each chunk of the prompt, where that is done."""
    model, size = job.footprint, WEIGHT_BYTES[job.weights]
    if not job.unpacks or size >= 2.0:
        return 0.0
    # Experts that get few tokens of a chunk are multiplied as they are.
    few = model.experts and _CHUNK * model.experts_per_token / model.experts <= _FEW_TOKENS
    written = model.dense_parameters if few else model.parameters_read(_CHUNK)
    return (size + 4.0) * written * max(1.0, prompt_tokens / _CHUNK)


def _unequal(job: Serving, read: float) -> float:
    """How many more experts than the mean the device reads that reads the most, where each has its own.

    The chosen ones of its experts are binomial; the largest of n normals is some 0.7 · sqrt(2 ln n) deviations above
    their mean.
    """
    model = job.footprint
    if not job.whole_experts or job.tp < 2 or not model.experts:
        return 1.0
    own = max(1.0, model.experts / job.tp)
    chosen = min(1.0, (read - model.dense_parameters) / (model.experts * model.expert_parameters))
    deviation = math.sqrt(max(0.0, (1.0 - chosen) / (own * chosen)))
    return min(1.0 / chosen, 1.0 + 0.7 * math.sqrt(2.0 * math.log(job.tp)) * deviation)


def _at_once(job: Serving) -> float:
    """Sequences at once where only the memory says how many. All that come together also end together."""
    most = min(job.most_sequences * job.copies, max(1.0, job.room))
    return most if math.isinf(job.requests) else job.requests / math.ceil(job.requests / most)


def _busy_stages(job: Serving, chunks: float) -> float:
    """Stages of a pipeline that work at once while so many chunks go through it, on average.

    One host starts the kernels of all stages in turn, and waits where a device's queue is full. A queue has room for d
    chunks of a stage, m whole ones and a part g. So m + 1 chunks follow each other without a gap; the next begins when
    the last stage has made room for the rest of the one before, that is (stages - g) stages' time after the first.
    """
    behind = max(0.0, chunks - 1.0)  # the first one
    wait = behind
    if job.stage_kernels and job.pp > 1:
        room = _QUEUE / (job.stage_kernels * job.footprint.layers / job.pp)
        whole = math.floor(room)
        rounds = behind // (whole + 1.0)
        gaps = rounds * (job.pp - (room - whole)) + behind % (whole + 1.0)
        wait = max(behind * max(1.0, job.pp / _COPIES), gaps)
    return job.pp * (behind + 1.0) / (job.pp + wait)


def latency_s(ideal: Ideal, rates: Rates) -> Any:
    """From the whole batch given to the last token of all."""
    return total(prefill_s(ideal, rates)) + ideal.waves * ideal.steps * total(step_s(ideal, rates))

"""Memory: what a job holds on one device at its worst moment, part by part, and whether that fits.

States are counted by parameter, activations by the tensors that autograd keeps. A peak is not the sum of everything:
gradients do not exist yet when activations and logits are largest, and activations are gone when gradients are all
there; so each moment is added up by itself and the largest counts.
"""

import math
from dataclasses import dataclass, replace

from bench.arithmetic import Model
from bench.estimate.job import Layout, Recompute, ServingJob, TrainingJob
from bench.estimate.own.operations import adapter_parameters
from bench.estimate.own.step_memory import Footprint, widest
from bench.estimate.serving.step import WEIGHT_BYTES
from bench.estimate.training.frameworks import habits

# Bytes that a value takes, by the precision in which products are done.
_WIDTH = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 2, "fp4": 2}
_NF4_BYTES = 0.5 + 4 / 64  # half a byte and a float32 scale for each 64 (workloads/models/adapters.py)

# What a process takes before its first tensor: context and libraries' workspaces. NVIDIA's context is 0.3 to 0.6 GB,
# cuBLAS on Hopper takes 32 MiB (torch's own figure), NCCL's buffers some hundred MB more where there are several.
_CONTEXT_BYTES = 0.6e9
_COLLECTIVE_BYTES = 0.5e9
# What an allocator holds beyond what was asked for: assumed, 3 to 10 % being usual, because no accelerator was at hand;
# a CPU's allocator says nothing of it. The spread, of a logarithm, is that range and the 3 % by which the tensors of
# nine in ten of our own steps are off (tests/peaks.json).
_FRAGMENTATION = 1.06
_SPREAD = 0.05
# Of the nominal capacity what a driver and ECC leave.
_USABLE = 0.98


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a job fits."""

    footprint: Footprint
    needed_bytes: float  # with allocator and context
    capacity_bytes: float
    oom_probability: float
    knobs: tuple[str, ...]  # changes that would make it fit, the smallest first; empty where it fits


def training(job: TrainingJob) -> Footprint:
    """The larger of two moments: the loss's backward pass, and when all gradients are there."""
    layout, width = job.layout, _WIDTH[job.precision]
    states = _states(job)
    kept = activation_bytes(
        job.model, job.micro_batch * job.seq // layout.cp, width, job.recompute, layout, job.method, job.lora_rank
    )
    stages_held = (
        layout.pp
        if layout.virtual_stages == 1
        else layout.pp * (1 + (layout.pp - 1) / (layout.pp * layout.virtual_stages))
    )  # fmt: skip  the first stage's micro-batches in flight: Korthikanti et al. 2022, section 4.2.3
    activations = kept * stages_held / layout.pp
    logits_tokens = job.micro_batch * job.seq / layout.cp
    logits = logits_tokens * job.model.vocab_size / layout.tp * 4.0
    accumulates = job.global_batch > job.micro_batch * layout.dp
    gradients = states.pop("gradients")
    # Probabilities, their gradient and that of the logits, in float32 (as torch's cross_entropy has them).
    forward = {"activations": activations, "logits": 3 * logits, "gradients": gradients if accumulates else 0.0}
    backward = {"activations": activations / job.model.num_blocks, "logits": 0.0, "gradients": gradients}
    return Footprint.largest(states | forward, states | backward)


def serving(job: ServingJob) -> Footprint:
    """Weights, the cache of all requests at their end, and the activations of one layer while prompts are read."""
    model, width, shards = job.model, _WIDTH[job.precision], job.layout.tp * job.layout.pp
    wide = model.embedding_parameters  # never quantised, and with it a head that is the same table
    narrow = (model.total_parameters - wide) * (width if job.weights == "full" else WEIGHT_BYTES[job.weights])
    cache = job.batch * model.kv_cache_bytes(1, job.prompt + job.output) * job.kv_bytes
    kv_shards = min(job.layout.tp, model.num_key_value_heads if model.kv_lora_rank is None else 1) * job.layout.pp
    transient = job.batch * job.prompt * width * (3 * model.hidden_size + 3 * widest(model)) / job.layout.tp
    return Footprint(
        parts={
            "weights": (narrow + wide * width) / shards,
            "kv cache": cache / kv_shards,
            "activations": transient,
            "logits": job.batch * model.vocab_size * 4.0 / job.layout.tp,
        }
    )


def needed_bytes(job: TrainingJob | ServingJob) -> float:
    """What the fullest device needs, with allocator and context: the quick question of a search over layouts."""
    return _fit(job, _FRAGMENTATION, _SPREAD).needed_bytes


def fits(job: TrainingJob | ServingJob, *, overhead: float = _FRAGMENTATION, spread: float = _SPREAD) -> Fit:
    """How likely the job runs out of memory on its devices, what it is made of, and which knob would make it fit."""
    fit = _fit(job, overhead, spread)
    if fit.oom_probability < 0.5:
        return fit
    knobs = [say for say, changed in _knobs(job) if _fit(changed, overhead, spread).oom_probability < 0.5]
    return replace(fit, knobs=tuple(knobs))


def activation_bytes(
    model: Model,
    tokens: float,
    width: int,
    recompute: Recompute,
    layout: Layout,
    method: str = "pretrain",
    rank: int = 16,
) -> float:
    """What autograd keeps of a micro-batch of `tokens`, all layers, with fused attention and no dropout.

    A layer keeps the inputs of its norms and linear layers, queries, keys, values, attention's output and the MLP's
    hidden vectors, after Korthikanti et al. 2022, section 4; with tensor parallelism what lies between the products is
    split only where sequences are (their equation 4).
    """
    stream, inner = _layer_elements(model, method, rank)
    outside = layout.tp if layout.sequence_parallel else 1
    layer = tokens * width * (stream / outside + inner / layout.tp) + tokens * 4 * model.num_attention_heads / layout.tp
    block = tokens * width * model.hidden_size / outside
    if recompute == "full":  # block inputs, and one layer whole while it is computed anew
        return model.num_blocks * block + layer
    if recompute == "selective":  # outputs of products and of attention are kept, what is cheap is computed anew
        mlp = (model.num_mlp_matrices - 1) * widest(model)
        kept = 3 * model.hidden_size / outside + (2 * model.query_size + 2 * model.key_value_size + mlp) / layout.tp
        return model.num_blocks * tokens * width * kept + layer
    return model.num_blocks * layer


def _states(job: TrainingJob) -> dict[str, float]:
    """Weights, gradients and optimizer states of one device."""
    model, layout = job.model, job.layout
    local = _local_parameters(model, layout)
    width = _WIDTH[job.precision]
    replicas = layout.dp * layout.cp
    if job.method in ("lora", "qlora"):
        adapters = adapter_parameters(model, job.lora_rank) / (layout.tp * layout.pp)
        quantised = model.layer_matmul_parameters / (layout.tp * layout.pp) if job.method == "qlora" else 0.0
        frozen = quantised * _NF4_BYTES + (local - quantised) * width
        if job.layout.sharding == "zero3":
            frozen = frozen / replicas + 2 * _largest_block(model, layout) * width
        return {"weights": frozen + 4 * adapters, "gradients": 4 * adapters, "optimizer": 8 * adapters}
    experts = _local_experts(model, layout)  # each of them is on every `ep`-th replica, and no other shares its states

    def shared(name: str) -> float:
        """Parameters of which a device holds that part."""
        if _SHARDED[name] > _LEVEL[layout.sharding]:
            return local
        return (local - experts) / replicas + experts / max(1.0, replicas / layout.ep)

    narrow = width < 4 and job.stack.framework != "accelmark"
    megatron = habits(job.stack.framework).framework.startswith("megatron")  # adds gradients up in four bytes
    weight, gradient, moments = (width, 4 if megatron else width, 12) if narrow else (4, 4, 8)
    parts = {
        "weights": weight * shared("weights"),
        "gradients": gradient * shared("gradients"),
        "optimizer": moments * shared("optimizer"),
    }
    if layout.sharding == "zero3":  # one block is used while the next is fetched
        parts["gathered blocks"] = 2 * _largest_block(model, layout) * (weight + gradient)
    if width < 4 and not narrow:  # autocast's copies, kept for the backward pass
        parts["narrow copies"] = width * model.matmul_parameters / (layout.tp * layout.pp)
    return parts


_LEVEL = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}
_SHARDED = {"optimizer": 1, "gradients": 2, "weights": 3}  # Rajbhandari et al. 2020, section 5: from which level on


def _local_parameters(model: Model, layout: Layout) -> float:
    """Parameters of the fullest device: of the first stage, which has the embedding, experts spread over `ep`."""
    experts = model.num_expert_layers * (model.num_experts or 0) * model.expert_matmul_parameters
    ends = max(model.embedding_parameters, model.head_parameters) if layout.pp > 1 else (
        model.embedding_parameters + model.head_parameters
    )  # fmt: skip
    rest = model.total_parameters - experts - model.embedding_parameters - model.head_parameters
    return (rest * _largest_stage(model, layout) + ends) / layout.tp + _local_experts(model, layout)


def _local_experts(model: Model, layout: Layout) -> float:
    """Of these, the parameters of routed experts."""
    experts = model.num_expert_layers * (model.num_experts or 0) * model.expert_matmul_parameters
    return experts * _largest_stage(model, layout) / layout.ep / layout.tp


def _largest_stage(model: Model, layout: Layout) -> float:
    """Its share of the layers."""
    return math.ceil(model.num_blocks / layout.pp) / model.num_blocks


def _largest_block(model: Model, layout: Layout) -> float:
    ends = model.embedding_parameters + model.head_parameters
    block = (model.total_parameters - ends) / model.num_blocks
    return max(block, model.embedding_parameters) / layout.tp


def _layer_elements(model: Model, method: str, rank: int) -> tuple[float, float]:
    """Elements that a layer keeps of a token: of the stream's width, and of what tensor parallelism splits."""
    stream = 4 * model.hidden_size * (1.5 if model.norm_place == "both" else 1)
    # Each chosen expert has a copy of its own, sorted, which its first product's gradient needs.
    stream += (model.num_experts_per_tok or 0) * model.num_expert_layers / model.num_blocks * model.hidden_size
    copies = 4 if model.num_mlp_matrices == 3 else 2  # gate, its activation, up and their product; or up and activation
    inner = 2 * model.query_size + 2 * model.key_value_size + copies * widest(model)
    if method in ("lora", "qlora"):
        inner += rank * (4 + model.num_mlp_matrices)  # what stands between an adapter's two matrices
    return stream, inner


def _fit(job: TrainingJob | ServingJob, overhead: float, spread: float) -> Fit:
    footprint = training(job) if isinstance(job, TrainingJob) else serving(job)
    fixed = _CONTEXT_BYTES + (_COLLECTIVE_BYTES if job.cluster.num_devices > 1 else 0.0)
    capacity = job.cluster.chip.memory_bytes * _USABLE
    needed = footprint.num_bytes * overhead + fixed
    distance = math.log(needed / capacity) / spread
    return Fit(
        footprint=footprint,
        needed_bytes=needed,
        capacity_bytes=capacity,
        oom_probability=0.5 * math.erfc(-distance / math.sqrt(2)),
        knobs=(),
    )


def _knobs(job: TrainingJob | ServingJob) -> list[tuple[str, TrainingJob | ServingJob]]:
    """Single changes that need less memory, from those that cost least time to those that cost most."""
    if isinstance(job, ServingJob):
        found: list[tuple[str, TrainingJob | ServingJob]] = []
        for batch in _halves(job.batch):
            found.append((f"batch {batch} in place of {job.batch}", replace(job, batch=batch)))
        found += [
            (f"weights in {kind}", replace(job, weights=kind)) for kind in ("int8", "int4") if job.weights == "full"
        ]
        return found
    layout, found = job.layout, []
    for level in ("zero1", "zero2", "zero3"):
        if layout.dp * layout.cp > 1 and _LEVEL[level] > _LEVEL[layout.sharding]:
            found.append((f"sharding {level}", replace(job, layout=replace(layout, sharding=level))))
    for batch in _halves(job.micro_batch):
        found.append((f"micro-batch {batch} in place of {job.micro_batch}", replace(job, micro_batch=batch)))
    if job.recompute != "full":
        found.append(("recompute full", replace(job, recompute="full")))
        found.append(("micro-batch 1 and recompute full", replace(job, micro_batch=1, recompute="full")))
    if job.method in ("pretrain", "full"):
        for kind in ("lora", "qlora"):
            found.append((f"method {kind}, which trains adapters only", replace(job, method=kind)))
    elif job.method == "lora":
        found.append(("method qlora, which keeps frozen weights in four bits", replace(job, method="qlora")))
    return found


def _halves(count: int) -> list[int]:
    return [count >> shift for shift in range(1, count.bit_length())]

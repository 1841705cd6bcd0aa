"""Work: what one device has to do in one training step, before any speed is known. Pure arithmetic.

Counted for one microbatch on one device of the slowest pipeline stage, but for what happens once a step. Formulas:
Narayanan et al. 2021 ("Efficient large-scale language model training on GPU clusters", SC'21) for FLOPs and pipelines,
Korthikanti et al. 2022 ("Reducing activation recomputation") for sequence parallelism and recomputation, Rajbhandari et
al. 2020 (ZeRO) for sharding, Dao 2023 (FlashAttention-2) for the 2.5 of the backward pass, which computes scores anew.

Symbols: T tokens of a microbatch on a device; t, p, c, D sizes of tensor, pipeline, context and data parallelism; the
others as in arithmetic.py. A collective's bytes are those that pass a device's slowest wire.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from bench.arithmetic import Model
from bench.estimate.job import TrainingJob

_WIDTH = {"fp32": 4, "tf32": 4}  # bytes of an activation; 2 in all others, fp8 included: norms and sums stay in 16 bits


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Bytes that a device sends within its node and out of it."""

    link_bytes: float = 0.0
    network_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of a microbatch where it does not say otherwise. In a fit each is an array with a value for each row."""

    microbatches: float  # one after another, in a step
    bubble: float  # microbatches' time that the pipeline idles in a step: (p - 1) / v
    matmul_flops: float
    matmul_edge: float  # the sum of FLOPs / K: what short inner dimensions cost
    matmul_wave: float  # the sum of K over all products: what a last wave of tiles that fills no device costs
    matmul_bytes: float
    expert_flops: float
    expert_edge: float
    expert_wave: float  # as `matmul_wave`; a grouped product has one last wave for all its experts
    expert_bytes: float
    attention_flops: float  # fused
    attention_edge: float  # the same over the sequence's length
    unfused_flops: float
    unfused_edge: float
    unfused_bytes: float
    stream_bytes: float  # norms, activations, residuals, positions
    cast_bytes: float  # products' inputs written anew in eight or four bits
    loss_bytes: float
    kernels: float
    calls: float  # collectives that arithmetic waits for, each counted as often as its ranks double
    tensor_link_bytes: float
    tensor_network_bytes: float
    expert_link_bytes: float
    expert_network_bytes: float
    context_link_bytes: float
    context_network_bytes: float
    gather_link_bytes: float  # sharded weights and gradients, collected and summed for each microbatch
    gather_network_bytes: float
    stage_link_bytes: float  # to the next stage of the pipeline and back
    stage_network_bytes: float
    reduce_link_bytes: float  # once a step: gradients, and weights where they are kept sharded
    reduce_network_bytes: float
    optimizer_bytes: float  # once a step
    doublings: float  # log2 of the number of nodes: more machines, more of them late


def of(job: TrainingJob) -> Work:
    """The work of that job."""
    model, layout = job.model, job.layout
    width = _WIDTH.get(job.precision, 2)
    tokens = job.micro_batch * job.seq / layout.cp
    share = _stage_share(model, layout.pp)
    passes = _passes(job)
    return Work(
        microbatches=max(1.0, job.global_batch / (layout.dp * job.micro_batch)),
        bubble=(layout.pp - 1) / layout.virtual_stages,
        **_products(job, tokens, share, passes, width),
        **_experts(job, tokens, share, passes, width),
        **_attention(job, tokens, share, width),
        **_streams(job, tokens, share, width),
        kernels=_kernels(job, share),
        **_collectives(job, tokens, share, width),
        **_once_a_step(job, width),
        doublings=math.log2(max(1.0, job.cluster.num_devices / job.cluster.devices_per_node)),
    )


@dataclass(frozen=True, kw_only=True)
class _Share:
    """Of the slowest stage: its layers, and whether it has the head."""

    layers: float
    head: float


def _stage_share(model: Model, stages: int) -> _Share:
    """Equal layers and the head on the last; where layers do not divide, somebody balanced them, head included."""
    layers = model.num_blocks / stages
    return _Share(layers=layers, head=1.0 if stages == 1 or model.num_blocks % stages == 0 else 1.0 / stages)


@dataclass(frozen=True, kw_only=True)
class _Passes:
    """Forward passes' worth of products."""

    layers: float
    head: float


def _passes(job: TrainingJob) -> _Passes:
    """1 forward, 1 for gradients of inputs, 1 for those of weights that are trained; recomputation another forward."""
    trained = job.method in ("pretrain", "full")
    recomputed = {"none": 0.0, "selective": 0.0, "full": 1.0}[job.recompute]
    if job.recompute == "selective" and job.stack.framework in ("torchtitan", "torch-fsdp"):
        recomputed = 0.5  # torchtitan's selective policy keeps the output of every second product
    base = 3.0 if trained else 2.0
    return _Passes(layers=base + recomputed, head=base)


def _products(job: TrainingJob, tokens: float, share: _Share, passes: _Passes, width: int) -> dict[str, float]:
    """Linear layers and the head, without experts."""
    model, tp = job.model, job.layout.tp
    d, heads, kv = model.hidden_size, model.query_size, model.key_value_size
    dense = (model.num_blocks - model.num_expert_layers) / model.num_blocks
    ffn = dense * model.intermediate_size + (1 - dense) * (model.shared_expert_intermediate_size or 0)
    weights = (model.layer_matmul_parameters - _routed(model)) / model.num_blocks * share.layers
    head = model.head_matmul_parameters * share.head
    flops = 2 * tokens / tp * (weights * passes.layers + head * passes.head)
    # K of each product: d into attention and MLP, a·h / t and f / t out of them. Weights' gradients sum over tokens.
    inputs = (d * (heads + 2 * kv) + (model.num_mlp_matrices - 1) * d * ffn) / d
    outputs = (heads * d) / max(1.0, heads / tp) + (d * ffn) / max(1.0, ffn / tp)
    across = (passes.layers - 1) * share.layers * (inputs + outputs) + (passes.head - 1) * head / d
    over_tokens = (weights + head) / tokens
    # Products that write N columns sum over K; backward the roles change, and weights' gradients sum over tokens.
    forward = share.layers * (2 * d + (heads + ffn) / tp) + share.head * d
    inner = share.layers * (2 * d + (heads + 2 * kv + (model.num_mlp_matrices - 1) * ffn) / tp)
    backward = inner + share.head * model.vocab_size / tp
    trained = passes.head >= 3
    gradients = (4 * share.layers + share.head) * tokens * trained
    waves = forward * (passes.layers - 1 - trained) + backward + gradients
    # Inputs and outputs of each product, once a pass, besides its weights.
    values = share.layers * (4 * d + (2 * heads + 2 * kv) / tp + (model.num_mlp_matrices + 1) * ffn / tp)
    held = (weights + head) / tp
    return {
        "matmul_flops": flops,
        "matmul_edge": 2 * tokens / tp * (across + over_tokens),
        "matmul_wave": waves,
        "matmul_bytes": width * passes.layers * tokens * values + held * _weight_bytes(job, passes, width),
    }


def _experts(job: TrainingJob, tokens: float, share: _Share, passes: _Passes, width: int) -> dict[str, float]:
    model, layout = job.model, job.layout
    if not model.num_expert_layers or not model.num_experts or not model.num_experts_per_tok:
        return {"expert_flops": 0.0, "expert_edge": 0.0, "expert_wave": 0.0, "expert_bytes": 0.0}
    layers = share.layers * model.num_expert_layers / model.num_blocks
    chosen = model.num_experts_per_tok
    weights = chosen * model.expert_matmul_parameters * layers
    flops = 2 * tokens * weights * passes.layers / layout.tp
    tokens_each = max(1.0, tokens * chosen * layout.ep / model.num_experts)
    d, f = model.hidden_size, (model.moe_intermediate_size or model.hidden_size) / layout.tp
    held = model.num_experts / layout.ep * model.expert_matmul_parameters * layers / layout.tp
    moved = tokens * chosen * layers * (2 * d + 3 * f)
    # K of the two products forward, of those for their inputs' gradients, and of those for their weights'.
    waves = (passes.layers - 2) * (d + f) + (model.num_mlp_matrices - 1) * f + d + 2 * tokens_each
    return {
        "expert_flops": flops,
        "expert_edge": flops / tokens_each + flops / min(d, f),
        "expert_wave": layers * waves,
        "expert_bytes": width * (passes.layers + 4) * moved + held * _weight_bytes(job, passes, width),
    }


def _weight_bytes(job: TrainingJob, passes: _Passes, width: int) -> float:
    """Of each weight in a microbatch: read once a pass, and its gradient written, over a sum where one is kept."""
    if passes.head < 3:
        return width * passes.layers
    summed = job.global_batch > job.layout.dp * job.micro_batch
    return width * (passes.layers - 1) + (1 + summed) * _gradient_bytes(job)


def _attention(job: TrainingJob, tokens: float, share: _Share, width: int) -> dict[str, float]:
    model, layout = job.model, job.layout
    forward = _attention_flops(model, job.seq) * job.micro_batch * share.layers / model.num_blocks
    forward /= layout.tp * layout.cp
    narrow = max(1.0, 128 / model.head_dim)  # a head of 64 feeds the matrix units by half
    if job.stack.attention == "unfused":
        full = 2.0 * job.seq / (job.seq + 1)  # scores that causality will mask are computed all the same
        passes = 3.0 + (job.recompute in ("full", "selective"))
        flops = forward * full * passes
        scores = job.micro_batch * job.seq**2 * model.num_attention_heads / layout.tp / layout.cp * share.layers
        return {
            "attention_flops": 0.0, "attention_edge": 0.0,
            "unfused_flops": flops, "unfused_edge": flops / model.head_dim,
            "unfused_bytes": scores * width * 8 * passes / 3,
        }  # fmt: skip
    flops = forward * (3.5 + (job.recompute == "full")) * (0.5 + 0.5 * narrow)
    return {
        "attention_flops": flops, "attention_edge": flops / job.seq,
        "unfused_flops": 0.0, "unfused_edge": 0.0, "unfused_bytes": 0.0,
    }  # fmt: skip


def _streams(job: TrainingJob, tokens: float, share: _Share, width: int) -> dict[str, float]:
    """Bytes of what is no product: forward 4dw a norm with its residual, backward about 6dw; GLU 3fw and 5fw."""
    model, layout = job.model, job.layout
    split = layout.tp if job.layout.sequence_parallel else 1
    dense = (model.num_blocks - model.num_expert_layers) / model.num_blocks
    ffn = dense * model.intermediate_size + (1 - dense) * (model.shared_expert_intermediate_size or 0)
    # Forward is two fifths of it, and just what selective recomputation does not keep: norms, activations, positions.
    # memory.py counts the same, as MaxText's and torch's policies that keep the outputs of products do.
    again = 1.0 if job.recompute == "none" else 1.4
    residual = 20 * model.hidden_size / split
    inside = (
        4 * (model.query_size + model.key_value_size) + (8 if model.num_mlp_matrices == 3 else 5) * ffn
    ) / layout.tp
    streamed = width * tokens * share.layers * again * (residual + inside + _routed_values(job))
    if job.method == "qlora":  # weights become 16 bits wide again in every pass: half a byte read, two written
        weights = model.layer_matmul_parameters / model.num_blocks * share.layers / layout.tp
        streamed += 2.5 * weights * _passes(job).layers
    return {
        "stream_bytes": streamed,
        "cast_bytes": _cast_bytes(job, tokens, share),
        "loss_bytes": tokens * model.vocab_size * share.head * 18 / layout.tp,
    }


def _routed_values(job: TrainingJob) -> float:
    """Values of a token that its experts' layer moves, forward and backward, as the mean over layers.

    Eight of each chosen copy to sort tokens by expert and to sum what comes back; where experts are spread, four more
    to sort what arrives by local expert and to undo that (Megatron-LM, moe/token_dispatcher.py); and its activation.
    """
    model, layout = job.model, job.layout
    chosen = (model.num_experts_per_tok or 0) * model.num_expert_layers / model.num_blocks
    inside = (8 if model.num_mlp_matrices == 3 else 5) * (model.moe_intermediate_size or 0) / layout.tp
    return chosen * ((8 if layout.ep == 1 else 12) * model.hidden_size + inside)


def _cast_bytes(job: TrainingJob, tokens: float, share: _Share) -> float:
    """Products in eight or four bits read their 16-bit inputs and gradients, and write each by rows and by columns.

    A layer of experts has twelve such casts; without them 671B parameters train up to a fifth faster (Wang et al. 2025,
    FP8-Flow-MoE, arXiv 2511.02302). Dense layers have them as well.
    """
    if job.precision not in ("fp8", "fp4"):
        return 0.0
    model, tp = job.model, job.layout.tp
    routed = model.num_expert_layers / model.num_blocks
    shared, chosen = model.shared_expert_intermediate_size or 0, routed * (model.num_experts_per_tok or 0)
    ffn = (1 - routed) * model.intermediate_size + routed * shared + chosen * (model.moe_intermediate_size or 0)
    copies = 1 + (1.0 if shared else 1 - routed) + chosen  # of the residual: attention's, and each MLP's that it passes
    inputs = copies * model.hidden_size + (model.query_size + ffn) / tp
    outputs = model.query_size + 2 * model.key_value_size + (model.num_mlp_matrices - 1) * ffn
    gradients = copies * model.hidden_size + outputs / tp
    passes = 1.0 + (job.recompute == "full")
    read, written = 2.0, 2.0 if job.precision == "fp8" else 1.0
    return (read + written) * tokens * share.layers * (passes * inputs + gradients)


def _kernels(job: TrainingJob, share: _Share) -> float:
    """Kernels of a microbatch: about 25 a layer forward and 45 backward where nothing is fused.

    With experts a router, sorting and sums, and two products of each expert that the device holds: one launch each
    (Transformer Engine, GroupedLinear over cuBLAS streams).
    """
    model = job.model
    forward = 25.0
    if model.num_experts:
        forward += (35.0 + 2 * model.num_experts / job.layout.ep) * model.num_expert_layers / model.num_blocks
    forward += 8.0 * (job.layout.tp > 1) + 10.0 * (job.stack.attention == "unfused")
    again = {"none": 0.0, "selective": 0.6, "full": 1.0}[job.recompute]  # of a layer's forward kernels 0.4 are products
    return share.layers * forward * (2.8 + again) + 30.0


def _collectives(job: TrainingJob, tokens: float, share: _Share, width: int) -> dict[str, float]:
    model, layout = job.model, job.layout
    d, again = model.hidden_size, job.recompute == "full"
    hidden = tokens * d * width
    # Two all-reduces a layer forward, two backward, each 2 (t - 1) / t · S; the same bytes as gathers and scatters.
    tensor = _all_gather(job, 2 * (4 + 2 * again) * hidden * share.layers, layout.tp, 1)
    kv = 2 * model.key_value_size / layout.tp * tokens * width
    context = _all_gather(job, (3 + again) * kv * layout.cp * share.layers, layout.cp, layout.tp)
    sent = (4 + 2 * again) * hidden / layout.tp * share.layers * model.num_expert_layers / model.num_blocks
    expert = _exchange(job, sent, model.num_experts_per_tok or 0)
    gather = Wire()
    if layout.sharding == "zero3":
        # Gathered forward and backward, gradients scattered; a frozen weight has no gradient.
        times = 3 if job.method in ("pretrain", "full") else 2
        gather = _among_replicas(job, times * width)
    elif layout.sharding == "zero2":  # who keeps a share of the gradients alone reduces them each time
        gather = _among_replicas(job, _trained_share(job) * _gradient_bytes(job))
    stage = Wire()
    if layout.pp > 1:
        boundary = 2 * hidden / layout.tp * layout.virtual_stages
        inner = layout.tp * layout.cp * layout.dp
        crosses = inner >= job.cluster.devices_per_node
        stage = Wire(network_bytes=boundary) if crosses else Wire(link_bytes=boundary)
    rounds = (4 + 2 * again) * share.layers
    experts = model.num_expert_layers / model.num_blocks
    calls = rounds * (math.log2(layout.tp) + experts * math.log2(layout.ep)) + (layout.cp - 1) * 3 * share.layers
    wires = {"tensor": tensor, "expert": expert, "context": context, "gather": gather, "stage": stage}
    return {"calls": calls} | {
        key: value
        for name, wire in wires.items()
        for key, value in ((f"{name}_link_bytes", wire.link_bytes), (f"{name}_network_bytes", wire.network_bytes))
    }


def _once_a_step(job: TrainingJob, width: int) -> dict[str, float]:
    """Gradients between replicas, and AdamW: reads p, m, v and g, writes p, m, v and the 16-bit copy: 30 B each."""
    sharding, trained = job.layout.sharding, _trained_share(job)
    reduce = Wire()
    if sharding != "zero3":
        gradient = {"none": 2, "zero1": 1, "zero2": 0}[sharding]
        reduce = _among_replicas(job, trained * (gradient * _gradient_bytes(job) + (gradient < 2) * width))
    stepped = 0.0
    for held in _held(job):
        shards = held.replicas if sharding != "none" else 1.0
        stepped += held.parameters * trained * (30 / shards + (8 if shards == 1 else 4))
    return {
        "reduce_link_bytes": reduce.link_bytes,
        "reduce_network_bytes": reduce.network_bytes,
        "optimizer_bytes": stepped,
    }


def _gradient_bytes(job: TrainingJob) -> int:
    """Megatron keeps gradients in FP32, others in the type of the weights."""
    return 4 if job.stack.framework.startswith("megatron") or job.precision in ("fp32", "tf32") else 2


def _trained_share(job: TrainingJob) -> float:
    """Of the parameters: all, or the low-rank pairs on every linear layer, r·(in + out) of in·out each."""
    if job.method in ("pretrain", "full"):
        return 1.0
    return min(1.0, 2 * job.lora_rank / job.model.hidden_size)


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Parameters of one device's part of the model, before sharding, and who else has them."""

    parameters: float
    replicas: float  # devices with the same ones
    apart: int  # how far these lie from each other, in devices


def _held(job: TrainingJob) -> tuple[_Held, _Held]:
    """What all replicas have, and the routed experts, which every `ep`-th of them has."""
    model, layout = job.model, job.layout
    routed = model.num_expert_layers * (model.num_experts or 0) * model.expert_matmul_parameters
    parts, replicas = layout.tp * layout.pp, layout.dp * layout.cp
    return (
        _Held(parameters=(model.total_parameters - routed) / parts, replicas=replicas, apart=layout.tp),
        _Held(
            parameters=routed / layout.ep / parts, replicas=max(1.0, replicas / layout.ep), apart=layout.tp * layout.ep
        ),
    )


def _among_replicas(job: TrainingJob, bytes_each: float) -> Wire:
    """That many bytes of each parameter, gathered from all that have it or summed over them."""
    wires = [_all_gather(job, bytes_each * one.parameters, one.replicas, one.apart) for one in _held(job)]
    return Wire(link_bytes=sum(one.link_bytes for one in wires), network_bytes=sum(one.network_bytes for one in wires))


def _all_gather(job: TrainingJob, size: float, ranks: float, inner: int) -> Wire:
    """Of `size` bytes in all, among `ranks` devices that lie `inner` apart. A scatter costs the same.

    Every device receives (n - 1) / n of it. Between k nodes each node receives (k - 1) / k of it once, through the
    network ports of those of its devices that belong to this group.
    """
    if ranks <= 1:
        return Wire()
    members = max(1, min(ranks, job.cluster.devices_per_node // inner))
    nodes = ranks / members
    return Wire(
        link_bytes=size * (ranks - 1) / ranks if members > 1 else 0.0,
        network_bytes=size * (nodes - 1) / nodes / members if nodes > 1 else 0.0,
    )


def _exchange(job: TrainingJob, size: float, chosen: int) -> Wire:
    """Every token's `size` bytes to the devices of the experts chosen for it, once to each node and on from there.

    Of k nodes a token with e experts needs (k - 1)·(1 - (1 - 1/k)^e) others (DeepSeek-V3 2024, section 3.2.2).
    """
    layout = job.layout
    if layout.ep <= 1:
        return Wire()
    members = max(1, min(layout.ep, job.cluster.devices_per_node // (layout.tp * layout.cp)))
    nodes = layout.ep / members
    return Wire(
        link_bytes=size * chosen * (members - 1) / members,
        network_bytes=size * (nodes - 1) * (1 - (1 - 1 / nodes) ** chosen) if nodes > 1 else 0.0,
    )


@lru_cache(maxsize=4096)
def _attention_flops(model: Model, seq: int) -> float:
    return float(model.attention_flops(1, seq))


def _routed(model: Model) -> float:
    return model.num_expert_layers * (model.num_experts_per_tok or 0) * model.expert_matmul_parameters

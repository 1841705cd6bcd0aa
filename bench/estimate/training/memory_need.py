"""Memory: what one device must hold to train, in the states of the optimizer, activations and logits.

Rajbhandari et al. 2020 (ZeRO, section 3) for states; Korthikanti et al. 2022 (section 4) for activations: a layer keeps
s·b·d·(34 + 5·a·s/d) bytes in 16 bits, the second part only with unfused attention, which alone selective recomputation
drops; all of it but the layer's input with full recomputation.
"""

from bench.estimate.job import TrainingJob

_CONTEXT_BYTES = 1.5e9  # the driver's context, communication buffers, work spaces


def training_bytes(job: TrainingJob) -> float:
    """Bytes that a device needs at the peak of a step."""
    return states_bytes(job) + activation_bytes(job) + logits_bytes(job) + _CONTEXT_BYTES


def states_bytes(job: TrainingJob) -> float:
    """Weights, gradients and optimizer states: 2 + 2 (4 in Megatron) + 12 bytes a parameter in mixed precision."""
    layout, model = job.layout, job.model
    routed = model.num_expert_layers * (model.num_experts or 0) * model.expert_matmul_parameters
    replicas = layout.dp * layout.cp
    gradient = 4 if job.stack.framework.startswith("megatron") else 2
    weight: float = 4 if job.precision in ("fp32", "tf32") else 2
    if job.method == "qlora":
        weight = 0.55
    elif job.method == "lora" and job.precision in ("fp8", "fp4"):
        weight = 1.1  # frozen weights need no wider copy
    total = 0.0
    for parameters, shards in (
        ((model.total_parameters - routed) / (layout.tp * layout.pp), replicas),
        (routed / (layout.tp * layout.pp * layout.ep), max(1.0, replicas / layout.ep)),
    ):
        if job.method in ("lora", "qlora"):
            total += parameters * weight / (shards if layout.sharding == "zero3" else 1)
            continue
        total += parameters * weight / (shards if layout.sharding == "zero3" else 1)
        total += parameters * gradient / (shards if layout.sharding in ("zero2", "zero3") else 1)
        total += parameters * 12 / (1 if layout.sharding == "none" else shards)
    return total


def activation_bytes(job: TrainingJob) -> float:
    """Of the first stage, which holds as many microbatches as there are stages: those of all layers of the model."""
    layout, model = job.layout, job.model
    tokens = job.micro_batch * job.seq / layout.cp
    each = tokens * model.hidden_size * (2 if job.precision in ("fp32", "tf32") else 1)
    layers = model.num_blocks
    split = layout.tp if layout.sequence_parallel else 1
    if job.recompute == "full":
        return each * (2 * layers / split + 34 / layout.tp)
    scores = 5 * model.num_attention_heads * job.seq / model.hidden_size / layout.cp
    if job.recompute == "selective" or job.stack.attention != "unfused":
        scores = 0.0
    routed = 4.0 * (model.num_experts_per_tok or 0) * (model.moe_intermediate_size or 0) / model.hidden_size * 2
    return each * layers * ((34 if not model.num_expert_layers else 18) + scores + routed) / layout.tp


def logits_bytes(job: TrainingJob) -> float:
    """16-bit logits and two copies in FP32."""
    return job.micro_batch * job.seq / job.layout.cp * job.model.vocab_size * 10 / job.layout.tp

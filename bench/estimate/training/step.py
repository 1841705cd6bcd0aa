"""Training: how long one step takes, term by term.

    step = (m + bubble) · microbatch + exposed reductions + optimizer + fixed part, all times 1 + lateness · log2(nodes)
    microbatch = max(device, host) + exposed gathers,   device = products + attention + streams + exposed collectives

`work` says what is to be done, `DeviceRates` how fast the device does it, `Coefficients` what neither says: how much of
the communication hides behind arithmetic, how many bytes fusion saves. Both are fitted to published steps.
A maximum is a smooth one, (a^4 + b^4)^(1/4): work that overlaps never does so perfectly. It also keeps every term
monotone: more work is never faster and a faster device never slower.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.estimate.job import TrainingJob
from bench.estimate.prediction import Term
from bench.estimate.training import frameworks, work
from bench.estimate.training.rates import DeviceRates, Speeds
from bench.estimate.training.work import Work

_SHARPNESS = 4


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What is fitted besides the rates. Times are seconds, the rest are factors and shares."""

    edge_k: float  # K at which half of a product's time is its edge
    wave_flops: float  # for each unit of K: what half a wave of tiles could have done, rows · columns · processors
    edge_seq: float  # sequence at which fused attention reaches half its rate
    stream: float  # bytes of norms and activations, as against the count of `work`
    unfused: float  # bytes of scores, likewise
    expert: float  # time of experts' products, as against dense ones: uneven loads, grouped kernels
    tensor: float  # shares of collectives that nothing hides
    context: float
    exchange: float
    latency_s: float  # of a collective, for each doubling of its ranks
    gather: float  # of a microbatch's time, how much sharded weights' transport can hide behind
    contention: float  # of that transport's hidden time, what the arithmetic that hides it loses
    reduce: float  # of a microbatch's time, how much the reduction of gradients can hide behind
    host: float  # launches of the host, as against the count of `work`
    step_s: float  # once a step: the loop, the loader, the logging
    lateness: float  # for each doubling of the nodes


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a stack makes of its kernels: factors on bytes and on launches."""

    stream: float = 1.0
    host: float = 1.0
    attention: float = 1.0


def traits(job: TrainingJob) -> Traits:
    """Eager norms and activations read and write every step of theirs; a compiler merges launches as well as bytes.

    FlashAttention-2 reaches on Hopper and later the share of the peak that its successors were written to double
    (Shah et al. 2024, FlashAttention-3: 35 % against 75 % forward); Megatron's stacks call NVIDIA's own kernels. In
    others a low-rank pair is a dropout, two products, a scaling and a sum beside the product that it adapts.
    """
    habits = frameworks.habits(job.stack.framework)
    late = job.cluster.chip.architecture.startswith(("Hopper", "Blackwell GB1"))
    attention = 0.6 if late and habits.group not in ("megatron", "xla") else 1.0
    stream, host = (0.8, 0.4) if job.stack.compiled else (1.0, 1.0) if habits.fused else (1.8, 1.3)
    if job.method in ("lora", "qlora") and habits.group != "megatron":
        stream, host = 1.5 * stream, 1.3 * host
    return Traits(stream=stream, host=host, attention=attention)


def step(job: TrainingJob, rates: DeviceRates, coefficients: Coefficients) -> tuple[Term, ...]:
    """The terms of one step, which add up to it."""
    parts = seconds(work.of(job), rates.at(job.precision), coefficients, traits(job))
    return tuple(Term(name=name, seconds=value) for name, value in parts.items() if value > 0)


def seconds(done: Work, speeds: Speeds, c: Coefficients, stack: Traits) -> Mapping[str, float]:
    """Seconds of each term. Plain arithmetic: with arrays in place of numbers it gives arrays."""
    matmul = _larger(
        (done.matmul_flops + c.edge_k * done.matmul_edge + c.wave_flops * done.matmul_wave) / speeds.matmul_flops_per_s,
        done.matmul_bytes / speeds.memory_bytes_per_s,
    )
    experts = c.expert * _larger(
        (done.expert_flops + c.edge_k * done.expert_edge + c.wave_flops * done.expert_wave) / speeds.matmul_flops_per_s,
        done.expert_bytes / speeds.memory_bytes_per_s,
    )
    unfused = (done.unfused_flops + c.edge_k * done.unfused_edge) / speeds.half_flops_per_s
    scores = c.unfused * done.unfused_bytes / speeds.memory_bytes_per_s
    fused = (done.attention_flops + c.edge_seq * done.attention_edge) / (speeds.attention_flops_per_s * stack.attention)
    streamed = c.stream * stack.stream * done.stream_bytes + done.cast_bytes + done.loss_bytes
    streams = streamed / speeds.memory_bytes_per_s
    kernels = done.kernels * speeds.kernel_s
    tensor = c.tensor * _wire(done.tensor_link_bytes, done.tensor_network_bytes, speeds)
    context = c.context * _wire(done.context_link_bytes, done.context_network_bytes, speeds)
    exchange = c.exchange * _wire(done.expert_link_bytes, done.expert_network_bytes, speeds)
    stages = _wire(done.stage_link_bytes, done.stage_network_bytes, speeds)
    computing = matmul + experts + unfused + scores + fused + streams + kernels
    latency = c.latency_s * done.calls
    device = computing + tensor + context + exchange + stages + latency
    host = done.kernels * speeds.launch_s * c.host * stack.host
    busy = _larger(device, host)
    gather = _overlapped(
        _wire(done.gather_link_bytes, done.gather_network_bytes, speeds), c.gather * busy, c.contention
    )
    m = done.microbatches
    reduce = _beyond(_wire(done.reduce_link_bytes, done.reduce_network_bytes, speeds), c.reduce * busy)
    optimizer = done.optimizer_bytes / speeds.optimizer_bytes_per_s
    parts = {
        "matmul": m * (matmul + experts),
        "attention": m * (unfused + scores + fused),
        "memory": m * streams,
        "kernels": m * kernels,
        "tensor parallel": m * tensor,
        "context parallel": m * context,
        "expert exchange": m * exchange,
        "between stages": m * stages,
        "latency": m * latency,
        "launch": m * (busy - device),
        "sharded states": m * gather,
        "pipeline bubble": done.bubble * (busy + gather),
        "gradient reduction": reduce,
        "optimizer": optimizer,
        "fixed": c.step_s,
    }
    late = c.lateness * done.doublings
    parts["lateness"] = late * sum(parts.values())
    return parts


def _wire(link_bytes: float, network_bytes: float, speeds: Speeds) -> float:
    """The slower of both wires: they work at the same time."""
    return _larger(link_bytes / speeds.link_bytes_per_s, network_bytes / speeds.network_bytes_per_s)


def _larger(a: float, b: float) -> float:
    largest: float = (a**_SHARPNESS + b**_SHARPNESS) ** (1 / _SHARPNESS)
    return largest


def _beyond(a: float, window: float) -> float:
    """What of `a` does not fit in a window that runs at the same time."""
    return _larger(a, window) - window


def _overlapped(transport: float, window: float, contention: float) -> float:
    """What transport costs beside a window of arithmetic: all that does not fit, and a share of what does.

    Collectives take processors, memory bandwidth and power from the products that hide them. Lee et al. 2025 (arXiv
    2507.03114) saw products slowed by 19 % on average and by 40 % at most.
    """
    beyond = _beyond(transport, window)
    return beyond + contention * (transport - beyond)

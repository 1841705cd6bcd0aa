"""Layouts: which ways of spreading a training step over devices fit into memory, and which is fastest.

Every combination of tensor and pipeline parallelism that divides the model is looked at, with the least sharding and
recomputation that fits, at several micro-batches. What an option of the user fixes stays fixed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from bench.errors import UserError
from bench.estimate.job import Cluster, Layout, Recompute, Sharding, TrainingJob
from bench.estimate.prediction import Prediction

StepOf = Callable[[TrainingJob], Prediction]
SecondsOf = Callable[
    [TrainingJob], float | None
]  # the step by physics alone, which ranks layouts at a fraction of the cost
BytesOf = Callable[[TrainingJob], float]  # peak memory of the fullest device

# A run that is planned to the last byte fails: fragmentation and libraries take what no formula knows.
USABLE = 0.92
_RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
_SHARDING: tuple[Sharding, ...] = ("none", "zero1", "zero2", "zero3")
_LARGEST_MICRO_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """What was asked for; None is free."""

    dp: int | None = None
    tp: int | None = None
    pp: int | None = None
    cp: int | None = None
    ep: int | None = None
    sharding: Sharding | None = None
    recompute: Recompute | None = None
    micro_batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A job with a layout that fits, what it needs and how long a step takes."""

    job: TrainingJob
    memory_bytes: float
    prediction: Prediction

    @property
    def step_s(self) -> float:
        """Of one optimizer step."""
        return self.prediction.values["pred_step_time_s"]


def check(job: TrainingJob) -> None:
    """Raises UserError for a layout that cannot be, with the numbers."""
    layout, model, devices = job.layout, job.model, job.cluster.num_devices
    product = layout.dp * layout.tp * layout.pp * layout.cp
    if min(layout.dp, layout.tp, layout.pp, layout.cp, layout.ep) < 1:
        raise UserError("dp, tp, pp, cp and ep are 1 or more")
    if product != devices:
        raise UserError(
            f"dp {layout.dp} x tp {layout.tp} x pp {layout.pp} x cp {layout.cp} is {product} devices, "
            f"and there are {devices}"
        )
    if model.num_attention_heads % layout.tp:
        raise UserError(f"tp {layout.tp} does not divide the {model.num_attention_heads} attention heads")
    if layout.pp > model.num_hidden_layers:
        raise UserError(f"pp {layout.pp} is more stages than the model has layers, {model.num_hidden_layers}")
    if layout.ep > 1 and (model.num_experts or 1) % layout.ep:
        raise UserError(f"ep {layout.ep} does not divide the model's {model.num_experts or 1} experts")
    if job.global_batch % (layout.dp * job.micro_batch):
        raise UserError(
            f"a global batch of {job.global_batch} sequences does not divide into dp {layout.dp} replicas "
            f"with micro-batches of {job.micro_batch}"
        )


def fitting(
    job: TrainingJob, fixed: Fixed, seconds_of: SecondsOf, bytes_of: BytesOf
) -> list[tuple[TrainingJob, float]]:
    """All that fit, with the memory that they need, fastest by physics first. Empty: nothing fits."""
    usable = USABLE * job.cluster.chip.memory_bytes
    found, last, least = [], None, 0
    for spread in _spread(job, fixed):
        # What is too large for a micro-batch is so for larger ones, unless gradients need not stay there any more.
        if spread.layout != last or not _accumulates(spread):
            last, least = spread.layout, 0
        least, lean = _fitting(spread, fixed, least, bytes_of, usable)
        if lean is not None and (seconds := seconds_of(lean[0])) is not None:
            found.append((seconds, lean))
    return [lean for _, lean in sorted(found, key=lambda one: one[0])]


def fastest(job: TrainingJob, fixed: Fixed, means: "Ways") -> tuple[Candidate | None, int]:
    """The fastest of those that fit, predicted with all that is known, and how many fit."""
    found = fitting(job, fixed, means.seconds_of, means.bytes_of)
    if not found:
        return None, 0
    lean, memory_bytes = found[0]
    prediction = means.step_of(lean)
    if prediction.reason is not None:
        return None, 0
    return Candidate(job=lean, memory_bytes=memory_bytes, prediction=prediction), len(found)


class Ways(Protocol):
    """How steps and memory are estimated."""

    @property
    def step_of(self) -> StepOf:
        """A step with all that is known of it."""

    @property
    def seconds_of(self) -> SecondsOf:
        """A step by physics alone."""

    @property
    def bytes_of(self) -> BytesOf:
        """Peak memory of the fullest device."""


def smallest(job: TrainingJob, fixed: Fixed, bytes_of: BytesOf) -> tuple[TrainingJob, float] | None:
    """What needs the least memory of all that may be chosen, to say how much is missing; None where nothing divides."""
    options = [
        replace(
            one, recompute=fixed.recompute or "full", layout=replace(one.layout, sharding=fixed.sharding or "zero3")
        )
        for one in _spread(job, fixed)
    ]
    return min(((one, bytes_of(one)) for one in options), key=lambda pair: pair[1], default=None)


def _accumulates(job: TrainingJob) -> bool:
    """Whether gradients stay in memory from one micro-batch to the next."""
    return job.micro_batch * job.layout.dp < job.global_batch


def _fitting(
    job: TrainingJob, fixed: Fixed, least: int, bytes_of: BytesOf, usable: float
) -> tuple[int, tuple[TrainingJob, float] | None]:
    """The first that fits, from what costs no time to what costs most, but for so many; and how many did not."""
    shardings = [fixed.sharding] if fixed.sharding else [one for one in _SHARDING if job.layout.dp > 1 or one == "none"]
    recomputes = [fixed.recompute] if fixed.recompute else _RECOMPUTE
    # Sharded weights cost a gather each pass, recomputation a third of the arithmetic: states first, then the gather.
    options = [(recompute, sharding) for recompute in recomputes for sharding in shardings]
    for index, (recompute, sharding) in enumerate(options[least:], least):
        lean = replace(job, recompute=recompute, layout=replace(job.layout, sharding=sharding))
        memory_bytes = bytes_of(lean)
        if memory_bytes <= usable:
            return index, (lean, memory_bytes)
    return len(options), None


def _spread(job: TrainingJob, fixed: Fixed) -> Iterator[TrainingJob]:
    """Every division of the devices, with every micro-batch."""
    for layout in _layouts(job, fixed):
        share = job.global_batch // layout.dp
        if share * layout.dp != job.global_batch or not share:
            continue
        sizes = [fixed.micro_batch] if fixed.micro_batch else _powers_of_two(min(share, _LARGEST_MICRO_BATCH))
        for micro_batch in sizes:
            if share % micro_batch == 0:
                yield replace(job, layout=layout, micro_batch=micro_batch)


def _layouts(job: TrainingJob, fixed: Fixed) -> Iterator[Layout]:
    cluster, model = job.cluster, job.model
    cp, parts = fixed.cp or 1, job.layout.virtual_stages
    for tp in [fixed.tp] if fixed.tp else _tensor_widths(cluster, model.num_attention_heads):
        for pp in [fixed.pp] if fixed.pp else _stages(cluster.num_devices // tp, model.num_hidden_layers):
            if parts > 1 and (pp == 1 or model.num_hidden_layers % (pp * parts)):
                continue
            rest = cluster.num_devices // (tp * pp * cp)
            if rest and rest * tp * pp * cp == cluster.num_devices and fixed.dp in (None, rest):
                for ep in [fixed.ep] if fixed.ep else _expert_widths(rest, model.num_experts):
                    yield Layout(dp=rest, tp=tp, pp=pp, cp=cp, ep=ep, virtual_stages=parts)


def _tensor_widths(cluster: Cluster, heads: int) -> list[int]:
    """Within a node: between nodes two all-reduces a layer cost more than they save."""
    widest = min(cluster.devices_per_node, cluster.num_devices)
    return [tp for tp in _powers_of_two(widest) if heads % tp == 0 and cluster.num_devices % tp == 0]


def _stages(devices: int, layers: int) -> list[int]:
    """Stages of equally many layers, embedding and head counted as two more or not (BLOOM: 72 over 12 stages)."""
    most = min(devices, layers, 64)
    return [pp for pp in range(1, most + 1) if devices % pp == 0 and 0 in (layers % pp, (layers + 2) % pp)]


def _expert_widths(dp: int, experts: int | None) -> list[int]:
    """As many devices as share the experts evenly: a node's at the most, or 64 (DeepSeek-V3: 64 for 256 experts)."""
    even = [ep for ep in _powers_of_two(min(dp, 64, experts or 1)) if dp % ep == 0 and (experts or 1) % ep == 0]
    return sorted({max(ep for ep in even if ep <= 8), even[-1]})


def _powers_of_two(limit: int) -> list[int]:
    return [1 << shift for shift in range(max(1, limit).bit_length())]

"""Cases: what a case of a workload of ours, or a job, is as a step of one device."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench import model
from bench.errors import UserError
from bench.estimate.job import ServingJob, TrainingJob
from bench.estimate.own.step import StepShape, Weights
from bench.workload import Workload

Params = dict[str, Any]

_DTYPES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn"}
_WEIGHTS: dict[str, Weights] = {"full": "full", "int8": "int8", "int4": "int4"}


def shape_of(case: Workload) -> StepShape:
    """The step that a case is. Raises UserError for a workload that is no step of a model."""
    p: Params = dict(case.params())
    whole = model.find(str(p["model"])) if "model" in p else None
    if whole is None or case.name not in _READERS:
        raise UserError(f"{case.name} is no step of a model: {', '.join(_READERS)} are")
    layers = int(p["layers"])
    shape = whole.with_layers(layers) if layers else whole
    return _READERS[case.name](shape, p)


def _train(shape: model.Model, p: Params) -> StepShape:
    return StepShape(
        model=shape, kind="train", batch=p["batch"], length=p["seq"], dtype=p["dtype"], recompute=p["recompute"],
        accumulate=p["accumulate"], loss_chunk=p["loss_chunk"], compiled=p["compiled"],
        method=p.get("method", "full"), rank=p.get("rank", 16),
    )  # fmt: skip


def _prefill(shape: model.Model, p: Params) -> StepShape:
    return StepShape(
        model=shape, kind="prefill", batch=p["batch"], length=p["prompt"], dtype=p["dtype"], weights=p["weights"],
        compiled=p["compiled"],
    )  # fmt: skip


def _decode(shape: model.Model, p: Params) -> StepShape:
    return StepShape(
        model=shape, kind="decode", batch=p["batch"], length=1, context=p["context"], dtype=p["dtype"],
        weights=p["weights"], compiled=p["compiled"],
    )  # fmt: skip


_READERS: dict[str, Callable[[model.Model, Params], StepShape]] = {
    "train_step": _train, "finetune_step": _train, "moe_train_step": _train,
    "prefill": _prefill, "decode": _decode, "moe_decode": _decode,
}  # fmt: skip


def shape_of_training(job: TrainingJob) -> StepShape:
    """The step of a job on one device. Raises UserError for more: nothing measured here tells what links take."""
    _check_single(job)
    if job.precision not in _DTYPES:
        raise UserError(f"no workload trains in {job.precision}: {', '.join(_DTYPES)} are measured")
    return StepShape(
        model=job.model, kind="train", batch=job.micro_batch, length=job.seq, dtype=_DTYPES[job.precision],
        recompute=job.recompute, accumulate=-(-job.global_batch // job.micro_batch),
        method=job.method if job.method in ("lora", "qlora") else "full", rank=job.lora_rank,
    )  # fmt: skip


def shapes_of_serving(job: ServingJob) -> tuple[StepShape, StepShape]:
    """Reading the prompts, and writing one token in the middle of the answers."""
    _check_single(job)
    if job.weights not in _WEIGHTS:
        raise UserError(f"weights={job.weights}: full, int8 and int4 are measured here")
    if job.precision not in ("fp32", "bf16", "fp16"):
        raise UserError(f"no workload decodes in {job.precision}: fp32, bf16 and fp16 are measured")
    prompt = StepShape(
        model=job.model, kind="prefill", batch=job.batch, length=job.prompt, dtype=_DTYPES[job.precision],
        weights=_WEIGHTS[job.weights],
    )  # fmt: skip
    return prompt, replace(prompt, kind="decode", length=1, context=job.prompt + job.output // 2)


def _check_single(job: TrainingJob | ServingJob) -> None:
    layout = job.layout
    if job.cluster.num_devices > 1 or layout.dp * layout.tp * layout.pp * layout.cp > 1:
        raise UserError("a calibration knows one device: no collective was measured on this machine")

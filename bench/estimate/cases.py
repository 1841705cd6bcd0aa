"""Cases: what a case of a workload of ours, or a job, is as a step of one device."""

from bench import model
from bench.errors import UserError
from bench.estimate.job import ServingJob, TrainingJob
from bench.estimate.operations import StepShape
from bench.workload import Workload

_DTYPES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn"}


def shape_of(case: Workload) -> StepShape:
    """The step that a case is. Raises UserError for a workload that is no step of a model."""
    p = case.params()
    whole = model.find(str(p["model"])) if "model" in p else None
    if whole is None or case.name not in _READERS:
        raise UserError(f"{case.name} is no step of a model: {', '.join(_READERS)} are")
    layers = int(p["layers"])
    shape = whole.with_layers(layers) if layers else whole
    return _READERS[case.name](shape, p)


def _train(shape: model.Model, p: dict) -> StepShape:
    return StepShape(
        model=shape, kind="train", batch=p["batch"], length=p["seq"], dtype=p["dtype"], recompute=p["recompute"],
        accumulate=p["accumulate"], loss_chunk=p["loss_chunk"], compiled=p["compiled"],
        method=p.get("method", "full"), rank=p.get("rank", 16),
    )  # fmt: skip


def _prefill(shape: model.Model, p: dict) -> StepShape:
    return StepShape(
        model=shape, kind="prefill", batch=p["batch"], length=p["prompt"], dtype=p["dtype"], weights=p["weights"],
        compiled=p["compiled"],
    )  # fmt: skip


def _decode(shape: model.Model, p: dict) -> StepShape:
    return StepShape(
        model=shape, kind="decode", batch=p["batch"], length=1, context=p["context"], dtype=p["dtype"],
        weights=p["weights"], compiled=p["compiled"],
    )  # fmt: skip


_READERS = {
    "train_step": _train, "finetune_step": _train, "moe_train_step": _train,
    "prefill": _prefill, "decode": _decode, "moe_decode": _decode,
}  # fmt: skip

"""Local: what a step will take on a machine that was calibrated: a case of a workload of ours, or a job of one device.

    seconds = kappa(class) · sum over terms of  factor(term) · seconds of its operations by the machine's laws

The interval comes from this machine's own full steps, each predicted without itself.
"""

import math
from dataclasses import replace

from bench import units
from bench.errors import UserError
from bench.estimate.interval import student_factor
from bench.estimate.job import ServingJob, Stack, TrainingJob
from bench.estimate.own.calibration import CLASSES, Calibration
from bench.estimate.own.cases import shape_of, shape_of_training, shapes_of_serving
from bench.estimate.own.step import StepShape
from bench.estimate.prediction import Evidence, Interval, Prediction, Term, refused
from bench.workload import Workload

# Beyond this factor outside of the sizes of measured steps, in FLOP, the evidence is no longer of this shape.
_DECADES_OF_L0 = 1.5
_Z80, _Z90 = 1.2816, 1.6449  # quantiles of the normal: half of its central 80 and 90 %
# What another framework adds to the error, of a logarithm: between stacks of one device (vLLM, HF, Megatron and others
# on the same task differ by 18 to 35 %).
_OTHER_STACK = 0.30


def predict_case(calibration: Calibration, case: Workload) -> Prediction:
    """A training step, prompt or decoding step of ours on this machine; refused, with a reason, where it cannot be."""
    try:
        shape = shape_of(case)
        _check(shape)
        made = _with_rates(calibration, shape, _predict(calibration, shape, case.name))
        return replace(made, values=made.values | {"pred_peak_memory_bytes": calibration.peak_bytes(shape)})
    except UserError as error:
        return refused(str(error))


def predict_training(calibration: Calibration, job: TrainingJob) -> Prediction:
    """One optimizer step of a job on one device of this machine's kind."""
    try:
        shape = shape_of_training(job)
        kind = "moe_train_step" if job.model.num_experts else "train_step"
        if job.method in ("lora", "qlora"):
            kind = "finetune_step"
        return _of_stack(_with_rates(calibration, shape, _predict(calibration, shape, kind)), job.stack)
    except UserError as error:
        return refused(str(error))


def predict_serving(calibration: Calibration, job: ServingJob) -> Prediction:
    """Prompts of a batch, then its answers token by token, the cache being half full on average."""
    try:
        prompt, token = shapes_of_serving(job)
        kind = "moe_decode" if job.model.num_experts else "decode"
        first, each = _predict(calibration, prompt, "prefill"), _predict(calibration, token, kind)
    except UserError as error:
        return refused(str(error))
    ttft_s, tpot_s = first.values["pred_step_time_s"], each.values["pred_step_time_s"]
    total_s = ttft_s + max(0, job.output - 1) * tpot_s  # the prompt's last logits give the first token
    values = {
        "pred_ttft_s": ttft_s,
        "pred_tpot_s": tpot_s,
        "pred_tok_s_prefill": job.batch * job.prompt / ttft_s,
        "pred_tok_s_decode": job.batch / tpot_s,
        "pred_tok_s_total": job.batch * job.output / total_s,
    }
    if power := calibration.power_w.get("decode"):
        values["pred_power_w"] = power
    longer = max((first, each), key=lambda one: one.interval.factor80 if one.interval else 0.0)
    terms = tuple(
        Term(name=f"{phase} {term.name}", seconds=term.seconds * times)
        for phase, one, times in (("prefill", first, 1), ("decode", each, max(0, job.output - 1)))
        for term in one.terms
    )
    made = replace(longer, values=values, main="pred_tok_s_total", terms=terms)
    return _of_stack(made, job.stack)


def _predict(calibration: Calibration, shape: StepShape, kind: str) -> Prediction:
    """The step's time and terms."""
    stack, step_class = calibration.stack, CLASSES[kind]
    inside = stack.seconds(calibration.terms(shape), step_class, kind)
    size = flops(shape)
    return Prediction(
        values={"pred_step_time_s": math.fsum(inside.values())},
        main="pred_step_time_s",
        interval=_with_noise(stack.interval(step_class, size), calibration.noise),
        evidence=_evidence(calibration, step_class, size),
        basis=_basis(calibration, step_class, size),
        terms=tuple(Term(name=name, seconds=seconds) for name, seconds in inside.items() if seconds),
    )


def _with_noise(bounds: Interval, noise: float) -> Interval:
    """Wider by what two sittings of this machine differ by: each has the spread that its rounds show."""
    sigma = math.sqrt(2) * noise
    narrow, wide = bounds.factor80, bounds.factor90
    return Interval(
        factor80=math.exp(math.hypot(math.log(narrow), _Z80 * sigma)),
        factor90=None if wide is None else math.exp(math.hypot(math.log(wide), _Z90 * sigma)),
    )


def flops(shape: StepShape) -> float:
    """Of a step, as its workload counts them."""
    model, tokens = shape.model, shape.tokens * shape.accumulate
    if shape.kind == "decode":
        return 2.0 * model.matmul_parameters * tokens + model.decode_attention_flops(shape.batch, shape.context)
    attention = shape.accumulate * model.attention_flops(shape.batch, shape.length)
    if shape.kind == "prefill":
        return 2.0 * (model.layer_matmul_parameters * tokens + model.head_matmul_parameters * shape.batch) + attention
    return 6.0 * model.matmul_parameters * tokens + 3.0 * attention


def _check(shape: StepShape) -> None:
    if shape.compiled:
        raise UserError("compiled steps fuse operations, which the laws of single ones do not tell: measure it")


def _with_rates(calibration: Calibration, shape: StepShape, made: Prediction) -> Prediction:
    """The same with tokens a second, and power where a board told it."""
    seconds, tokens = made.values["pred_step_time_s"], shape.tokens * shape.accumulate
    name = {"train": "pred_tok_s_gpu", "prefill": "pred_tok_s_prefill", "decode": "pred_tok_s_decode"}[shape.kind]
    values = made.values | {name: tokens / seconds}
    if power := calibration.power_w.get(shape.kind):
        values["pred_power_w"] = power
    return replace(made, values=values)


def _evidence(calibration: Calibration, step_class: str, size: float) -> Evidence:
    measured = step_class in calibration.stack.sizes
    return "L0" if measured and calibration.stack.beyond(step_class, size) <= _DECADES_OF_L0 else "L1"


def _basis(calibration: Calibration, step_class: str, size: float) -> str:
    stack, machine = calibration.stack, calibration.machine
    own = sum(1 for one in calibration.full_steps if one.step_class == step_class)
    errors = [math.expm1(abs(error)) for error in stack.held_out.values()]
    said = (
        f"{units.several(calibration.num_rows, 'row')} of {units.several(len(calibration.sessions), 'session')} "
        f"on {machine.name}, torch {machine.torch}; {units.several(own, 'full step')} "
        f"of this class of {len(calibration.full_steps)}"
    )
    if errors:
        said += f", each predicted without itself to {sorted(errors)[len(errors) // 2]:.0%} in the median"
    if own and (beyond := stack.beyond(step_class, size)) > math.log10(2):
        said += f"; {10**beyond:.0f} times beyond the sizes that were measured"
    return said


def _of_stack(made: Prediction, stack: Stack) -> Prediction:
    """Weaker evidence for another framework than the plain torch that was measured."""
    if stack.framework in ("", "accelmark", "torch") or made.interval is None:
        return made
    wider = student_factor([], _OTHER_STACK)
    assert wider.factor90 is not None and made.interval.factor90 is not None
    both = (
        math.exp(math.hypot(math.log(own), math.log(more)))
        for own, more in ((made.interval.factor80, wider.factor80), (made.interval.factor90, wider.factor90))
    )
    return replace(
        made,
        interval=Interval(factor80=next(both), factor90=next(both)),
        evidence="L2",
        basis=f"{made.basis}; measured with plain torch, not with {stack.framework}",
    )

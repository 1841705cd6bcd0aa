"""Evidence: from what a lab has to how steps, memory and power are estimated.

With result files of one's own machine a step on one device comes from its calibration, and a step on many devices from
published rows times what one's own device is slower or faster than they say. Without files everything comes from
published rows. No evidence, no number: the prediction then carries the reason.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.estimate import memory
from bench.estimate.answer.serving import ServingMeans
from bench.estimate.answer.training import Means, Memory, Power, model_flops
from bench.estimate.job import Cluster, Layout, ServingJob, TrainingJob
from bench.estimate.prediction import Interval, Prediction
from bench.estimate.serving import power
from bench.estimate.training import rows as training_rows
from bench.estimate.training import step as training

if TYPE_CHECKING:  # what only some questions need is imported where it is used: most of an answer's time is imports
    from bench.estimate.own.calibration import Calibration
    from bench.record import Key, ResultFile

# A board's power by weights that were fitted to metered servers: leaving each generation out, nine in ten lie within
# this factor. A board that was metered itself is known to its sensor's 5 % (bench/energy.py).
_FITTED_POWER = Interval(factor80=1.25, factor90=1.4)
_METERED_POWER = Interval(factor80=1.05, factor90=1.07)


def training_means(cluster: Cluster, own: "Sequence[ResultFile]", in_quarantine: "Container[Key]" = ()) -> Means:
    """For training on these devices. Raises UserError where `own` says nothing of such a device."""
    made = calibrated(cluster, own, in_quarantine)
    return Means(
        step_of=partial(_step, made),
        seconds_of=_seconds if made is None else partial(_own_seconds, made),
        bytes_of=memory.needed_bytes,
        memory_of=_memory,
        power_of=partial(_training_power, made),
    )


def serving_means(cluster: Cluster, own: "Sequence[ResultFile]", in_quarantine: "Container[Key]" = ()) -> ServingMeans:
    """For serving on these devices. Raises UserError where `own` says nothing of such a device."""
    from bench.estimate.serving import rows as inference_rows

    made = calibrated(cluster, own, in_quarantine)

    def predict(job: ServingJob) -> Prediction:
        if made is not None and job.cluster.num_devices == 1:
            from bench.estimate.own.predict import predict_serving

            return predict_serving(made, job)
        return inference_rows.predict_job(job)

    return ServingMeans(predict=predict, memory_of=_memory, power_of=partial(_serving_power, made))


def serves_with(stack: str) -> bool:
    """Whether anybody published what this software serves."""
    from bench.estimate.serving import store
    from bench.estimate.serving.jobs import family_of

    return family_of(stack) in {one.framework for one in store.fitted().groups.values()}


def splits_by_layers(stack: str) -> bool:
    """Whether this software gives each device some layers whole, as llama.cpp does unless told otherwise."""
    from bench.estimate.serving.jobs import BY_LAYERS, family_of

    return family_of(stack) in BY_LAYERS


def cache_bytes(stack: str, weights: str) -> float:
    """Of one cached value, as this software has it with such weights."""
    from bench.estimate.serving.jobs import family_of, usual_cache_bytes

    return usual_cache_bytes(family_of(stack), weights)


def calibrated(
    cluster: Cluster, own: "Sequence[ResultFile]", in_quarantine: "Container[Key]" = ()
) -> "Calibration | None":
    """The calibration of such a device, from the lab's files less their cases in quarantine; None without any files."""
    if not own:
        return None
    from bench.estimate.own.calibration import calibrations

    made = calibrations(own, in_quarantine)
    for one in made:
        if one.machine.chip == cluster.chip.name or one.machine.name in cluster.chip.driver_names:
            return one
    names = ", ".join(f"{one.machine.name} (chip {one.machine.chip or 'unknown'})" for one in made)
    raise UserError(
        f"the files of --local are of {names}, and the estimate is asked for {cluster.chip.name}: "
        "give --device a .toml file that has this name among its driver_names"
    )


def _seconds(job: TrainingJob) -> float | None:
    terms = training.step(job, training_rows.chip_rates(job), training_rows.stored().coefficients)
    return math.fsum(term.seconds for term in terms)


def _own_seconds(made: "Calibration", job: TrainingJob) -> float | None:
    return _seconds(job) if job.cluster.num_devices > 1 else _step(made, job).values.get("pred_step_time_s")


def _step(made: "Calibration | None", job: TrainingJob) -> Prediction:
    if made is None:
        return training_rows.predict_job(job)
    from bench.estimate.own.predict import predict_training

    alone = _alone(job)
    measured = predict_training(made, alone)
    if job.cluster.num_devices == 1 or measured.reason is not None:
        return measured
    published = training_rows.predict_job(alone)
    if published.reason is not None:
        return published
    factor = measured.values["pred_step_time_s"] / published.values["pred_step_time_s"]
    spread = training_rows.predict_job(job, local_factor=factor)
    return replace(spread, basis=f"{spread.basis}; one device by {measured.basis}")


def _alone(job: TrainingJob) -> TrainingJob:
    """One replica's micro-batches on one device, nothing of them spread."""
    cluster = replace(job.cluster, num_devices=1, devices_per_node=1)
    batch = job.global_batch if job.cluster.num_devices == 1 else job.micro_batch
    return replace(job, cluster=cluster, layout=Layout(), global_batch=batch)


def _memory(job: TrainingJob | ServingJob) -> Memory:
    fit = memory.fits(job)
    return Memory(bytes=fit.needed_bytes, parts=dict(fit.footprint.parts), probability_of_oom=fit.oom_probability)


def _training_power(made: "Calibration | None", job: TrainingJob, step: Prediction) -> Power | None:
    """Of one device with its share of a node."""
    if made is not None and (watts := made.power_w.get("train")):
        return _with_host(watts, _METERED_POWER, "the board's own power while it trained, measured here")
    step_s, chip, devices = step.values["pred_step_time_s"], job.cluster.chip, job.cluster.num_devices
    peak = chip.peak_flops_per_s(job.precision) or max(chip.flops_per_s.values())
    recomputed = {"none": 1.0, "selective": 1.02, "full": 4 / 3}[job.recompute]
    compute = recomputed * model_flops(job) / step_s / peak / devices
    waiting = sum(term.seconds for term in step.terms if term.name in _WAITING) / step_s
    streamed = sum(term.seconds for term in step.terms if term.name in _STREAMING) / step_s
    watts = power.device_power(chip, compute=min(1.0, compute), memory=min(1.0, streamed), communication=waiting)
    return None if watts is None else _with_host(watts, _FITTED_POWER, _FITTED)


def _serving_power(made: "Calibration | None", job: ServingJob, step: Prediction) -> Power | None:
    if made is not None and (watts := made.power_w.get("decode")):
        return _with_host(watts, _METERED_POWER, "the board's own power while it decoded, measured here")
    watts = step.values.get("pred_power_w")  # of all devices
    return None if watts is None else _with_host(watts / job.cluster.num_devices, _FITTED_POWER, _FITTED)


# Terms of a training step by what the board does in them (training.py).
_WAITING = frozenset(
    {
        "tensor parallel", "context parallel", "expert exchange", "between stages", "sharded states",
        "gradient reduction", "pipeline bubble", "lateness",
    }
)  # fmt: skip
_STREAMING = frozenset({"memory", "optimizer"})
_FITTED = "shares of the board's limit fitted to metered servers, host and power supplies as in MLPerf's metered nodes"


def _with_host(device_w: float, interval: Interval, basis: str) -> Power:
    return Power(watts=power.node_power(device_w, 1), interval=interval, basis=basis)

"""One estimate for each row of published inference: tokens a second, times to and between tokens, power.

What applies follows from what a row measures: `phase` and `metric_note`. The main figure, which the interval is about,
is the throughput, or the time to the first token where that is all the row asks for. Some rows' `metric_note` states
the energy that was measured; it is never read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.estimate.job import Cluster, ServingJob
from bench.estimate.prediction import Prediction, Term, refused
from bench.estimate.published import Row
from bench.estimate.serving import fitted as fits
from bench.estimate.serving import footprint, power, stacks, store
from bench.estimate.serving import jobs as inference_jobs
from bench.estimate.serving import step as serving
from bench.estimate.serving.confidence import confidence
from bench.estimate.serving.figures import measured
from bench.estimate.serving.jobs import Case, Stack
from bench.estimate.serving.possible import impossible


def predict(rows: Sequence[Row], local: Sequence[Row]) -> list[Prediction]:
    """A prediction for each row, in order; `local` are rows with figures, of the same machines and stacks."""
    read = [inference_jobs.read(row) for row in rows]
    cases = [one for one in read if isinstance(one, Case)]
    made = iter(_predictions(cases, local, store.fitted()))
    return [refused(one) if isinstance(one, str) else next(made) for one in read]


def predict_job(job: ServingJob, local: Sequence[Row] = ()) -> Prediction:
    """What serving a batch of such requests takes: rates, times to and between tokens, power of the devices.

    `terms` are those of one decode step, halfway through the answer.
    """
    case = case_of(job)
    if not case.job.fits:
        return refused(f"the weights of {job.model.name} and the cache of one request do not fit into the memory")
    (prediction,) = _predictions([case], local, store.fitted())
    return prediction


def _link_bytes_per_s(cluster: Cluster, tp: int) -> float | None:
    """Of the slowest link between devices that share a layer; None where it is not known."""
    if tp > cluster.devices_per_node:
        return cluster.network_bytes_per_s
    return cluster.link_bytes_per_s or cluster.chip.link_bytes_per_s


def case_of(job: ServingJob) -> Case:
    """The job as if it were a row."""
    chip = job.cluster.chip
    framework = job.stack.framework or "vLLM"
    weights = job.weights
    if weights == "full" and job.precision in ("fp8", "fp4", "fp32"):
        weights = job.precision
    if weights not in serving.WEIGHT_BYTES:
        weights = inference_jobs.weights_of({"quant": weights}) or "full"
    layout = job.layout
    devices = job.cluster.num_devices
    tp = layout.tp if layout.tp * layout.pp * layout.dp == devices else max(1, devices // (layout.pp * layout.dp))
    family = inference_jobs.family_of(framework)
    variant = stacks.variant_of(list(store.fitted().groups.values()), family, framework, weights, chip)
    made = serving.Serving(
        footprint=footprint.of_model(job.model),
        chip=replace(chip, link_bytes_per_s=_link_bytes_per_s(job.cluster, tp)),
        devices=tp * layout.pp,
        tp=tp,
        pp=layout.pp,
        whole_experts=layout.ep > 1,
        prompt=float(job.prompt),
        output=float(job.output),
        batch=float(job.batch) / layout.dp,
        weights=weights,
        cache_bytes=job.kv_bytes,
    )
    made = inference_jobs.run_by(family, made, "offline")
    if job.stack.attention == "unfused":
        made = replace(made, score_passes=inference_jobs.UNFUSED_PASSES)
    return Case(
        kind="offline",
        source="",
        stack=Stack(framework=family, variant=variant, weights=weights, chip=chip),
        job=made,
    )


def _predictions(cases: Sequence[Case], local: Sequence[Row], fitted: fits.Fitted) -> list[Prediction]:
    if not cases:
        return []
    read = [(case, measured(row, case)) for row in local if isinstance(case := inference_jobs.read(row), Case)]
    doubts = [impossible(case, figures) for case, figures in read]
    known = [one for one, doubt in zip(read, doubts, strict=True) if doubt is None and one[1]]
    estimates = fits.estimate(fitted, cases, [case for case, _ in known], [figures for _, figures in known])
    prefill = serving.prefill_s(estimates.table.ideal, estimates.rates)
    step = serving.step_s(estimates.table.ideal, estimates.rates)
    watts = power.of_serving(cases, estimates, fitted.carried.get("power"), fitted.scales)
    made = [_prediction(index, case, estimates, prefill, step, watts[index]) for index, case in enumerate(cases)]
    if refusals := [doubt for doubt in doubts if doubt]:
        note = f"; {len(refusals)} of your rows left out, the first for being {refusals[0]}"
        made = [replace(one, basis=one.basis + note) for one in made]
    return made


def _prediction(
    index: int,
    case: Case,
    estimates: fits.Estimates,
    prefill: Mapping[str, Any],
    step: Mapping[str, Any],
    watts: float | None,
) -> Prediction:
    ideal, values = estimates.table.ideal, estimates.values
    rate, tpot, ttft = (float(values[name][index]) for name in ("rate", "tpot", "ttft"))
    sequences = float(ideal.sequences[index])
    found: dict[str, float] = {}
    if case.kind in ("offline", "output", "online"):
        found = {"pred_tok_s_total": rate, "pred_tok_s_decode": sequences / tpot, "pred_tpot_s": tpot}
        if case.kind == "offline":
            found["pred_ttft_s"] = ttft
        else:
            found["pred_tok_s_decode"] = rate
    elif case.kind == "decode":
        found = {"pred_tok_s_total": rate, "pred_tok_s_decode": rate, "pred_tpot_s": sequences / rate}
    elif case.kind == "prefill":
        seconds = (case.job.batch or 1.0) * case.job.prompt / rate if rate else 0.0
        found = {"pred_tok_s_total": rate, "pred_tok_s_prefill": rate, "pred_ttft_s": seconds}
    else:
        found = {"pred_ttft_s": ttft, "pred_tok_s_prefill": (case.job.batch or 1.0) * case.job.prompt / ttft}
    main = {"prefill": "pred_tok_s_prefill", "decode": "pred_tok_s_decode", "ttft": "pred_ttft_s"}.get(
        case.kind, "pred_tok_s_total"
    )
    if watts is not None:
        found["pred_power_w"] = watts
    shown = prefill if case.kind in ("prefill", "ttft") else step
    figure = "ttft" if case.kind == "ttft" else "rate"
    sure = confidence(case, estimates.evidence[index], float(estimates.nearness[figure][index]))
    return Prediction(
        values=found,
        main=main,
        interval=sure.interval,
        evidence=estimates.evidence[index],
        basis=f"{sure.basis}; {case.note}" if case.note else sure.basis,
        terms=tuple(Term(name=name, seconds=float(seconds[index])) for name, seconds in shown.items()),
    )

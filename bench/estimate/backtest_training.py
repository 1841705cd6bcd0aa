"""Back-test of training steps, beside what others would have said of the same rows.

The baselines: 6 N D FLOPs at 40 % of the peak, as planners do; a plain roofline, all FLOPs at the peak or all bytes at
the bandwidth; and the rule of llm-analysis with its README's hint, half of the peak and nine tenths of the bandwidth,
recomputation and tensor parallelism's traffic included.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from bench.estimate import interval, training_folds, training_rows, work
from bench.estimate.backtest import Case
from bench.estimate.interval import Residual
from bench.estimate.rates import peak_flops_per_s, usual_link_bytes_per_s
from bench.estimate.training_fit import Measured
from bench.estimate.training_folds import Asked

GROUPS: dict[str, Callable[[Measured], str]] = {
    "a source": lambda one: one.row["source_id"],
    "a device": lambda one: one.stand.device,
    "a family of models": lambda one: one.stand.model,
    "a layout": lambda one: "|".join(one.row.get(key) or "" for key in ("tp", "pp", "cp", "ep")),
}


def cases(fast: bool) -> Iterator[Case]:
    """All groups; with `fast` the configurations of known stacks, whose coefficients are the stored ones."""
    rows, known = training_folds.measured_rows(), training_rows.stored()
    stacks = list(training_folds.known_stacks(rows, known.like, known.values))
    yield from _cases("training: configurations of known stacks", stacks)
    if fast:
        return
    for name, key in GROUPS.items():
        source = key if name == "a device" else None
        yield from _cases(f"training: {name}", list(training_folds.left_out(rows, known.like, known.values, key)), source)
    local = training_folds.with_local(rows, known.like, known.values)
    yield from _cases(f"training: a source, {training_folds.NUM_LOCAL} rows of it known", list(local))


def _cases(group: str, asked: Iterable[Asked], source: Callable[[Measured], str] | None = None) -> Iterator[Case]:
    """With intervals from the stored scores of the other sources."""
    known = training_rows.stored()
    for one in asked:
        scores: list[Residual] = [score for score in known.scores.get(one.evidence, []) if score.source != one.source]
        bounds = interval.interval(scores, one.sigma)
        yield Case(
            group=group, source=source(one.row) if source else one.source, error=one.error,
            factor80=bounds.factor80 if bounds else None, factor90=bounds.factor90 if bounds else None,
            baselines=baselines(one.row),
        )  # fmt: skip


def baselines(row: Measured) -> dict[str, float]:
    """Errors of the others' rules on that row."""
    job = row.understood.job
    chip = job.cluster.chip
    peak, bandwidth = peak_flops_per_s(chip, job.precision), chip.memory_bytes_per_s
    tokens = job.global_batch * job.seq / job.cluster.num_devices
    done = work.of(job)
    bare = work.of(replace(job, recompute="none"))
    tensor = (done.tensor_link_bytes + done.tensor_network_bytes) / usual_link_bytes_per_s(chip)
    steps = {
        "6ND at 40 %": 6 * job.model.active_parameters * tokens / (0.4 * peak),
        "roofline": bare.microbatches * max(_flops(bare) / peak, _bytes(bare) / bandwidth),
        "llm-analysis": done.microbatches * (max(_flops(done) / (0.5 * peak), _bytes(done) / (0.9 * bandwidth)) + tensor),
    }
    return {name: math.log(step) - row.log_step for name, step in steps.items()}


def _flops(done: work.Work) -> float:
    return done.matmul_flops + done.expert_flops + done.attention_flops + done.unfused_flops


def _bytes(done: work.Work) -> float:
    return done.matmul_bytes + done.expert_bytes + done.stream_bytes + done.unfused_bytes + done.loss_bytes

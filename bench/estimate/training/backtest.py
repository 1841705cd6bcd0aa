"""Back-test of training steps, beside what others would have said of the same rows.

The baselines: 6 N D FLOPs at 40 % of the peak, as planners do; a plain roofline, all FLOPs at the peak or all bytes at
the bandwidth; and the rule of llm-analysis with its README's hint, half of the peak and nine tenths of the bandwidth,
recomputation and tensor parallelism's traffic included.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from bench.estimate.answer import evidence, layouts
from bench.estimate.answer.layouts import Fixed
from bench.estimate.backtest import Case
from bench.estimate.interval import Residual, interval
from bench.estimate.job import Layout
from bench.estimate.training import folds as training_folds
from bench.estimate.training import rows as training_rows
from bench.estimate.training import work
from bench.estimate.training.fit import Measured
from bench.estimate.training.folds import Asked
from bench.estimate.training.rates import peak_flops_per_s, usual_link_bytes_per_s
from bench.estimate.training.rows import Estimator

KNOWN_STACKS = "training: configurations of known stacks"

CHOSEN = "training: the layout chosen, not given (coefficients know these rows)"
_MOST_CHOSEN = 25  # of a source, evenly taken


@dataclass(frozen=True, kw_only=True)
class Group:
    """What is left out, and whom the errors are balanced over."""

    title: str
    key: Callable[[Measured], str]
    by_key: bool = False  # else over sources


SOURCE = Group(title="training: a source", key=lambda one: one.row["source_id"])
DEVICE = Group(title="training: a device, errors by device", key=lambda one: one.stand.device, by_key=True)
FAMILY = Group(title="training: a family of models", key=lambda one: one.stand.model)
LAYOUT = Group(title="training: a kind of layout", key=training_folds.kind_of_layout)
LOCAL = f"training: a source, but for {training_folds.NUM_LOCAL} rows on each device"


def cases(fast: bool) -> Iterator[Case]:
    """All groups; with `fast` the configurations of known stacks, whose coefficients are the stored ones."""
    rows, known = training_folds.measured_rows(), training_rows.stored()
    yield from as_cases(KNOWN_STACKS, training_folds.known_stacks(rows, known.like, known.values), known)
    if fast:
        return
    for group in (SOURCE, DEVICE, FAMILY, LAYOUT):
        asked = training_folds.left_out(rows, known.like, known.values, group.key)
        yield from as_cases(group.title, asked, known, group.key if group.by_key else None)
    yield from as_cases(LOCAL, training_folds.with_local(rows, known.like, known.values), known)
    yield from chosen(rows)


def chosen(rows: Iterable[Measured]) -> Iterator[Case]:
    """The fastest published run of each job on each cluster beside the layout that would have been chosen for it.

    An optimum over estimates flatters itself, and people do not always run the fastest: this says by how much.
    """
    fastest: dict[str, dict[str, Measured]] = {}
    for row in rows:
        job = row.understood.job
        if job.cluster.num_devices > 1 and job.method == "pretrain":
            found = fastest.setdefault(row.row["source_id"], {})
            key = f"{row.row['model']} {job.model.total_parameters} {row.stand.device} {job.cluster.num_devices} "
            key += f"{job.seq} {job.precision}"
            if key not in found or _rate(row) > _rate(found[key]):
                found[key] = row
    for source, best in fastest.items():
        asked = list(best.values())
        for row in asked[:: -(-len(asked) // _MOST_CHOSEN)]:
            job = row.understood.job
            free = replace(job, layout=Layout(dp=job.cluster.num_devices), micro_batch=1, recompute="none")
            found_layout, _ = layouts.fastest(free, Fixed(), evidence.training_means(job.cluster, ()))
            if found_layout:
                error = math.log(found_layout.step_s) - row.log_step
                yield Case(group=CHOSEN, source=source, error=error, baselines=baselines(row))


def _rate(row: Measured) -> float:
    return math.log(row.understood.job.global_batch) - row.log_step


def as_cases(
    title: str, asked: Iterable[Asked], known: Estimator, balanced: Callable[[Measured], str] | None = None
) -> Iterator[Case]:
    """With intervals from the scores of other sources alone; known stacks have past rows of their own."""
    units = {
        (evidence, source): interval([one for one in scores if _lab(one) != source], 1.0)
        for evidence, scores in known.scores.items()
        for source in {"", *map(_lab, scores)}
    }
    for one in asked:
        own = known.machine_units.get(one.row.stand.machine) if title == KNOWN_STACKS and one.evidence == "L1" else None
        unit = own or units.get((one.evidence, one.source), units.get((one.evidence, "")))
        wide = unit.factor90 if unit else None
        yield Case(
            group=title, source=balanced(one.row) if balanced else one.source, error=one.error,
            factor80=unit.factor80**one.sigma if unit else None, factor90=wide**one.sigma if wide else None,
            baselines=baselines(one.row),
        )  # fmt: skip


def _lab(score: Residual) -> str:
    return score.source.split(" on ")[0]


def baselines(row: Measured) -> dict[str, float]:
    """Errors of the others' rules on that row."""
    job = row.understood.job
    chip = job.cluster.chip
    peak, bandwidth = peak_flops_per_s(chip, job.precision), chip.memory_bytes_per_s
    tokens = job.global_batch * job.seq / job.cluster.num_devices
    done = work.of(job)
    bare = work.of(replace(job, recompute="none"))
    tensor = (done.tensor_link_bytes + done.tensor_network_bytes) / usual_link_bytes_per_s(chip)
    layers = max(_flops(done) / (0.5 * peak), _bytes(done) / (0.9 * bandwidth))
    steps = {
        "6ND at 40 %": 6 * job.model.active_parameters * tokens / (0.4 * peak),
        "roofline": bare.microbatches * max(_flops(bare) / peak, _bytes(bare) / bandwidth),
        "llm-analysis": done.microbatches * (layers + tensor),
    }
    return {name: math.log(step) - row.log_step for name, step in steps.items()}


def _flops(done: work.Work) -> float:
    return done.matmul_flops + done.expert_flops + done.attention_flops + done.unfused_flops


def _bytes(done: work.Work) -> float:
    return done.matmul_bytes + done.expert_bytes + done.stream_bytes + done.unfused_bytes + done.loss_bytes

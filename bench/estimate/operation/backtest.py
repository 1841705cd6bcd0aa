"""Back-tests of single operations: rows are hidden, estimated from the rest, and set against what was measured.

The error of an estimate is max(predicted / measured, measured / predicted) - 1, of the row's figure. A median or p90 is
taken within each source and then over sources, so that no source speaks for the others by its size. Baselines see the
same rows: the roofline of the datasheet, and the same with one fraction, the median of the rows that are not hidden.
"""

import math
import random
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.estimate.interval import pooled_quantile
from bench.estimate.operation.curves import Gemm, Pass
from bench.estimate.operation.curves.collective import traffic
from bench.estimate.operation.curves.goodness import quantile, relative
from bench.estimate.operation.evidence import Evidences, key_of
from bench.estimate.operation.rows import answer_of, interval_of
from bench.estimate.operation.tasks import Exchange, Task, task_of
from bench.estimate.published import Row, number, rows

NUM_FOLDS = 3  # two thirds are seen, as of each large source in results/published/
FEWEST_FOR_90 = 9  # machines, for a 90 % quantile over machines


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One hidden row. Errors are log(predicted / measured) of its figure."""

    group: str = ""  # how it was hidden
    source: str
    error: float
    factor80: float
    factor90: float | None
    baselines: dict[str, float]  # errors of others on the same row
    machine: str  # source and chip, and topology: what was drawn once
    sigma: float
    level: str  # family and class of evidence
    elsewhere: bool  # estimated from other machines alone


Fold = tuple[list[Row], list[Row]]  # seen, hidden


def cases(fast: bool = False, sources: Sequence[str] = (), only: str = "") -> Iterable[Outcome]:
    """Every row, hidden in one way after another; with `fast` in those alone that take seconds.

    Of those sources or of all; `only` the ways that are named so in part.
    """
    published = [row for row in rows("micro") if not sources or row["source_id"] in sources]
    for name, kind, quick, split in _SPLITS:
        if only in name and (quick or not fast):
            chosen = [row for row in published if row["kind"] == kind and isinstance(task_of(row), Task)]
            for outcomes in _in_turn(split(chosen)):
                for outcome in outcomes:
                    yield replace(outcome, group=name)


def groups(sources: Sequence[str] = (), only: str = "") -> list[dict[str, Any]]:
    """A summary of each way of hiding rows."""
    found: dict[str, list[Outcome]] = {}
    for outcome in cases(sources=sources, only=only):
        found.setdefault(outcome.group, []).append(outcome)
    return [summary(name, outcomes) for name, outcomes in found.items()]


def _in_turn(folds: Sequence[Fold]) -> Iterable[list[Outcome]]:
    """Each fold hidden; estimates from elsewhere are as wide as errors in the other folds say."""
    first = [hide(*fold) for fold in folds]
    for index, fold in enumerate(folds):
        if any(outcome.elsewhere for outcome in first[index]):
            others = [one for part in (*first[:index], *first[index + 1 :]) for one in part if one.elsewhere]
            yield hide(*fold, quantiles_of(others))
        else:
            yield first[index]


def hide(seen: Sequence[Row], hidden: Sequence[Row], quantiles: dict[str, Any] | None = None) -> list[Outcome]:
    """Estimates of hidden rows from the seen ones."""
    evidence = replace(Evidences.of(seen), quantiles=quantiles or {})
    shares = _median_shares(seen)
    outcomes = []
    for row in hidden:
        task, value = task_of(row), number(row, "value")
        if isinstance(task, str) or not value:
            continue
        answer = answer_of(task, evidence)
        if isinstance(answer, str):
            continue
        bounds = interval_of(task, answer, evidence)
        measured = math.log(task.unit.seconds(value))
        sign = 1.0 if task.unit.amount is None else -1.0
        baselines = {}
        roofline, share = _roofline_s(task), shares.get(key_of(task)[:3], shares.get(("", "", "")))
        if roofline is not None:
            baselines["roofline"] = sign * (math.log(roofline) - measured)
            if share is not None:
                baselines["constant fraction"] = baselines["roofline"] + sign * share
        outcomes.append(
            Outcome(
                source=row["source_id"],
                error=sign * (math.log(answer.seconds) - measured),
                factor80=bounds.factor80,
                factor90=bounds.factor90,
                baselines=baselines,
                machine=" ".join(key_of(task)[1:]),
                sigma=answer.sigma,
                level=f"{key_of(task)[0]} {answer.evidence}",
                elsewhere=answer.profile is None,
            )
        )
    return outcomes


def summary(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of one group: medians over sources of what each source has."""
    by_source: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_source.setdefault(outcome.source, []).append(outcome)
    parts = list(by_source.values())

    def over(figure: Callable[[list[Outcome]], float]) -> float:
        return statistics.median(figure(part) for part in parts)

    def errors(part: list[Outcome], level: float, baseline: str = "") -> float:
        values = [one.baselines.get(baseline) if baseline else one.error for one in part]
        known = [relative(value) for value in values if value is not None]
        return quantile(known, level) if known else math.nan

    def of_baseline(baseline: str) -> dict[str, float]:
        return {
            "median": over(lambda part: errors(part, 0.5, baseline)),
            "p90": over(lambda part: errors(part, 0.9, baseline)),
        }

    return {
        "group": name,
        "rows": len(outcomes),
        "sources": len(parts),
        "median": over(lambda part: errors(part, 0.5)),
        "p90": over(lambda part: errors(part, 0.9)),
        "bias": math.expm1(over(lambda part: statistics.median(one.error for one in part))),
        "coverage80": over(lambda part: _covered(part, "factor80")),
        "coverage90": over(lambda part: _covered(part, "factor90")),
        "factor": over(lambda part: statistics.median(one.factor90 or math.nan for one in part)),
        "baselines": {baseline: of_baseline(baseline) for baseline in ("roofline", "constant fraction")},
        "by_source": {
            source: {
                "rows": len(p),
                "median": errors(p, 0.5),
                "p90": errors(p, 0.9),
                "coverage90": _covered(p, "factor90"),
            }
            for source, p in by_source.items()
        },
    }


def quantiles_of(outcomes: Iterable[Outcome]) -> dict[str, tuple[float, float | None]]:
    """Quantiles of |log error| / sigma for each family, and for each of its classes; each machine counts once.

    That is the quantile of the mean of the machines' distribution functions: what covers a row of a machine drawn anew
    ("pooling CDFs" of Dunn, Wasserman & Ramdas 2023, section 4).
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for one in outcomes:
        for level in (one.level, one.level.split()[0]):
            scores.setdefault(level, {}).setdefault(one.machine, []).append(abs(one.error) / one.sigma)
    found: dict[str, tuple[float, float | None]] = {}
    for level, machines in sorted(scores.items()):
        parts = list(machines.values())
        wide = round(pooled_quantile(parts, 0.9), 3) if len(parts) >= FEWEST_FOR_90 else None
        found[level] = (round(pooled_quantile(parts, 0.8), 3), wide)
    return found


def random_folds(rows: Sequence[Row]) -> list[Fold]:
    """Each row hidden once, at random within each machine, whatever else has its shape."""
    return _folds(rows, lambda row, index: str(index))


def shape_folds(rows: Sequence[Row]) -> list[Fold]:
    """Each shape hidden once, with all rows that have it."""
    return _folds(rows, lambda row, index: str(_task(row).shape))


def size_folds(rows: Sequence[Row]) -> list[Fold]:
    """Of each machine one size after another hidden, all machines at once: as many folds as the longest table."""
    places: dict[Any, int] = {}
    place_of = []
    for row in rows:
        key = key_of(_task(row))
        place_of.append(places.get(key, 0))
        places[key] = places.get(key, 0) + 1
    numbered = list(zip(rows, place_of, strict=True))
    return [
        ([row for row, place in numbered if place != fold], [row for row, place in numbered if place == fold])
        for fold in range(max(places.values(), default=0))
    ]


def model_folds(rows: Sequence[Row]) -> list[Fold]:
    """Each model hidden once, with all its shapes, where the row's file names one."""
    names = sorted({model for row in rows if (model := _model(row))})
    folds = []
    for name in names:
        shapes = {str(_task(row).shape) for row in rows if _model(row) == name}
        hidden = [row for row in rows if _model(row) == name]
        folds.append(([row for row in rows if _model(row) and str(_task(row).shape) not in shapes], hidden))
    return folds


def chip_folds(rows: Sequence[Row]) -> list[Fold]:
    """Each chip hidden once, with all parts of its architecture."""
    chips = sorted({_task(row).chip.architecture for row in rows})
    return [
        (
            [row for row in rows if _task(row).chip.architecture != chip],
            [row for row in rows if _task(row).chip.architecture == chip],
        )
        for chip in chips
    ]


def source_folds(rows: Sequence[Row]) -> list[Fold]:
    """Each source hidden once, where another has measured the same chip and type."""
    folds = []
    for source in sorted({row["source_id"] for row in rows}):
        seen = [row for row in rows if row["source_id"] != source]
        known = {(_task(row).chip.name, _task(row).dtype) for row in seen}
        folds.append(
            (seen, [r for r in rows if r["source_id"] == source and (_task(r).chip.name, _task(r).dtype) in known])
        )
    return folds


# Name, kind of row, whether it takes seconds alone, and how rows are hidden.
_SPLITS: tuple[tuple[str, str, bool, Callable[[Sequence[Row]], list[Fold]]], ...] = (
    ("matmul, a third of the rows hidden", "gemm", False, random_folds),
    ("matmul, a third of the shapes hidden", "gemm", False, shape_folds),
    ("matmul, each model hidden", "gemm", False, model_folds),
    ("matmul, each chip hidden", "gemm", True, chip_folds),
    ("matmul, each source hidden, chip known", "gemm", False, source_folds),
    ("memory-bound, a third of the rows hidden", "memory_bound_op", True, random_folds),
    ("memory-bound, each chip hidden", "memory_bound_op", False, chip_folds),
    ("collective, each size hidden", "collective", False, size_folds),
    ("collective, a third of the sizes hidden", "collective", True, random_folds),
    ("collective, each chip hidden", "collective", False, chip_folds),
    ("send and receive, each size hidden", "p2p", False, size_folds),
)


def _folds(rows: Sequence[Row], unit: Callable[[Row, int], str]) -> list[Fold]:
    places: dict[tuple[Any, str], int] = {}
    order = list(range(len(rows)))
    random.Random(6).shuffle(order)  # noqa: S311  # a split, no secret
    counts: dict[Any, int] = {}
    for index in order:
        machine = key_of(_task(rows[index]))
        key = machine, unit(rows[index], index)
        if key not in places:
            places[key] = counts.get(machine, 0) % NUM_FOLDS
            counts[machine] = counts.get(machine, 0) + 1
    fold_of = [places[key_of(_task(row)), unit(row, index)] for index, row in enumerate(rows)]
    return [
        (
            [row for row, place in zip(rows, fold_of, strict=True) if place != fold],
            [row for row, place in zip(rows, fold_of, strict=True) if place == fold],
        )
        for fold in range(NUM_FOLDS)
    ]


def _model(row: Row) -> str:
    found = re.search(r"/compute/[^/]+/(.+)/\w+\.csv", row["source"])
    return found[1] if found else ""


def _task(row: Row) -> Task:
    task = task_of(row)
    assert isinstance(task, Task)
    return task


def _covered(part: Sequence[Outcome], which: str) -> float:
    known = [(abs(one.error), getattr(one, which)) for one in part if getattr(one, which) is not None]
    return sum(error <= math.log(factor) for error, factor in known) / len(known) if known else math.nan


def _roofline_s(task: Task) -> float | None:
    """What the datasheet alone says."""
    shape, chip = task.shape, task.chip
    if isinstance(shape, Gemm):
        peak = task.peak_flops_per_s
        moved = task.bytes_per_element * shape.batch * (shape.m * shape.k + shape.k * shape.n + shape.m * shape.n)
        return None if peak is None else max(shape.flops / peak, moved / chip.memory_bytes_per_s)
    if isinstance(shape, Pass):
        return shape.bytes / chip.memory_bytes_per_s
    if isinstance(shape, Exchange) and chip.link_bytes_per_s:
        return traffic(shape.op, shape.ranks) * shape.bytes / chip.link_bytes_per_s
    return None


def _median_shares(seen: Sequence[Row]) -> dict[tuple[str, ...], float]:
    """log(measured / roofline): the median of each machine, and of all under ("", "", "")."""
    logs: dict[tuple[str, ...], list[float]] = {("", "", ""): []}
    for row in seen:
        task, value = task_of(row), number(row, "value")
        roofline = None if isinstance(task, str) else _roofline_s(task)
        if isinstance(task, Task) and roofline and value:
            share = math.log(task.unit.seconds(value) / roofline)
            logs.setdefault(key_of(task)[:3], []).append(share)
            logs["", "", ""].append(share)
    return {key: statistics.median(values) for key, values in logs.items() if values}

"""Estimates of single operations, one for each row with the columns of results/published/micro.csv.

An operation is estimated from

- the curve of the same source and chip, or of the user's own rows: L0 within the sizes that were measured, else L1;
- else the curves of others on the same chip, or the datasheet and what relatives reach of theirs (elsewhere.py).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from bench import units
from bench.errors import not_installed
from bench.estimate.operation.curves import Pass
from bench.estimate.operation.elsewhere import Answer, from_elsewhere, seconds_on
from bench.estimate.operation.evidence import Evidences, Profile, key_of, published
from bench.estimate.operation.tasks import Exchange, Task, task_of
from bench.estimate.prediction import Interval, Prediction, refused
from bench.estimate.published import Row

NORMAL = (1.2816, 1.6449)
# Between machines of one kind, and between repeats: how far a few rows of one's own shift an estimate from elsewhere.
_MACHINE_SD, _ROW_SD = 0.2, 0.15


def predict(rows: Sequence[Row], local: Sequence[Row]) -> list[Prediction]:
    """A prediction for each row, in order; `local` are rows with figures, of the same machines. Raises UserError."""
    if not all(map(find_spec, ("numpy", "scipy"))):
        raise not_installed("scipy", "numpy", "scipy")
    evidence = published().with_local(local) if local else published()
    return [_predict(row, evidence) for row in rows]


def _predict(row: Row, evidence: Evidences) -> Prediction:
    task = task_of(row)
    if isinstance(task, str):
        return refused(task)
    answer = answer_of(task, evidence)
    if isinstance(answer, str):
        return refused(answer)
    return Prediction(
        values={"pred_value": task.unit.value(answer.seconds)},
        main="pred_value",
        interval=interval_of(task, answer, evidence),
        evidence=answer.evidence,
        basis=answer.basis,
    )


def answer_of(task: Task, evidence: Evidences) -> Answer | str:
    """The time of one operation, or why nothing can be said of it."""
    own = evidence.by_key.get(key_of(task)) or _only_table(task, evidence)
    if own is not None and task.family != "peak":
        return _from_own(task, own)
    answer = from_elsewhere(task, evidence)
    anchors = evidence.anchors.get(key_of(task))
    return answer if isinstance(answer, str) or not anchors else _anchored(answer, anchors, evidence)


def _only_table(task: Task, evidence: Evidences) -> Profile | None:
    """Of a collective whose links the row does not name: the one table of that source, chip, operation and ranks."""
    shape = task.shape
    if not isinstance(shape, Exchange) or task.topology:
        return None
    start = f"{shape.op} {shape.ranks}: "
    found = [
        profile
        for profile in evidence.profiles
        if profile.source == task.source and profile.chip == task.chip and profile.topology.startswith(start)
    ]
    return found[0] if len(found) == 1 else None


def _from_own(task: Task, profile: Profile) -> Answer:
    seconds, sigma = seconds_on(profile, task)
    goodness = profile.curve.goodness
    shape = task.shape
    inside = (
        goodness.covers(bytes=shape.bytes) if isinstance(shape, Pass | Exchange) else goodness.covers(**vars(shape))
    )
    whose = "your own" if profile.local else f"published by {profile.source}"
    return Answer(
        seconds=seconds,
        sigma=sigma,
        evidence="L0" if inside else "L1",
        basis=f"{units.several(goodness.num_points, 'row')} on {profile.chip.name}, {whose}; "
        f"left out, they were {goodness.loo_median:.0%} off at the median, {goodness.loo_p90:.0%} at p90"
        + ("" if inside else "; this one lies beyond what was measured"),
        profile=profile,
    )


def _anchored(answer: Answer, anchors: Sequence[tuple[Task, float]], evidence: Evidences) -> Answer:
    """Shifted by the mean error on the few rows of this machine, shrunk by how few they are."""
    errors = []
    for task, seconds in anchors:
        base = from_elsewhere(task, evidence)
        if isinstance(base, Answer):
            errors.append(math.log(seconds / base.seconds))
    if not errors:
        return answer
    share = len(errors) * _MACHINE_SD**2 / (len(errors) * _MACHINE_SD**2 + _ROW_SD**2)
    return replace(
        answer,
        seconds=answer.seconds * math.exp(share * sum(errors) / len(errors)),
        sigma=math.hypot(_ROW_SD, _MACHINE_SD * math.sqrt(1.0 - share)),
        evidence="L1",
        basis=f"{answer.basis}; shifted by {units.several(len(errors), 'row')} of your own",
    )


def interval_of(task: Task, answer: Answer, evidence: Evidences) -> Interval:
    """By the quantiles of the machine's own left-out errors, else of those of its class in the back-test."""
    if answer.profile is not None:
        low, high = (answer.profile.curve.goodness.factor(answer.sigma, level) for level in (0.8, 0.9))
        return Interval(factor80=low, factor90=max(low, high))
    family = "gemm" if task.family == "peak" else key_of(task)[0]
    whole = evidence.quantiles.get(family, NORMAL)
    narrow, wide = evidence.quantiles.get(f"{family} {answer.evidence}", whole)
    if wide is None and whole[1] is not None:  # too few machines in the class: those of all, each with its own sigma
        wide = max(narrow, whole[1])
    return Interval(
        factor80=math.exp(answer.sigma * narrow), factor90=None if wide is None else math.exp(answer.sigma * wide)
    )

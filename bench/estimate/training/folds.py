"""Folds: the training estimator asked about rows that it was not fitted to, in each of the ways that it can be asked.

A new laboratory is a source left out; a new device is a device left out; a known stack is a fold of its configurations,
so that no repeat of a row or another release of it remains; and a lab with ten rows of its own is a source left out
of which ten rows come back.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.estimate import published
from bench.estimate.prediction import Prediction
from bench.estimate.training import fit as training_fit
from bench.estimate.training import rows as training_rows
from bench.estimate.training.fit import Measured, Values
from bench.estimate.training.likeness import Likeness
from bench.estimate.training.rows import Estimator

NUM_LOCAL = 10
_SPLITS = 3  # of each source into ten own rows and the rest
_FOLDS = 5
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One row that was asked about without its fold."""

    row: Measured
    evidence: str
    error: float  # log(predicted / measured)
    sigma: float

    @property
    def source(self) -> str:
        """Who measured it."""
        return self.row.row["source_id"]

    @property
    def drawn(self) -> str:
        """What errors share: a laboratory, or its machine where rows of that machine are known."""
        return f"{self.source} on {self.row.stand.device}" if self.evidence == "L0" else self.source


def measured_rows() -> list[Measured]:
    """Every trusted row that has a step."""
    found = map(training_fit.measured, published.rows("training"))
    return [one for one in found if isinstance(one, Measured)]


def estimator(
    rows: Sequence[Measured], like: Likeness, values: Values | None = None, start: Values | None = None
) -> Estimator:
    """Fitted to those rows, without scores and so without intervals."""
    values = values or training_fit.fit(rows, like, start)
    errors = np.array([one.log_step for one in rows]) - training_fit.log_steps(training_fit.table(rows), values)
    return Estimator(
        values=values, like=like, stands=[one.stand for one in rows], sources=[one.row["source_id"] for one in rows],
        errors=errors, scores={}, accuracy={},
    )  # fmt: skip


def ask(known: Estimator, rows: Sequence[Measured], local: Sequence[Measured] = ()) -> list[Asked]:
    """What it says of those rows against what was measured."""
    predictions = training_rows.estimate(list(rows), local, known)
    return [_asked(row, prediction) for row, prediction in zip(rows, predictions, strict=True)]


def _asked(row: Measured, prediction: Prediction) -> Asked:
    step = sum(term.seconds for term in prediction.terms)
    return Asked(
        row=row, evidence=prediction.evidence or "L3", error=math.log(step) - row.log_step, sigma=prediction.sigma
    )  # fmt: skip


def left_out(
    rows: Sequence[Measured], like: Likeness, start: Values, key: Callable[[Measured], str]
) -> Iterator[Asked]:
    """Each group of rows by the others."""
    names = [key(one) for one in rows]
    for name in sorted(set(names)):
        rest = [one for one, own in zip(rows, names, strict=True) if own != name]
        asked = [one for one, own in zip(rows, names, strict=True) if own == name]
        yield from ask(estimator(rest, like, start=start), asked)


def known_stacks(rows: Sequence[Measured], like: Likeness, values: Values) -> Iterator[Asked]:
    """A fifth of the configurations by the others.

    The coefficients are those of all rows: some forty numbers do not remember a row, while likeness does, and it
    forgets here.
    """
    configurations = sorted({configuration(one) for one in rows})
    random.Random(_SEED).shuffle(configurations)  # noqa: S311  # folds, no secret
    fold = {name: index % _FOLDS for index, name in enumerate(configurations)}
    for index in range(_FOLDS):
        rest = [one for one in rows if fold[configuration(one)] != index]
        asked = [one for one in rows if fold[configuration(one)] == index]
        yield from ask(estimator(rest, like, values), asked)


def with_local(rows: Sequence[Measured], like: Likeness, start: Values) -> Iterator[Asked]:
    """The rest of a source on one device, when ten of its rows there are known and nothing else of the source."""
    draw = random.Random(_SEED)  # noqa: S311  # a draw of rows, no secret
    for source in sorted({one.row["source_id"] for one in rows}):
        own = [one for one in rows if one.row["source_id"] == source]
        if len(own) < NUM_LOCAL + 3:
            continue
        known = estimator([one for one in rows if one.row["source_id"] != source], like, start=start)
        for device in sorted({one.stand.device for one in own}):
            there = [one for one in own if one.stand.device == device]
            if len(there) < NUM_LOCAL + 3:
                continue
            for _ in range(_SPLITS):
                local = draw.sample(there, NUM_LOCAL)
                chosen = {configuration(one) for one in local}
                rest = [one for one in there if configuration(one) not in chosen]
                yield from ask(known, rest[:: max(1, len(rest) // 100)], local)


def configuration(one: Measured) -> str:
    """What a repeat of a row has in common with it: everything but the release and the day."""
    row = one.row
    keys = (
        "source_id",
        "device",
        "model",
        "seq_len",
        "gbs_tokens",
        "micro_batch",
        "precision",
        "n_gpus",
        "tp",
        "pp",
        "cp",
        "ep",
    )
    return "|".join((row.get(key) or "") for key in keys)


def kind_of_layout(one: Measured) -> str:
    """Which kinds of parallelism it combines."""
    layout = one.understood.job.layout
    sizes = {"tp": layout.tp, "pp": layout.pp, "cp": layout.cp, "ep": layout.ep}
    return "+".join([name for name, size in sizes.items() if size > 1] or ["dp"])

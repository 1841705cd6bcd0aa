"""Training rows: an estimate for each row of a CSV of training measurements, and for a job of one's own.

Physics gives a step (step.py), measured rows of the same or a like stack correct it (likeness.py), a lab's own rows
most of all. What is stored, coefficients/training.json, comes from fit.py.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from bench.estimate import interval
from bench.estimate.interval import Residual
from bench.estimate.job import TrainingJob
from bench.estimate.prediction import Evidence, Interval, Prediction, Term, refused
from bench.estimate.published import Row
from bench.estimate.training import fit as training_fit
from bench.estimate.training import frameworks, row_job
from bench.estimate.training import step as training
from bench.estimate.training.fit import Measured, Values
from bench.estimate.training.likeness import Array, Likeness, Process, Stand
from bench.estimate.training.rates import DeviceRates, from_chip

STORED = Path(__file__).parent.parent / "coefficients" / "training.json"
# What a share of the step in each term adds to the estimate's sigma: these are the least known.
_SHAKY = {
    "launch": 0.20, "latency": 0.30, "tensor parallel": 0.25, "expert exchange": 0.30, "context parallel": 0.30,
    "sharded states": 0.30, "gradient reduction": 0.30, "between stages": 0.30, "pipeline bubble": 0.10,
    "fixed": 0.30, "optimizer": 0.20,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """What was fitted."""

    values: Values
    like: Likeness
    stands: list[Stand]
    sources: list[str]  # of each stand
    errors: Array
    scores: dict[str, list[Residual]]  # by class of evidence, from back-tests
    ships: bool = False  # with the package
    accuracy: dict[str, tuple[float, float]]  # median and 90th percentile of the errors of each class

    @cached_property
    def measured(self) -> dict[tuple[str, str], str]:
        """How many rows and sources there are of a device and framework; "" stands for any."""
        found: dict[tuple[str, str], list[str]] = {}
        for stand, source in zip(self.stands, self.sources, strict=True):
            for key in ((stand.device, stand.framework), (stand.device, ""), ("", "")):
                found.setdefault(key, []).append(source)
        return {key: _rows_of_sources(sources) for key, sources in found.items()}

    @cached_property
    def units(self) -> dict[str, Interval | None]:
        """Of each class the interval at a sigma of 1; at another it is this to the power of sigma.

        Weaker evidence never gives a narrower one: a device that was left out of a source had its siblings there.
        """
        found: dict[str, Interval | None] = {}
        widest: Interval | None = None
        for name in sorted(self.scores):
            widest = interval.wider(widest, interval.interval(self.scores[name], 1.0))
            found[name] = widest
        return found

    @cached_property
    def machine_units(self) -> dict[str, Interval | None]:
        """The same for each machine that was measured, by how it was described, from the errors of those who did."""
        who: dict[str, set[str]] = {}
        for stand, source in zip(self.stands, self.sources, strict=True):
            who.setdefault(stand.machine, set()).add(source)
        scores = self.scores.get("L1", [])
        return {
            machine: interval.of_known_sources([one for one in scores if one.source in sources], 1.0)
            for machine, sources in who.items()
            if machine
        }

    @cached_property
    def coefficients(self) -> training.Coefficients:
        """Those that are no rates."""
        return training_fit.coefficients(self.values)


def _rows_of_sources(sources: Sequence[str]) -> str:
    num = len(set(sources))
    return f"{len(sources):,} published row{'s' * (len(sources) > 1)} of {num} source{'s' * (num > 1)}"


@cache
def stored() -> Estimator:
    """The one that ships."""
    kept = json.loads(STORED.read_text(encoding="utf-8"))
    names = kept["names"]
    stands = [
        Stand(**dict(zip(NAMED, (names[code] for code in codes), strict=True)), shape=tuple(shape), noise=noise)
        for codes, shape, noise in zip(kept["rows"]["codes"], kept["rows"]["shape"], kept["rows"]["noise"], strict=True)
    ]
    return Estimator(
        ships=True,
        values=kept["values"],
        like=Likeness(**kept["likeness"]),
        stands=stands,
        sources=[kept["sources"][code] for code in kept["rows"]["source"]],
        errors=np.array(kept["rows"]["error"]),
        scores={
            name: [Residual(source=source, score=score) for source, scores in found.items() for score in scores]
            for name, found in kept["scores"].items()
        },
        accuracy={name: (found[0], found[1]) for name, found in kept["accuracy"].items()},
    )


NAMED = ("group", "framework", "architecture", "device", "version", "machine", "precision", "model")


def predict(rows: Sequence[Row], local: Sequence[Row]) -> list[Prediction]:
    """A prediction for each row, in order; `local` are rows with figures, of the same machines and stacks."""
    own = [one for one in map(training_fit.measured, local) if isinstance(one, Measured)]
    return estimate([training_fit.understood(row) for row in rows], own, stored())


def estimate(rows: Sequence[Measured | str], local: Sequence[Measured], known: Estimator) -> list[Prediction]:
    """The same with rows that are understood already, and any estimator."""
    asked = [one for one in rows if isinstance(one, Measured)]
    if not asked:
        return [refused(one) for one in rows if isinstance(one, str)]
    places = {_place(one) for one in local}
    stands = [replace(one.stand, place=_place(one) if _place(one) in places else "") for one in asked]
    process = _process(known, local)
    table = training_fit.table(asked)
    parts = training.seconds(table.work, training_fit.speeds(table, known.values), known.coefficients, table.traits)
    columns = {name: np.broadcast_to(part, len(asked)).tolist() for name, part in parts.items()}
    means, deviations = process.expect(stands)
    numbers = iter(
        _prediction(one, stand, {name: column[index] for name, column in columns.items()},
                    float(means[index]), float(deviations[index]), known, len(local))
        for index, (one, stand) in enumerate(zip(asked, stands, strict=True))
    )  # fmt: skip
    return [refused(one) if isinstance(one, str) else next(numbers) for one in rows]


def _process(known: Estimator, local: Sequence[Measured]) -> Process:
    """Published rows, and a lab's own beside them."""
    if not local:
        return _published() if known.ships else Process(known.stands, known.errors, known.like)
    own = [replace(one.stand, place=_place(one)) for one in local]
    errors = np.array([one.log_step for one in local]) - training_fit.log_steps(training_fit.table(local), known.values)
    return Process([*known.stands, *own], np.concatenate([known.errors, errors]), known.like)


@cache
def _published() -> Process:
    known = stored()
    return Process(known.stands, known.errors, known.like)


def _place(one: Measured) -> str:
    return f"{one.stand.device} with {one.stand.framework or 'an unnamed stack'}"


def _prediction(
    one: Measured, stand: Stand, parts: dict[str, float], mean: float, deviation: float,
    known: Estimator, num_local: int,
) -> Prediction:  # fmt: skip
    job = one.understood.job
    factor = math.exp(mean)
    step = factor * sum(parts.values())
    evidence = evidence_of(stand, known)
    sigma = total_sigma(deviation, one.understood.doubt, parts)
    values = {"pred_tok_s_gpu": job.global_batch * job.seq / job.cluster.num_devices / step}
    if one.understood.has_batch:
        values = {"pred_step_time_s": step, **values}
    return Prediction(
        values=values,
        main=next(iter(values)),
        interval=interval_of(known, evidence, stand, sigma),
        sigma=sigma,
        evidence=evidence,
        basis=basis(stand, evidence, known, num_local),
        terms=tuple(Term(name=name, seconds=factor * part) for name, part in parts.items() if part > 0),
    )


def interval_of(known: Estimator, evidence: Evidence, stand: Stand, sigma: float) -> Interval | None:
    """At that sigma; on a machine described in the same words as measured ones, from these ones' own past errors."""
    own = known.machine_units.get(stand.machine) if evidence == "L1" else None
    unit = own or known.units.get(evidence)
    if unit is None:
        return None
    wide = unit.factor90
    return Interval(factor80=unit.factor80**sigma, factor90=None if wide is None else wide**sigma)


def total_sigma(deviation: float, doubt: float, parts: dict[str, float]) -> float:
    """Of the logarithm: what likeness leaves open, what was guessed, and how much time lies in shaky terms."""
    step = sum(parts.values())
    shaky = sum((_SHAKY.get(name, 0.0) * part / step) ** 2 for name, part in parts.items())
    return math.sqrt(deviation**2 + doubt**2 + shaky)


def evidence_of(stand: Stand, known: Estimator) -> Evidence:
    """L0 with rows of one's own; L1 where device and framework were measured together; L2 where the device was."""
    if stand.place:
        return "L0"
    if stand.framework and (stand.device, stand.framework) in known.measured:
        return "L1"
    return "L2" if (stand.device, "") in known.measured else "L3"


def basis(stand: Stand, evidence: Evidence, known: Estimator, num_local: int) -> str:
    """In one sentence, what stands behind the estimate."""
    both, device = known.measured.get((stand.device, stand.framework)), known.measured.get((stand.device, ""))
    near = {
        "L0": f"{num_local} own rows",
        "L1": f"{both} with {stand.framework} on {stand.device}",
        "L2": f"{device} on {stand.device}, none with this stack",
        "L3": f"datasheet alone, no machine with {stand.device} has been measured",
    }[evidence]
    text = f"{near}; physics fitted to {known.measured[('', '')]}"
    if found := known.accuracy.get(evidence):
        text += f"; back-test of {evidence}: median error {100 * found[0]:.0f} %, p90 {100 * found[1]:.0f} %"
    return text


def predict_job(
    job: TrainingJob, local_factor: float | None = None, *, rates: DeviceRates | None = None, doubt: float = 0.0
) -> Prediction:
    """The step of one job. `rates` are measured ones of the device, else its datasheet's times fitted fractions.

    `local_factor` is measured over predicted time of the lab's own full steps by the same rates (calibration); it takes
    the place of what published rows say about the stack.
    """
    known = stored()
    habits = frameworks.habits(job.stack.framework)
    understood = row_job.RowJob(
        job=job, device=job.cluster.chip.name, habits=habits, family=row_job.family(job.model.name),
        doubt=math.hypot(doubt, habits.doubt), has_batch=True,
    )  # fmt: skip
    stand = training_fit.stand({}, understood)
    used = rates or chip_rates(job)
    parts = {term.name: term.seconds for term in training.step(job, used, known.coefficients)}
    one = Measured(row={}, understood=understood, stand=stand, log_step=math.nan)
    if local_factor is not None:
        own = replace(stand, place=_place(one))
        like = known.like
        left = math.sqrt(like.shape_local**2 + like.shape**2 + like.noise**2)
        return _prediction(one, own, parts, math.log(local_factor), left, known, 1)
    means, deviations = _process(known, ()).expect([stand])
    return _prediction(one, stand, parts, float(means[0]), float(deviations[0]), known, 0)


def chip_rates(job: TrainingJob) -> DeviceRates:
    """The job's device by its datasheet and the fitted fractions."""
    cluster = job.cluster
    return from_chip(
        cluster.chip, training_fit.fractions(stored().values, cluster.chip),
        link_bytes_per_s=cluster.link_bytes_per_s, network_bytes_per_s=cluster.network_bytes_per_s,
    )  # fmt: skip

"""Foretold: how far estimates, calibrated on a machine's `quick` runs alone, are from steps that these did not have.

For the gallery. Whole percents and two digits: what is fitted may differ in the tenth digit between processors.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bench import units, workload
from bench.analyze.check import quarantined
from bench.analyze.shared import place
from bench.analyze.summary import Summary, extrapolated, summarize
from bench.errors import UserError
from bench.estimate.own import calibration
from bench.estimate.own.calibration import CLASSES, Calibration
from bench.estimate.own.predict import predict_case
from bench.record import ResultFile

Document = Mapping[str, Any]


def sections(read: Sequence[ResultFile], *, accepted: Iterable[str] = ()) -> dict[str, list[Document]]:
    """Tables by title: each machine's calibration, and its estimates beside what was measured. Empty without any.

    A run is estimated from the `quick` run of its own machine that is nearest in time: the same machine may be another
    one next week, with a new driver or other guests. `accepted`: ids of files that are far from others, and that
    somebody has looked at.
    """
    quick = [file for file in read if file.session.suite == "quick"]
    refused = quarantined(quick, read, accepted=accepted)
    made: dict[str, list[Calibration]] = {}
    for file in quick:
        with contextlib.suppress(UserError):  # too little was measured to calibrate by
            made[file.session.id] = calibration.calibrations([file], refused)
    rows: list[Document] = []
    for file in read:
        nearest = min(
            (one for one in quick if _machine(one) == _machine(file) and one.session.id in made),
            key=lambda one: abs(_moment(one) - _moment(file)),
            default=None,
        )
        if nearest is None or file in quick:
            continue
        measured = summarize([file])
        seen = {one.case for one in summarize([nearest])}
        rows += [
            row
            for one in [*measured, *extrapolated(measured)]
            if one.case not in seen
            for row in _compared(one, made[nearest.session.id])
        ]
    calibrated = [
        _calibrated(_machine(file), _moment(file), one) for file in quick for one in made.get(file.session.id, [])
    ]
    return {"Calibration by `quick`": calibrated, "Estimates of what `quick` did not have": rows} if calibrated else {}


def _machine(file: ResultFile) -> str:
    return place.folder(file.session).as_posix()


def _moment(file: ResultFile) -> datetime:
    """When it began; the year 1 where a stranger's file says nothing that is a moment, which `check` refuses."""
    try:
        return datetime.fromisoformat(file.session.started).replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _calibrated(machine: str, moment: datetime, made: Calibration) -> Document:
    rates = {
        fit.term: units.scaled(fit.value, fit.unit, 2)
        for fit in made.fits
        if fit.term.startswith(("matmul", "memory copy"))
    }
    factors = {f"all {name}": f"{value:.1f}" for name, value in made.stack.classes.items()}
    when = f"{moment:%Y-%m-%d %H:%M}"
    return {"machine": machine, "quick": when, "torch": made.machine.torch, "cases": made.num_rows, **rates, **factors}


def _compared(one: Summary, made: Sequence[Calibration]) -> list[Document]:
    """The row of a whole step; nothing for other work, and for what cannot be estimated."""
    facts = one.session.devices[one.first.device]
    known = next((found for found in made if found.machine.name == facts.name), None)
    if one.first.workload not in CLASSES or not one.step_s or known is None:
        return []
    try:
        prediction = predict_case(known, workload.case(one.first.workload, dict(one.first.params)))
    except UserError:
        return []
    if prediction.reason is not None:
        return []
    expected_s, measured_s = float(f"{prediction.values['pred_step_time_s']:.2g}"), float(f"{one.step_s:.3g}")
    off = max(expected_s / measured_s, measured_s / expected_s) - 1  # of what stands beside it
    return [
        {
            "machine": place.folder(one.session).as_posix(),
            "measured at": one.session.started[:16].replace("T", " "),
            "case": one.case,
            "measured": units.seconds(measured_s),
            "estimated": units.seconds(expected_s, 2),
            "off by": units.percent(off, 0),
        }
    ]

"""Foretold: how far estimates, calibrated on a machine's `quick` runs alone, are from steps that these did not have.

For the gallery. Whole percents and two digits: what is fitted may differ in the tenth digit between processors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench import units, workload
from bench.analyze.check import quarantined
from bench.analyze.summary import Summary, extrapolated, summarize
from bench.errors import UserError
from bench.estimate.own import calibration
from bench.estimate.own.calibration import CLASSES, Calibration
from bench.estimate.own.predict import predict_case
from bench.record import ResultFile

Document = Mapping[str, Any]


def sections(read: Sequence[ResultFile], *, accepted: Iterable[str] = ()) -> dict[str, list[Document]]:
    """Tables by title: each machine's calibration, and its estimates beside what was measured. Empty without any.

    `accepted`: ids of files that are far from others, and that somebody has looked at.
    """
    quick = [file for file in read if file.session.suite == "quick"]
    if not quick:
        return {}
    try:
        made = calibration.calibrations(quick, quarantined(quick, read, accepted=accepted))
    except UserError:  # too little was measured to calibrate by
        return {}
    seen = {(one.session.devices[one.first.device].name, one.case) for one in summarize(quick)}
    others = summarize([file for file in read if file.session.suite != "quick"])
    rows = [row for one in [*others, *extrapolated(others)] for row in _compared(one, made, seen)]
    return {
        "Calibration by `quick`": [_calibrated(one) for one in made],
        "Estimates of what `quick` did not have": rows,
    }


def _calibrated(made: Calibration) -> Document:
    rates = {
        fit.term: units.scaled(float(f"{fit.value:.2g}"), fit.unit)
        for fit in made.fits
        if fit.term.startswith(("matmul", "memory copy"))
    }
    factors = {f"all {name}": f"{value:.1f}" for name, value in made.stack.classes.items()}
    return {"machine": made.machine.name, "torch": made.machine.torch, "cases": made.num_rows, **rates, **factors}


def _compared(one: Summary, made: Sequence[Calibration], seen: set[tuple[str, str]]) -> list[Document]:
    """The row of a whole step; nothing for other work, for what quick had, and for what cannot be estimated."""
    facts = one.session.devices[one.first.device]
    known = next((found for found in made if found.machine.name == facts.name), None)
    if one.first.workload not in CLASSES or (facts.name, one.case) in seen or not one.step_s or known is None:
        return []
    try:
        prediction = predict_case(known, workload.case(one.first.workload, dict(one.first.params)))
    except UserError:
        return []
    if prediction.reason is not None:
        return []
    expected_s = prediction.values["pred_step_time_s"]
    off = max(expected_s / one.step_s, one.step_s / expected_s) - 1
    return [
        {
            "machine": facts.name,
            "case": one.case,
            "measured": units.seconds(float(f"{one.step_s:.2g}")),
            "estimated": units.seconds(float(f"{expected_s:.2g}")),
            "off by": units.percent(off, 0),
        }
    ]

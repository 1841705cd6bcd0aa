"""Contradictions: what a file says of itself held against what else it says, and against arithmetic.

Whatever can be computed anew from what is stored is: the work from the parameters, how precise the samples are, how
long they took together. A rule here needs no knowledge of hardware.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import msgspec

from bench import record, stats, workload
from bench.analyze.check.finding import Doubt, Level
from bench.errors import UserError
from bench.record import Planned, Record, ResultFile, Session, Work
from bench.workload import Facts, label

# Clocks of the host and of the device, and the rounding of what is stored, may differ by this.
CLOCKS, CLOCKS_S = 0.01, 1e-3
# Wall-clock times are to the millisecond, and a clock that was set is noticed from 5 ms on.
WALL_S = 0.05
# Samples that follow each other fill at least 0.79 of their window in 2,166 records of ours; the first of a look has a
# group of steps before it, which is half of the window where a look takes one sample.
LEAST_FILLED = 0.2
# A catalog's counts may be put right without a new version of a workload; a wrong label is off by far more.
COUNTED = 0.01

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(\+00:00|Z)")
Said = tuple[Level, str, str]  # level, code and message


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What this version makes of a record's parameters: the case's work and facts, or why there is none."""

    label: str
    wrong_type: str = ""
    unknown: str = ""
    version: int = 0
    dtype: str = ""
    work: Work | None = None
    extras: Facts


def doubts(file: ResultFile, known: dict[str, Expected] | None = None) -> Iterator[Doubt]:
    """Everything in a file that contradicts something else in it. `known` keeps what cases come to, for other files."""
    yield from _session(file)
    yield from _places(file)
    protocols = _protocols(file.session)
    known = {} if known is None else known
    for one in file.records:
        key = json.dumps((one.workload, one.params, one.extras, bool(one.samples_s)))
        expected = known[key] = known.get(key) or _expected(one)
        name, vendor = expected.label, file.session.devices[one.device].vendor
        found = [*_status(one), *_output(one), *_clock(one, vendor), *_times(one), *_work(one, expected)]
        if file.session.harness.method == record.METHOD:
            found += _statistics(one, protocols.get(_place(one)))
        for level, code, message in found:
            yield Doubt(level=level, code=code, message=f"{name}: {message}", records=(one,))


def _session(file: ResultFile) -> Iterator[Doubt]:
    session = file.session
    if file.torn:
        say = "the last line was cut off: the run ended while it was written; everything before it is whole"
        yield Doubt(level="note", code="torn", message=say)
    if len(session.speeds) not in (0, len(session.devices)):
        say = f"{len(session.speeds)} rough speeds for {len(session.devices)} devices"
        yield Doubt(level="note", code="speeds", message=say)
    if not session.devices:
        yield Doubt(level="error", code="device", message="no device: there is nothing that it was measured on")
    if _moment(session.started) is None:
        say = "the run's start is no UTC time in ISO 8601, such as 2026-11-25T17:13:41+00:00"
        yield Doubt(level="error", code="moment", message=say)
    planned = {_place(one) for one in session.plan}
    seen = {(_place(one), one.round) for one in file.records}
    missing = len(planned) * session.rounds - len({place for place in seen if place[0] in planned})
    if missing > 0:
        say = f"{missing} of {len(planned) * session.rounds} planned records are missing: continue with --resume"
        yield Doubt(level="note", code="missing", message=say)


def _places(file: ResultFile) -> Iterator[Doubt]:
    """Each case, launch mode and round once, and no round that the session does not have."""
    seen = set()
    for one in file.records:
        place = (_place(one), one.round, one.identity.launch)
        if place in seen:
            say = f"{label(one.workload, one.params)}: a second record of round {one.round}"
            yield Doubt(level="error", code="twice", message=say, records=(one,))
        if one.round >= file.session.rounds:
            say = f"{label(one.workload, one.params)}: round {one.round} of {file.session.rounds}, counted from 0"
            yield Doubt(level="error", code="round", message=say, records=(one,))
        seen.add(place)


def _status(one: Record) -> Iterator[Said]:
    if (one.status == "ok") != bool(one.samples_s):
        yield "error", "status", f"status {one.status} with {len(one.samples_s)} samples"
    if (one.status == "ok") != (one.reason is None):
        yield "error", "status", f"status {one.status} needs {'no' if one.status == 'ok' else 'a'} reason"
    if one.status == "ok" and one.timing is None:
        yield "error", "status", "measured, but without a word on how"
    for field in ("timing", "check", "contention", "peak_memory_bytes", "energy", "telemetry"):
        if getattr(one, field) is None and not one.reasons.get(field):
            yield "error", "unknown", f"{field} is unknown without a reason"


def _output(one: Record) -> Iterator[Said]:
    if one.check and not one.check.error <= one.check.tolerance and "bad_output" not in one.flags:
        yield "error", "output", f"error {one.check.error:.3g} over {one.check.tolerance:.3g}, not flagged"
    if "bad_output" in one.flags:
        yield "note", "output", "its output is wrong, so its time counts for nothing"


def _clock(one: Record, vendor: str) -> Iterator[Said]:
    if one.timing and (one.timing.clock == "virtual") != (vendor == "virtual"):
        yield "error", "clock", f"timed by the {one.timing.clock} clock on a device of vendor {vendor}"


def _times(one: Record) -> Iterator[Said]:
    """Samples lie in their window, and the window between begin and end of the record."""
    if any(not record.SHORTEST_S <= sample <= record.LONGEST_S for sample in one.samples_s):
        yield "error", "sample", "a step took no time, or more than days"
    timing = one.timing
    if timing and one.samples_s:
        together_s, most_s = sum(one.samples_s) * timing.repeats, timing.window_s * (1 + CLOCKS) + CLOCKS_S
        if stats.median(one.samples_s) * timing.repeats > most_s:
            yield "error", "window", "a sample is longer than the window that it lies in"
        elif together_s > most_s:
            say = f"its samples took {together_s:.4g} s together, in a window of {timing.window_s:.4g} s"
            yield "error", "window", f"{say}: samples or repeats are not what was measured"
        elif _fills_its_window(one) and together_s < timing.window_s * LEAST_FILLED - CLOCKS_S:
            say = (
                f"its samples took {together_s:.4g} s together, and its window {timing.window_s:.4g} s without a pause"
            )
            yield "error", "window", f"{say}: samples or repeats are not what was measured"
    begin, end = _moment(one.started), _moment(one.ended)
    if begin is None or end is None:
        yield "error", "moment", "begin and end must be UTC times in ISO 8601, such as 2026-11-25T17:13:41+00:00"
    elif timing and timing.clock != "virtual" and "wallclock_stepped" not in one.flags:
        lasted_s = (end - begin).total_seconds()
        before_s = timing.begins_s if timing.begins_s is not msgspec.UNSET else timing.cold_start_s
        least_s = timing.window_s + max(before_s, timing.cold_start_s)
        if lasted_s < least_s * (1 - CLOCKS) - WALL_S:
            say = f"it lasted {lasted_s:.4g} s from begin to end, and to the end of its window {least_s:.4g} s"
            yield "error", "moment", f"{say}: one of them was changed, or the clock was set (flag wallclock_stepped)"


def _fills_its_window(one: Record) -> bool:
    """Whether samples followed each other: nothing was flushed, filled or rested between them, and none left out."""
    identity = one.identity
    between = identity.cache == "cold_flush" or identity.launch == "queued" or identity.duty == "burst"
    return not between and not one.workload.startswith(workload.USERS_OWN)


def _moment(text: str) -> datetime | None:
    """A moment in UTC as records have it; None for anything else, such as the 31st of February."""
    try:
        return datetime.fromisoformat(text) if _MOMENT.fullmatch(text) else None
    except ValueError:
        return None


def _statistics(one: Record, protocol: record.Protocol | None) -> Iterator[Said]:
    """What the samples themselves say of their precision, steadiness and independence (bench/stats.py)."""
    if not one.samples_s or not one.timing:
        return
    if (one.timing.stop != "precise") != ("ci_not_reached" in one.flags):
        yield "error", "precision", f"it stopped as '{one.timing.stop}', which its flags contradict"
    found = stats.location(one.samples_s)
    if one.timing.stop == "precise" and protocol and len(one.samples_s) >= protocol.min_samples:
        half_width = found.relative_half_width
        if half_width is None or half_width > protocol.half_width * (1 + CLOCKS) + 1e-6:
            told = "unknown" if half_width is None else f"{half_width:.3%}"
            say = f"said to be precise to {protocol.half_width:.2%}, and its samples are to {told}"
            yield "error", "precision", f"{say}: samples were changed, added or left out"
    steady = stats.steadiness(one.samples_s).steady
    if steady is False and "not_steady" not in one.flags:
        yield "error", "steadiness", "its samples drift or step by over 1 %, and it is not flagged not_steady"
    if (found.rho1 or 0) > 0.91 and "strong_autocorrelation" not in one.flags:
        say = f"neighbouring samples correlate by {found.rho1:.2f}, and it is not flagged strong_autocorrelation"
        yield "error", "steadiness", say


def _protocols(session: Session) -> dict[str, record.Protocol]:
    """The protocol that each planned case was to be measured by: the one it names, else that of its scale."""
    found = {}
    for one in session.plan:
        with contextlib.suppress(UserError):  # a workload that is not known here
            name = one.protocol or workload.find(one.workload).scale
            if name in session.protocols:
                found[_place(one)] = session.protocols[name]
    return found


def _place(one: Record | Planned) -> str:
    return json.dumps((one.workload, one.params, one.device), sort_keys=True)


def _expected(one: Record) -> Expected:
    name = label(one.workload, one.params)
    if one.workload.startswith(workload.USERS_OWN):
        return Expected(label=name, unknown="a loop of its author's own, of which nothing is known here", extras={})
    try:
        kinds = workload.kinds(workload.find(one.workload))
        for key, value in one.params.items():
            if key in kinds and isinstance(kinds[key], type) and type(value) is not kinds[key]:
                return Expected(label=name, wrong_type=f"{key} must be of type {kinds[key].__name__}", extras={})
        case = workload.case(one.workload, dict(one.params))
        work = Work.of(case.work(one.extras) if one.samples_s else case.cost())
        return Expected(label=name, version=case.version, dtype=case.dtype, work=work, extras=case.extras())
    except UserError as error:
        return Expected(label=name, unknown=str(error), extras={})


def _work(one: Record, expected: Expected) -> Iterator[Said]:
    """The stored work, and the counted parameters, against what this version computes from the parameters."""
    if expected.wrong_type:
        yield "error", "params", expected.wrong_type
    if expected.unknown and one.status != "unsupported":  # a combination of a sweep that is no case says so itself
        yield "note", "work", f"its work cannot be computed anew here: {expected.unknown}"
    if expected.work is None or expected.version != one.version:
        return
    if expected.work != one.work:
        yield "error", "work", "the stored work is not what these parameters come to"
    if one.identity.dtype != expected.dtype:
        yield "error", "work", f"measured as {one.identity.dtype}, and its parameters say {expected.dtype}"
    for key in ("num_parameters", "trained_parameters"):
        told, counted = one.extras.get(key), expected.extras.get(key)
        if not (isinstance(told, float | int) and isinstance(counted, float | int)):
            continue
        if abs(told - counted) > COUNTED * abs(counted):
            say = f"{key} is {told:.4g}, and the model it is labelled with has {counted:.4g}"
            yield "error", "parameters", f"{say}: another model was measured, or the label is wrong"

"""Check: whether a file is what it says it is. Each finding says where, what was seen and what follows."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import record, stats, workload
from bench.errors import UserError
from bench.record import BadFile, Record, ResultFile
from bench.text import plain
from bench.workload import label


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`error` refuses the file; `note` is worth knowing."""

    file: str
    line: int | None
    level: Literal["error", "note"]
    message: str


def check(path: str | os.PathLike[str]) -> list[Finding]:
    """Everything found in the file at `path`; empty for one that is whole and sound."""
    name = plain(os.fspath(path))
    try:
        file = record.read(path)
    except BadFile as error:
        message = plain(str(error).removeprefix(f"{Path(path).name}: "), 500)
        return [Finding(file=name, line=None, level="error", message=message)]
    found = [*_session(name, file), *_places(name, file)]
    for number, one in enumerate(file.records, start=2):
        found += [
            Finding(file=name, line=number, level=level, message=plain(message, 500)) for level, message in _record(one)
        ]
    return found


def _session(name: str, file: ResultFile) -> list[Finding]:
    session = file.session
    notes = []
    if file.torn:
        notes.append("the last line was cut off: the run ended while it was written; everything before it is whole")
    if len(session.speeds) not in (0, len(session.devices)):
        notes.append(f"{len(session.speeds)} rough speeds for {len(session.devices)} devices")
    planned = {(label(one.workload, one.params), one.device) for one in session.plan}
    seen = {(label(one.workload, one.params), one.device, one.round) for one in file.records}
    missing = len(planned) * session.rounds - len({place for place in seen if place[:2] in planned})
    if missing > 0:
        notes.append(
            f"{missing} of {len(planned) * session.rounds} planned records are missing: continue with --resume"
        )
    return [Finding(file=name, line=None, level="note", message=note) for note in notes]


def _places(name: str, file: ResultFile) -> list[Finding]:
    """Each case, launch mode and round once, and no round that the session does not have."""
    found, seen = [], set()
    for number, one in enumerate(file.records, start=2):
        place = (label(one.workload, one.params), one.device, one.round, one.identity.launch)
        if place in seen:
            say = f"{plain(place[0])}: a second record of round {one.round}"
            found.append(Finding(file=name, line=number, level="error", message=say))
        if one.round >= file.session.rounds:
            say = f"{plain(place[0])}: round {one.round} of {file.session.rounds}, counted from 0"
            found.append(Finding(file=name, line=number, level="error", message=say))
        seen.add(place)
    return found


def _record(one: Record) -> list[tuple[Literal["error", "note"], str]]:
    found: list[tuple[Literal["error", "note"], str]] = []
    name = label(one.workload, one.params)
    if (one.status == "ok") != bool(one.samples_s):
        found.append(("error", f"{name}: status {one.status} with {len(one.samples_s)} samples"))
    if (one.status == "ok") != (one.reason is None):
        found.append(("error", f"{name}: status {one.status} needs {'no' if one.status == 'ok' else 'a'} reason"))
    if one.status == "ok" and one.timing is None:
        found.append(("error", f"{name}: measured, but without a word on how"))
    for field in ("timing", "check", "contention", "peak_memory_bytes", "energy", "telemetry"):
        if getattr(one, field) is None and not one.reasons.get(field):
            found.append(("error", f"{name}: {field} is unknown without a reason"))
    if any(not record.SHORTEST_S <= sample <= record.LONGEST_S for sample in one.samples_s):
        found.append(("error", f"{name}: a step took no time, or more than days"))
    if one.check and not one.check.error <= one.check.tolerance and "bad_output" not in one.flags:
        found.append(("error", f"{name}: error {one.check.error:.3g} over {one.check.tolerance:.3g}, not flagged"))
    if "bad_output" in one.flags:
        found.append(("note", f"{name}: its output is wrong, so its time counts for nothing"))
    if one.timing and one.samples_s and stats.median(one.samples_s) * one.timing.repeats > one.timing.window_s * 1.01:
        found.append(("error", f"{name}: a sample is longer than the window that it lies in"))
    found += _work(one, name)
    return found


def _work(one: Record, name: str) -> list[tuple[Literal["error", "note"], str]]:
    """The stored work against what this version computes from the parameters."""
    try:
        kinds = workload.kinds(workload.find(one.workload))
        for key, value in one.params.items():
            if key in kinds and isinstance(kinds[key], type) and type(value) is not kinds[key]:
                return [("error", f"{name}: {key} must be of type {kinds[key].__name__}")]
        case = workload.case(one.workload, dict(one.params))
        work = record.Work.of(case.work(one.extras) if one.samples_s else case.cost())
    except UserError as error:
        if one.status == "unsupported":
            return []  # a combination of a sweep that is no case says so itself
        return [("note", f"{name}: its work cannot be computed anew here: {error}")]
    if case.version == one.version and work != one.work:
        return [("error", f"{name}: the stored work is not what these parameters come to")]
    return []

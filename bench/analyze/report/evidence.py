"""Evidence: what the files say, sorted for a reader: kinds of device, their machines, the latest result of each case.

A file that the check refuses is in no figure and in no row; its findings are shown. Of several runs of one machine the
figures show the latest, and the table has all.
"""

import dataclasses
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from bench import chip, record, stats
from bench.analyze import check, table
from bench.analyze.check import Finding
from bench.analyze.summary import Summary, ceilings, extrapolated, summarize
from bench.analyze.table import Row
from bench.chip import Chip
from bench.errors import UserError
from bench.record import DeviceFacts, Key, ResultFile, Session
from bench.text import plain


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case of one device in one file."""

    summary: Summary
    row: Row
    doubted: bool = False  # `check` holds it in quarantine: shown, and no headline

    @property
    def key(self) -> str:
        """What it may be set beside: the method, and all that decides on a record's own comparability."""
        return f"{self.summary.session.harness.method} {self.summary.first.key()}"

    @property
    def measured(self) -> bool:
        """Whether there is a time that counts."""
        return self.row["step_s"] is not None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One device of one machine, over all its sessions here."""

    number: int  # among those of its kind, from 1
    facts: DeviceFacts  # of the latest session, as is the session
    session: Session
    latest: dict[str, Result] = field(repr=False)  # by key
    results: list[Result] = field(repr=False)  # of all sessions, in order of time

    def best(self, workload: str, value: str) -> Result | None:
        """The result of a workload with the largest such value, of those that are not in quarantine."""
        found = [
            one
            for one in self.latest.values()
            if one.row["workload"] == workload and one.row[value] is not None and not one.doubted
        ]
        return max(found, key=lambda one: float(one.row[value]), default=None)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Devices with the same name; CPUs also with as many threads."""

    name: str
    short: str
    series: int  # its colour and shape; those beyond svg.SERIES are not drawn
    chip: Chip | None  # its datasheet, where the catalog has this very device
    machines: list[Machine]

    def results(self) -> dict[str, list[Result]]:
        """What was measured of each case, a result for each machine that has it."""
        found: dict[str, list[Result]] = {}
        for machine in self.machines:
            for key, one in machine.latest.items():
                if one.measured:
                    found.setdefault(key, []).append(one)
        return found

    def label(self, machine: Machine) -> str:
        """The machine's name among all: numbered where there are several of its kind."""
        return self.short if len(self.machines) == 1 else f"{self.short} no. {machine.number}"


@dataclass(frozen=True, kw_only=True)
class Middle:
    """A value over machines of one kind: their median, the lowest, the highest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Middle":
        """Of one or more values."""
        return cls(median=stats.median(values), low=min(values), high=max(values), count=len(values))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All of it."""

    kinds: list[Kind]
    findings: list[Finding]  # the file's name without its folder
    num_files: int
    refused: list[str]

    @property
    def machines(self) -> list[tuple[Kind, Machine]]:
        """Every machine with its kind."""
        return [(kind, machine) for kind in self.kinds for machine in kind.machines]


def gather(paths: Iterable[str | os.PathLike[str]], *, accepted: Iterable[str] = ()) -> Evidence:
    """Reads and checks the files. Raises UserError when there is none, or none that may be used. `accepted`: ids of
    files that are far from others, and that somebody has looked at.
    """
    found, read, refused = [], [], []
    everything = table.expand(paths)
    for path in everything:
        name = plain(path.name)
        own = [dataclasses.replace(one, file=name) for one in check.check(path)]
        found += own
        if any(one.level == "error" for one in own):
            refused.append(name)
        else:
            read.append(record.read(path))
    if not read:
        first = next(one for one in found if one.level == "error")
        raise UserError(
            f"{len(refused)} of {len(refused)} files are refused, so there is nothing to report; {first.file}: "
            f"{first.message} (`accelmark check` shows all)"
        )
    made = kinds(read, check.quarantined(read, accepted=accepted))
    return Evidence(kinds=made, findings=found, num_files=len(everything), refused=refused)


def kinds(read: Sequence[ResultFile], in_quarantine: Container[Key] = ()) -> list[Kind]:
    """The devices of these files by kind, those with most machines first."""
    summaries = summarize(read)
    roofs = ceilings(summaries)
    by_machine: dict[tuple[str, ...], dict[tuple[str, ...], list[Result]]] = {}
    for one in [*summaries, *extrapolated(summaries)]:
        kind, machine = _identity(one.session, one.first.device)
        row = table.row(one, roofs[one.session.id, one.first.device])
        doubted = (one.session.id, one.first.device, one.first.key()) in in_quarantine
        by_machine.setdefault(kind, {}).setdefault(machine, []).append(Result(summary=one, row=row, doubted=doubted))
    ordered = sorted(by_machine.items(), key=lambda item: (-len(item[1]), item[0]))
    names = [_short(found) for _, found in ordered]
    return [
        Kind(
            name=plain(" ".join(kind), 60),
            short=short if names.count(short) == 1 else f"{short[:12]} ({number + 1})",
            series=number,
            chip=_chip(found),
            machines=_machines(found),
        )
        for number, ((kind, found), short) in enumerate(zip(ordered, names, strict=True))
    ]


def _identity(session: Session, device: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Kind and machine. A board is known by its UUID's hash; without one, by the host and its place in it, so that two
    hosts that are alike in every respect count as one.
    """
    facts, host = session.devices[device], session.host
    kind = (facts.name, f"({host.threads} threads)") if facts.vendor == "cpu" else (facts.name,)
    if facts.uuid_hash:
        return kind, (facts.uuid_hash,)
    return kind, (host.cpu, str(host.cores), str(round(host.memory_bytes / 2**30)), facts.spec)


def _short(machines: dict[tuple[str, ...], list[Result]]) -> str:
    """A name that fits beside a line: the catalog's, else the beginning of the device's own."""
    first = next(iter(machines.values()))[0]
    facts = first.summary.session.devices[first.summary.first.device]
    threads = f" {first.summary.session.host.threads} thr." if facts.vendor == "cpu" else ""
    return plain(facts.chip or facts.name.removeprefix("NVIDIA "), 16 - len(threads)) + threads


def _chip(machines: dict[tuple[str, ...], list[Result]]) -> Chip | None:
    first = next(iter(machines.values()))[0].summary
    name = first.session.devices[first.first.device].chip
    try:
        return None if name is None else chip.find(name)
    except UserError:  # a newer catalog than ours
        return None


def _machines(found: dict[tuple[str, ...], list[Result]]) -> list[Machine]:
    """Numbered by when they were first measured."""
    runs = [sorted(results, key=lambda one: (one.row["started"], one.row["session"])) for results in found.values()]
    runs.sort(
        key=lambda results: (results[0].row["started"], results[0].row["session"], results[0].summary.first.device)
    )
    return [_machine(number, results) for number, results in enumerate(runs, start=1)]


def _machine(number: int, results: list[Result]) -> Machine:
    latest: dict[str, Result] = {}
    for one in results:
        if one.measured or one.key not in latest:  # a later failure takes nothing away
            latest[one.key] = one
    last = results[-1].summary
    return Machine(
        number=number,
        facts=last.session.devices[last.first.device],
        session=last.session,
        latest=latest,
        results=results,
    )

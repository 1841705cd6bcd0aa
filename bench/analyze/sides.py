"""Sides: the two that are compared. Which rounds are of one case, what must be equal, what else differs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bench import stats
from bench.analyze import where as conditions
from bench.analyze.row import row
from bench.analyze.shared import place
from bench.analyze.summary import Summary, ceilings, summarize
from bench.record import Record, ResultFile, Session

# A case, its device and its place among the session's devices of that name; sides of two kinds of device share cases.
Place = tuple[str, str, int]


@dataclass(frozen=True)
class Side:
    """One case on one side: its rounds, over one or several files and machines."""

    summaries: list[Summary]

    @property
    def records(self) -> list[Record]:
        """The rounds that count, in order of time."""
        return sorted((record for one in self.summaries for record in one.valid), key=lambda record: record.started)

    @property
    def vendor(self) -> str:
        """Of its device."""
        return self.summaries[0].session.devices[self.summaries[0].first.device].vendor

    @property
    def launches_s(self) -> list[float]:
        """The median of each round, in order of time."""
        return [stats.median(record.samples_s) for record in self.records]

    @property
    def machines(self) -> dict[str, float]:
        """The geometric mean of each machine's rounds, by its name."""
        found: dict[str, list[float]] = {}
        for one in self.summaries:
            if one.valid:
                found.setdefault(place.one_board(one.session, one.first.device), []).extend(one.launches_s)
        return {name: stats.geometric_mean(launches_s) for name, launches_s in sorted(found.items())}


def selected(files: Sequence[ResultFile], where: str) -> list[Summary]:
    """The cases of a side that an expression asks for. Raises UserError."""
    summaries = summarize(files)
    if not where:
        return summaries
    roofs, wanted = ceilings(summaries), conditions.parse(where)
    rows = [row(one, roofs[one.session.id, one.first.device]) for one in summaries]
    for condition in wanted:
        conditions.check_field(condition.field, rows)
    return [
        summary
        for summary, made in zip(summaries, rows, strict=True)
        if all(condition.holds(made.get(condition.field)) for condition in wanted)
    ]


def other_devices(before: Sequence[Summary], after: Sequence[Summary]) -> bool:
    """Whether the device is what the sides differ in: none of one side is on the other."""
    return bool(before and after) and {one.device for one in before}.isdisjoint(one.device for one in after)


def by_case(summaries: Sequence[Summary], *, across: bool) -> dict[Place, Side]:
    """Cases with what is of one: several files are more rounds. `across`: whatever the device."""
    cases: dict[Place, Side] = {}
    for one in summaries:
        number = sum(facts.name == one.device for facts in one.session.devices[: one.first.device])
        place = (one.case, "", 0) if across else (one.case, one.device, number)
        cases.setdefault(place, Side([])).summaries.append(one)
    return cases


def incomparable(before: Side, after: Side, *, across: bool) -> str:
    """The first thing that must be equal and is not, or nothing. Of two kinds of device each has its own limit."""
    told = [[_conditions(one) for one in side.summaries if one.valid] for side in (before, after)]
    for side in told:
        for name, value in side[0].items():
            if others := [one[name] for one in side if one[name] != value]:
                return f"{name} differs within one side: {value} and {others[0]}; --where can select one of them"
    for name, value in told[0][0].items():
        if value != told[1][0][name] and not (across and name in {"device", "power limit"}):
            return f"{name}: {value} and {told[1][0][name]}"
    return ""


def _conditions(summary: Summary) -> dict[str, Any]:
    """What must be equal for two times to be compared."""
    record, facts = summary.valid[0], summary.session.devices[summary.first.device]
    return {
        "device": facts.name,
        "method": summary.session.harness.method,
        f"{record.workload} version": record.version,
        **msgspec.structs.asdict(record.identity),
        "power limit": facts.readings.get("power_limit_w"),
    }


def differences(before: list[Session], after: list[Session]) -> list[str]:
    """What else differs between the sides, so that nobody takes one change for another."""

    def facts(sessions: list[Session]) -> dict[str, str]:
        found: dict[str, set[str]] = {}
        for session in sessions:
            values = {
                "accelmark": session.harness.version,
                "commit": session.harness.commit or "unknown",
                "kernel": session.host.kernel,
                "cpu": session.host.cpu,
                "threads": str(session.host.threads),
                "governor": session.host.governor or "unknown",
                **session.software,
                **session.host.settings,
            }
            for number, device in enumerate(session.devices):
                values |= {f"device {number}": device.name, f"driver {number}": device.driver or "unknown"}
                values |= {f"board {number}": device.uuid_hash or "unknown"}
            for name, value in values.items():
                found.setdefault(name, set()).add(value)
        return {
            name: ", ".join(sorted(values)) if len(values) <= 3 else f"{len(values)} different ones"
            for name, values in found.items()
        }

    one, other = facts(before), facts(after)
    return [
        f"{name}: {one.get(name, 'unknown')} and {other.get(name, 'unknown')}"
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]

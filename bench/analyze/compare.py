"""Compare: is one side really faster, judged by independent starts of the program and not by iterations of one.

Within one start, samples agree far better than starts do with each other, so a test on samples calls identical programs
different most of the time. Here the median of one round is one observation (Kalibera & Jones 2013); a difference is
estimated as a ratio of times, with Student's t on logarithms, and named only if it is larger than what rounds, and
where the sides were not interleaved also sittings, differ by on their own.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from bench import stats, units
from bench.analyze.summary import Summary, summarize
from bench.record import Record, ResultFile, Session

# Two sides measured one after the other differ by the drift of the machine between the two sittings: temperature,
# neighbours, page layout. Standard deviation of what a sitting does to the logarithm of a time beyond what its rounds
# show, and how sure we are of it in degrees of freedom. For CPUs from runs of the same thing (README, "Comparing");
# elsewhere assumed.
SITTING_SD = {"cpu": 0.015}
SITTING_SD_ELSEWHERE = 0.01
SITTING_DF = 30
# Differences smaller than this do not matter to anybody.
THRESHOLD = 0.02
# A single round on a side says nothing of how rounds differ; this is assumed then.
LAUNCH_SD = 0.01
FALSE_DISCOVERIES = 0.05
# Boards leak more when they are warm: sides that began further apart than this are not in the same state.
SAME_TEMPERATURE_C = 5.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One case on both sides. `ratio` is time after by time before, each the geometric mean of its rounds: above one is
    slower.
    """

    case: str
    device: str
    verdict: str  # equivalent, faster, slower, inconclusive, not comparable
    reason: str
    before_s: float | None = None
    after_s: float | None = None
    rounds: tuple[int, int] = (0, 0)
    ratio: float | None = None
    interval95: tuple[float, float] | None = None
    p_value: float | None = None
    interleaved: bool = False
    lost: bool = False  # valid before, and failed or wrong after


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The whole comparison."""

    rows: list[Comparison]
    only_before: list[str]
    only_after: list[str]
    differences: list[str]  # of the two sides' environments

    def count(self, verdict: str) -> int:
        """How many rows have this verdict."""
        return sum(row.verdict == verdict for row in self.rows)


_Place = tuple[str, str, int]


@dataclass(frozen=True)
class _Side:
    """One case on one side: its rounds, over one or several files."""

    summaries: list[Summary]

    @property
    def records(self) -> list[Record]:
        return sorted((record for one in self.summaries for record in one.valid), key=lambda record: record.started)

    @property
    def vendor(self) -> str:
        return self.summaries[0].session.devices[self.summaries[0].first.device].vendor

    @property
    def launches_s(self) -> list[float]:
        return [stats.median(record.samples_s) for record in self.records]


def compare(before: Sequence[ResultFile], after: Sequence[ResultFile], *, threshold: float = THRESHOLD) -> Compared:
    """Every case that both sides have, with a verdict; the rest is listed."""
    sides = [_by_case(summarize(files)) for files in (before, after)]
    common = [case for case in sides[0] if case in sides[1]]
    pairs = [(sides[0][case], sides[1][case]) for case in common]
    rows = _marked([_compared(*pair, threshold) for pair in pairs])
    return Compared(
        rows=rows,
        only_before=[_name(case) for case in sides[0] if case not in sides[1]],
        only_after=[_name(case) for case in sides[1] if case not in sides[0]],
        differences=_differences([file.session for file in before], [file.session for file in after]),
    )


def _by_case(summaries: list[Summary]) -> dict[_Place, _Side]:
    """Cases by name, device and its place among those of its name; several files of one side are more rounds."""
    cases: dict[_Place, _Side] = {}
    for one in summaries:
        place = sum(facts.name == one.device for facts in one.session.devices[: one.first.device])
        cases.setdefault((one.case, one.device, place), _Side([])).summaries.append(one)
    return cases


def _name(place: _Place) -> str:
    return f"{place[0]} on {place[1]}"


def _compared(before: _Side, after: _Side, threshold: float) -> Comparison:
    first = before.summaries[0]

    def refused(reason: str, lost: bool = False) -> Comparison:
        return Comparison(case=first.case, device=first.device, verdict="not comparable", reason=reason, lost=lost)

    for name, side in (("before", before), ("after", after)):
        if not side.launches_s:
            status = ", ".join(sorted({one.status for one in side.summaries}))
            return refused(f"no valid round {name}: {status}", lost=bool(before.launches_s))
    if reason := _incomparable(before, after):
        return refused(reason)
    interleaved = _interleaved(before.records, after.records)
    ratio = _ratio(before, after, interleaved)
    assert ratio is not None
    found, reason = stats.verdict(ratio, threshold), ""
    if doubt := found in {"faster", "slower"} and _doubt(before, after, math.log(ratio.ratio)):
        found, reason = "inconclusive", doubt
    elif found in {"faster", "slower"}:
        reason = _hint(before, after, math.log(ratio.ratio), threshold)
    return Comparison(
        case=first.case,
        device=first.device,
        verdict=found,
        reason=reason,
        before_s=stats.geometric_mean(before.launches_s),
        after_s=stats.geometric_mean(after.launches_s),
        rounds=(len(before.launches_s), len(after.launches_s)),
        ratio=ratio.ratio,
        interval95=(ratio.interval95.low, ratio.interval95.high),
        p_value=ratio.p_value,
        interleaved=interleaved,
    )


def _incomparable(before: _Side, after: _Side) -> str:
    """The first thing that must be equal and is not, or nothing."""
    conditions = [[_conditions(one) for one in side.summaries if one.valid] for side in (before, after)]
    for side in conditions:
        if any(one != side[0] for one in side):
            return "one side has different versions, modes or power limits in it"
    for name, value in conditions[0][0].items():
        if value != conditions[1][0][name]:
            return f"{name}: {value} and {conditions[1][0][name]}"
    return ""


def _conditions(summary: Summary) -> dict[str, Any]:
    """What must be equal for two times to be compared."""
    record, facts = summary.valid[0], summary.session.devices[summary.first.device]
    return {
        "method": summary.session.harness.method,
        f"{record.workload} version": record.version,
        **msgspec.structs.asdict(record.identity),
        "power limit": facts.readings.get("power_limit_w"),
    }


def _doubt(before: _Side, after: _Side, log_ratio: float) -> str:
    """Why a difference that the numbers show is not to be believed, or nothing."""
    if any("below_timer_floor" in record.flags for side in (before, after) for record in side.records):
        return "samples are too short for the clock"
    # What other programs and guests took of a CPU, where that may be half of the difference. Taken from both sides
    # alike, as some hypervisors do under heavy load, it explains nothing.
    taken = [_taken(side) for side in (before, after)]
    if before.vendor == "cpu" and abs(taken[1] - taken[0]) > abs(log_ratio) / 2:
        shares = " and ".join(f"{100 * share:.0f} %" for share in taken)
        return f"others took {shares} of the CPU"
    return ""


def _hint(before: _Side, after: _Side, log_ratio: float, threshold: float) -> str:
    """What may have made the difference: another clock, when in cycles there is none, or another temperature."""
    clocks = [_told(side, "clock_hz", first=False) for side in (before, after)]
    left = abs(log_ratio + math.log(clocks[1] / clocks[0])) if all(clocks) else math.inf
    if left < min(math.log1p(threshold), abs(log_ratio) / 2):
        return "the clock explains it: " + " and ".join(units.scaled(clock, "Hz") for clock in clocks)
    began = [_told(side, "temperature_c", first=True) for side in (before, after)]
    if all(began) and abs(began[1] - began[0]) > SAME_TEMPERATURE_C:
        return "the sides began at " + " and ".join(f"{celsius:.0f} °C" for celsius in began)
    return ""


def _told(side: _Side, name: str, *, first: bool) -> float:
    """Mean over a side's rounds of what was told of a quantity, at first or over the window; 0 where it was not."""
    told = [one.telemetry.series[name].values for one in side.records if one.telemetry and name in one.telemetry.series]
    means = [values[0] if first else statistics.fmean(values) for values in told if values]
    return statistics.fmean(means) if means else 0.0


def _taken(side: _Side) -> float:
    """Share of CPU time that the rounds of a side lost to other programs and to the hypervisor's other guests."""
    found = [record.contention for record in side.records if record.contention]
    return statistics.fmean((one.pressure or 0.0) + (one.stolen or 0.0) for one in found) if found else 0.0


def _interleaved(before: list[Record], after: list[Record]) -> bool:
    """Whether the sides took turns: in order of time the rounds change sides at least as often as a side has rounds."""
    if len(before) != len(after) or len(before) < 2:
        return False
    order = sorted([(record.started, 0) for record in before] + [(record.started, 1) for record in after])
    turns = sum(one[1] != other[1] for one, other in itertools.pairwise(order))
    return turns >= len(before)


def _ratio(before: _Side, after: _Side, interleaved: bool) -> stats.Ratio | None:
    if interleaved:
        return stats.paired_ratio(before.launches_s, after.launches_s)
    sitting_sd = SITTING_SD.get(before.vendor, SITTING_SD_ELSEWHERE)
    # One round alone shows no spread of its own: it brings the assumed one.
    alone = sum(len(side.launches_s) == 1 for side in (before, after))
    extra = 2 * sitting_sd**2 + alone * LAUNCH_SD**2
    return stats.welch_ratio(before.launches_s, after.launches_s, extra_variance=extra, extra_df=SITTING_DF)


def _marked(rows: list[Comparison]) -> list[Comparison]:
    """Of many cases some differ by chance: differences that Benjamini & Hochberg (1995) do not keep say so."""
    tested = [row for row in rows if row.p_value is not None]
    kept = stats.benjamini_hochberg([row.p_value for row in tested if row.p_value is not None], FALSE_DISCOVERIES)
    doubtful = {id(row) for row, keep in zip(tested, kept, strict=True) if not keep}
    say = f"may be chance, as one of {len(tested)} comparisons"
    return [
        replace(row, reason="; ".join(filter(None, (say, row.reason))))
        if row.verdict in {"faster", "slower"} and id(row) in doubtful
        else row
        for row in rows
    ]


def _differences(before: list[Session], after: list[Session]) -> list[str]:
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
        return {name: ", ".join(sorted(values)) for name, values in found.items()}

    one, other = facts(before), facts(after)
    return [
        f"{name}: {one.get(name, 'unknown')} and {other.get(name, 'unknown')}"
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]

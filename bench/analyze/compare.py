"""Compare: is one side really faster, judged by independent starts of the program and not by iterations of one.

Within one start, samples agree far better than starts do with each other, so a test on samples calls identical programs
different most of the time. Here the median of one round is one observation (Kalibera & Jones 2013); a difference is
estimated as a ratio of times, with Student's t on logarithms, and named only if it is larger than what rounds, and
where the sides were not interleaved also sittings, differ by on their own.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import stats
from bench.analyze.summary import Summary, summarize
from bench.record import Record, ResultFile, Session

# Two sides measured one after the other differ by the drift of the machine between the two sittings: temperature,
# neighbours, page layout. Least standard deviation of what a sitting does to the logarithm of a time, and how sure we
# are of it in degrees of freedom. For CPUs from pairs of identical runs (README, "Comparing"); elsewhere assumed.
SITTING_SD = {"cpu": 0.015}
SITTING_SD_ELSEWHERE = 0.01
SITTING_DF = 30
# From this many cases on, the cases themselves show the drift: what most of them share is the machine's.
CASES_THAT_SHOW_DRIFT = 5
# Differences smaller than this do not matter to anybody.
THRESHOLD = 0.02
# A single round on a side says nothing of how rounds differ; this is assumed then.
LAUNCH_SD = 0.01
FALSE_DISCOVERIES = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One case on both sides. `ratio` is time after by time before: above one is slower."""

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


@dataclass(frozen=True)
class _Side:
    """One case on one side: its rounds, over one or several files."""

    summaries: list[Summary]

    @property
    def records(self) -> list[Record]:
        return sorted((record for one in self.summaries for record in one.valid), key=lambda record: record.started)

    @property
    def launches_s(self) -> list[float]:
        return [stats.median(record.samples_s) for record in self.records]


def compare(before: Sequence[ResultFile], after: Sequence[ResultFile], *, threshold: float = THRESHOLD) -> Compared:
    """Every case that both sides have, with a verdict; the rest is listed."""
    sides = [_by_case(summarize(files)) for files in (before, after)]
    common = [case for case in sides[0] if case in sides[1]]
    pairs = [(sides[0][case], sides[1][case]) for case in common]
    drift = _drift(pairs)
    rows = _without_false_discoveries([_compared(*pair, drift, threshold) for pair in pairs])
    return Compared(
        rows=rows,
        only_before=[_name(case) for case in sides[0] if case not in sides[1]],
        only_after=[_name(case) for case in sides[1] if case not in sides[0]],
        differences=_differences([file.session for file in before], [file.session for file in after]),
    )


def _by_case(summaries: list[Summary]) -> dict[tuple[str, str], _Side]:
    """Cases by name and device; several files of one side are more rounds of the same."""
    cases: dict[tuple[str, str], _Side] = {}
    for one in summaries:
        cases.setdefault((one.case, one.device), _Side([])).summaries.append(one)
    return cases


def _name(case: tuple[str, str]) -> str:
    return f"{case[0]} on {case[1]}"


def _drift(pairs: Sequence[tuple[_Side, _Side]]) -> float:
    """Standard deviation of a sitting's effect, as the cases show it: their typical change, whatever its sign.

    The median holds as long as fewer than half of the cases really changed. 1.4826 makes a median absolute deviation a
    standard deviation (Hampel 1974); a difference has the effects of two sittings in it.
    """
    changes = [
        abs(math.log(stats.median(after.launches_s) / stats.median(before.launches_s)))
        for before, after in pairs
        if before.launches_s and after.launches_s and not _incomparable(before, after)
    ]
    return stats.MAD_TO_SD * stats.median(changes) / math.sqrt(2) if len(changes) >= CASES_THAT_SHOW_DRIFT else 0.0


def _compared(before: _Side, after: _Side, drift: float, threshold: float) -> Comparison:
    first = before.summaries[0]

    def refused(reason: str) -> Comparison:
        return Comparison(case=first.case, device=first.device, verdict="not comparable", reason=reason)

    for name, side in (("before", before), ("after", after)):
        if not side.launches_s:
            status = ", ".join(sorted({one.status for one in side.summaries}))
            return refused(f"no valid round {name}: {status}")
    if reason := _incomparable(before, after):
        return refused(reason)
    interleaved = _interleaved(before.records, after.records)
    ratio = _ratio(before, after, drift, interleaved)
    assert ratio is not None
    flags = {flag for side in (before, after) for record in side.records for flag in record.flags}
    found, reason = stats.verdict(ratio, threshold), ""
    if found in {"faster", "slower"} and "below_timer_floor" in flags:
        found, reason = "inconclusive", "samples are too short for the clock"
    return Comparison(
        case=first.case,
        device=first.device,
        verdict=found,
        reason=reason,
        before_s=stats.median(before.launches_s),
        after_s=stats.median(after.launches_s),
        rounds=(len(before.launches_s), len(after.launches_s)),
        ratio=ratio.ratio,
        interval95=(ratio.interval95.low, ratio.interval95.high),
        p_value=ratio.p_value,
        interleaved=interleaved,
    )


def _incomparable(before: _Side, after: _Side) -> str:
    """The first thing that must be equal and is not, or nothing."""
    one, other = before.summaries[0], after.summaries[0]
    if one.session.harness.method != other.session.harness.method:
        return f"method {one.session.harness.method} and {other.session.harness.method}"
    if one.first.version != other.first.version:
        return f"{one.first.workload} version {one.first.version} and {other.first.version}"
    for side in (before, after):
        if len({record.key() for record in side.records}) > 1:
            return "the rounds of one side were measured in different modes"
    mine, theirs = before.records[0].identity, after.records[0].identity
    for field in mine.__struct_fields__:
        if getattr(mine, field) != getattr(theirs, field):
            return f"{field}: {getattr(mine, field)} and {getattr(theirs, field)}"
    limits = [
        side.summaries[0].session.devices[side.summaries[0].first.device].readings.get("power_limit_w")
        for side in (before, after)
    ]
    if limits[0] != limits[1]:
        return f"power limit: {limits[0]} W and {limits[1]} W"
    return ""


def _interleaved(before: list[Record], after: list[Record]) -> bool:
    """Whether the sides took turns: of the rounds in order of time, no side had all of its own in one stretch."""
    if len(before) != len(after) or len(before) < 2:
        return False
    order = sorted([(record.started, 0) for record in before] + [(record.started, 1) for record in after])
    turns = sum(one[1] != other[1] for one, other in itertools.pairwise(order))
    return turns >= len(before)


def _ratio(before: _Side, after: _Side, drift: float, interleaved: bool) -> stats.Ratio | None:
    if interleaved:
        return stats.paired_ratio(before.launches_s, after.launches_s)
    vendor = before.summaries[0].session.devices[before.summaries[0].first.device].vendor
    sitting_variance = 2 * max(drift, SITTING_SD.get(vendor, SITTING_SD_ELSEWHERE)) ** 2
    # One round alone shows no spread of its own: it brings the assumed one.
    single = sum(LAUNCH_SD**2 for side in (before, after) if len(side.launches_s) == 1)
    return stats.welch_ratio(
        before.launches_s, after.launches_s, extra_variance=sitting_variance + single, extra_df=SITTING_DF
    )


def _without_false_discoveries(rows: list[Comparison]) -> list[Comparison]:
    """Of many comparisons some differ by chance: differences that Benjamini & Hochberg (1995) do not keep are open."""
    tested = [row for row in rows if row.p_value is not None]
    kept = dict(
        zip(
            map(id, tested),
            stats.benjamini_hochberg([row.p_value for row in tested if row.p_value is not None], FALSE_DISCOVERIES),
            strict=True,
        )
    )
    return [
        replace(row, verdict="inconclusive", reason=f"one of {len(tested)} comparisons: chance explains it")
        if row.verdict in {"faster", "slower"} and not kept[id(row)]
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

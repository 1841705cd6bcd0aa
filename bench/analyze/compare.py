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
from typing import Any

import msgspec

from bench import stats
from bench.analyze.summary import Summary, summarize
from bench.record import Record, ResultFile, Session

# Two sides measured one after the other differ by the drift of the machine between the two sittings: temperature,
# neighbours, page layout. Least standard deviation of what a sitting does to the logarithm of a time, and how sure we
# are of it in degrees of freedom. For CPUs from pairs of identical runs (README, "Comparing"); elsewhere assumed.
SITTING_SD = {"cpu": 0.015}
SITTING_SD_ELSEWHERE = 0.01
SITTING_DF = 30
# From this many cases on, the cases themselves show the drift: what most of them share is taken for the machine's, up
# to so many times the least. A change of everything beyond that is nobody's drift.
CASES_THAT_SHOW_DRIFT = 5
LARGEST_DRIFT = 4.0
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
    typical_change: float | None  # median of |ratio - 1| over the cases; None with few cases

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
    typical = _typical_change(pairs)
    rows = _without_false_discoveries([_compared(*pair, typical or 0.0, threshold) for pair in pairs])
    return Compared(
        rows=rows,
        only_before=[_name(case) for case in sides[0] if case not in sides[1]],
        only_after=[_name(case) for case in sides[1] if case not in sides[0]],
        differences=_differences([file.session for file in before], [file.session for file in after]),
        typical_change=None if typical is None else math.expm1(typical),
    )


def _by_case(summaries: list[Summary]) -> dict[_Place, _Side]:
    """Cases by name, device and its number; several files of one side are more rounds of the same."""
    cases: dict[_Place, _Side] = {}
    for one in summaries:
        cases.setdefault((one.case, one.device, one.first.device), _Side([])).summaries.append(one)
    return cases


def _name(place: _Place) -> str:
    return f"{place[0]} on {place[1]}"


def _typical_change(pairs: Sequence[tuple[_Side, _Side]]) -> float | None:
    """Median over the cases of |logarithm of the ratio|; None where the cases are too few to tell."""
    changes = [
        abs(math.log(stats.median(after.launches_s) / stats.median(before.launches_s)))
        for before, after in pairs
        if before.launches_s and after.launches_s and not _incomparable(before, after)
    ]
    return stats.median(changes) if len(changes) >= CASES_THAT_SHOW_DRIFT else None


def _sitting_variance(vendor: str, typical_change: float) -> float:
    """Variance that two sittings bring into the logarithm of a ratio.

    At least the assumed one, and more where the cases show more: their typical change holds as a measure of drift as
    long as fewer than half of them really changed. 1.4826 makes a median absolute deviation a standard deviation
    (Hampel 1974), which of a difference covers both sittings.
    """
    least = math.sqrt(2) * SITTING_SD.get(vendor, SITTING_SD_ELSEWHERE)
    return min(max(least, stats.MAD_TO_SD * typical_change), LARGEST_DRIFT * least) ** 2


def _compared(before: _Side, after: _Side, typical_change: float, threshold: float) -> Comparison:
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
    ratio = _ratio(before, after, typical_change, interleaved)
    assert ratio is not None
    found, reason = stats.verdict(ratio, threshold), ""
    if doubt := found in {"faster", "slower"} and _doubt(before, after):
        found, reason = "inconclusive", doubt
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


def _doubt(before: _Side, after: _Side) -> str:
    """Why a difference that the numbers show is not to be believed, or nothing."""
    for side in (before, after):
        flags = [record.flags for record in side.records]
        if any("below_timer_floor" in one for one in flags):
            return "samples are too short for the clock"
        if side.vendor == "cpu" and 2 * sum("host_noisy" in one for one in flags) >= len(flags):
            return "other programs kept the host busy"
    return ""


def _interleaved(before: list[Record], after: list[Record]) -> bool:
    """Whether the sides took turns: of the rounds in order of time, no side had all of its own in one stretch."""
    if len(before) != len(after) or len(before) < 2:
        return False
    order = sorted([(record.started, 0) for record in before] + [(record.started, 1) for record in after])
    turns = sum(one[1] != other[1] for one, other in itertools.pairwise(order))
    return turns >= len(before)


def _ratio(before: _Side, after: _Side, typical_change: float, interleaved: bool) -> stats.Ratio | None:
    if interleaved:
        return stats.paired_ratio(before.launches_s, after.launches_s)
    sitting_variance = _sitting_variance(before.vendor, typical_change)
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

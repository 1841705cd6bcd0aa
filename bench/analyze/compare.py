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
from dataclasses import dataclass, field, replace

from bench import stats, units
from bench.analyze.score import Error, Score, score
from bench.analyze.sides import Place, Side, by_case, differences, incomparable, other_devices, selected
from bench.record import Record, ResultFile

# Two sides measured one after the other differ by the drift of the machine between the two sittings: temperature,
# neighbours, page layout. Standard deviation of what a sitting does to the logarithm of a time beyond what its rounds
# show, and how sure we are of it in degrees of freedom. For CPUs from runs of the same thing (METHOD.md, "Comparing");
# elsewhere assumed.
SITTING_SD = {"cpu": 0.015}
SITTING_SD_ELSEWHERE = 0.01
SITTING_DF = 30
ALONE = "a side has one round, and one round does not say how far rounds differ"
# Differences smaller than this do not matter to anybody.
THRESHOLD = 0.02
# A single round on a side says nothing of how rounds differ. This is assumed for the interval then, and no verdict is
# given. For CPUs what rounds of `quick` differ by (DECISIONS.md, 2026-11-27); elsewhere assumed.
LAUNCH_SD = {"cpu": 0.07}
LAUNCH_SD_ELSEWHERE = 0.01
FALSE_DISCOVERIES = 0.05
CONFIDENCE = 0.95
# One machine says nothing of how machines of its model differ. Assumed then: 5 % and more within a node are known
# (stas00/ml-engineering, issue 117), up to 22 % in a large installation (Sinha et al., SC22).
MACHINE_SD = 0.03
# From so many machines a side on a comparison speaks of models (method: five independent units are the least).
MODEL_MACHINES = 5
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
    machines: tuple[int, int] = (0, 0)
    lost: bool = False  # valid before, and failed or wrong after
    error: Error | None = None  # of the ratio's logarithm


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The whole comparison."""

    rows: list[Comparison]
    only_before: list[str]
    only_after: list[str]
    differences: list[str]  # of the two sides' environments
    notes: list[str] = field(default_factory=list)  # how far the verdicts reach
    score: Score | None = None

    def count(self, verdict: str) -> int:
        """How many rows have this verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def compare(
    before: Sequence[ResultFile], after: Sequence[ResultFile], *, threshold: float = THRESHOLD, where: str = ""
) -> Compared:
    """Every case that both sides have, with a verdict; the rest is listed.

    Sides without a device in common are compared case by case: the device is then what makes the difference.
    """
    found = [selected(files, where) for files in (before, after)]
    across = other_devices(*found)
    sides = [by_case(summaries, across=across) for summaries in found]
    pairs = [(sides[0][case], sides[1][case]) for case in sides[0] if case in sides[1]]
    rows = _marked([_compared(*pair, threshold, across=across) for pair in pairs])
    only = [[_name(case) for case in one if case not in other] for one, other in (sides, sides[::-1])]
    tested = [pair for row, pair in zip(rows, pairs, strict=True) if row.ratio is not None]
    return Compared(
        rows=rows,
        only_before=only[0],
        only_after=only[1],
        differences=differences(*([one.session for one in files] for files in (before, after))),
        notes=_notes(rows, pairs),
        score=_believed(score(rows, len(rows) + len(only[0]) + len(only[1])), tested),
    )


def _name(place: Place) -> str:
    return f"{place[0]} on {place[1]}" if place[1] else place[0]


def _compared(before: Side, after: Side, threshold: float, *, across: bool) -> Comparison:
    case, device = before.summaries[0].case, before.summaries[0].device
    if across:
        device += f" and {after.summaries[0].device}"

    def refused(reason: str, lost: bool = False) -> Comparison:
        return Comparison(case=case, device=device, verdict="not comparable", reason=reason, lost=lost)

    for name, side in (("before", before), ("after", after)):
        if not side.launches_s:
            status = ", ".join(sorted({one.status for one in side.summaries}))
            return refused(f"no valid round {name}: {status}", lost=bool(before.launches_s))
    if reason := incomparable(before, after, across=across):
        return refused(reason)
    interleaved = _interleaved(before.records, after.records)
    ratio, common = _ratio(before, after, interleaved)
    found, reason = stats.verdict(ratio, threshold), ""
    if found != "inconclusive" and _alone(before, after):
        found, reason = "inconclusive", ALONE
    elif doubt := found in {"faster", "slower"} and _doubt(before, after, math.log(ratio.ratio)):
        found, reason = "inconclusive", doubt
    elif found in {"faster", "slower"} and not across:
        reason = _hint(before, after, math.log(ratio.ratio), threshold)
    return Comparison(
        case=case,
        device=device,
        verdict=found,
        reason="; ".join(filter(None, (reason, "" if across else _chosen(before, after)))),
        before_s=_typical(before),
        after_s=_typical(after),
        rounds=(len(before.launches_s), len(after.launches_s)),
        ratio=ratio.ratio,
        interval95=(ratio.interval95.low, ratio.interval95.high),
        p_value=None if reason == ALONE else ratio.p_value,
        interleaved=interleaved,
        machines=(len(before.machines), len(after.machines)),
        error=Error(own=max(0.0, ratio.standard_error_log**2 - common), common=common, df=ratio.df),
    )


def _alone(before: Side, after: Side) -> bool:
    """Whether a side of one machine has one round: how far rounds differ is then assumed and not seen."""
    return max(len(before.machines), len(after.machines)) == 1 and 1 in map(len, (before.launches_s, after.launches_s))


def _doubt(before: Side, after: Side, log_ratio: float) -> str:
    """Why a difference that the numbers show is not to be believed, or nothing."""
    if _runs(before) & _runs(after):
        return "both sides hold rounds of one run"
    if any("below_timer_floor" in record.flags for side in (before, after) for record in side.records):
        return "samples are too short for the clock"
    return _disturbed(before, after, log_ratio)


def _disturbed(before: Side, after: Side, log_ratio: float) -> str:
    """What other programs and guests took of a CPU, where that may be half of the difference. Taken from both sides
    alike, as some hypervisors do under heavy load, it explains nothing.
    """
    taken = [_taken(side) for side in (before, after)]
    if before.vendor != "cpu" or abs(taken[1] - taken[0]) <= abs(log_ratio) / 2:
        return ""
    shares = " and ".join(f"{100 * share:.0f} %" for share in taken)
    return f"others took {shares} of the CPU"


def _believed(found: Score | None, pairs: Sequence[tuple[Side, Side]]) -> Score | None:
    """The ratio over all cases, with what explains it where it is one: the guard that each case has."""
    if found is None or found.ratio is None or found.interval95 is None:
        return found
    low, high = found.interval95
    if low <= 1 <= high:
        return found
    if any(_alone(*pair) for pair in pairs):
        return replace(found, reason=ALONE)
    sides = [Side([summary for pair in pairs for summary in pair[which].summaries]) for which in (0, 1)]
    return replace(found, reason=_disturbed(sides[0], sides[1], math.log(found.ratio)))


def _chosen(before: Side, after: Side) -> str:
    """What torch chose to do the work by, where it was not the same thing in all rounds."""
    told: dict[str, tuple[set[str], set[str]]] = {}
    for place, side in enumerate((before, after)):
        for record in side.records:
            for name, value in record.extras.items():
                if isinstance(value, str):
                    told.setdefault(name, (set(), set()))[place].add(value)
    return "; ".join(
        f"{name.replace('_', ' ')}: {' and '.join(' or '.join(sorted(one)) or 'unknown' for one in values)}"
        for name, values in told.items()
        if values[0] != values[1] or len(values[0]) > 1
    )


def _runs(side: Side) -> set[str]:
    return {one.session.id for one in side.summaries}


def _hint(before: Side, after: Side, log_ratio: float, threshold: float) -> str:
    """What may have made the difference: another clock, when in cycles there is none, or another temperature."""
    clocks = [_told(side, "clock_hz", first=False) for side in (before, after)]
    left = abs(log_ratio + math.log(clocks[1] / clocks[0])) if all(clocks) else math.inf
    if left < min(math.log1p(threshold), abs(log_ratio) / 2):
        return "the clock explains it: " + " and ".join(units.scaled(clock, "Hz") for clock in clocks)
    began = [_told(side, "temperature_c", first=True) for side in (before, after)]
    if all(began) and abs(began[1] - began[0]) > SAME_TEMPERATURE_C:
        return "the sides began at " + " and ".join(f"{celsius:.0f} °C" for celsius in began)
    return ""


def _told(side: Side, name: str, *, first: bool) -> float:
    """Mean over a side's rounds of what was told of a quantity, at first or over the window; 0 where it was not."""
    told = [one.telemetry.series[name].values for one in side.records if one.telemetry and name in one.telemetry.series]
    means = [values[0] if first else statistics.fmean(values) for values in told if values]
    return statistics.fmean(means) if means else 0.0


def _taken(side: Side) -> float:
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


def _ratio(before: Side, after: Side, interleaved: bool) -> tuple[stats.Ratio, float]:
    """The ratio of times, and how much of its variance other cases of these sides may share.

    Between machines the machine is what is repeated: many rounds of one board say nothing of the next.
    """
    machines = before.machines, after.machines
    several = max(map(len, machines)) > 1
    common = 0.0
    if several and machines[0].keys() == machines[1].keys():
        ratio = stats.paired_ratio(*(list(one.values()) for one in machines))
    elif several:
        assumed = MACHINE_SD**2 * sum(len(one) == 1 for one in machines)
        ratio = stats.welch_ratio(
            *(list(one.values()) for one in machines), extra_variance=assumed, extra_df=SITTING_DF
        )
    elif interleaved:
        ratio = stats.paired_ratio(before.launches_s, after.launches_s)
    else:
        sitting_sd = SITTING_SD.get(before.vendor, SITTING_SD_ELSEWHERE)
        # One round alone shows no spread of its own: it brings the assumed one.
        alone = sum(len(side.launches_s) == 1 for side in (before, after))
        common = 2 * sitting_sd**2 + alone * LAUNCH_SD.get(before.vendor, LAUNCH_SD_ELSEWHERE) ** 2
        ratio = stats.welch_ratio(before.launches_s, after.launches_s, extra_variance=common, extra_df=SITTING_DF)
    assert ratio is not None
    return ratio, ratio.standard_error_log**2 if several else common


def _typical(side: Side) -> float:
    """Of one machine the geometric mean of its rounds, of several that of the machines."""
    machines = side.machines
    return stats.geometric_mean(list(machines.values()) if len(machines) > 1 else side.launches_s)


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


def _notes(rows: Sequence[Comparison], pairs: Sequence[tuple[Side, Side]]) -> list[str]:
    """How far the verdicts reach."""
    notes = []
    shared = {run for before, after in pairs for run in _runs(before) & _runs(after)}
    if shared:
        named = f"run {min(shared)} is" if len(shared) == 1 else f"{len(shared)} runs are"
        notes.append(f"{named} on both sides: what is equal there says nothing, and no difference is one of machines")
    tested = sum(row.p_value is not None for row in rows)
    if tested > 1:
        notes.append(
            f"{tested} cases were tested: without a difference anywhere about {tested * (1 - CONFIDENCE):.1f} of them "
            "would be called different; those that may be chance say so"
        )
    apart = [pair for pair in pairs if pair[0].machines.keys() != pair[1].machines.keys()]
    fewest = min((len(side.machines) for pair in apart for side in pair if side.machines), default=MODEL_MACHINES)
    if fewest < MODEL_MACHINES:
        notes.append(
            f"a side has {fewest} machine{'s' * (fewest > 1)}: this compares machines and not models, of which boards "
            f"differ by some percent; that takes {MODEL_MACHINES} machines a side"
        )
    return notes

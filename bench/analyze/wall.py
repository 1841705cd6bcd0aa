"""Wall: the log of a meter at the socket beside a run, brought to its time by the pattern of load and rest.

What a board tells of itself leaves out the host, the fans and the power supply's loss. A plug-in meter has all of them,
on a clock of its own that may be seconds or a time zone away. The run knows when its load ran: the log is shifted until
its power is high then and low between, and where no shift fits, or two do, nothing is said.
"""

import csv
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import energy, record, stats
from bench.analyze.summary import Summary, summarize
from bench.errors import UserError
from bench.record import Record, ResultFile

# Correlation of the log's power with the run's load, on or off, from which on a shift fits; by how much it must fit
# better than any other; and how far down from the best fit all that follows is the slope of the same one.
FITS, CLEARER, SLOPE = 0.7, 0.05, 0.3
# Rest before and after the run that is part of the pattern.
REST_S = 10.0
# Values of the meter in one window, of which a mean is taken.
FEWEST_VALUES = 5
# An epoch in seconds that is beyond this is in milliseconds.
_MILLISECONDS = 1e11
# What is believed of a log.
LAST_S, MOST_W = 1e11, 1e9


@dataclass(frozen=True)
class Log:
    """Power in watts, evenly spaced in time, from a moment of the meter's own clock."""

    begin_s: float
    period_s: float
    watts: list[float]


@dataclass(frozen=True, kw_only=True)
class AtWall:
    """One case as the meter saw it."""

    case: str
    device: str
    power_w: float
    half_width: float  # relative, at 95 %, by how the values vary; the meter's own error is not in it
    seconds: float
    energy_per_step_j: float
    energy_per_token_j: float | None
    to_board: float | None  # power at the wall by what the board told of its own


@dataclass(frozen=True, kw_only=True)
class Wall:
    """What a log says of a run. `boundary` is the word that stands beside every energy."""

    ahead_s: float  # the meter's clock beside that of the machine
    correlation: float
    period_s: float
    rows: list[AtWall]
    too_short: list[str]  # cases whose windows have too few values
    boundary: str = "wall"


def beside(file: ResultFile, path: Path) -> Wall:
    """The run of `file` in the meter's log at `path`. Raises UserError where the two cannot be brought together."""
    log = read(path)
    windows = [one for one in file.records if one.valid and _begin_s(one) is not None]
    if not windows:
        raise UserError(
            f"{file.name} does not say when its samples were taken: it is simulated, or of an older version"
        )
    ahead_s, correlation = aligned(log, sorted(map(_loaded, windows)))
    found = [(one.case, _at_wall(one, log, ahead_s)) for one in summarize([file]) if one.valid]
    return Wall(
        ahead_s=ahead_s,
        correlation=correlation,
        period_s=log.period_s,
        rows=[row for _, row in found if row],
        too_short=[case for case, row in found if row is None],
    )


def read(path: Path) -> Log:
    """A table with a head: a column of time (ISO 8601, or seconds since 1970), and one of power in mW, W or kW."""
    text = record.read_bytes(path).decode("utf-8-sig", errors="replace")
    head, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=head.count)
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{path.name}: {error}") from None
    if len(lines) < 2:
        raise UserError(f"{path.name}: a head and values are wanted, such as: time,power_w")
    time_at = _column(path, lines[0], ("time", "date"))
    power_at = _column(path, lines[0], ("power", "watt"))
    scale = _watts(path, lines[0][power_at])
    points = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            # Where columns are parted by semicolons a comma is the decimal point.
            said = line[power_at].replace(",", ".")
            points.append((_moment_s(line[time_at].strip()), scale * float(said)))
        except (IndexError, ValueError):
            raise UserError(
                f"{path.name}, line {number}: no moment and power in {delimiter.join(line)[:60]!r}"
            ) from None
    return _even(path, points)


def _watts(path: Path, name: str) -> float:
    """Watts of a 1 in the column, by the unit in its name. Raises UserError where that is no unit of power."""
    words = re.findall(r"[A-Za-z]+", name)
    if {"MW", "va", "kva", "wh", "kwh", "dbm"} & {*words, *map(str.lower, words)}:
        raise UserError(f"{path.name}: {name[:60]!r} is not in mW, W or kW")
    if "mw" in map(str.lower, words):
        return 1e-3
    return 1e3 if "kw" in name.lower() else 1.0


def aligned(log: Log, loaded: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """By how much the meter's clock is ahead, to its sample interval, and how well that fits: the best of all shifts by
    which the run's times of load, and some rest round them, lie in the log. Raises UserError.
    """
    origin_s = min(begin_s for begin_s, _ in loaded) - REST_S
    count = math.ceil((max(end_s for _, end_s in loaded) + REST_S - origin_s) / log.period_s)
    spans = [(math.ceil((a - origin_s) / log.period_s), math.ceil((b - origin_s) / log.period_s)) for a, b in loaded]
    if count > len(log.watts):
        least_s = count * log.period_s
        raise UserError(
            f"the log lasts {len(log.watts) * log.period_s:.0f} s, and the run with its rests {least_s:.0f} s"
        )
    if not 0 < sum(b - a for a, b in spans) < count:
        raise UserError(f"the run has no load and rest that a meter with a value every {log.period_s:g} s could see")
    fits = _fits(log.watts, spans, count)
    best = max(range(len(fits)), key=fits.__getitem__)
    first = last = best
    while first and fits[first - 1] > fits[best] - SLOPE:
        first -= 1
    while last + 1 < len(fits) and fits[last + 1] > fits[best] - SLOPE:
        last += 1
    if fits[best] < FITS:
        raise UserError(
            f"the log shows nothing of this run's load and rest (correlation {fits[best]:.2f}, {FITS} wanted)"
        )
    if max([*fits[:first], *fits[last + 1 :]], default=0.0) > fits[best] - CLEARER:
        raise UserError("the log fits this run at more than one time: leave away what it has of other runs")
    return log.begin_s + best * log.period_s - origin_s, fits[best]


def _fits(watts: list[float], spans: Sequence[tuple[int, int]], count: int) -> list[float]:
    """Correlation of each `count` values in a row with a load that is on in `spans` and off between."""
    sums = list(itertools.accumulate(watts, initial=0.0))
    squares = list(itertools.accumulate((value * value for value in watts), initial=0.0))
    num_on = sum(b - a for a, b in spans)
    fits = []
    for shift in range(len(sums) - count):
        total, on = sums[shift + count] - sums[shift], sum(sums[shift + b] - sums[shift + a] for a, b in spans)
        variance = (squares[shift + count] - squares[shift]) / count - (total / count) ** 2
        apart, share = on / num_on - (total - on) / (count - num_on), num_on / count
        # Point-biserial: the distance of two means, by the deviation of all.
        fits.append(apart * math.sqrt(share * (1 - share) / variance) if variance > 1e-9 else 0.0)
    return fits


def _at_wall(case: Summary, log: Log, ahead_s: float) -> AtWall | None:
    """None where no window has enough values. An interval at each end is left out: by so much a shift may be off."""
    values: list[float] = []
    for one in case.valid:
        begin_s = _begin_s(one)
        if begin_s is None or one.timing is None:
            continue
        first = math.ceil((begin_s + ahead_s - log.begin_s) / log.period_s) + 1
        last = math.floor((begin_s + one.timing.window_s + ahead_s - log.begin_s) / log.period_s) - 1
        if last - first + 1 >= FEWEST_VALUES and (last - first) * log.period_s >= energy.SHORTEST_S:
            values += log.watts[max(0, first) : last + 1]
    power_w = math.fsum(values) / len(values) if values else 0.0
    if power_w <= 0 or case.step_s is None:
        return None
    spread_w = math.sqrt(math.fsum((value - power_w) ** 2 for value in values) / (len(values) - 1))
    per_step_j, tokens = power_w * case.step_s, case.first.work.tokens
    return AtWall(
        case=case.case,
        device=case.device,
        power_w=power_w,
        half_width=stats.student_t_quantile(0.975, len(values) - 1) * spread_w / math.sqrt(len(values)) / power_w,
        seconds=len(values) * log.period_s,
        energy_per_step_j=per_step_j,
        energy_per_token_j=per_step_j / tokens if tokens else None,
        to_board=power_w / case.power_w if case.power_w else None,
    )


def _begin_s(one: Record) -> float | None:
    """When the first sample was taken, since 1970."""
    if one.timing is None or isinstance(one.timing.begins_s, msgspec.UnsetType):
        return None
    try:
        return datetime.fromisoformat(one.started).timestamp() + one.timing.begins_s
    except ValueError:  # a stranger's file
        return None


def _loaded(one: Record) -> tuple[float, float]:
    """From when to when a record's load ran, settling before and what an energy was held for included."""
    begin_s, timing = _begin_s(one), one.timing
    assert begin_s is not None and timing is not None
    lasted_s = max(timing.window_s, one.telemetry.window_s if one.telemetry else 0.0)
    return begin_s - timing.settle_s, begin_s + lasted_s


def _column(path: Path, head: Sequence[str], words: Sequence[str]) -> int:
    found = [place for place, name in enumerate(head) if any(word in name.lower() for word in words)]
    if len(found) != 1:
        named = ", ".join(name.strip()[:40] for name in head)
        raise UserError(f"{path.name}: one column with '{words[0]}' in its name is wanted, there are {named}")
    return found[0]


def _moment_s(text: str) -> float:
    """Since 1970. A moment without a time zone is taken for UTC: whatever it is, the shift makes up for it."""
    try:
        epoch = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return epoch / 1e3 if epoch > _MILLISECONDS else epoch


def _even(path: Path, points: list[tuple[float, float]]) -> Log:
    """At the log's own typical interval, straight lines between its values."""
    if not all(0 <= moment_s <= LAST_S and abs(power_w) <= MOST_W for moment_s, power_w in points):
        raise UserError(f"{path.name}: a moment or a power that cannot be")
    gaps_s = [b - a for (a, _), (b, _) in itertools.pairwise(points)]
    if len(points) < FEWEST_VALUES or min(gaps_s) < 0 or stats.median(gaps_s) <= 0:
        raise UserError(f"{path.name}: at least {FEWEST_VALUES} values in order of time are wanted")
    period_s, begin_s = stats.median(gaps_s), points[0][0]
    num_values = int((points[-1][0] - begin_s) / period_s) + 1
    if num_values > record.MAX_FILE_BYTES // 8:
        raise UserError(f"{path.name}: {points[-1][0] - begin_s:.0f} s at a value every {period_s:g} s are too many")
    if max(gaps_s) > 3 * period_s:
        raise UserError(f"{path.name}: no value for {max(gaps_s):.0f} s, where there is one every {period_s:g} s")
    watts, place = [], 0
    for number in range(num_values):
        moment_s = begin_s + number * period_s
        while place + 2 < len(points) and points[place + 1][0] <= moment_s:
            place += 1
        (t0_s, w0), (t1_s, w1) = points[place], points[place + 1]
        share = min(1.0, (moment_s - t0_s) / (t1_s - t0_s)) if t1_s > t0_s else 1.0
        watts.append(w0 + share * (w1 - w0))
    return Log(begin_s, period_s, watts)

"""Timeline: what boards drew, and how fast they ran, while the load went on."""

from collections.abc import Iterable

from bench import units
from bench.analyze.report import svg
from bench.analyze.report.evidence import Evidence, Kind, Machine
from bench.analyze.report.figure import Body, Figure, Panel, drawn, left_out, panel
from bench.analyze.report.svg import Plot
from bench.record import Record, Series
from bench.text import plain
from bench.workload import label

# The case that most people care about first; of others those that draw most.
_FIRST = ("train_step", "matmul", "decode", "prefill", "memory_copy", "attention")
_CASES = 3
_KINDS = 4
_FEWEST = 8  # fewer values of a sensor are no course of time
_BUCKETS = 100  # about as many can be told apart in a panel


def figure(evidence: Evidence) -> Figure:
    """Power, and below it the clock, of one machine of each kind."""
    title = "Power and clock while the load goes on"
    panels: list[Panel] = []
    body: Body = []
    for kind in drawn(evidence):
        found = _cases(kind)
        if found and len({line[0] for line in body}) < _KINDS:
            made, numbers = _panels(kind, *found)
            panels += made
            body += numbers
    if not panels:
        says = "in these files no board told its power for long enough."
        return Figure(name="power", title=title, says=says)
    return Figure(
        name="power",
        title=title,
        says="One round of one machine of each kind, from the first sample on: a course that falls while the load "
        "stays the same is a board that heats up or that its limit holds back. Dashed is the power limit."
        + left_out(evidence),
        panels=panels,
        header=["device", "case", "quantity", "mean", "lowest", "highest", "seconds"],
        body=body,
    )


def _cases(kind: Kind) -> tuple[Machine, list[Record]] | None:
    """The machine whose cases were watched longest, and the longest round of each of its first cases."""
    best: tuple[float, Machine, list[Record]] | None = None
    for machine in kind.machines:
        longest: dict[str, Record] = {}
        for one in machine.latest.values():
            for record in one.summary.valid:
                told = _power(record)
                before = longest.get(record.workload)
                if told and one.row["launch"] == "eager" and (before is None or _window_s(record) > _window_s(before)):
                    longest[record.workload] = record
        records = sorted(longest.values(), key=_rank)[:_CASES]
        watched_s = sum(map(_window_s, records))
        if records and (best is None or watched_s > best[0]):
            best = (watched_s, machine, records)
    return best[1:] if best else None


def _rank(record: Record) -> tuple[int, str]:
    return (_FIRST.index(record.workload) if record.workload in _FIRST else len(_FIRST), record.workload)


def _window_s(record: Record) -> float:
    return record.telemetry.window_s if record.telemetry else 0.0


def _power(record: Record) -> Series | None:
    """Power of the moment, or where only that is told a mean over the last second."""
    return _series(record, "power_w") or _series(record, "power_average_w")


def _series(record: Record, name: str) -> Series | None:
    found = record.telemetry.series.get(name) if record.telemetry else None
    if found is None or len(found.values) < _FEWEST or len(found.t_s) != len(found.values):
        return None
    return found if min(found.values) >= 0 else None  # what cannot be is not drawn


def _panels(kind: Kind, machine: Machine, records: list[Record]) -> tuple[list[Panel], Body]:
    limit_w = machine.facts.readings.get("power_limit_w")
    power = {record.workload: series for record in records if (series := _power(record))}
    clock = {record.workload: series for record in records if (series := _series(record, "clock_hz"))}
    name = kind.label(machine)
    panels = [_panel(f"{name}: power", "W", power, limit_w)]
    if clock:
        panels.append(_panel(f"{name}: clock of the cores", "Hz", clock, None))
    labels = {record.workload: plain(label(record.workload, record.params), 120) for record in records}
    body = [
        [
            name,
            labels[workload],
            quantity,
            units.scaled(sum(series.values) / len(series.values), unit),
            units.scaled(min(series.values), unit),
            units.scaled(max(series.values), unit),
            units.significant(series.t_s[-1] - series.t_s[0]),
        ]
        for quantity, unit, all_series in (("power", "W", power), ("clock", "Hz", clock))
        for workload, series in all_series.items()
    ]
    return panels, body


def _panel(title: str, unit: str, courses: dict[str, Series], limit: float | None) -> Panel:
    highest = max(max(series.values) for series in courses.values())
    last_s = max(series.t_s[-1] for series in courses.values())
    plot = Plot(
        title=title,
        x=svg.linear("seconds since the first sample", [last_s]),
        y=svg.linear(unit, [highest, max(0.0, limit or 0.0)], svg.prefixed),
        right=104,
        height=230,
    )
    if limit and limit > 0:
        plot.line([(plot.x.low, limit), (plot.x.high, limit)], "roof", dashed=True)
        plot.name(plot.x.low, limit, f"limit {units.significant(limit)} W", "over its beginning")
    for number, (workload, series) in enumerate(courses.items()):
        points = list(_thinned([(t, value) for t, value in zip(series.t_s, series.values, strict=True)]))
        plot.line(points, number)
        plot.end(*points[-1], svg.short(plain(workload.replace("_", " ")), 14), number)
    return panel(plot, f"{title} over {units.significant(last_s)} seconds, in {', '.join(courses)}.")


def _thinned(points: list[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """The lowest and the highest of each bucket, in order of time: no peak is lost."""
    wide = -(-len(points) // _BUCKETS)
    for begin in range(0, len(points), wide):
        bucket = points[begin : begin + wide]
        chosen = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        yield from sorted(chosen)

"""Intervals: machines side by side, each with its 95 % interval; and what a token costs in energy."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import units
from bench.analyze.report import svg
from bench.analyze.report.evidence import Evidence, Kind, Machine, Result
from bench.analyze.report.figure import Body, Figure, Panel, left_out, panel
from bench.analyze.report.svg import Axis, Plot
from bench.analyze.table import Row
from bench.text import plain

# What decides what a lab can do, in the order of a reader's questions.
_SIDE_BY_SIDE = ("matmul", "memory_copy", "train_step", "prefill", "decode", "attention", "finetune_step")
_PANELS = 6
_ROOMY = 24  # so many rows have a line of text each; more stand closer, named once for a kind
_LOGARITHMIC = 12.0  # values further apart than this factor are not seen on an axis that begins at zero


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a panel."""

    kind: Kind
    machine: Machine
    value: float
    low: float
    high: float


def side_by_side(evidence: Evidence) -> Figure:
    """For each of the main workloads the case that most machines have."""
    title = "Machines side by side"
    machines = evidence.machines
    if len(machines) == 1:
        says = "Not drawn: only one machine is in these files."
        return Figure(name="machines", title=title, says=says)
    panels: list[Panel] = []
    body: Body = []
    for workload in _SIDE_BY_SIDE:
        case = _shared(evidence, lambda row, workload=workload: row["workload"] == workload and row["rate"])  # type: ignore[misc]
        if case and len(panels) < _PANELS:
            entries = [_rate(kind, machine, one) for kind, machine, one in case]
            row = case[0][2].row
            unit = row["rate_unit"]
            made, numbers = _panel(row["case"], unit, lambda value, unit=unit: units.scaled(value, unit), entries)  # type: ignore[misc]
            panels.append(made)
            body += numbers
    if not panels:
        says = "Not drawn: no two of these machines measured the same case."
        return Figure(name="machines", title=title, says=says)
    return Figure(
        name="machines",
        title=title,
        says="For each of the main workloads the case that most machines have. A bar is the 95 % interval between rounds: "
        "where bars overlap the machines may be equally fast, and `accelmark compare` says more." + left_out(evidence),
        panels=panels,
        header=["device", "case", "value", "95 % interval"],
        body=body,
    )


def energy(evidence: Evidence) -> Figure:
    """Joules for a token, with the uncertainty of the energy."""
    title = "What a token costs in energy"
    panels: list[Panel] = []
    body: Body = []
    workloads = dict.fromkeys(
        one.row["workload"]
        for _, machine in evidence.machines
        for one in machine.latest.values()
        if one.row["energy_per_token_j"]
    )
    for workload in sorted(workloads, key=lambda name: (_order(name), name))[:_PANELS]:
        case = _shared(
            evidence,
            lambda row, workload=workload: row["workload"] == workload and row["energy_per_token_j"],  # type: ignore[misc]
            fewest=1,
        )
        entries = [_energy(kind, machine, one) for kind, machine, one in case]
        made, numbers = _panel(case[0][2].row["case"], "J per token", units.joules, entries)
        panels.append(made)
        body += numbers
    if not panels:
        says = "Not drawn: no energy of a token was measured in these files (`--suite standard` does, where a board tells)."
        return Figure(name="energy", title=title, says=says)
    return Figure(
        name="energy",
        title=title,
        says="Gross energy of the board for one token, nothing of idle taken off. What is covered (the board, a module, a "
        "package) is in the table. A bar is the 95 % uncertainty of the energy." + left_out(evidence),
        panels=panels,
        header=["device", "case", "value", "95 % interval"],
        body=body,
    )


def _order(workload: str) -> int:
    return _SIDE_BY_SIDE.index(workload) if workload in _SIDE_BY_SIDE else len(_SIDE_BY_SIDE)


def _shared(
    evidence: Evidence, wanted: Callable[[Row], object], *, fewest: int = 2
) -> list[tuple[Kind, Machine, Result]]:
    """The results of the case that most machines have, of several such the largest; nothing below `fewest`."""
    cases: dict[str, list[tuple[Kind, Machine, Result]]] = {}
    for kind, machine in evidence.machines:
        if kind.series < svg.SERIES:
            for name, one in machine.latest.items():
                if one.measured and wanted(one.row) and one.row["launch"] == "eager":
                    cases.setdefault(name, []).append((kind, machine, one))

    def rank(name: str) -> tuple[int, int, str]:
        work = cases[name][0][2].summary.first.work
        return len(cases[name]), work.cost().flops + work.bytes, name

    best = max(cases, key=rank, default=None)
    return cases[best] if best is not None and len(cases[best]) >= fewest else []


def _rate(kind: Kind, machine: Machine, one: Result) -> Entry:
    """The interval is that of the step's time, turned round."""
    value, wide = one.row["rate"], 1 + (one.row["spread"] or 0.0)
    return Entry(kind=kind, machine=machine, value=value, low=value / wide, high=value * wide)


def _energy(kind: Kind, machine: Machine, one: Result) -> Entry:
    value, wide = one.row["energy_per_token_j"], 1 + (one.row["energy_uncertainty"] or 0.0)
    return Entry(kind=kind, machine=machine, value=value, low=value / wide, high=value * wide)


def _panel(case: str, unit: str, say: Callable[[float], str], entries: list[Entry]) -> tuple[Panel, Body]:
    """A row for each machine, kinds together with the best on top, in a kind from the lowest value upward."""
    grouped: dict[int, list[Entry]] = {}
    for one in entries:
        grouped.setdefault(one.kind.series, []).append(one)
    roomy = len(entries) <= _ROOMY
    ordered = sorted(grouped.values(), key=lambda group: (-max(one.value for one in group), group[0].kind.series))
    heights: list[tuple[float, Entry]] = []
    names: list[tuple[float, str]] = []
    down = 0.5
    for group in ordered:
        begin = down
        for one in sorted(group, key=lambda one: (-one.value, one.machine.number)):
            heights.append((down, one))
            if roomy:
                names.append((down, one.kind.label(one.machine)))
            down += 1.0 if roomy else 0.42
        if not roomy:
            number = f" ({len(group)})" if len(group) > 1 else ""
            names.append(((begin + down - 0.42) / 2, f"{group[0].kind.short}{number}"))
            down = max(down, begin + 1.0)
        down += 0.3
    upward = Axis(title="", low=down, high=0.0, ticks=())
    plot = Plot(
        title=plain(case, 116),
        x=_across(entries, unit),
        y=upward,
        left=128,
        right=20,
        height=int(90 + 15 * down),
        rows=tuple(names),
    )
    for height, one in heights:
        plot.reach((one.low, height), (one.high, height), one.kind.series)
        tip = f"{one.kind.label(one.machine)}: {say(one.value)}, {say(one.low)} to {say(one.high)}"
        plot.mark(one.value, height, one.kind.series, tip, size=4 if roomy else 2.6)
    body = [
        [one.kind.label(one.machine), plain(case), say(one.value), f"{say(one.low)} to {say(one.high)}"]
        for _, one in heights
    ]
    return panel(plot, f"{plain(case)} on {len(entries)} machines."), body


def _across(entries: list[Entry], unit: str) -> Axis:
    values = [value for one in entries for value in (one.low, one.high)]
    if max(values) > _LOGARITHMIC * min(values):
        return svg.logarithmic(unit, values, most=5)
    return svg.linear(unit, values, svg.prefixed)

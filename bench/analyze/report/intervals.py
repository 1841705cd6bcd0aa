"""Intervals: machines side by side, each with its 95 % interval; and what a token costs in energy."""

import functools
from collections.abc import Callable, Sequence
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
_CLOSE = 0.42  # of a line of text
_ROOMY = 24  # so many rows have a line of text each; more stand closer, named once for a kind
_LOGARITHMIC = 12.0  # values further apart than this factor are not seen on an axis that begins at zero


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a panel."""

    kind: Kind
    machine: Machine
    value: float
    low: float  # both are the value where its interval is unknown
    high: float


def side_by_side(evidence: Evidence) -> Figure:
    """For each of the main workloads the case that most machines have, where two or more have it."""
    title = "Machines side by side"
    cases = [_shared(evidence, workload, "rate") for workload in _SIDE_BY_SIDE]
    panels, body = _panels([case for case in cases if len(case) > 1], "rate", "spread", _say_rate)
    if not panels:
        alone = len(evidence.machines) == 1
        says = "only one machine is in these files." if alone else "no two of these machines measured the same case."
        return Figure(name="machines", title=title, says=says)
    return Figure(
        name="machines",
        title=title,
        says="For each of the main workloads the case that most machines have. A bar is the 95 % interval between "
        "rounds: where bars overlap the machines may be equally fast, and `accelmark compare` says more."
        + left_out(evidence),
        panels=panels,
        header=["device", "case", "value", "95 % interval"],
        body=body,
    )


def energy(evidence: Evidence) -> Figure:
    """Joules for a token, with the uncertainty of the energy."""
    title = "What a token costs in energy"
    metered = {
        one.row["workload"]
        for _, machine in evidence.machines
        for one in machine.latest.values()
        if one.row["energy_per_token_j"] is not None
    }
    ordered = sorted(metered, key=lambda name: (name not in ("train_step", "decode"), name))
    cases = [_shared(evidence, workload, "energy_per_token_j") for workload in ordered]
    panels, body = _panels(cases, "energy_per_token_j", "energy_uncertainty", lambda row, value: units.joules(value))
    if not panels:
        says = "no energy of a token in these files; the standard suite meters it where a board tells."
        return Figure(name="energy", title=title, says=says)
    covered = sorted({one.row["energy_boundary"] for case in cases for _, _, one in case})
    return Figure(
        name="energy",
        title=title,
        says="Gross energy for one token, nothing of idle taken off; it covers what the sensor covers: "
        f"{plain(', '.join(covered), 100).replace('_', ' ')}. A bar is the 95 % uncertainty." + left_out(evidence),
        panels=panels,
        header=["device", "case", "energy of a token", "95 % interval"],
        body=body,
    )


_Case = list[tuple[Kind, Machine, Result]]


def _shared(evidence: Evidence, workload: str, value: str) -> _Case:
    """The results of the case of this workload that most machines have a value of; of several such the largest."""
    cases: dict[str, _Case] = {}
    for kind, machine in evidence.machines:
        if kind.series < svg.SERIES:
            for name, one in machine.latest.items():
                row = one.row
                if row["workload"] == workload and row[value] and row["launch"] == "eager":
                    cases.setdefault(name, []).append((kind, machine, one))

    def rank(name: str) -> tuple[int, int, str]:
        work = cases[name][0][2].summary.first.work
        return len(cases[name]), work.cost().flops + work.bytes, name

    return cases[max(cases, key=rank)] if cases else []


def _say_rate(row: Row, value: float) -> str:
    return f"{units.significant(value)} tok/s" if row["rate_unit"] == "tok/s" else units.scaled(value, row["rate_unit"])


def _panels(
    cases: Sequence[_Case], value: str, relative: str, say: Callable[[Row, float], str]
) -> tuple[list[Panel], Body]:
    """A panel for each case. The interval of a rate is that of the step's time, turned round."""
    panels: list[Panel] = []
    body: Body = []
    for case in [case for case in cases if case][:_PANELS]:
        row = case[0][2].row
        entries = []
        for kind, machine, one in case:
            middle, wide = float(one.row[value]), 1 + (one.row[relative] or 0.0)
            entries.append(Entry(kind=kind, machine=machine, value=middle, low=middle / wide, high=middle * wide))
        costs = value == "energy_per_token_j"
        across = _across(entries, "energy of a token" if costs else row["rate_unit"], "J" if costs else "")
        made, numbers = _panel(row["case"], across, functools.partial(say, row), entries, ascending=costs)
        panels.append(made)
        body += numbers
    return panels, body


def _panel(
    case: str, across: Axis, say: Callable[[float], str], entries: list[Entry], *, ascending: bool
) -> tuple[Panel, Body]:
    """A row for each machine, the best on top."""
    rows, names, depth = _rows(entries, ascending)
    roomy = len(entries) <= _ROOMY
    plot = Plot(
        title=plain(case, 116),
        x=across,
        y=Axis(title="", low=depth, high=0.0, ticks=()),
        left=128,
        height=int(90 + 15 * depth),
        rows=tuple(names),
    )
    body: Body = []
    for down, one in rows:
        name, reach = one.kind.label(one.machine), "interval unknown"
        if one.low < one.high:
            reach = f"{say(one.low)} to {say(one.high)}"
            plot.reach((one.low, down), (one.high, down), one.kind.series)
        plot.mark(one.value, down, one.kind.series, f"{name}: {say(one.value)}, {reach}", size=4 if roomy else 2.6)
        body.append([name, plain(case), say(one.value), reach])
    return panel(plot, f"{plain(case)} on {len(entries)} machines."), body


def _rows(entries: list[Entry], ascending: bool) -> tuple[list[tuple[float, Entry]], list[tuple[float, str]], float]:
    """Where each machine and each name stands, from the top, and how far down that goes. Kinds stay together."""
    grouped: dict[int, list[Entry]] = {}
    for one in sorted(entries, key=lambda one: (one.value if ascending else -one.value, one.machine.number)):
        grouped.setdefault(one.kind.series, []).append(one)
    roomy = len(entries) <= _ROOMY
    rows: list[tuple[float, Entry]] = []
    names: list[tuple[float, str]] = []
    down = 0.5
    for group in grouped.values():  # in the order of their best
        begin = down
        for one in group:
            rows.append((down, one))
            if roomy:
                names.append((down, one.kind.label(one.machine)))
            down += 1.0 if roomy else _CLOSE
        if not roomy:
            number = f" ({len(group)})" if len(group) > 1 else ""
            names.append(((begin + down - _CLOSE) / 2, f"{group[0].kind.short}{number}"))
            down = max(down, begin + 1.0)
        down += 0.3
    return rows, names, down


def _across(entries: list[Entry], title: str, unit: str) -> Axis:
    """With the unit at the ticks, or in the title."""

    def say(value: float) -> str:
        return svg.prefixed(value) + (unit if " " in svg.prefixed(value) or not unit else f" {unit}")

    values = [value for one in entries for value in (one.low, one.high)]
    if max(values) > _LOGARITHMIC * min(values):
        return svg.logarithmic(title, values, say, most=5)
    return svg.linear(title, values, say)

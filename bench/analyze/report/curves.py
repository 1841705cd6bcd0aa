"""Curves: how a rate grows with the size of the work: products over shapes, attention over length, decode over batch.

A line is a kind of device, its band the lowest and the highest of its machines. A panel is all that was measured alike
but for what lies across.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench import units
from bench.analyze.report import svg
from bench.analyze.report.evidence import Evidence, Kind, Middle
from bench.analyze.report.figure import Body, Figure, Panel, drawn, left_out, panel, spread
from bench.analyze.report.roofline import best_products
from bench.analyze.report.svg import Axis, Plot
from bench.analyze.table import Row
from bench.text import plain


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Which results, what lies across, what upward, and what else tells panels apart."""

    wanted: Callable[[Row], bool]
    across: Callable[[Row], float | None]  # None: a stranger's workload of the same name, with other parameters
    across_title: str
    upward: Callable[[Kind, Row], float | None]
    upward_axis: Callable[[list[float]], Axis]
    say: Callable[[float], str]
    panel: Callable[[Row], str]
    joined: Callable[[Row], bool] = lambda row: True  # what is not joined to the line is a hollow mark beside it


_Places = dict[float, list[tuple[Middle, Row]]]  # by what lies across
_Lines = dict[int, _Places]  # by the series of a kind


def matmul(evidence: Evidence) -> Figure:
    """How much of the peak a product reaches, by its thinnest side."""
    title = "What share of the peak matrix products reach, by shape"

    def wanted(row: Row) -> bool:
        return bool(row["workload"] == "matmul" and row["launch"] == "eager" and row.get("duty") == "sustained")

    measured = {
        kind.name: {
            one.summary.first.identity.dtype for found in kind.results().values() for one in found if wanted(one.row)
        }
        for kind in drawn(evidence)
    }
    of_sheet = all(
        kind.chip is not None and kind.chip.peak_flops_per_s(dtype)
        for kind in drawn(evidence)
        for dtype in measured[kind.name]
    )
    best = {kind.name: best_products(kind) for kind in drawn(evidence)}

    def share(kind: Kind, row: Row) -> float | None:
        sheet = kind.chip.peak_flops_per_s(str(row.get("dtype"))) if kind.chip and of_sheet else None
        peak = sheet if of_sheet else best[kind.name].get(str(row.get("dtype")))
        return row["flops_per_s"] / peak if peak and row["flops_per_s"] else None

    whose = "datasheet's dense peak" if of_sheet else "best product measured here"
    curve = Curve(
        wanted=wanted,
        across=_thinnest,
        across_title="thinnest side of the product",
        upward=share,
        upward_axis=lambda values: svg.linear(f"% of the {whose}", values, lambda value: f"{100 * value:.0f}"),
        say=lambda value: units.percent(value, 0 if value >= 0.0995 else 1),
        panel=lambda row: plain(str(row.get("dtype")), 40),
        joined=lambda row: bool(row.get("m") == row.get("n") == row.get("k")),
    )
    says = (
        f"The share is of the {whose}. The line joins squares; hollow marks are the shapes of linear layers, where the "
        "thinnest side is most often the number of tokens: thin products wait for memory."
    )
    return _figure(evidence, "matmul", title, says, f"share of the {whose}", [(curve, 4)], "matrix products")


def attention(evidence: Evidence) -> Figure:
    """Attention's rate over the length of the sequence."""
    curve = Curve(
        wanted=lambda row: row["workload"] == "attention" and row["launch"] == "eager",
        across=lambda row: _size(row, "seq"),
        across_title="sequence length in tokens",
        upward=lambda kind, row: row["flops_per_s"],
        upward_axis=lambda values: svg.linear("FLOP/s", values, svg.prefixed),
        say=lambda value: units.scaled(value, "FLOP/s"),
        panel=_attention_panel,
    )
    title = "How attention speeds up with sequence length"
    says = (
        "Causal attention; its work grows with the square of the length, so longer is more efficient until it is not."
    )
    return _figure(evidence, "attention", title, says, "reached", [(curve, 4)], "attention")


def _size(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and value >= 1 else None


def _thinnest(row: Row) -> float | None:
    sizes = [size for name in ("m", "n", "k") if (size := _size(row, name)) is not None]
    return min(sizes) if len(sizes) == 3 else None


def _attention_panel(row: Row) -> str:
    pass_ = "forward and backward" if row.get("backward") else "forward"
    backend = "" if row.get("backend") in (None, "auto") else f", by {row['backend']}"
    return plain(
        f"{pass_}, batch {row.get('batch')}, {row.get('num_heads')} heads, {row.get('num_kv_heads')} of keys and "
        f"values, head size {row.get('head_dim')}, {row.get('dtype')}{backend}",
        116,
    )


def decode(evidence: Evidence) -> Figure:
    """Tokens per second over the batch, and over what lies in the cache."""

    def curve(across: str, across_title: str, other: str) -> Curve:
        return Curve(
            wanted=lambda row: row["workload"] == "decode" and row["launch"] == "eager" and row.get("layers") == 0,
            across=lambda row: _size(row, across),
            across_title=across_title,
            upward=lambda kind, row: row["rate"],
            upward_axis=lambda values: svg.logarithmic("tokens/s", values),
            say=lambda value: f"{units.significant(value)} tok/s",
            panel=lambda row: plain(f"{row.get('model')}, {other} {row.get(other)}{_how(row)}", 116),
        )

    curves = [
        (curve("batch", "sequences in the batch", "context"), 3),
        (curve("context", "tokens in the cache of each sequence", "batch"), 3),
    ]
    title = "How decoding speeds up with the batch and slows down with the context"
    says = (
        "Tokens of all sequences together. Weights are read once for the whole batch, the cache once for each sequence."
    )
    return _figure(evidence, "decode", title, says, "reached", curves, "decoding")


def _how(row: Row) -> str:
    weights = "" if row.get("weights") in (None, "full") else f", {row['weights']} weights"
    return f", {row.get('dtype')}{weights}{', compiled' if row.get('compiled') else ''}"


def _figure(evidence: Evidence, name: str, title: str, says: str, value: str,
            curves: list[tuple[Curve, int]], what: str) -> Figure:  # fmt: skip
    panels, body, more, points = [], [], 0, 0
    for curve, most in curves:
        groups = _groups(evidence, curve)
        points += sum(len(found) for lines in groups.values() for places in lines.values() for found in places.values())
        lines = {key: found for key, found in groups.items() if any(len(places) > 1 for places in found.values())}
        ordered = sorted(lines, key=lambda key: (-sum(map(len, lines[key].values())), key))
        more += len(ordered[most:])
        for key in ordered[:most]:
            made, numbers = _panel(evidence, curve, key, lines[key])
            panels.append(made)
            body += numbers
    if not panels:
        why = f"too few sizes of {what} for a curve" if points else f"no {what} in these files"
        return Figure(name=name, title=title, says=f"{why}.")
    says += f" {_more(more)} in the table only." if more else ""
    header = ["device", "case", value, "machines"]
    return Figure(
        name=name, title=title, says=says + left_out(evidence), panels=panels, header=header, body=_distinct(body)
    )


def _groups(evidence: Evidence, curve: Curve) -> dict[str, _Lines]:
    """By panel, kind and what lies across; a case that was measured in two ways is there twice."""
    groups: dict[str, _Lines] = {}
    for kind in drawn(evidence):
        for found in kind.results().values():
            row = found[0].row
            across = curve.across(row) if curve.wanted(row) else None
            if across is not None:
                values = [value for one in found if (value := curve.upward(kind, one.row)) is not None]
                if values:
                    places = groups.setdefault(curve.panel(row), {}).setdefault(kind.series, {})
                    places.setdefault(across, []).append((Middle.of(values), row))
    return groups


def _panel(evidence: Evidence, curve: Curve, title: str, lines: _Lines) -> tuple[Panel, Body]:
    several = len(lines) > 1 or len(evidence.kinds) > 1
    found = [middle for places in lines.values() for here in places.values() for middle, _ in here]
    plot = Plot(
        title=title,
        x=svg.logarithmic(curve.across_title, [x for places in lines.values() for x in places], _power, base=2),
        y=curve.upward_axis([value for middle in found for value in (middle.low, middle.high)]),
        right=116 if several else 22,
    )
    body: Body = []
    for series, places in sorted(lines.items()):
        body += _line(plot, curve, evidence.kinds[series], places, named=several)
    return panel(plot, f"{plot.y.title} over {curve.across_title}, {len(lines)} lines."), body


def _line(plot: Plot, curve: Curve, kind: Kind, places: _Places, *, named: bool) -> Body:
    body: Body = []
    line = []
    for x, here in sorted(places.items()):
        joined = [middle for middle, row in here if curve.joined(row)]
        if joined:
            line.append((x, max(joined, key=lambda middle: middle.median)))
    if any(middle.count > 1 for _, middle in line):
        plot.band([(x, middle.low, middle.high) for x, middle in line], kind.series)
    plot.line([(x, middle.median) for x, middle in line], kind.series)
    for x, here in sorted(places.items()):
        for middle, row in sorted(here, key=lambda pair: (pair[0].median, pair[1]["case"])):
            tip = f"{kind.short}, {plain(row['case'])}: {curve.say(middle.median)}"
            plot.mark(x, middle.median, kind.series, tip, hollow=not curve.joined(row), size=3.2)
            body.append([kind.name, plain(row["case"]), curve.say(middle.median), spread(middle, curve.say)])
    if named:
        x, middle = line[-1] if line else max((x, here[0][0]) for x, here in places.items())
        plot.end(x, middle.median, kind.short, kind.series)
    return body


def _more(number: int) -> str:
    return "One more such curve is" if number == 1 else f"{number} more such curves are"


def _distinct(body: Body) -> Body:
    """A case that lies on two curves stands once in the table."""
    return [list(line) for line in dict.fromkeys(map(tuple, body))]


def _power(value: float) -> str:
    """A power of two as people say it: 512, 2k, 1M."""
    for factor, letter in ((2**20, "M"), (2**10, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"

"""Roofline: every workload under the roofs of its own device (Williams, Waterman & Patterson 2009)."""

import textwrap

from bench import units
from bench.analyze.report import svg
from bench.analyze.report.evidence import Evidence, Kind, Middle, Result
from bench.analyze.report.figure import Body, Figure, Panel, drawn, left_out, panel, percent
from bench.analyze.report.svg import Plot
from bench.text import plain

_FAMILIES = ("matrix products", "attention", "other operations", "whole models")
_TYPES = 3  # as many flat roofs can be told apart in one picture
_LINE = 52  # characters under a panel, in the larger letters of a phone


def figure(evidence: Evidence) -> Figure:
    """A panel for each kind of device that has roofs and something under them."""
    title = "How close each workload comes to its roof"
    made = [found for kind in drawn(evidence) if (found := _panel(kind)) is not None]
    if not made:
        says = "it needs a matrix product, a copy and other workloads of one device."
        return Figure(name="roofline", title=title, says=says)
    return Figure(
        name="roofline",
        title=title,
        says="Higher is faster; further right is more arithmetic for each byte. The slope is the best copy and a flat "
        "line the best matrix product of its type: solid as measured on the very device, dashed as its datasheet says. "
        "Each mark is the median over the machines of a kind; copies and launches do no arithmetic and have no mark."
        + left_out(evidence),
        panels=[one for one, _ in made],
        header=["device", "case", "FLOP for a byte", "reached", "of the measured roof", "of the datasheet's roof"],
        body=[line for _, body in made for line in body],
    )


def best_products(kind: Kind) -> dict[str, float]:
    """By type, fastest first: the median over machines of each one's best matrix product."""
    rates: dict[str, list[float]] = {}
    for machine in kind.machines:
        own: dict[str, float] = {}
        for one in machine.latest.values():
            if one.row["workload"] == "matmul" and one.row["flops_per_s"] and not one.doubted:
                dtype = one.summary.first.identity.dtype
                own[dtype] = max(own.get(dtype, 0.0), one.row["flops_per_s"])
        for dtype, rate in own.items():
            rates.setdefault(dtype, []).append(rate)
    middles = {dtype: Middle.of(found).median for dtype, found in rates.items()}
    return dict(sorted(middles.items(), key=lambda item: (-item[1], item[0])))


def best_copy(kind: Kind) -> float | None:
    """The median over machines of each one's best copy."""
    best = [one.row["bytes_per_s"] for machine in kind.machines if (one := machine.best("memory_copy", "bytes_per_s"))]
    return Middle.of(best).median if best else None


def _panel(kind: Kind) -> tuple[Panel, Body] | None:
    points = _points(kind)
    roofs, copy, sheet = dict(list(best_products(kind).items())[:_TYPES]), best_copy(kind), kind.chip
    if not points or not roofs or copy is None:
        return None
    peaks = {dtype: peak for dtype in roofs if sheet and (peak := sheet.peak_flops_per_s(dtype))}
    across = [x for x, _, _ in points] + [max(roofs.values()) / copy]
    plot = Plot(
        title=kind.name,
        x=svg.logarithmic("FLOP for each byte that must be moved", [0.5, *across, 20 * max(across)], _count),
        y=svg.logarithmic("FLOP/s", [y for _, y, _ in points] + [*roofs.values(), *peaks.values()]),
        height=350,
    )
    for peak in peaks.values():
        assert sheet is not None
        _roof(plot, peak, sheet.memory_bytes_per_s, dashed=True)
    for peak in roofs.values():
        _roof(plot, peak, copy, dashed=False)
    for x, y, one in points:
        plot.mark(x, y, _family(one), f"{plain(one.row['case'])}: {units.scaled(y, 'FLOP/s')}", size=3.5)
    for dtype, peak in roofs.items():
        upper = max(peak, peaks.get(dtype, 0.0))  # the two lines of a type lie close together
        plot.name(plot.x.high, upper if upper < plot.y.high / 1.1 else peak, plain(dtype, 14), "over its end")
    ridge = max(roofs.values()) / copy
    plot.name(ridge / 3, ridge / 3 * copy, "copy", "before")
    for x, y, one in {one.row["workload"]: (x, y, one) for x, y, one in reversed(points)}.values():
        plot.name(x, y, plain(one.row["workload"], 24).replace("_", " "))
    families = sorted({_family(one) for _, _, one in points}, reverse=True)
    legend = svg.key([(family, _FAMILIES[family]) for family in families], plot.height + 6)
    said = [f"{plain(dtype, 14)} {units.scaled(peak, 'FLOP/s')}" for dtype, peak in roofs.items()]
    said.append(f"copy {units.scaled(copy, 'B/s')}")
    lines = textwrap.wrap(f"measured: {', '.join(said)}", _LINE)
    legend += "".join(svg.line(one, plot.height + 36 + 13 * place) for place, one in enumerate(lines))
    return panel(plot, f"{len(points)} cases of {kind.name} under its roofs.", legend, 30 + 13 * len(lines)), [
        [
            kind.name,
            plain(one.row["case"]),
            units.significant(x),
            units.scaled(y, "FLOP/s"),
            percent(one.row["of_measured"]),
            percent(one.row["of_datasheet"]),
        ]
        for x, y, one in points
    ]


def _points(kind: Kind) -> list[tuple[float, float, Result]]:
    """FLOP for a byte, FLOP/s and a result to read off the rest: whole models first, in each family the fastest."""
    points = []
    for found in kind.results().values():
        first = found[0]
        rates = [one.row["flops_per_s"] for one in found if one.row["flops_per_s"]]
        if (
            rates
            and first.row["bytes_per_s"]
            and first.row["launch"] == "eager"
            and not first.summary.first.work.launches
        ):
            work = first.summary.first.work.cost()
            points.append((work.flops / work.bytes, Middle.of(rates).median, first))
    return sorted(points, key=lambda point: (-_family(point[2]), -point[1], point[2].key))


def _family(one: Result) -> int:
    work = one.summary.first.work
    if work.tokens:
        return 3
    if work.gemm_flops:
        return 0
    return 1 if work.attention_flops else 2


def _roof(plot: Plot, flops_per_s: float, bytes_per_s: float, *, dashed: bool) -> None:
    """Up the slope of the copy to the ridge, then flat."""
    begin = max(plot.x.low, plot.y.low / bytes_per_s)
    ridge = min(max(flops_per_s / bytes_per_s, begin), plot.x.high)
    points = [(begin, begin * bytes_per_s), (ridge, ridge * bytes_per_s), (plot.x.high, flops_per_s)]
    plot.line([(x, min(y, flops_per_s)) for x, y in points], "roof", dashed=dashed)


def _count(value: float) -> str:
    if value >= 1e5:
        return svg.prefixed(value)
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"

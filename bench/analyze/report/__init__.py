"""Report: one page for people who did not run the benchmark: what the machines are, what stands out, then the figures.

The page is one file without requests; see page.py. The figures also come as files by themselves, as SVG or PNG.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.analyze.report import curves, intervals, roofline, svg, timeline
from bench.analyze.report.evidence import Evidence, gather
from bench.analyze.report.figure import Figure
from bench.analyze.report.page import html, stylesheet
from bench.errors import UserError, not_installed

_COLUMNS = 3  # panels side by side in a picture
_GAP = 16


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page and its figures."""

    evidence: Evidence
    figures: list[Figure]

    def html(self) -> str:
        """The page."""
        return html(self.evidence, self.figures)


def report(paths: Iterable[str | os.PathLike[str]]) -> Report:
    """Of the result files at `paths`. Raises UserError where none can be used."""
    evidence = gather(paths)
    return Report(evidence=evidence, figures=figures(evidence))


def figures(evidence: Evidence) -> list[Figure]:
    """All of them, in the order of the page; one without panels says why."""
    draw = (
        intervals.side_by_side, roofline.figure, curves.matmul, curves.attention, curves.decode, timeline.figure,
        intervals.energy,
    )  # fmt: skip
    return [one(evidence) for one in draw]


def picture(figure: Figure) -> str:
    """A figure as an SVG document by itself: its panels side by side, its title above."""
    rows = [figure.panels[begin : begin + _COLUMNS] for begin in range(0, len(figure.panels), _COLUMNS)]
    drawn, down = [], 30
    for row in rows:
        for place, one in enumerate(row):
            across = _GAP + place * (svg.WIDTH + _GAP)
            drawn.append(
                f'<svg x="{across}" y="{down}" width="{svg.WIDTH}" height="{one.height}" '
                f'viewBox="0 0 {svg.WIDTH} {one.height}">{one.inside}</svg>'
            )
        down += max(one.height for one in row) + _GAP
    wide = _GAP + (svg.WIDTH + _GAP) * max(map(len, rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{down}" viewBox="0 0 {wide} {down}">'
        f"<title>{svg.text(figure.title)}</title><desc>{svg.text(figure.says)}</desc>"
        f"<style>{stylesheet('figure.css')}</style>"
        f'<rect width="{wide}" height="{down}" fill="#ffffff"/>'
        f'<text class="t" x="{_GAP}" y="20">{svg.text(figure.title)}</text>{"".join(drawn)}</svg>\n'
    )


def write_pictures(figures: Sequence[Figure], folder: Path, *, png: bool = False) -> list[Path]:
    """Each figure that has panels, as NAME.svg and if asked for as NAME.png beside it. Raises UserError."""
    convert = _converter() if png else None
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in figures:
            if one.panels:
                path = folder / f"{one.name}.svg"
                path.write_text(picture(one), encoding="utf-8")
                written.append(path)
                if convert:
                    path.with_suffix(".png").write_bytes(convert(picture(one)))
                    written.append(path.with_suffix(".png"))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return written


def _converter() -> Callable[[str], bytes]:
    """What turns an SVG document into a PNG. Raises UserError where it is not installed."""
    try:
        import cairosvg
    except ImportError:
        raise not_installed("CairoSVG") from None
    except OSError:  # the package is there, the C library that it calls is not
        raise UserError("CairoSVG does not find the library cairo: install it (Debian: libcairo2)") from None
    return lambda document: bytes(cairosvg.svg2png(bytestring=document.encode(), scale=2))

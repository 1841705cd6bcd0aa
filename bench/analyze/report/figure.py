"""Figure: a title that says what is shown, its panels, and its numbers as a table for those who cannot see it.

Where nothing was measured that a figure could show, it has no panels, and says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from bench import units
from bench.analyze.report import svg
from bench.analyze.report.evidence import Evidence, Kind, Middle
from bench.analyze.report.svg import Plot

Body = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: what is inside of its element, and what it says to those who cannot see it."""

    title: str
    describes: str
    inside: str
    height: int

    def svg(self, name: str) -> str:
        """The element for a page; `name` makes its identifiers unique there."""
        return (
            f'<svg viewBox="0 0 {svg.WIDTH} {self.height}" role="img" aria-labelledby="{name}-t {name}-d">'
            f'<title id="{name}-t">{svg.text(self.title)}</title><desc id="{name}-d">{svg.text(self.describes)}</desc>'
            f"{self.inside}</svg>"
        )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a reader gets. Without panels `says` tells why there are none."""

    name: str  # of its file and of its place in the page
    title: str
    says: str
    panels: list[Panel] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    body: Body = field(default_factory=list)


def panel(plot: Plot, describes: str, below: str = "", extra: int = 0) -> Panel:
    """A finished plot; `below` is drawn under it, `extra` units high."""
    return Panel(title=plot.title, describes=describes, inside=plot.inside() + below, height=plot.height + extra)


def drawn(evidence: Evidence) -> list[Kind]:
    """The kinds that have a colour and a shape of their own."""
    return evidence.kinds[: svg.SERIES]


def left_out(evidence: Evidence) -> str:
    """What is said where there are more kinds than colours."""
    more = len(evidence.kinds) - svg.SERIES
    return f" {more} more kinds of device are in the table only: eight can be told apart." if more > 0 else ""


def percent(share: float | None) -> str:
    """A share for people, or nothing."""
    return "" if share is None else units.percent(share, 0 if share >= 0.0995 else 1)


def spread(middle: Middle, say: Callable[[float], str]) -> str:
    """The lowest and the highest of several machines."""
    return "" if middle.count == 1 else f"{say(middle.low)} to {say(middle.high)} on {middle.count} machines"

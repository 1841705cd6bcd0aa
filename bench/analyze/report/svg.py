"""Drawing: axes, marks and labels as SVG, by arithmetic alone.

A plot is 400 units wide, so that one fills a phone at about its own size and three stand side by side on a desk. What a
mark is follows from its series: a colour of Okabe & Ito (2008), which people with any colour vision tell apart, and a
shape, for those who print in grey. Styles are classes (figure.css): a page with a strict policy allows no others.
"""

import html
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bench import units

WIDTH = 400
SERIES = 8  # colours and shapes that can be told apart
_TEXT = 5.9  # mean width of a character at 11 units, of the fonts that systems have
_LINE = 13
_TITLE = 52  # characters in a line of a title


def text(words: str) -> str:
    """Words as they may stand in a page or a picture: nothing in them is markup."""
    return html.escape(words, quote=True)


def short(words: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis for the rest."""
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def prefixed(value: float) -> str:
    """A tick: 100 G, 1 T, 5 m."""
    small = next(((f, letter) for f, letter in ((1e-3, "m"), (1e-6, "µ"), (1e-9, "n")) if value >= 0.9995 * f), None)
    factor, letter = small if small and value < 0.9995 else units.prefix(value)
    return f"{value / factor:g} {letter}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis says, and where on it a value lies: 0 at its beginning, 1 at its end."""

    title: str  # with its unit
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """The share of the axis that lies before `value`."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(title: str, values: Iterable[float], say: Callable[[float], str] | None = None) -> Axis:
    """From zero to a round number that no value exceeds, in four to six steps."""
    top = max(values, default=0.0) or 1.0
    rough = top / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(one * magnitude for one in (1, 2, 2.5, 5, 10) if one * magnitude >= rough * 0.999)
    count = math.ceil(top / step * 0.999)
    return Axis(
        title=title,
        low=0.0,
        high=count * step,
        ticks=tuple((number * step, (say or _plain)(number * step)) for number in range(count + 1)),
    )


def logarithmic(
    title: str, values: Iterable[float], say: Callable[[float], str] = prefixed, *, base: int = 10, most: int = 7
) -> Axis:
    """Between the powers of `base` round all values; of many powers every second or third has a tick."""
    found = [value for value in values if value > 0]
    first = math.floor(math.log(min(found), base) + 1e-9)
    last = max(math.ceil(math.log(max(found), base) - 1e-9), first + 1)
    every = math.ceil((last - first + 1) / most)
    ticks = tuple((float(base) ** power, say(float(base) ** power)) for power in range(first, last + 1, every))
    return Axis(title=title, low=float(base) ** first, high=float(base) ** last, ticks=ticks, logarithmic=True)


def _plain(value: float) -> str:
    return f"{value:g}"


Point = tuple[float, float]
_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(kw_only=True)
class Plot:
    """One panel. Marks are in the axes' own values; labels are placed when everything else is known."""

    title: str
    x: Axis
    y: Axis
    height: int = 290
    left: int = 50
    right: int = 22
    bottom: int = 44
    rows: tuple[tuple[float, str], ...] = ()  # instead of an upward axis: names of the rows, each at its height
    _marks: list[str] = field(default_factory=list)
    _taken: list[_Box] = field(default_factory=list)
    _labels: list[tuple[Point, str, str]] = field(default_factory=list)
    _ends: list[tuple[Point, str, int]] = field(default_factory=list)

    @property
    def top(self) -> int:
        """Where the axes begin: below a title of one or two lines."""
        return 12 + _LINE * len(self._title()) + 6

    def at(self, x: float, y: float) -> Point:
        """Where a pair of values lies in the picture."""
        across, down = self.x.place(x), 1 - self.y.place(y)
        return (
            self.left + across * (WIDTH - self.left - self.right),
            self.top + down * (self.height - self.top - self.bottom),
        )

    def line(self, points: Sequence[Point], series: int | str, *, dashed: bool = False) -> None:
        """Points joined in their order. A series that is a word is a class of its own, without a colour."""
        kind = f"s{series}" if isinstance(series, int) else series
        placed = [self.at(x, y) for x, y in points]
        joined = " ".join(f"{_at(x)},{_at(y)}" for x, y in placed)
        if kind == "roof":  # words keep clear of its level parts
            level = [(one, other) for one, other in itertools.pairwise(placed) if abs(one[1] - other[1]) < 1]
            self._taken += [(one[0], one[1] - 1, other[0], one[1] + 1) for one, other in level]
        self._marks.append(f'<polyline class="l {kind}{" d" if dashed else ""}" points="{joined}"/>')

    def band(self, points: Sequence[tuple[float, float, float]], series: int) -> None:
        """From the lowest to the highest: x, low, high."""
        outline = [self.at(x, high) for x, _, high in points] + [self.at(x, low) for x, low, _ in reversed(points)]
        joined = " ".join(f"{_at(x)},{_at(y)}" for x, y in outline)
        self._marks.append(f'<polygon class="b s{series}" points="{joined}"/>')

    def mark(self, x: float, y: float, series: int, tip: str, *, hollow: bool = False, size: float = 4) -> None:
        """A shape with words that appear under the pointer."""
        across, down = self.at(x, y)
        kind = f"m s{series}{' h' if hollow else ''}"
        self._marks.append(
            f'<path class="{kind}" d="{_shape(series, across, down, size)}"><title>{text(tip)}</title></path>'
        )
        self._taken.append((across - size, down - size, across + size, down + size))

    def reach(self, low: Point, high: Point, series: int) -> None:
        """The interval of a mark."""
        (left, top), (right, bottom) = self.at(*low), self.at(*high)
        self._marks.append(f'<path class="l w s{series}" d="M{_at(left)} {_at(top)}L{_at(right)} {_at(bottom)}"/>')

    def name(self, x: float, y: float, words: str, where: str = "beside") -> None:
        """Words at a point, left out where there is no room: the table below the figure has them. Those that must stand
        at a certain place are placed before those that may stand on any side.
        """
        self._labels.append((self.at(x, y), words, where))

    def end(self, x: float, y: float, words: str, series: int) -> None:
        """The name of a series, in the right margin at the height of its last point."""
        self._ends.append((self.at(x, y), words, series))

    def inside(self) -> str:
        """Everything but the element round it."""
        return "".join([*self._grid(), *self._marks, *self._named(), *self._ended()])

    def _title(self) -> list[str]:
        """At most two lines, broken at a comma or a space."""
        if len(self.title) <= _TITLE:
            return [self.title]
        place = max(self.title.rfind(", ", 0, _TITLE) + 1, 0) or max(self.title.rfind(" ", 0, _TITLE), 0) or _TITLE
        return [self.title[:place].rstrip(), short(self.title[place:].lstrip(), _TITLE)]

    def _grid(self) -> list[str]:
        right, floor = WIDTH - self.right, self.height - self.bottom
        drawn = [
            f'<text class="t" x="0" y="{12 + _LINE * number}">{text(line)}</text>'
            for number, line in enumerate(self._title())
        ]
        for value, words in self.x.ticks:
            across = _at(self.at(value, self.y.low)[0])
            drawn.append(f'<path class="g" d="M{across} {self.top}V{floor}"/>')
            drawn.append(f'<text x="{across}" y="{floor + 17}" text-anchor="middle">{text(words)}</text>')
        middle = _at((self.left + right) / 2)
        drawn.append(f'<text x="{middle}" y="{floor + 33}" text-anchor="middle">{text(self.x.title)}</text>')
        if self.rows:
            return drawn + [
                f'<text x="{self.left - 8}" y="{_at(self.at(self.x.low, height)[1] + 4)}" text-anchor="end">'
                f"{text(words)}</text>"
                for height, words in self.rows
            ]
        for value, words in self.y.ticks:
            down = self.at(self.x.low, value)[1]
            drawn.append(f'<path class="g" d="M{self.left} {_at(down)}H{right}"/>')
            drawn.append(f'<text x="{self.left - 5}" y="{_at(down + 4)}" text-anchor="end">{text(words)}</text>')
        centre = _at((self.top + floor) / 2)
        drawn.append(
            f'<text transform="translate(11 {centre}) rotate(-90)" text-anchor="middle">{text(self.y.title)}</text>'
        )
        return drawn

    def _named(self) -> list[str]:
        drawn = []
        for (across, down), words, where in sorted(self._labels, key=lambda label: label[2] == "beside"):
            wide = _TEXT * len(words)
            for right, below in _places(where, wide):
                box = (across + right, down + below - 8, across + right + wide, down + below + 2)
                if self._free(box):
                    self._taken.append(box)
                    drawn.append(f'<text class="a" x="{_at(box[0])}" y="{_at(down + below)}">{text(words)}</text>')
                    break
        return drawn

    def _free(self, box: _Box) -> bool:
        inside = box[0] >= self.left and box[2] <= WIDTH and box[1] >= self.top and box[3] <= self.height - self.bottom
        return inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in self._taken
        )

    def _ended(self) -> list[str]:
        """Names from top to bottom, pushed apart where lines end close together."""
        drawn: list[str] = []
        ordered = sorted(self._ends, key=lambda one: (one[0][1], one[1]))
        room = self.height - self.bottom - _LINE * len(ordered)
        down = float(self.top) - _LINE
        across = WIDTH - self.right + 12
        for number, ((end_x, end_y), words, series) in enumerate(ordered):
            down = max(down + _LINE, min(end_y, room + _LINE * (number + 0.5)))
            drawn.append(f'<path class="g" d="M{_at(end_x + 4)} {_at(end_y)}L{_at(across - 6)} {_at(down)}"/>')
            drawn.append(f'<path class="m s{series}" d="{_shape(series, across, down, 4)}"/>')
            drawn.append(f'<text x="{across + 8}" y="{_at(down + 4)}">{text(words)}</text>')
        return drawn


def key(entries: Sequence[tuple[int, str]], top: float) -> str:
    """Shapes with their names, two to a line."""
    drawn = []
    for number, (series, words) in enumerate(entries):
        across, down = 56 + 170 * (number % 2), top + _LINE * (number // 2)
        drawn.append(f'<path class="m s{series}" d="{_shape(series, across, down - 4, 4)}"/>')
        drawn.append(f'<text x="{across + 9}" y="{_at(down)}">{text(words)}</text>')
    return "".join(drawn)


def line(words: str, top: float) -> str:
    """A line of text under the axes."""
    return f'<text x="51" y="{_at(top)}">{text(words)}</text>'


def _at(value: float) -> str:
    """A coordinate to a tenth of a unit: finer is not seen, and would make pages larger and differ between machines."""
    return f"{round(value, 1) + 0:g}"  # adding nothing turns -0 into 0


def _places(where: str, wide: float) -> tuple[Point, ...]:
    """Where words that are `wide` may begin, seen from their point, in the order in which places are tried."""
    if where == "over its end":
        return ((-wide - 2, -4), (-wide - 2, 12))
    if where == "over its beginning":
        return ((4, -4), (4, 12))
    if where == "before":
        return ((-8 - wide, 0),)
    return ((7, 4), (-7 - wide, 4), (-wide / 2, -8), (-wide / 2, 16), (7, -7), (7, 15), (-7 - wide, -7))


# Shapes round the origin as closed outlines, all of about the same weight to the eye.
_OUTLINES: tuple[tuple[Point, ...], ...] = (
    (),  # a circle
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4),
     (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
    ((-1.2, 0), (-0.6, -1.05), (0.6, -1.05), (1.2, 0), (0.6, 1.05), (-0.6, 1.05)),
    ((-1.1, -1.1), (1.1, -1.1), (-1.1, 1.1), (1.1, 1.1)),
)  # fmt: skip


def _shape(series: int, across: float, down: float, size: float) -> str:
    outline = _OUTLINES[series % SERIES]
    if not outline:
        left, wide = _at(across - size), _at(2 * size)
        return f"M{left} {_at(down)}a{size:g} {size:g} 0 1 0 {wide} 0a{size:g} {size:g} 0 1 0 -{wide} 0z"
    return "M" + "L".join(f"{_at(across + size * x)} {_at(down + size * y)}" for x, y in outline) + "z"

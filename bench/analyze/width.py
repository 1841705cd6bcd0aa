"""Width: a table brought into the columns of a terminal. Pipes, Markdown and CSV have it as wide as it is.

What makes tables wide is the name of a case, so that goes on a line of its own above its values. Headers, and a text at
the end of a row, are folded. What then still does not fit stands on a second line of values, under a second header.
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence

Cells = list[list[str]]

GAP, INDENT = "  ", "  "
# A text at the end of a row is not folded into less than this.
NARROWEST_TEXT = 24


def of_terminal() -> int | None:
    """The columns of the terminal that standard output is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wordy(body: Cells, column: int) -> bool:
    """Whether a column has texts: they stand left, numbers right."""
    return any(line[column][:1].isalpha() for line in body)


def fitted(header: Sequence[str], body: Cells, width: int) -> str:
    """A table of text columns in at most `width` characters a line; only a single word or value may be longer."""
    named = 0
    while named < len(header) - 1 and wordy(body, named):
        named += 1
    right = [not wordy(body, place) for place in range(len(header))]
    widths = [_least(header[place], [line[place] for line in body]) for place in range(len(header))]
    last = widths[-1] if right[-1] else min(widths[-1], NARROWEST_TEXT, width - len(INDENT))
    bands = _bands([*widths[named:-1], last], width - len(INDENT), named)
    before = sum(widths[place] + len(GAP) for place in bands[-1][:-1])
    widths[-1] = min(widths[-1], max(last, width - len(INDENT) - before))
    lines = []
    for band in bands:
        lines += _row(header, band, widths, right, bottom=True)
        lines.append(INDENT + GAP.join("-" * widths[place] for place in band))
    for cells in body:
        if title := GAP.join(filter(None, cells[:named])):
            lines += textwrap.wrap(title, max(1, width), subsequent_indent=INDENT * 2, break_long_words=False)
        for band in bands:
            lines += _row(cells, band, widths, right)
    return "\n".join(line.rstrip() for line in lines)


def _least(name: str, cells: list[str]) -> int:
    """What a column needs with its header folded."""
    return max(map(len, [*name.split(), *cells]), default=0)


def _bands(widths: list[int], width: int, first: int) -> list[list[int]]:
    """The places of columns, from `first` on, in as few lines as hold them."""
    bands: list[list[int]] = [[]]
    used = 0
    for place, wide in enumerate(widths, start=first):
        if bands[-1] and used + wide > width:
            bands.append([])
            used = 0
        bands[-1].append(place)
        used += wide + len(GAP)
    return bands


def _row(
    cells: Sequence[str], band: list[int], widths: list[int], right: list[bool], *, bottom: bool = False
) -> list[str]:
    """A line of values, or several where a cell is folded; those of a header stand at its bottom."""
    folded = [textwrap.wrap(cells[place], max(1, widths[place]), break_long_words=False) for place in band]
    height = max(map(len, folded))
    lines = []
    for number in range(height):
        line = []
        for place, cell in zip(band, folded, strict=True):
            at = number - (height - len(cell) if bottom else 0)
            part = cell[at] if 0 <= at < len(cell) else ""
            line.append(part.rjust(widths[place]) if right[place] else part.ljust(widths[place]))
        lines.append(INDENT + GAP.join(line))
    return lines

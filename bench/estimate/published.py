"""Published measurements of others, as rows: results/published/{training,inference,micro}.csv.

Nobody here measured them; each row names its source and how far it is trusted. A: measured by the source's authors,
complete enough to replay. B: a vendor's table, or one iteration of a real run. C: contradicts itself, second-hand, or
with lost time inside. Nothing is ever fitted on C.
"""

import csv
from pathlib import Path
from typing import Literal

Kind = Literal["training", "inference", "micro"]
Row = dict[str, str]

_FOLDER = Path(__file__).resolve().parent.parent.parent / "results" / "published"


def rows(kind: Kind, *, trusted: bool = True) -> list[Row]:
    """The rows of that file, in order; with `trusted` none that is graded C. Empty cells are empty strings."""
    with (_FOLDER / f"{kind}.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if not (trusted and row["trust"] == "C")]


def number(row: Row, column: str) -> float | None:
    """A cell as a number; None where it is empty, absent or no number."""
    text = (row.get(column) or "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        return None

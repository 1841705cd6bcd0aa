"""Stored: the rows of a large folder by way of its store. Columns and filters are pushed down into the read."""

import importlib.util
from pathlib import Path
from typing import Any

from bench.analyze import grouped, where
from bench.analyze.cache import columns
from bench.analyze.cache.store import Store
from bench.analyze.row import Row
from bench.analyze.source import MOST_ROWS, Note
from bench.errors import UserError, not_installed


def open_stored(folder: Path, *, cache: Path | None, note: Note) -> "Stored":
    """The store of a folder, brought up to date."""
    store = Store(folder, cache=cache, note=note)
    store.refresh()
    return Stored(store, folder)


class Stored:
    """The rows of one store. They lack what is said of single samples and `facts`: those are in `show FILE`."""

    # To check a file takes three times as long as to read it: `accelmark check` does it when it is asked to.
    quarantined: int | None = None

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self.errors = [(str(folder / path), reason) for path, reason in store.errors()]
        self.copies = [(str(folder / path), str(folder / first)) for path, first in store.copies()]

    def arrow(self, wanted: str = "", names: tuple[str, ...] = columns.NAMES) -> Any:
        """The rows that an expression asks for, as an Arrow table of these columns."""
        return self._store.read(names, where.parse(wanted))

    def rows(self, wanted: str = "") -> list[Row]:
        """The rows that an expression asks for. Raises UserError for more than a list should hold."""
        number = self.count(wanted)
        if number > MOST_ROWS:
            raise UserError(
                f"{number} rows: narrow them with --where, group them with --by, or write them with --parquet PATH"
            )
        return columns.rows(self.arrow(wanted))

    def count(self, wanted: str = "") -> int:
        """How many rows an expression asks for."""
        return int(self.arrow(wanted, ("method",)).num_rows)

    def frame(self, wanted: str = "") -> Any:
        """The rows as a pandas DataFrame. Raises UserError where pandas is not installed."""
        if importlib.util.find_spec("pandas") is None:
            raise not_installed("pandas", "pandas", "pyarrow")
        return columns.expanded(self.arrow(wanted)).to_pandas(split_blocks=True)

    def typical(self, wanted: str = "", by: str | None = None) -> list[Row]:
        """As `grouped.typical`, computed on columns: the run in the middle of each case and machine by step time."""
        import numpy

        kept = by if by in columns.NAMES else "params" if by else None
        names = tuple(dict.fromkeys([*grouped.FIELDS, *([kept] if kept else [])]))
        found = self.arrow(wanted, names)
        if not found.num_rows:
            return []
        # One number for each combination of what tells groups apart. Parameters are told apart by the case's own name.
        keys = [*grouped.IDENTITY, "device", "machine", *([by] if by in columns.NAMES else [])]
        group, combinations = numpy.zeros(found.num_rows, dtype=numpy.int64), 1
        for name in keys:
            if name in columns.TEXTS:
                codes, values = columns.coded(found[name])
                size = len(values)
            else:
                numbers, codes = numpy.unique(columns.to_numpy(found[name]), return_inverse=True)
                size = len(numbers)
            group, combinations = group * size + codes, combinations * size
            if combinations > 2**40:  # renumbered, so that the next product does not overflow
                kept_groups, group = numpy.unique(group, return_inverse=True)
                combinations = len(kept_groups)
        step_s = columns.to_numpy(found["step_s"])  # what is unknown is NaN, and sorts last
        order = numpy.lexsort((step_s, group))
        starts = numpy.flatnonzero(numpy.diff(group[order], prepend=-1))
        timed = numpy.add.reduceat(~numpy.isnan(step_s[order]), starts, dtype=numpy.int64)
        middle = order[starts + numpy.maximum(timed - 1, 0) // 2]
        sequence = numpy.argsort(middle)  # in the order of the files again
        runs = columns.rows(found.take(columns.of_numpy(middle[sequence])))
        for one, number in zip(runs, timed[sequence].tolist(), strict=True):
            one["runs"] = number
        if by:
            where.check_field(by, runs)
        return runs

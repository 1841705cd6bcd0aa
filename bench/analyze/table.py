"""Table: rows for people and programs from any number of result files. Plain rows; pandas only where asked for."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.analyze import grouped
from bench.analyze.row import Row, distribution, row
from bench.analyze.source import Source, expand, files, open_source, rows
from bench.analyze.where import check_field
from bench.errors import UserError

__all__ = [
    "Row", "distribution", "expand", "files", "frame", "open_source", "pivot", "row", "rows", "spread_out",
    "write_parquet",
]  # fmt: skip

# More columns than this do not fit on a screen: then the values stand below one another.
WIDEST = 8


def frame(paths: Iterable[str | os.PathLike[str]], where: str = "", *, cache: Path | None = None) -> Any:
    """The rows as a pandas DataFrame."""
    return open_source(paths, cache=cache).frame(where)


def pivot(made: list[Row], by: str) -> tuple[list[str], list[list[Any]]]:
    """Cases down, values of field `by` across; in the cells what the machines have in common, as `grouped` has it."""
    check_field(by, made)
    return arranged(grouped.groups(grouped.typical(made, by), by), by)


def arranged(groups: list[Row], by: str) -> tuple[list[str], list[list[Any]]]:
    """Groups with cases down and values across."""
    columns = list(dict.fromkeys(grouped.named(by, one) for one in groups))
    by_device = len({one["device"] for one in groups}) > 1 and not grouped.belongs_to_device(by, groups)
    cells: dict[str, dict[str, Row]] = {}
    for one in groups:
        name = _without(by, one["case"]) + (f" on {one['device']}" if by_device else "")
        cells.setdefault(name, {})[grouped.named(by, one)] = one
    return columns, [[name, *(found.get(column) for column in columns)] for name, found in cells.items()]


def spread_out(groups: list[Row], by: str) -> bool:
    """Whether values of the field stand across: few of them, and cases that have more than one."""
    values: dict[str, set[str]] = {}
    for one in groups:
        values.setdefault(_without(by, one["case"]), set()).add(grouped.named(by, one))
    number = len(set().union(*values.values()))
    return number == 1 or (number <= WIDEST and any(len(own) > 1 for own in values.values()))


def write_parquet(source: Source, where: str, path: Path) -> int:
    """Writes the rows as a Parquet file; gives their number. Raises UserError."""
    from bench.analyze.cache import columns
    from bench.analyze.cache.stored import Stored

    arrow = columns.library()
    found = columns.expanded(source.arrow(where)) if isinstance(source, Stored) else columns.of_rows(source.rows(where))
    hidden = path.with_name(f".{path.name}.tmp")
    try:
        arrow.parquet.write_table(found, hidden, compression="zstd")
        os.replace(hidden, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    return int(found.num_rows)


def _without(by: str, case: str) -> str:
    return re.sub(rf" {re.escape(by)}=\S+", "", case)

"""Source: where a table's rows come from. Files that are read as they are asked for, or the store of a large folder."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from bench import record
from bench.analyze import grouped, where
from bench.analyze.check import quarantined
from bench.analyze.folder import scan
from bench.analyze.row import Row, row
from bench.analyze.shared import history
from bench.analyze.summary import ceilings, extrapolated, summarize
from bench.errors import UserError, not_installed
from bench.record import BadFile, Key, ResultFile

Paths = Iterable[str | os.PathLike[str]]
Note = Callable[[str], None]

# Below this many files reading them takes less time than loading pyarrow (measured: DECISIONS.md).
WORTHWHILE_FILES = 300
# More rows than this are no list that a program should get by accident: 1 kB each.
MOST_ROWS = 200_000


class Source(Protocol):
    """Rows of any number of result files; a run that stands in several counts once."""

    errors: list[tuple[str, str]]  # files that were left out, and why
    copies: list[tuple[str, str]]  # files of a run that another file has, and that file

    @property
    def quarantined(self) -> int | None:
        """Rows that are in no median; None where they are not looked for."""

    def rows(self, wanted: str = "") -> list[Row]:
        """The rows that an expression asks for."""

    def typical(self, wanted: str = "", by: str | None = None) -> list[Row]:
        """The typical run of each case on each machine, for each value of a field."""

    def count(self, wanted: str = "") -> int:
        """How many rows an expression asks for."""

    def frame(self, wanted: str = "") -> Any:
        """The rows as a pandas DataFrame."""


def expand(paths: Paths) -> list[Path]:
    """Files as they are, and every .jsonl below a folder. Raises UserError when that comes to nothing."""
    found: list[Path] = []
    given = [Path(path) for path in paths]
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
        found += [path / name for name in scan(path)] if path.is_dir() else [path]
    if not found and any(True for path in given for _ in path.rglob("*.jsonl")):
        raise UserError(f"no result file in {', '.join(map(str, given))} counts: each is withdrawn, hidden or a link")
    if not found:
        raise UserError(f"no result files in {', '.join(map(str, given)) or 'nothing'}: `accelmark run` makes one")
    return found


def files(paths: Paths) -> list[ResultFile]:
    """The result files at `paths`, a folder for all below it. Raises UserError, also for a bad file."""
    return [record.read(path) for path in expand(paths)]


def rows(
    read: Iterable[ResultFile], wanted: str = "", in_quarantine: Mapping[Key, list[str]] | None = None
) -> list[Row]:
    """One row for each case, device and file, in SI units; a run that stands in two files counts once.

    `in_quarantine`: what `check` doubts; a row says why in `quarantine`.
    """
    summaries, doubted = summarize(read), in_quarantine or {}
    roofs = ceilings(summaries)
    made = []
    for one in [*summaries, *extrapolated(summaries)]:
        keys = dict.fromkeys((one.session.id, known.device, known.key()) for known in one.records)
        why = [message for key in keys for message in doubted.get(key, [])]
        flat = row(one, roofs[one.session.id, one.first.device])
        made.append(flat | {"quarantine": "; ".join(why)} if why else flat)
    return where.select(wanted, made)


@dataclass
class Files:
    """Files that have been read, all of them in memory."""

    made: list[Row]
    errors: list[tuple[str, str]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)

    @property
    def quarantined(self) -> int:
        """Rows that are in no median."""
        return sum(one["quarantine"] is not None for one in self.made)

    def rows(self, wanted: str = "") -> list[Row]:
        """The rows that an expression asks for."""
        return where.select(wanted, self.made)

    def typical(self, wanted: str = "", by: str | None = None) -> list[Row]:
        """The typical run of each case on each machine, for each value of a field."""
        return grouped.typical((one for one in self.rows(wanted) if one["quarantine"] is None), by)

    def count(self, wanted: str = "") -> int:
        """How many rows an expression asks for."""
        return len(self.rows(wanted))

    def frame(self, wanted: str = "") -> Any:
        """The rows as a pandas DataFrame. Raises UserError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise not_installed("pandas", "pandas", "pyarrow") from None
        return pandas.DataFrame(self.rows(wanted))


def read(paths: Paths) -> Files:
    """Reads files and folders. A bad file in a folder is left out and remembered; one that was named raises BadFile."""
    given = [Path(path) for path in paths]
    found: dict[str, ResultFile] = {}
    origins: dict[str, str] = {}
    errors, copies = [], []
    for path in expand(given):
        try:
            file = record.read(path)
        except BadFile as problem:
            if path in given:
                raise
            errors.append((str(path), str(problem)))
            continue
        if file.session.id in found:
            copies.append((str(path), origins[file.session.id]))
        else:
            found[file.session.id], origins[file.session.id] = file, str(path)
    if errors and not found:
        raise BadFile(f"{errors[0][1]} (and none of the {len(errors)} files can be read)")
    accepted = {one for path in given if path.is_dir() for one in history.accepted(path)}
    doubted = quarantined(list(found.values()), accepted=accepted)
    return Files(rows(found.values(), in_quarantine=doubted), errors, copies)


def open_source(paths: Paths, *, cache: Path | None = None, note: Note | None = None) -> Source:
    """The rows of these paths: from the store, brought up to date, where one large folder is asked for."""
    given = [Path(path) for path in paths]
    if len(given) == 1 and given[0].is_dir() and _worthwhile(given[0]):
        from bench.analyze.cache import stored

        return stored.open_stored(given[0], cache=cache, note=note or (lambda text: None))
    return read(given)


def _worthwhile(folder: Path) -> bool:
    """Whether a folder is large, and what a store needs is here."""
    names = (name for _, _, names in os.walk(folder) for name in names if name.endswith(".jsonl"))
    large = sum(1 for _ in islice(names, WORTHWHILE_FILES)) == WORTHWHILE_FILES
    return large and all(importlib.util.find_spec(name) for name in ("pyarrow", "numpy", "fcntl"))

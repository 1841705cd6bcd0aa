"""The commands that need result files: `show`, `check`, `submit`, `table`, `compare`, `report`."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.analyze.source import Source

Document = dict[str, Any]
Paths = Sequence[str | os.PathLike[str]]


def show(path: str | os.PathLike[str], *, wall: str | os.PathLike[str] | None = None) -> Document:
    """One file: its session and its rows; and with the log of a meter at the socket, `wall`, what that saw of it."""
    from dataclasses import asdict

    import msgspec

    from bench import record
    from bench.analyze import table as tables
    from bench.analyze import wall as walls

    file = record.read(path)
    found = {"session": msgspec.to_builtins(file.session), "torn": file.torn, "rows": tables.rows([file])}
    return found | ({"wall": asdict(walls.beside(file, Path(wall)))} if wall else {})


def pytest_benchmark(path: str | os.PathLike[str]) -> Document:
    """One file in the format of pytest-benchmark."""
    from bench import record
    from bench.analyze import pytest_export

    return pytest_export.document(record.read(path))


def table(paths: Paths = (), *, where: str = "", cache: Path | None = None) -> list[Document]:
    """Rows of result files and folders; without any, of the results folder."""
    return source(paths, cache=cache).rows(where)


def frame(paths: Paths = (), *, where: str = "", cache: Path | None = None) -> Any:
    """The rows of `table` as a pandas DataFrame."""
    return source(paths, cache=cache).frame(where)


def source(paths: Paths = (), *, cache: Path | None = None, note: "Callable[[str], None] | None" = None) -> "Source":
    """Where rows come from: files as they are read, or the store of a large folder, brought up to date."""
    from bench.analyze.source import open_source

    return open_source(paths or [results_folder()], cache=cache, note=note)


def grouped(
    rows: "Paths | Source" = (), *, by: str | None = None, where: str = "", price_per_hour: float | None = None
) -> list[Document]:
    """One row for each case, device and value of `by`: medians over machines, how they spread, how many they are."""
    from bench.analyze import grouped as groups

    return groups.groups(_opened(rows).typical(where, by), by, price_per_hour=price_per_hour)


def standing(file: str | os.PathLike[str], rows: "Paths | Source" = (), *, where: str = "") -> list[Document]:
    """Where the machine of one file stands among others with its chip: a row for each case that was measured."""
    from bench import record
    from bench.analyze import standing as standings
    from bench.analyze import table as tables

    own = tables.rows([record.read(file)], where)
    return standings.standing(own, _opened(rows).typical(standings.near(own, where)))


def parquet(rows: "Paths | Source", path: Path, *, where: str = "") -> list[Document]:
    """Writes the rows as a Parquet file."""
    from bench.analyze import table as tables

    return [{"file": str(path), "rows": tables.write_parquet(_opened(rows), where, path)}]


def left_out(rows: "Paths | Source" = ()) -> list[Document]:
    """Files of which no row is in the table: those that cannot be read, and copies of a run."""
    found = _opened(rows)
    bad = [{"file": path, "reason": reason, "same_run_as": None} for path, reason in found.errors]
    return bad + [{"file": path, "reason": None, "same_run_as": first} for path, first in found.copies]


def too_long(found: "Source", where: str) -> bool:
    """Whether so many rows are asked for that people read medians over machines instead."""
    return found.count(where) > 1000


def _opened(rows: "Paths | Source") -> "Source":
    return source(rows) if isinstance(rows, Sequence) else rows


def check(paths: Paths, *, table: str | os.PathLike[str] | None = None) -> list[Document]:
    """Every finding in these files; none with level `error` means that all are accepted.

    `table`: the shared table whose other machines they are set beside; without it, the results folder.
    """
    from dataclasses import asdict

    from bench.analyze import check as checks
    from bench.analyze import table as tables
    from bench.analyze.shared import history

    beside = history.beside(Path(table or results_folder()))
    return [asdict(finding) for path in tables.expand(paths) for finding in checks.check(path, beside)]


def submit(
    path: str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str] | None = None,
    supersede: str | None = None,
    retract: str | None = None,
    reason: str = "",
    hide: Sequence[str] = (),
    branch: bool = False,
    dry_run: bool = False,
) -> Document:
    """Puts a checked, redacted copy of a run into the shared table at `to`, or withdraws one; see `submit --help`."""
    from dataclasses import asdict

    from bench.analyze.shared import submit as submits

    root = Path(to or results_folder())
    prepared = submits.asked(
        Path(path) if path else None, root, supersede=supersede, retract=retract, reason=reason, hide=hide
    )
    pieces = [{"file": str(piece.path), "content": piece.content.decode()} for piece in prepared.pieces]
    old = [piece.path.exists() for piece in prepared.pieces]
    new = [False] * len(pieces) if dry_run else submits.put(prepared)
    return {
        "id": prepared.id,
        "refused": prepared.refused,
        "files": [{**piece, "old": o, "new": n} for piece, o, n in zip(pieces, old, new, strict=True)],
        "findings": [asdict(finding) for finding in prepared.findings],
        "removed": prepared.removed,
        "proven": prepared.proven,
        "commit": submits.commit(prepared) if branch and not dry_run and not prepared.refused else None,
        "git": submits.commands(prepared),
    }


def compare(before: Paths, after: Paths, *, where: str = "", threshold: float | None = None) -> Document:
    """Both sides' common cases with verdicts."""
    import msgspec

    from bench.analyze import compare as compares
    from bench.analyze import table as tables

    limit = compares.THRESHOLD if threshold is None else threshold
    found = compares.compare(tables.files(before), tables.files(after), threshold=limit, where=where)
    return msgspec.json.decode(msgspec.json.encode(found), type=dict)  # lists for tuples, as JSON has it


def slower(document: Document, limit: float) -> list[Document]:
    """The rows of a comparison that are slower by more than `limit`, or that gave nothing any more."""
    return [row for row in document["rows"] if row["lost"] or (row["verdict"] == "slower" and row["ratio"] > 1 + limit)]


def report(
    paths: Paths = (),
    *,
    out: str | os.PathLike[str] = "report.html",
    figures: str | os.PathLike[str] | None = None,
    png: bool = False,
) -> Document:
    """Writes the page of these files, or of the results folder, and says what is on it; `figures` is a folder for the
    pictures by themselves.
    """
    from bench.analyze import report as reports
    from bench.errors import UserError

    page = Path(out)
    if page.suffix.lower() not in {".html", ".htm"}:
        raise UserError(f"{page}: the report is an HTML page, name it for example report.html")
    if png and figures is None:
        raise UserError("PNG files need a folder: give one with --figures DIR")
    made = reports.report(paths or [results_folder()])
    pictures = reports.write_pictures(made.figures, Path(figures), png=png) if figures is not None else []
    html = made.html().encode()
    beside = page.with_name(f".{page.name}.{os.getpid()}")  # a full disk leaves the page as it was, not half a page
    try:
        beside.write_bytes(html)
        beside.replace(page)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise UserError(f"{page}: {error.strerror}") from None
    return {
        "page": str(page),
        "bytes": len(html),
        "files": made.evidence.num_files,
        "refused": made.evidence.refused,
        "machines": len(made.evidence.machines),
        "figures": {one.name: len(one.panels) for one in made.figures},
        "pictures": [str(path) for path in pictures],
    }


def results_folder() -> Path:
    """Where results lie: ACCELMARK_RESULTS, else the clone's own results/, else results/ in the working folder."""
    if own := os.environ.get("ACCELMARK_RESULTS"):
        return Path(own)
    clone = Path(__file__).resolve().parents[2] / "results"
    return clone if clone.is_dir() and os.access(clone, os.W_OK) else Path.cwd() / "results"

"""Ingest: result files read, checked and written as one Parquet part.

In the store's own process, or in several beside it: as a program it takes a task on each line of standard input and
answers with a line, until its input ends. (A pool of the standard library would start the user's own script anew.)
"""

import gc
import hashlib
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import msgspec

from bench import record
from bench.analyze.cache import columns
from bench.analyze.cache.manifest import Entry
from bench.analyze.row import Row, brief
from bench.analyze.summary import ceilings, extrapolated, summarize
from bench.errors import UserError
from bench.record import ResultFile

# Files whose rows become an Arrow table at once, a tenth of what they take until then.
BATCH_FILES = 250


@dataclass(frozen=True, kw_only=True)
class Task:
    """Files to read into one part. `numbers` are given to their versions, in the order of `paths`."""

    folder: str
    paths: list[str]
    stamps: list[tuple[int, int]]  # size, and time of change or NEVER
    hashes: list[str | None]  # as last read: a file that is the same needs no reading
    numbers: list[int]
    part: str  # the path of the Parquet file to make


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What came of a task: entries for files that were read, and those that had only been touched."""

    entries: list[Entry]
    touched: list[tuple[str, int, int]]
    part: tuple[str, int, int] | None  # its name, files and bytes; None when no file had rows


def ingest(task: Task) -> Ingested:
    """Reads the files; writes their rows beside the part's name and renames. A bad file becomes an entry with a reason.

    What is written is not yet part of the store: it counts when the manifest names it.
    """
    entries: list[Entry] = []
    touched: list[tuple[str, int, int]] = []
    made = Path(task.part)
    hidden = made.with_name(f".{made.name}.tmp")
    tables = []
    for start in range(0, len(task.paths), BATCH_FILES):
        lines: list[bytes] = []
        for place in range(start, min(start + BATCH_FILES, len(task.paths))):
            entry, own = _one(task, place)
            if entry is None:
                touched.append((task.paths[place], *task.stamps[place]))
                continue
            entries.append(entry)
            lines += [columns.line(row, entry.id) for row in own]
        if lines:
            tables.append(columns.table(lines))
    if not tables:
        return Ingested(entries=entries, touched=touched, part=None)
    columns.write(tables, hidden)
    os.replace(hidden, made)
    files = sum(entry.part is not None for entry in entries)
    return Ingested(entries=entries, touched=touched, part=(made.name, files, made.stat().st_size))


def brief_rows(file: ResultFile) -> list[Row]:
    """The rows that a store keeps of a file, parameters as one JSON text."""
    summaries = summarize([file])
    roofs = ceilings(summaries)
    return [
        brief(one, roofs[one.session.id, one.first.device]) | {"params": msgspec.json.encode(one.first.params).decode()}
        for one in (*summaries, *extrapolated(summaries))
    ]


def _one(task: Task, place: int) -> tuple[Entry | None, list[Row]]:
    """One file: its entry and rows, or None for a file that is as it was."""
    path = task.paths[place]
    size, mtime_ns = task.stamps[place]
    sha256 = run = error = None
    rows: list[Row] = []
    try:
        raw = record.read_bytes(Path(task.folder, path))
        # Half the price of BLAKE2b where the processor has instructions for it.
        sha256 = hashlib.sha256(raw).hexdigest()
        if sha256 == task.hashes[place]:
            return None, []
        file = record.parse(path.rpartition("/")[2], raw)
        rows, run = brief_rows(file), file.session.id
    except UserError as problem:
        error = str(problem)[:300]
    part = Path(task.part).name if run is not None and rows else None
    entry = Entry(
        path=path, size=size, mtime_ns=mtime_ns, sha256=sha256, id=task.numbers[place], part=part, run=run, error=error
    )
    return entry, rows


def main() -> None:
    """Serves tasks until standard input ends; then the process ends, whatever it is doing: its parent is gone."""
    gc.disable()  # a file's records have no cycles, and looking for some would take a third of the time
    lines: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    decoder = msgspec.json.Decoder(Task)
    while True:
        sys.stdout.buffer.write(msgspec.json.encode(ingest(decoder.decode(lines.get()))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

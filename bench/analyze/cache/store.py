"""Store: the rows of a large folder, kept ready between two looks at it.

The result files are the truth; a store is a cache that may be deleted at any time and is built anew from them. It is a
folder of Parquet parts, never changed once written, and a manifest (manifest.py) that says which file's
rows are in which part. `refresh` lists the folder and reads only what is new or changed; `read` takes from the parts
the columns and rows that are asked for.

Several processes may use one store: a lock lets one refresh at a time, and nobody reads meanwhile. A part is written
under another name, renamed, and then named in the manifest in one transaction. Whatever dies in between leaves a part
that no manifest names, which the next refresh sweeps away.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from time import time_ns
from typing import Any

import msgspec

from bench.analyze.cache import columns, ingest
from bench.analyze.cache.manifest import NEVER, RACY_NS, Manifest
from bench.analyze.folder import Seen, scan
from bench.analyze.where import Condition
from bench.errors import UserError, not_installed

# So many files become one part, committed on its own: an interrupted build goes on where it was. A process holds the
# rows of a part in memory, to bring them into order: twice as many files took 40 MB more in each of two.
PART_FILES = 1250
# Starting processes pays from so many new files on.
FEW_FILES = 400
MOST_PROCESSES = 4
# Small parts, of later changes, are merged when there are more than so many.
SMALL_FILES, MOST_SMALL = PART_FILES // 4, 16


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What a refresh found and did."""

    files: int
    read: int = 0
    touched: int = 0  # another time, the same content
    removed: int = 0


def cache_folder(results: Path, cache: Path | None = None) -> Path:
    """Where the store of a results folder lies: in `cache`, else in the user's cache folder (XDG)."""
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "accelmark"
    return root / hashlib.sha256(os.fsencode(results.resolve())).hexdigest()[:16]


class Store:
    """The store of one folder of results. Raises UserError where its place cannot be written, or without pyarrow."""

    def __init__(self, results: Path, *, cache: Path | None = None, note: Callable[[str], None] | None = None) -> None:
        if importlib.util.find_spec("pyarrow") is None:  # loaded when there is something to read
            raise not_installed("pyarrow", "pandas", "pyarrow")
        self.results = results.resolve()
        self.place = cache_folder(results, cache)
        self._note = note or (lambda text: None)
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            (self.place / "lock").touch()
        except OSError as error:
            raise UserError(f"cannot write {self.place}: {error.strerror}; choose a place with --cache") from None

    @property
    def _parts(self) -> Path:
        return self.place / "parts"

    def refresh(self) -> Refreshed:
        """Brings the store up to the folder: reads what is new or changed, forgets what is gone."""
        with self._locked(), self._sound_manifest() as manifest:
            looked_ns = time_ns()
            seen, known = scan(self.results), manifest.known()
            gone = [path for path in known if path not in seen]
            new = [path for path, one in seen.items() if known.get(path) != (one.size, one.mtime_ns)]
            manifest.write(gone=gone)
            if len(new) >= FEW_FILES:
                self._note(f"reading {len(new)} result files, once; what is read stays in {self.place}")
            touched = 0
            for done in self._ingested(self._tasks(manifest, seen, new, looked_ns)):
                changed = [manifest.entry(path) for path, _, _ in done.touched]
                stamped = [
                    replace(one, size=size, mtime_ns=mtime_ns)
                    for one, (_, size, mtime_ns) in zip(changed, done.touched, strict=True)
                    if one is not None
                ]
                manifest.write([*done.entries, *stamped], parts=[done.part] if done.part else [])
                touched += len(stamped)
            if new or gone:
                self._tidy(manifest)
            return Refreshed(files=len(seen), read=len(new) - touched, touched=touched, removed=len(gone))

    def read(self, names: Sequence[str] = columns.NAMES, conditions: Sequence[Condition] = ()) -> Any:
        """An Arrow table of these columns, of the rows for which all conditions hold. Raises UserError."""
        arrow = columns.library()
        asked = [one.field if one.field in columns.NAMES else "params" for one in conditions]
        wanted = list(dict.fromkeys([*names, *asked, columns.FILE]))
        with self._locked(shared=True), self._opened() as manifest:
            tables = [self._part(part, wanted, conditions, live) for part, live in self._live(manifest)]
        whole = arrow.concat_tables([arrow.Table.from_batches([], columns.schema()).select(wanted), *tables])
        for condition in sorted(conditions, key=lambda one: one.field not in columns.NAMES):
            whole = self._selected(whole, condition)
        return whole.select(list(names))

    def _selected(self, whole: Any, condition: Condition) -> Any:
        try:
            return whole.filter(columns.mask(whole, condition))
        except UserError:
            if condition.field in columns.NAMES:
                raise
            # No row that is left has this parameter. Raises again unless others have it.
            columns.mask(self.read(("params",)), condition)
            return whole.slice(0, 0)

    def errors(self) -> list[tuple[str, str]]:
        """Files that could not be read, and why."""
        with self._locked(shared=True), self._opened() as manifest:
            return manifest.errors()

    def copies(self) -> list[tuple[str, str]]:
        """Files of a run that another file has too, and that file: the run counts once."""
        with self._locked(shared=True), self._opened() as manifest:
            return manifest.copies()

    def _live(self, manifest: Manifest) -> Iterator[tuple[str, list[int] | None]]:
        """Each part with the numbers that count in it, or None where every one does."""
        counted = manifest.counted()
        for part, (written, _) in manifest.parts().items():
            if part in counted:
                yield part, None if counted[part] == written else manifest.numbers(part)

    def _part(self, name: str, wanted: list[str], pushed: Sequence[Condition], live: list[int] | None) -> Any:
        arrow = columns.library()
        with arrow.parquet.ParquetFile(self._parts / name, memory_map=True) as part:
            found = part.read_row_groups(_row_groups(part.metadata, pushed), columns=wanted)
        if live is not None:  # some files of this part have changed or gone, or are copies
            found = found.filter(columns.among(found[columns.FILE], live))
        return found

    def _tasks(self, manifest: Manifest, seen: dict[str, Seen], new: list[str], looked_ns: int) -> list[ingest.Task]:
        number, tasks = manifest.next_id(), []
        for start in range(0, len(new), PART_FILES):
            paths = new[start : start + PART_FILES]
            known = [manifest.entry(path) for path in paths]
            stamps = [(seen[path].size, _settled(seen[path].mtime_ns, looked_ns)) for path in paths]
            tasks.append(
                ingest.Task(
                    folder=str(self.results),
                    paths=paths,
                    stamps=stamps,
                    hashes=[one.sha256 if one else None for one in known],
                    numbers=list(range(number + start, number + start + len(paths))),
                    part=str(self._parts / f"{looked_ns}-{start:09d}.parquet"),
                )
            )
        return tasks

    def _ingested(self, tasks: list[ingest.Task]) -> Iterator[ingest.Ingested]:
        """What came of each task, as it is done: here for a few files, in processes of their own for many."""
        if sum(len(task.paths) for task in tasks) < FEW_FILES:
            yield from map(ingest.ingest, tasks)
            return
        number = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, MOST_PROCESSES)
        # Small enough that all processes have something to do.
        tasks = [part for task in tasks for part in _split(task, max(1, number // max(1, len(tasks))))]
        with contextlib.ExitStack() as stack:
            free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
            for _ in range(min(number, len(tasks))):
                free.put(stack.enter_context(_helper()))
            threads = stack.enter_context(ThreadPoolExecutor(number))
            for done in as_completed([threads.submit(_asked, free, task) for task in tasks]):
                yield done.result()

    def _tidy(self, manifest: Manifest) -> None:
        """Sweeps parts that nobody names, and merges small ones when they have become many."""
        manifest.forget_empty_parts()
        counted = manifest.counted()
        small = [part for part in manifest.parts() if counted.get(part, 0) < SMALL_FILES]
        if len(small) > MOST_SMALL:
            names = [*columns.NAMES, columns.FILE]
            tables = [self._part(part, names, [], manifest.numbers(part)) for part in small]
            made = self._parts / f"{time_ns()}-merged.parquet"
            hidden = made.with_name(f".{made.name}.tmp")
            columns.write(tables, hidden)
            os.replace(hidden, made)
            manifest.merge(small, (made.name, sum(counted.get(part, 0) for part in small), made.stat().st_size))
        named = manifest.parts()
        for path in self._parts.iterdir():
            if path.name not in named:
                path.unlink()

    @contextlib.contextmanager
    def _locked(self, *, shared: bool = False) -> Iterator[None]:
        """One process writes, or several read."""
        import fcntl

        with (self.place / "lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Manifest]:
        with contextlib.closing(Manifest(self.place / "manifest.db")) as manifest:
            yield manifest

    @contextlib.contextmanager
    def _sound_manifest(self) -> Iterator[Manifest]:
        """The manifest, emptied where it or a part is damaged, or other code wrote it."""
        try:
            with self._opened() as manifest:
                sound = manifest.fact("code") == _code() and all(
                    (self._parts / name).is_file() and (self._parts / name).stat().st_size == size
                    for name, (_, size) in manifest.parts().items()
                )
        except sqlite3.DatabaseError:
            sound = False
        if not sound:
            shutil.rmtree(self._parts, ignore_errors=True)
            self._parts.mkdir(exist_ok=True)  # another process may just have opened the store
            for path in self.place.glob("manifest.db*"):
                path.unlink()
        with self._opened() as manifest:
            manifest.remember("code", _code())
            yield manifest


def _settled(mtime_ns: int, looked_ns: int) -> int:
    return mtime_ns if looked_ns - mtime_ns > RACY_NS else NEVER


def _code() -> str:
    """What decides which rows come of a file: this package, the workloads and the facts of chips and models."""
    found = hashlib.sha256(os.environ.get("ACCELMARK_WORKLOADS", "").encode())
    root = Path(__file__).resolve().parents[3]
    for path in sorted([*root.glob("bench/**/*.py"), *root.glob("bench/chips/*.toml"), *root.glob("workloads/**/*.*")]):
        if path.suffix in {".py", ".toml"}:
            status = path.stat()
            found.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _row_groups(metadata: Any, conditions: Sequence[Condition]) -> list[int]:
    """Which row groups of a part may have rows for which all conditions hold, by the smallest and largest values there.

    All conditions are judged exactly afterwards. (pyarrow.dataset would do this too, and take half a second to load.)
    """
    places = {metadata.schema.column(place).name: place for place in range(metadata.num_columns)}
    return [
        group
        for group in range(metadata.num_row_groups)
        if all(
            _may_hold(metadata.row_group(group).column(places[one.field]).statistics, one)
            for one in conditions
            if one.field in places
        )
    ]


def _may_hold(told: Any, condition: Condition) -> bool:
    judged = condition.sign not in {"~", "!="} and condition.text != "None" and condition.field != "flags"
    if told is None or not told.has_min_max or not judged:
        return True
    wanted: Any = condition.text if condition.field in columns.TEXTS else condition.number
    low, high = told.min, told.max
    holds: dict[str, bool] = {"=": low <= wanted <= high}
    if condition.field not in columns.TEXTS:
        holds |= {"<": low < wanted, "<=": low <= wanted, ">": high > wanted, ">=": high >= wanted}
    return bool(holds.get(condition.sign, True))


def _split(task: ingest.Task, pieces: int) -> list[ingest.Task]:
    """A task as several of about the same number of files."""
    size = -(-len(task.paths) // pieces)
    made = []
    for number, start in enumerate(range(0, len(task.paths), size)):
        one = slice(start, start + size)
        name = task.part.replace(".parquet", f"-{number}.parquet")
        made.append(
            ingest.Task(
                folder=task.folder, paths=task.paths[one], stamps=task.stamps[one], hashes=task.hashes[one],
                numbers=task.numbers[one], part=name,
            )
        )  # fmt: skip
    return made


@contextlib.contextmanager
def _helper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ingests; it ends when its input does."""
    command = [sys.executable, "-m", "bench.analyze.cache.ingest"]
    search = os.pathsep.join([str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": search}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield process
        finally:
            if sys.exc_info()[0] is not None:
                process.kill()
            elif process.stdin:
                process.stdin.close()


def _asked(free: "SimpleQueue[subprocess.Popen[bytes]]", task: ingest.Task) -> ingest.Ingested:
    """A task done by one of the free helpers."""
    process = free.get()
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    finally:
        free.put(process)
    if not answer:
        raise RuntimeError("a process that reads result files has died; what it said stands above")
    return msgspec.json.decode(answer, type=ingest.Ingested)

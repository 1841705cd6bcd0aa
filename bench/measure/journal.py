"""Journal: the result file while it is written. Nothing that was measured is lost, whatever becomes of the disk."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from bench import record
from bench.errors import UserError


def refuse_existing(path: Path) -> None:
    """Raises UserError for a name that is taken; asked before anything is measured, and again when it is opened."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    if os.path.lexists(path):
        raise UserError(f"{path} exists: choose another name, or continue it with --resume {path}") from None


class Journal:
    """Appends lines to a file and forces each to disk; what a full disk refuses is kept and tried again."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """A new file, or the end of an existing one. Raises UserError where it cannot be written."""
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | (0 if resume else os.O_CREAT | os.O_EXCL)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            if not resume:
                refuse_existing(path)
            raise UserError(f"cannot write {path}: {error.strerror}; choose a place with --out") from None
        if resume:
            self._cut_torn_line()
        self._end = os.lseek(self._descriptor, 0, os.SEEK_END)
        self._waiting: list[record.Session | record.Record] = []

    @property
    def unwritten(self) -> int:
        """How many lines the disk has not taken."""
        return len(self._waiting)

    def append(self, line: record.Session | record.Record) -> None:
        """Writes the line, after any that still wait."""
        record.encode(line)  # what cannot be written as it is raises here, and not again with every later line
        self._waiting.append(line)
        self._write_waiting()

    def close(self) -> None:
        """Closes the file. Lines that the disk never took go to another place, and the user is told where."""
        self._write_waiting()
        os.close(self._descriptor)
        if self._waiting:
            self._rescue()

    def _write_waiting(self) -> None:
        while self._waiting:
            try:
                record.append(self._descriptor, self._waiting[0])
            except BaseException as error:  # Ctrl-C too: the line still waits, so what is there of it must go
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
                if not isinstance(error, OSError):
                    raise
                say = f"cannot write {self.path}: {error.strerror}; kept in memory, tried again with the next"
                print(f"accelmark: {say}", file=sys.stderr)
                return
            self._end = os.lseek(self._descriptor, 0, os.SEEK_END)
            self._waiting.pop(0)

    def _rescue(self) -> None:
        """The rest in the folder for temporary files, or as a last resort on standard error."""
        lines = b"".join(record.encode(line) for line in self._waiting)
        try:
            descriptor, name = tempfile.mkstemp(prefix=f"{self.path.stem}-rest-", suffix=".jsonl")
            with os.fdopen(descriptor, "wb") as rest:
                rest.write(lines)
            print(f"accelmark: {len(self._waiting)} lines could not be written to {self.path}", file=sys.stderr)
            print(f"accelmark: they are in {name}: make room, then append that file to it", file=sys.stderr)
        except OSError:
            sys.stderr.write(lines.decode())
            say = f"no room anywhere: the {len(self._waiting)} lines above belong to {self.path}"
            print(f"accelmark: {say}", file=sys.stderr)

    def _cut_torn_line(self) -> None:
        """Drops a last line that was cut while it was written; it never was a whole record."""
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        tail = b""
        while end and not tail:
            start = max(0, end - (1 << 20))
            block = os.pread(self._descriptor, end - start, start)
            tail = block[: block.rfind(b"\n") + 1]
            end = start + len(tail)
        os.ftruncate(self._descriptor, end)

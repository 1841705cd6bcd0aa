"""A result file on disk: written line by line, and read as what a stranger sent."""

import contextlib
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.errors import UserError
from bench.record.measured import Record
from bench.record.session import SCHEMA, Session

MAX_FILE_BYTES = 64 << 20  # a full suite is some hundred kilobytes
MAX_LINE_BYTES = 8 << 20
MAX_DEPTH = 16


class ResultFile(msgspec.Struct, frozen=True, kw_only=True):
    """A result file as read."""

    name: str
    session: Session
    records: list[Record]
    torn: bool  # the last line was cut: everything before it is whole


class BadFile(UserError):
    """A file that is not a result file of ours, with the reason."""


Line = TypeVar("Line", Session, Record)


def encode(line: Session | Record) -> bytes:
    """The line to write, newline included. A number that is not finite is a bug of ours and raises ValueError."""
    tree = msgspec.to_builtins(line)
    _refuse_non_finite(tree, "$")
    return msgspec.json.encode(tree) + b"\n"


def append(descriptor: int, line: Session | Record) -> None:
    """Writes the line in one call and forces it to disk: it survives whatever happens next."""
    rest = memoryview(encode(line))
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def read(path: str | os.PathLike[str]) -> ResultFile:
    """The file at `path`. Raises BadFile with the line and the reason for anything that is not as described above."""
    return parse(Path(path).name, read_bytes(path))


def parse(name: str, content: bytes) -> ResultFile:
    """The file whose bytes these are; `name` is what messages call it. Raises BadFile, as `read` does."""
    lines = content.split(b"\n")
    torn = bool(lines.pop())  # what follows the last newline: nothing, or a line that was cut
    if not lines:
        raise BadFile(f"{name}: no whole line in it: not a result file, or the run ended before its first record")
    session = _decode(name, 1, lines[0], Session)
    records = [_decode(name, number, line, Record) for number, line in enumerate(lines[1:], start=2)]
    for number, record in enumerate(records, start=2):
        if record.device >= len(session.devices):
            raise BadFile(f"{name}, line {number}: device {record.device} of {len(session.devices)}")
    return ResultFile(name=name, session=session, records=records, torn=torn)


def json_schema() -> dict[str, Any]:
    """The format as a JSON Schema (2020-12); each line of a file is one `Session` or `Record`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Session | Record)}


def _refuse_non_finite(tree: Any, where: str) -> None:
    """Msgspec would write NaN and infinity as null, and a failed computation would turn into an unknown."""
    if isinstance(tree, float) and not math.isfinite(tree):
        raise ValueError(f"{where} is {tree}")
    if isinstance(tree, dict):
        for key, value in tree.items():
            _refuse_non_finite(value, f"{where}.{key}")
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _refuse_non_finite(value, f"{where}[{index}]")


def read_bytes(path: str | os.PathLike[str], *, most_bytes: int | None = None, links: bool = True) -> bytes:
    """The bytes of a regular file of at most `most_bytes`; a pipe does not block us and a huge file is not read.

    Without `links` a symbolic link is refused, so that what is judged is what lies there. Raises BadFile.
    """
    path, most_bytes = Path(path), most_bytes or MAX_FILE_BYTES
    wanted = ("O_NONBLOCK", "O_CLOEXEC", *(() if links else ("O_NOFOLLOW",)))
    if not links and os.path.islink(path):  # where the system has no O_NOFOLLOW, and for a clear word where it has
        raise BadFile(f"{path.name}: a symbolic link, not a file")
    try:
        descriptor = os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in wanted))
    except FileNotFoundError:
        raise BadFile(f"{path.name}: there is no such file") from None
    except OSError as error:
        raise BadFile(f"{path.name}: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise BadFile(f"{path.name}: {'a folder, not a file' if stat.S_ISDIR(mode) else 'not a regular file'}")
        parts, left = [], most_bytes + 1
        while left and (part := os.read(descriptor, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if not left:
        raise BadFile(f"{path.name}: larger than {most_bytes >> 20} MiB, the most that is read")
    return b"".join(parts)


# A string that never ends is taken to the end of the line, so that no input is scanned twice.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?')
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _decode(name: str, number: int, line: bytes, kind: type[Line]) -> Line:
    if len(line) > MAX_LINE_BYTES:
        raise BadFile(f"{name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        decoded = msgspec.json.decode(line, type=kind)  # what passes is no deeper than its type
        # Every fast reader takes the last of two equal keys and misses no "kind". A line that is written again exactly
        # as it stands is sound, and lines of ours are; anything else is read once more, which takes far longer.
        if msgspec.json.encode(decoded) != line:
            tree = json.loads(line, object_pairs_hook=_refuse_duplicates)
            if isinstance(tree, dict) and "kind" not in tree:
                raise BadFile(f"{name}, line {number}: Object missing required field `kind`")
        if isinstance(decoded, Session):
            _refuse_newer(name, decoded.schema)
    except BadFile:
        raise
    except (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError) as error:
        _refuse_deep(name, number, line)
        if kind is Session:
            _refuse_unreadable(name, line)
        raise BadFile(f"{name}, line {number}: {_twice(line) or error}") from None
    return decoded


def _refuse_deep(name: str, number: int, line: bytes) -> None:
    depth = 0
    for bracket in _STRING.sub(b"", line).translate(None, _BUT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise BadFile(f"{name}, line {number}: nested deeper than {MAX_DEPTH}")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Twice(f"the key '{twice[:80]}' stands twice in one object")
    return keys


class _Twice(ValueError):
    """A key that stands twice."""


def _twice(line: bytes) -> str:
    """Which key stands twice, where the strict reader stumbled over one of the two; nothing where none does."""
    try:
        json.loads(line, object_pairs_hook=_refuse_duplicates)
    except _Twice as error:
        return str(error)
    except (ValueError, RecursionError):
        pass
    return ""


class _Version(msgspec.Struct):
    kind: str
    schema: int


def _refuse_unreadable(name: str, line: bytes) -> None:
    """Says of a session that is not like ours that it is newer, where that is the reason."""
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        version = msgspec.json.decode(line, type=_Version)
        if version.kind == "session":
            _refuse_newer(name, version.schema)


def _refuse_newer(name: str, schema: int) -> None:
    if schema > SCHEMA:
        raise BadFile(f"{name}: written in format {schema}, this program reads up to {SCHEMA}: update accelmark")
    if schema < 1:
        raise BadFile(f"{name}: format {schema} never existed")

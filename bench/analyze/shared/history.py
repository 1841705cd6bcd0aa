"""History: what became of a file of the shared table. Files are never changed or deleted; notices are laid beside them.

A notice is a small JSON file of its own, `<id>-<action>.json`, in the folder of the file that it is about. Nobody ever
edits one, so any number of people can add to a folder or to branches of a repository, and everything merges:

    {"notice":1,"action":"retract","id":"0f3a...","by":null,"reason":"the fan was off","proof":"9c2e..."}

`retract` takes a file out of tables, `supersede` too because the file `by` replaces it, `accept` says that somebody who
keeps the table has looked at a run far from all others and found it right. `proof` is explained in author.py; an
`accept` has none, because it is those who keep the table that let it in.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench import record
from bench.analyze.check import Bands
from bench.analyze.shared import author, place
from bench.record import BadFile, ResultFile, Session

Id = Annotated[str, Meta(pattern=f"^[0-9a-f]{{{place.ID_DIGITS}}}$")]
Action = Literal["retract", "supersede", "accept"]
MAX_NOTICE_BYTES = 10_000


class Notice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of one file."""

    notice: Literal[1] = 1
    action: Action
    id: Id
    by: Id | None = None  # the file that replaces it
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    proof: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None

    def file_name(self) -> str:
        """How its file is called."""
        return f"{self.id}-{self.action}.json"

    def content(self) -> bytes:
        """The bytes of its file."""
        return msgspec.json.encode(msgspec.to_builtins(self)) + b"\n"


def read_notice(path: Path) -> Notice:
    """The notice in a file. Raises BadFile."""
    try:
        notice = msgspec.json.decode(record.read_bytes(path, most_bytes=MAX_NOTICE_BYTES, links=False), type=Notice)
    except msgspec.MsgspecError as error:
        raise BadFile(f"{path.name}: {error}") from None
    if path.name != notice.file_name():
        raise BadFile(f"{path.name}: a notice of {notice.action} for {notice.id} is named {notice.file_name()}")
    if (notice.by is None) == (notice.action == "supersede"):
        raise BadFile(f"{path.name}: `by` names the file that replaces another, and nothing else")
    return notice


def current(paths: Iterable[Path]) -> list[Path]:
    """The files that count: those that no notice beside them takes out. A notice that cannot be read does nothing."""
    present: dict[Path, set[str]] = {}
    return [path for path in paths if not _gone(path, present)]


def accepted(root: Path) -> set[str]:
    """The ids of files below a folder whose distance from all others somebody has looked at."""
    found = set()
    for path in root.rglob("*-accept.json"):
        try:
            found.add(read_notice(path).id)
        except BadFile:
            continue
    return found


def proven(notice: Notice, session: Session) -> bool:
    """Whether the notice comes from whoever submitted the run."""
    return author.proves(notice.proof, session.receipt)


def files(root: Path) -> Iterator[ResultFile]:
    """The runs that count below a folder of the shared table, one by one. What cannot be read is not among them."""
    for path in current(sorted(path for path in root.rglob("*.jsonl") if place.NAME.fullmatch(path.name))):
        try:
            yield record.parse(path.name, record.read_bytes(path, links=False))
        except BadFile:
            continue


def runs(root: Path) -> dict[str, list[Path]]:
    """The files that count below a folder of the shared table by their run, which their first lines say."""
    found: dict[str, list[Path]] = {}
    for path in current(sorted(path for path in root.rglob("*.jsonl") if place.NAME.fullmatch(path.name))):
        if (run := _run_of(path)) is not None:
            found.setdefault(run, []).append(path)
    return found


class _First(msgspec.Struct):
    """What is needed of a file's first line."""

    kind: Literal["session"]
    id: str


def _run_of(path: Path) -> str | None:
    """The run in a file; None for what is no plain file, or begins with something else."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.readline(record.MAX_LINE_BYTES), type=_First).id
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def beside(root: Path) -> Callable[[ResultFile], Bands | None]:
    """For `check`: what other machines of the table at `root` measured with a file's chip, each chip read once."""
    bands: dict[str, Bands] = {}
    looked_at: dict[str, set[str]] = {}

    def of(file: ResultFile) -> Bands | None:
        if not file.session.devices:
            return None
        name = place.chip_name(file.session.devices[0])
        if name not in bands:
            bands[name], looked_at[name] = Bands(files(root / name)), accepted(root / name)
        return None if place.file_id_of(file.name) in looked_at[name] else bands[name]

    return of


def _gone(path: Path, present: dict[Path, set[str]]) -> bool:
    found = place.file_id_of(path.name)
    if found is None:
        return False
    if path.parent not in present:
        present[path.parent] = {name for name in os.listdir(path.parent) if name.endswith(".json")}
    for name in (f"{found}-retract.json", f"{found}-supersede.json"):
        if name in present[path.parent]:
            try:
                read_notice(path.parent / name)
            except BadFile:
                continue
            return True
    return False

"""Published: whether files belong into the shared table as they lie there. What its continuous integration runs.

Beyond `check`: each file lies where its own content says, under a name that its bytes give; notices come from whoever
submitted; and what was there before is still there as it was.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from bench import record
from bench.analyze.check import Beside, Finding, judge, safety
from bench.analyze.shared import history, place
from bench.analyze.shared.history import Notice
from bench.errors import UserError
from bench.record import BadFile, Session
from bench.text import plain

# Beside result files and notices, a table has these at its top, and they are none of a contributor's.
_PAGES = {"README.md", "schema.json"}
_NOT_OURS = {"local", "published"}
Runs = Mapping[str, Sequence[Path]]  # files that count, by their run


def check_table(root: Path, paths: Iterable[Path] | None = None) -> list[Finding]:
    """Every finding in these files of the table at `root`; without any, in all of it."""
    beside, runs = history.beside(root), history.runs(root)
    found: list[Finding] = []
    for path in everything(root) if paths is None else paths:
        found += _file(root, path, beside, runs)
    return found


def everything(root: Path) -> list[Path]:
    """What lies in the table: every file, and every link, that is not one of its pages."""
    found = [
        Path(folder) / name for folder, folders, names in os.walk(root) for name in names + _links(folder, folders)
    ]
    ours = [path for path in found if path.relative_to(root).parts[0] not in _NOT_OURS]
    return sorted(path for path in ours if not (path.parent == root and path.name in _PAGES))


def changed(root: Path, differences: Iterable[tuple[str, str]]) -> tuple[list[Path], list[Finding]]:
    """Of what differs in the clone of the table (git's letter and the name): the new files of the table, and a finding
    for each that was changed or removed, or is no part of it: code and results come in two pull requests.
    """
    new, found = [], []
    for status, name in differences:
        path = root.parent / name
        parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
        if len(parts) == 1 and parts[0] in _PAGES:
            continue
        if not parts or parts[0] in _NOT_OURS:
            found.append(_error(path, "mixed", "no part of the table: offer it in a pull request without results"))
        elif status == "A":
            new.append(path)
        else:
            what = "removed" if status == "D" else "changed"
            say = f"{what}, and what is in the table stays as it is: withdraw it by `accelmark submit --retract ID`"
            found.append(_error(path, "history", say))
    return new, (found if new or any(one.code == "history" for one in found) else [])


def _file(root: Path, path: Path, beside: Beside, runs: Runs) -> list[Finding]:
    parts = path.relative_to(root).parts
    for above in [path, *list(path.parents)[: len(parts) - 1]]:
        if above.is_symlink():
            return [_error(path, "link", "a link, or below one: the table holds files")]
    sound = len(parts) == 3 and all(place.FOLDER.fullmatch(part) for part in parts[:2])
    if not sound or not (place.NAME.fullmatch(parts[2]) or parts[2].endswith(".json")):
        say = "not <chip>/<machine>/<UTC>-<id>.jsonl nor a notice beside one: let `accelmark submit` place it"
        return [_error(path, "place", say)]
    if parts[2].endswith(".json"):
        return list(_notice(path))
    try:
        content = safety.content(path)
    except BadFile as error:
        return [_error(path, "unreadable", str(error).removeprefix(f"{path.name}: "))]
    findings = judge(str(path), content, beside, published=True)
    if any(one.level == "error" for one in findings):
        return findings
    return [*findings, *_placed(root, path, content, runs)]


def _placed(root: Path, path: Path, content: bytes, runs: Runs) -> Iterator[Finding]:
    file = record.parse(path.name, content)
    expected = place.folder(file.session) / place.file_name(file, content)
    if expected != PurePosixPath(path.relative_to(root).as_posix()):
        say = f"by its content it belongs to {expected}: it was edited or moved, let `accelmark submit` place it"
        yield _error(path, "place", say)
    # In any folder: of two files of one run a table counts the first, so a forged one could stand for a stranger's.
    for other in runs.get(file.session.id, []):
        if other != path and path in runs[file.session.id]:
            say = f"the same run as {other.relative_to(root).as_posix()}: supersede that one, or leave this one out"
            yield _error(path, "twice", say)


def _notice(path: Path) -> Iterator[Finding]:
    try:
        notice = history.read_notice(path)
    except BadFile as error:
        yield _error(path, "notice", str(error).removeprefix(f"{path.name}: "))
        return
    about = _session(path, notice.id)
    if about is None:
        yield _error(path, "notice", f"there is no file {notice.id} beside it")
    elif notice.action == "accept":
        yield _error(path, "notice", "an acceptance: only those who keep the table put that in, over this very error")
    elif not history.proven(notice, about):
        say = "nothing proves that it comes from whoever submitted the file: those who keep the table must ask"
        yield _error(path, "notice", say)
    if notice.by and not _exists(path.parents[2], notice):
        yield _error(path, "notice", f"the file {notice.by} that is to replace it is not in the table")


def _session(path: Path, file_id: str) -> Session | None:
    for other in path.parent.glob("*.jsonl"):
        if place.file_id_of(other.name) == file_id:
            try:
                return record.read(other).session
            except UserError:
                return None
    return None


def _exists(root: Path, notice: Notice) -> bool:
    return any(place.file_id_of(other.name) == notice.by for other in root.rglob("*.jsonl"))


def _links(folder: str, folders: list[str]) -> list[str]:
    """Folders that are links: a walk does not enter them, and says nothing of them."""
    return [name for name in folders if os.path.islink(os.path.join(folder, name))]


def _error(path: Path, code: str, message: str) -> Finding:
    return Finding(file=plain(str(path)), line=None, level="error", code=code, message=plain(message, 600))

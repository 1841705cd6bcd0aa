"""Submit: a run on its way into the shared table, redacted, checked and laid in its place. Nothing here uses a network.

The bytes that are checked are the bytes that are written and that `--dry-run` prints. A table is a folder: the results
of a clone, to be offered as a pull request, or a folder that a lab shares.
"""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from bench import record
from bench.analyze.check import Finding, judge, safety
from bench.analyze.shared import author, git, history, place
from bench.analyze.shared.deliver import deliver
from bench.analyze.shared.history import Action, Notice
from bench.analyze.shared.redact import clean, redacted
from bench.errors import UserError
from bench.record import BadFile, ResultFile


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One file of a submission: the run, or a notice. `root` joined with `where` is its place."""

    root: Path
    where: PurePosixPath
    content: bytes

    @property
    def path(self) -> Path:
        """Where it lies, or will."""
        return self.root.joinpath(*self.where.parts)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a submission comes to. `refused` where the check finds an error; then there are no pieces."""

    id: str | None  # of the run in the table; None where only a notice is given
    pieces: tuple[Piece, ...]
    findings: tuple[Finding, ...]
    removed: dict[str, int]  # kind of what was taken out -> how many strings
    proven: bool | None  # whether this computer can prove to be the author of what is withdrawn; None without that
    message: str  # for the commit

    @property
    def refused(self) -> bool:
        """Whether the table would not take it."""
        return any(one.level == "error" for one in self.findings)


def asked(
    path: Path | None,
    root: Path,
    *,
    supersede: str | None = None,
    retract: str | None = None,
    reason: str = "",
    hide: Iterable[str] = (),
) -> Submission:
    """What the command was asked for: a run, or the withdrawal of one. Raises UserError for what makes no sense."""
    if len(reason) > 400:
        raise UserError(f"--reason has {len(reason)} characters: 400 must do")
    if retract and supersede:
        raise UserError("--retract takes a run out and --supersede puts another in its place: give one of them")
    if reason and not (retract or supersede):
        raise UserError("--reason says why a run is withdrawn: it goes with --retract or --supersede")
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder to submit to; --to names the shared table's")
    if retract:
        if path is not None and record.read(path).session.id != record.read(_find(root, retract)).session.id:
            raise UserError(f"{path} is not the run {retract}: `accelmark submit --retract {retract}` needs no file")
        return withdrawn(root, retract, reason=clean(reason, hide))
    if path is None:
        raise UserError("submit needs a result file, or --retract ID")
    if not path.is_file():
        what = "a folder: name the one result file of it" if path.is_dir() else "no file: `accelmark run` makes one"
        raise UserError(f"{path} is {what}")
    return prepare(path, root, supersede=supersede, hide=hide, reason=reason)


def prepare(
    path: Path, root: Path, *, supersede: str | None = None, hide: Iterable[str] = (), reason: str = ""
) -> Submission:
    """The run at `path` as it would go into the table at `root`. Raises UserError for a run that is there otherwise."""
    file = _read(path)
    if isinstance(file, Finding):
        return _refusal([file])
    cleaned, removed = redacted(file, hide)
    proof = author.secret(cleaned.session.id)
    session = msgspec.structs.replace(cleaned.session, receipt=author.receipt(proof))
    content = record.encode(session) + b"".join(map(record.encode, cleaned.records))
    findings = judge(str(path), content, history.beside(root), published=True)
    if any(one.level == "error" for one in findings):
        return _refusal(findings)
    piece = Piece(root=root, where=place.folder(session) / place.file_name(cleaned, content), content=content)
    made, notices, proven = place.file_id(content), [], None
    if not piece.path.exists():
        piece = _known(piece, session, supersede) or piece
    if supersede:
        if supersede == place.file_id_of(piece.path.name):
            raise UserError(f"{supersede} is this very run: there is nothing to supersede")
        reason = clean(reason, hide)
        notice, proven = withdraw(root, supersede, "supersede", by=place.file_id_of(piece.path.name), reason=reason)
        notices.append(notice)
    device = session.devices[0].name
    return Submission(
        id=place.file_id_of(piece.path.name) or made,
        pieces=(piece, *notices),
        findings=tuple(findings),
        removed=removed,
        proven=proven,
        message=f"Results of {device}: {len(cleaned.records)} records of run {session.id}",
    )


def withdrawn(root: Path, file_id: str, *, reason: str = "") -> Submission:
    """The notice that takes a file out of the table."""
    notice, proven = withdraw(root, file_id, "retract", reason=reason)
    return Submission(
        id=None, pieces=(notice,), findings=(), removed={}, proven=proven, message=f"Retract the results {file_id}"
    )


def withdraw(root: Path, file_id: str, action: Action, *, by: str | None = None, reason: str) -> tuple[Piece, bool]:
    """The notice about the file with this id, beside it, and whether it proves its author."""
    about = _find(root, file_id)
    session = record.read(about).session
    proof = author.secret(session.id)
    proven = author.proves(proof, session.receipt)
    notice = Notice(
        action=action,
        id=file_id,
        by=by,
        reason=reason or {"retract": "withdrawn by its author"}.get(action, "replaced by its author"),
        proof=proof if proven else None,
    )
    where = PurePosixPath(about.parent.relative_to(root).as_posix()) / notice.file_name()
    return Piece(root=root, where=where, content=notice.content()), proven


def put(submission: Submission) -> list[bool]:
    """Writes every piece; for each, whether it is new. A run comes before the notice that speaks of it."""
    return [deliver(piece.root, piece.where, piece.content) for piece in submission.pieces]


def commands(submission: Submission) -> list[str]:
    """What to type for a pull request; empty where the table is no part of a git clone."""
    top = git.top_of(submission.pieces[0].root) if submission.pieces else None
    if top is None:
        return []
    branch = _branch(submission)
    paths = [shlex.quote(os.path.relpath(piece.path.resolve(), top)) for piece in submission.pieces]
    return [
        f"cd {shlex.quote(str(top))}",
        f"git switch -c {branch}",
        f"git add {' '.join(paths)}",
        f"git commit -m {shlex.quote(submission.message)}",
        f"git push -u origin {branch}",
    ]


def commit(submission: Submission) -> str:
    """Commits the pieces on a branch of their own; gives the commit. Raises UserError outside of a clone."""
    root = submission.pieces[0].root
    top = git.top_of(root)
    if top is None:
        raise UserError(f"{root} is in no git clone: there is no branch to make")
    return git.commit(top, _branch(submission), [piece.path for piece in submission.pieces], submission.message)


def _branch(submission: Submission) -> str:
    return git.branch_name(submission.id or submission.pieces[0].path.name.partition("-")[0])


def _find(root: Path, file_id: str) -> Path:
    """The file of the table with that id. Raises UserError."""
    for path in sorted(root.rglob("*.jsonl")):
        if place.file_id_of(path.name) == file_id:
            return path
    raise UserError(
        f"no file in {root} has the id '{file_id:.80}': an id is the {place.ID_DIGITS} digits before .jsonl in a name"
    )


def _read(path: Path) -> ResultFile | Finding:
    try:
        return record.parse(path.name, safety.content(path))
    except BadFile as error:
        message = str(error).removeprefix(f"{path.name}: ")
        return Finding(file=str(path), line=None, level="error", code="unreadable", message=message)


def _refusal(findings: Iterable[Finding]) -> Submission:
    return Submission(id=None, pieces=(), findings=tuple(findings), removed={}, proven=None, message="")


def _known(piece: Piece, session: record.Session, supersede: str | None) -> Piece | None:
    """The same run where it lies in the table already: the same piece if only its receipt differs.

    Raises UserError where the run is there with other content, and is not to be replaced.
    """
    for path in history.runs(piece.root).get(session.id, []):
        try:
            there = record.read_bytes(path, links=False)
            same = _without_receipt(there) == _without_receipt(piece.content)
        except (BadFile, msgspec.MsgspecError):
            continue
        if same:
            where = PurePosixPath(path.relative_to(piece.root).as_posix())
            return Piece(root=piece.root, where=where, content=there)
        known = place.file_id_of(path.name)
        if known != supersede:
            raise UserError(
                f"run {session.id} is in the table as {known}, with other content: --supersede {known} replaces it"
            )
    return None


def _without_receipt(content: bytes) -> bytes:
    first, _, rest = content.partition(b"\n")
    session = msgspec.json.decode(first, type=record.Session)
    return record.encode(msgspec.structs.replace(session, receipt=msgspec.UNSET)) + rest

"""Place: where a run belongs in the shared table. Names are made here, and never taken from a file as they are.

`results/<chip>/<machine>/<UTC>-<id>.jsonl`: the chip by the catalog's name, else by its driver's in small letters; the
machine by a hash of its boards, so that a board that moves to another host keeps its folder; the id by the bytes of
the file, so that the name says whether the file is still what was submitted.
"""

import functools
import hashlib
import re
import unicodedata
from pathlib import PurePosixPath

from bench import chip, record
from bench.record import DeviceFacts, ResultFile, Session

ID_DIGITS = 16
NAME = re.compile(rf"(\d{{8}}T\d{{6}}Z)-([0-9a-f]{{{ID_DIGITS}}})\.jsonl")
FOLDER = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
# Folders of results/ that are no chip, and names that some system keeps for itself.
_TAKEN = {"local", "published", "con", "prn", "aux", "nul"}


def folder(session: Session) -> PurePosixPath:
    """`<chip>/<machine>` of a run; a run on several devices belongs to its first."""
    first = session.devices[0]
    return PurePosixPath(chip_name(first)) / machine(session)


def file_name(file: ResultFile, content: bytes) -> str:
    """`<UTC>-<id>.jsonl` of a run whose bytes these are. Its start must be a moment, as `check` demands."""
    digits = re.sub(r"\D", "", file.session.started)[:14]
    return f"{digits[:8]}T{digits[8:]}Z-{file_id(content)}.jsonl"


def file_id(content: bytes) -> str:
    """The first digits of the SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()[:ID_DIGITS]


def file_id_of(name: str) -> str | None:
    """The id in the name of a submitted file; None for any other name."""
    found = NAME.fullmatch(name)
    return found[2] if found else None


def chip_name(facts: DeviceFacts) -> str:
    """The catalog's name of a device, else one made of its driver's."""
    known = chip.match(facts.name)
    return known.name if known else slug(facts.name)


def machine(session: Session) -> str:
    """Twelve digits that say which boards these are and nothing else."""
    return _digits("\n".join(sorted(board(session, number) for number in range(len(session.devices)))))


def one_board(session: Session, number: int) -> str:
    """The same digits for one of them: of a run on a single device they are the name of its folder."""
    return _digits(board(session, number))


@functools.lru_cache(maxsize=64)
def _digits(boards: str) -> str:
    return hashlib.sha256(boards.encode(errors="replace")).hexdigest()[:12]


def board(session: Session, number: int) -> str:
    """What tells one board from another: its hashed UUID, else what is known of it and of its host.

    Two equal machines whose boards have no UUID share a name. Memory is rounded: kernels reserve a little of it.
    """
    facts, host = session.devices[number], session.host
    if facts.uuid_hash:
        return facts.uuid_hash
    own_gib, memory_gib = (round((value or 0) / 2**30) for value in (facts.memory_bytes, host.memory_bytes))
    return f"{facts.vendor} {facts.name} {own_gib} {host.cpu} {host.architecture} {host.cores} {memory_gib}"


def slug(text: str) -> str:
    """Small letters, digits and single hyphens, at most 40: a name that is safe in a path on every system."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    made = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    if made in _TAKEN or re.fullmatch(r"(com|lpt)\d", made):
        return f"chip-{made}"
    return made or f"unnamed-{record.anonymous(text)[:8]}"

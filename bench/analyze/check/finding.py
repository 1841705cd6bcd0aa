"""Finding: one thing that was seen in a file, where, with its numbers, and what follows from it."""

from dataclasses import dataclass
from typing import Literal

from bench.record import Record

Level = Literal["error", "quarantine", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`error` refuses the file; `quarantine` keeps a case, shows it and lets nothing be calibrated by it; `note` is
    worth knowing. `code` names the rule, for programs.
    """

    file: str
    line: int | None
    level: Level
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """What a rule says of the records of a file, before it is known in which file and on which line they stand.

    Several where it is about several and which of them is wrong cannot be told; none where it is about the file.
    """

    level: Level
    code: str
    message: str
    records: tuple[Record, ...] = ()

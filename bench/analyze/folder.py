"""Folder: the result files below a folder that count: those that no notice beside them takes out."""

import os
from dataclasses import dataclass
from pathlib import Path

from bench.analyze.shared import history


@dataclass(frozen=True)
class Seen:
    """A file as the folder lists it."""

    size: int
    mtime_ns: int


def scan(folder: Path) -> dict[str, Seen]:
    """Every .jsonl below a folder by its relative path, in order, without those that a notice has withdrawn.

    Links are not followed, hidden names are not ours.
    """
    found: dict[str, Seen] = {}
    waiting, noticed = [""], False
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.name.startswith(".") or entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                elif entry.name.endswith(".jsonl"):
                    status = entry.stat(follow_symlinks=False)
                    found[name] = Seen(status.st_size, status.st_mtime_ns)
                noticed = noticed or entry.name.endswith(".json")
    counted = set(history.current(folder / name for name in found)) if noticed else None
    return {name: seen for name, seen in sorted(found.items()) if counted is None or folder / name in counted}

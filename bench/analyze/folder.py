"""Folder: the result files below a folder."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """A file as the folder lists it."""

    size: int
    mtime_ns: int


def scan(folder: Path) -> dict[str, Seen]:
    """Every .jsonl below a folder by its relative path, in order. Links are not followed, hidden names are not ours."""
    found: dict[str, Seen] = {}
    waiting = [""]
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
    return dict(sorted(found.items()))

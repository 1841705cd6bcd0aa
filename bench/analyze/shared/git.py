"""Git: a branch with a commit for a pull request, made without touching the checkout, its index or its branch."""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.errors import UserError


def top_of(folder: Path) -> Path | None:
    """The clone that a folder lies in; None for one outside of any."""
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / ".git").exists():
            return parent
    return None


def branch_name(file_id: str) -> str:
    """How the branch of a submission is called."""
    return f"results-{file_id}"


def commit(top: Path, branch: str, paths: Iterable[Path], message: str) -> str:
    """Commits these files on a new branch on top of what the remote's main branch is known to be, else of HEAD.

    Gives the commit's name. Raises UserError with what git says.
    """
    base = _try(top, "rev-parse", "--verify", "--quiet", "origin/HEAD^{commit}") or _git(top, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(top, "read-tree", base, env=own)
        _git(top, "add", "--force", "--", *[os.path.relpath(path.resolve(), top) for path in paths], env=own)
        tree = _git(top, "write-tree", env=own)
    made = _git(top, "commit-tree", tree, "-p", base, "-m", message)
    _git(top, "branch", branch, made)
    return made


def _try(top: Path, *words: str) -> str:
    try:
        return _git(top, *words)
    except UserError:
        return ""


def _git(top: Path, *words: str, env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(top), *words],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **(env or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"git {words[0]} could not be run: {error}") from None
    if done.returncode:
        raise UserError(f"git {words[0]} says: {' '.join(done.stderr.split())[:300]}")
    return done.stdout.strip()

"""Deliver: puts a file into a folder that others write to at the same time. It is there whole, or not at all.

The bytes go to a hidden file beside the place, are forced to disk, and get their name by a hard link, which fails where
the name is taken: nothing is ever overwritten, and no reader meets half a file. That holds on network file systems too,
where creating a file exclusively may not. Where a file system has no links, creating exclusively must do.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path, PurePosixPath

from bench.errors import UserError

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES}


def deliver(root: Path, place: PurePosixPath, content: bytes) -> bool:
    """Writes `content` to `place` below `root`; False where the very same is there already.

    Raises UserError where something else has that name, where a link leads out of the root, and where writing fails.
    """
    target = root.joinpath(*place.parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(root.resolve()):
            raise UserError(f"{target.parent} leads out of {root} by a link: nothing was written")
        if not os.path.lexists(target):
            with contextlib.suppress(FileExistsError):  # another process was faster
                _link(target, content)
                return True
        if _holds(target, content):
            return False
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): nothing was written") from None
    raise UserError(f"{target} exists with other content: nothing was written")


def _holds(target: Path, content: bytes) -> bool:
    plain = target.is_file() and not target.is_symlink()
    return plain and target.stat().st_size == len(content) and target.read_bytes() == content


def _link(target: Path, content: bytes) -> None:
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    _write(beside, content)
    try:
        os.link(beside, target)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(target):
            raise
        _write(target, content)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)
    _settle(target.parent)


def _write(path: Path, content: bytes) -> None:
    """A new file with these bytes, on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _settle(folder: Path) -> None:
    """Forces the new name to disk, where folders can be asked for that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

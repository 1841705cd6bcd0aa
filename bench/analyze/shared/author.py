"""Author: who may withdraw a file of the shared table, without accounts and without a name.

When a run is submitted, its file gets a receipt: the hash of a secret that is derived from a key on the submitter's
computer and the run's id. To withdraw or replace the file its author publishes that secret, and everybody can see that
it hashes to the receipt. Receipts of one author cannot be told from those of another, and a published secret opens one
file and no other. Whoever loses the key, or has never had it, must be believed by those who keep the table.

What this is not: it says that the same key was used, not whose it is, and it keeps nobody who can write to a folder
from deleting what lies there.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from bench.errors import UserError

_PURPOSE = b"accelmark: withdraw a run"
_KEY = re.compile(r"[0-9a-f]{64}")


def key_file() -> Path:
    """Where the key lies: the folder that the system has for settings of a user."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA") or Path.home() / ".config"
    return Path(base) / "accelmark" / "author-key"


def secret(run_id: str) -> str:
    """What opens the receipt of this run, if this computer submitted it. Makes the key when there is none."""
    return hmac.new(_key(), _PURPOSE + b"\0" + run_id.encode(), hashlib.sha256).hexdigest()


def receipt(proof: str) -> str:
    """What is published with a run: the hash of its secret."""
    return hashlib.sha256(proof.encode()).hexdigest()


def proves(proof: str | None, told: object) -> bool:
    """Whether a published secret opens this receipt."""
    return proof is not None and isinstance(told, str) and hmac.compare_digest(receipt(proof), told)


def _key() -> bytes:
    try:
        path = key_file()
    except RuntimeError:  # no home is known, as in some containers
        raise UserError("no home folder is known to keep the key in: set XDG_CONFIG_HOME to one of yours") from None
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path, secrets.token_hex(32))
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read or made, and holds what proves that a run is yours: {error}") from None
    if not _KEY.fullmatch(text):
        raise UserError(f"{path} must hold 64 hexadecimal digits: restore it from a copy, or remove it for a new one")
    return bytes.fromhex(text)


def _create(path: Path, text: str) -> None:
    """Readable by its user alone; where two processes make it at once, the first one's stays."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.write(text + "\n")

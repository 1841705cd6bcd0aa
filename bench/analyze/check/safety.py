"""Safety: what is looked at before anything of a stranger's file is parsed, and its strings before any is shown.

Nothing here trusts a name, a length or a type. Limits are on bytes and on counts of bytes, so that a file made to be
expensive is refused in the time it takes to read it.
"""

import os
import unicodedata
from collections.abc import Iterable

from bench import record
from bench.record import BadFile

# What the shared table takes. A run of all suites on one device comes to some megabytes and some hundred records.
MAX_BYTES = 16 << 20
MAX_RECORDS = 4_000
# Every value is followed by a comma but the last of its list: 32 bytes of memory for a number, 64 MB for all.
MAX_VALUES = 2_000_000
# Twice as many quotes; a string takes some 60 bytes and its place in a dictionary as many.
MAX_STRINGS = 600_000
# Characters of all strings together, which are searched for what identifies somebody: a record has some hundred.
MAX_TEXT = 4_000_000

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "LZ4",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
_UNICODE = {b"\xef\xbb\xbf": "a byte order mark", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# Control, format (bidirectional marks, zero width), surrogate, private, line and paragraph separators. Characters that
# this Python's Unicode does not know yet are shown as escapes but are no reason to refuse.
_FORBIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a submitted file, within all limits. Raises BadFile with the reason."""
    raw = record.read_bytes(path, most_bytes=MAX_BYTES, links=False)
    name = os.path.basename(os.fspath(path))
    for magic, kind in _MAGIC.items():
        if raw.startswith(magic):
            raise BadFile(f"{name}: compressed ({kind}): unpack it first, the table holds plain JSON Lines")
    for mark, kind in _UNICODE.items():
        if raw.startswith(mark):
            raise BadFile(f"{name}: begins with {kind}: save it as UTF-8 without a mark")
    for what, count, most in (
        ("lines", raw.count(b"\n"), MAX_RECORDS + 1),
        ("values", raw.count(b","), MAX_VALUES),
        ("strings", raw.count(b'"') // 2, MAX_STRINGS),
    ):
        if count > most:
            raise BadFile(f"{name}: {count} {what}, at most {most} are read: submit the run in parts")
    return raw


def unsafe(found: Iterable[str]) -> str:
    """What to say of strings that could act on a terminal or reorder what is beside them; empty if none could."""
    chars = {char for text in found if not text.isprintable() for char in text}
    bad = sorted(char for char in chars if unicodedata.category(char) in _FORBIDDEN)
    codes = ", ".join(f"U+{ord(char):04X}" for char in bad[:5])
    return f"control or direction-changing characters in its text ({codes}): take them out" if bad else ""

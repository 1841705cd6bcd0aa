"""Strings on their way out to a terminal: nothing in a stranger's file may move the cursor or reorder the line."""

import unicodedata

# Control, format (which holds the bidirectional marks), surrogate, private, unassigned, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(text: str, limit: int = 200) -> str:
    """`text` with every character that a terminal may act on shown as an escape, at most `limit` characters."""
    safe = "".join(
        char if unicodedata.category(char) not in _UNSAFE else char.encode("unicode_escape").decode() for char in text
    )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"

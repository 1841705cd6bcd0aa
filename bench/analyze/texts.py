"""Texts: every string of a line of a result file, wherever it stands, to look at or to change."""

from collections.abc import Callable
from typing import Any

import msgspec


def texts(line: Any) -> list[str]:
    """Every string of a line, the keys of its dictionaries included."""
    found: list[str] = []
    replaced(line, lambda _, text: (found.append(text), text)[1])
    return found


def replaced(part: Any, change: Callable[[str, str], str], field: str = "") -> Any:
    """A line, or a part of one, with each string changed; `change` is told the name of the field that it stands in."""
    if isinstance(part, str):
        return change(field, part)
    if isinstance(part, msgspec.Struct):
        names = part.__struct_fields__
        return msgspec.structs.replace(part, **{name: replaced(getattr(part, name), change, name) for name in names})
    if isinstance(part, dict):
        return {change(field, key): replaced(value, change, field) for key, value in part.items()}
    if isinstance(part, list) and not (part and isinstance(part[0], float | int)):  # samples hold no strings
        return [replaced(one, change, field) for one in part]
    return part

"""Texts: every string of a line of a result file, wherever it stands, to look at or to change."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec


def texts(part: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a line, or of a part of one, with the field that it stands in; keys are strings too."""
    if isinstance(part, str):
        yield field, part
    elif isinstance(part, msgspec.Struct):
        for name in part.__struct_fields__:
            value = getattr(part, name)
            if isinstance(value, str):
                yield name, value
            elif value and not isinstance(value, float | int):
                yield from texts(value, name)
    elif isinstance(part, dict):
        for key, value in part.items():
            yield field, key
            if not isinstance(value, float | int):
                yield from texts(value, field)
    elif isinstance(part, list) and not (part and isinstance(part[0], float | int)):  # samples hold no strings
        for one in part:
            yield from texts(one, field)


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

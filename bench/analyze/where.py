"""Where: conditions on rows as people write them, `workload=matmul, dtype!=float32, step_s<0.01, device~H100`.

Joined by commas, all must hold; `~` is `contains`, whatever the case of the letters. A row without a value has none of
the values asked for; `chip=None` asks for just that. Dates compare as they stand: 2026-11-02 is after 2026-10.
"""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.analyze.row import Row
from bench.errors import UserError

_CONDITION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(!=|>=|<=|=|>|<|~)\s*(.+?)\s*")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
ORDERED_TEXTS = {"date", "started"}


@dataclass(frozen=True)
class Condition:
    """One of them."""

    field: str
    sign: str
    text: str

    def holds(self, value: Any) -> bool:
        """Whether a row with this value is meant. Raises UserError for a word where a number stands."""
        if isinstance(value, list) and self.sign in {"=", "!="}:
            return (self.text in value) == (self.sign == "=")
        if self.sign == "~":
            return self.text.lower() in str(value).lower()
        if isinstance(value, bool | str | list) or value is None:
            ordered = value is not None and self.field in ORDERED_TEXTS
            return OPERATORS[self.sign](str(value), self.text) if self.sign in {"=", "!="} or ordered else False
        if self.text == "None" and self.sign in {"=", "!="}:
            return self.sign == "!="
        return OPERATORS[self.sign](value, self.number)

    @property
    def number(self) -> float:
        """The text as a number. Raises UserError."""
        try:
            return float(self.text)
        except ValueError:
            raise UserError(f"{self.field} is a number, '{self.text}' is none") from None


def parse(where: str) -> list[Condition]:
    """The conditions of an expression. Raises UserError for what is none."""
    conditions = []
    for part in filter(None, (part.strip() for part in where.split(","))):
        found = _CONDITION.fullmatch(part)
        if not found:
            raise UserError(f"'{part}' is no condition: write for example workload=matmul,step_s<0.01,device~H100")
        conditions.append(Condition(found[1], found[2], found[3]))
    return conditions


def select(where: str, made: list[Row]) -> list[Row]:
    """The rows that an expression asks for. Raises UserError."""
    conditions = parse(where)
    for one in conditions:
        check_field(one.field, made)
    return [row for row in made if all(one.holds(row.get(one.field)) for one in conditions)]


def check_field(field: str, made: list[Row]) -> None:
    """Raises UserError when no row has the field."""
    if made and not any(field in one for one in made):
        refuse_unknown(field, dict.fromkeys(key for one in made for key in one))


def refuse_unknown(field: str, known: Iterable[str]) -> None:
    """Raises UserError when `field` is not among the known ones."""
    if field not in known:
        raise UserError(f"no row has a field '{field}': there are {', '.join(known)}")

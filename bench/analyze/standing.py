"""Standing: where one machine stands among others with the same chip, case by case.

Boards of one model differ: 5 % within a node is common, and a lowered power limit or a clock that does not rise costs
far more. So the clock and the limit stand beside each place, with the median of the others: a board that is slow at
the others' clock is another finding than one that is held down.
"""

import re
from collections.abc import Sequence

from bench import stats
from bench.analyze.grouped import IDENTITY
from bench.analyze.row import Row

_CONDITION = ("clock_hz", "power_limit_w", "temperature_c", "power_w")


def standing(own: Sequence[Row], typical: Sequence[Row]) -> list[Row]:
    """A row for each case of one file that was measured: its place among the typical runs of other machines.

    `percentile` is the share of the others that are slower, those of equal speed counted half; None without others.
    """
    return [_place(one, _others(one, typical)) for one in own if one["step_s"] is not None]


def near(own: Sequence[Row], where: str = "") -> str:
    """An expression for the rows that can matter, so that a store need not give all of them."""
    parts = [where, "status=ok"]
    for field in ("chip", "device"):
        values = {one[field] for one in own}
        if len(values) == 1 and re.fullmatch(r"[\w() .+-]+", str(*values)) and None not in values:
            return ",".join(filter(None, [*parts, f"{field}={values.pop()}"]))
    return ",".join(filter(None, parts))


def same_chip(one: Row, other: Row) -> bool:
    """Of one chip of the catalog, or where it is in none by its driver's name for it."""
    return bool(one["chip"] == other["chip"] if one["chip"] else one["device"] == other["device"])


def _others(one: Row, typical: Sequence[Row]) -> list[Row]:
    return [
        other
        for other in typical
        if other["step_s"] is not None
        and other["machine"] != one["machine"]
        and same_chip(one, other)
        and all(one[name] == other[name] for name in IDENTITY)
    ]


def _place(one: Row, others: list[Row]) -> Row:
    slower = sum(other["step_s"] > one["step_s"] for other in others)
    equal = sum(other["step_s"] == one["step_s"] for other in others)
    typical_s = stats.median([other["step_s"] for other in others]) if others else None
    made = {name: one[name] for name in ("case", "device", "chip", "machine", "step_s", "rate", "rate_unit", "status")}
    made |= {
        "others": len(others),
        "slower": slower,
        "percentile": (slower + equal / 2) / len(others) if others else None,
        "others_step_s": typical_s,
        "speed_to_others": typical_s / one["step_s"] if typical_s else None,
    }
    for name in _CONDITION:
        told = [other[name] for other in others if other[name] is not None]
        made |= {name: one[name], f"others_{name}": stats.median(told) if told else None}
    return made

"""Where numbers meet people: prefixes and percents exist here and nowhere else.

Inside the harness everything is SI: seconds, bytes, FLOP, watts. GB is 1e9 bytes, GiB is 2**30.
"""

import re
from decimal import Decimal

from bench.errors import UserError

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SMALL = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_DURATIONS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def significant(value: float, digits: int = 3) -> str:
    """`value` in plain notation with `digits` significant digits: 0.0123, 1.23, 123, 12,300."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 10 ** (digits - 1):
        return f"{rounded:,.0f}"
    decimals = digits - 1 - int(f"{abs(rounded):e}".split("e")[1])
    return f"{rounded:.{decimals}f}"


def scaled(value: float, unit: str, digits: int = 3) -> str:
    """`value` with the prefix that leaves one to three digits before the point: 1.98 TFLOP/s."""
    factor, letter = prefix(value)
    return f"{significant(value / factor, digits)} {letter}{unit}"


def prefix(value: float) -> tuple[float, str]:
    """The factor and letter that leave one to three digits before the point: 1e12 and T; 1 and nothing below 1000."""
    return next(((factor, letter) for factor, letter in _PREFIXES if abs(value) >= factor * 0.9995), (1.0, ""))


def count(value: float) -> str:
    """How many, as people say it of parameters and tokens: 8.03 B, 1.00 T, 124 M."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)} {suffix}"
    return significant(value)


def several(number: int, noun: str) -> str:
    """A number of things: 1 session, 2 sessions, 1,909 rows."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def seconds(value: float, digits: int = 3) -> str:
    """A duration: 812 ns, 12.3 µs, 4.56 ms, 1.23 s."""
    for factor, unit in _SMALL:
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor, digits)} {unit}"
    return f"{significant(value / 1e-9, digits)} ns"


def joules(value: float) -> str:
    """An energy: 1.2 kJ, 3.4 J, 56 mJ, 0.78 mJ, 9.1 µJ."""
    if abs(value) >= 0.9995 or value == 0:
        return scaled(value, "J")
    return f"{significant(value / 1e-3)} mJ" if abs(value) >= 0.9995e-3 else f"{significant(value / 1e-6)} µJ"


def clock(value: float) -> str:
    """A longer duration for people who wait: 42s, 3m 05s, 1h 02m."""
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def gibibytes(value: float) -> str:
    """Memory: 15.2 GiB; below one GiB in MiB."""
    return f"{significant(value / 2**30)} GiB" if value >= 2**30 else f"{significant(value / 2**20)} MiB"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction for people: 0.123 is 12.3 %."""
    return f"{100 * fraction:.{digits}f} %"


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h` or a plain number of seconds."""
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not found or float(found[1]) == 0:
        raise UserError(f"'{text}' is not a duration: write for example 90s, 10m or 2h")
    return float(found[1]) * _DURATIONS[found[2] or "s"]


def parse_count(text: str) -> int:
    """A whole number with an optional suffix K, M, B or G, T: 1.5T is 1 500 000 000 000."""
    found = re.fullmatch(r"\s*(\d{1,20}(?:\.\d+)?)\s*([KMBGT]?)\s*", text, re.IGNORECASE)
    count = Decimal(found[1]) * _COUNTS[found[2].upper()] if found else None
    if count is None or count != int(count):
        raise UserError(f"'{text}' is not a count: write for example 4096, 350M or 1.5T")
    return int(count)

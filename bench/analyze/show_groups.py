"""Show groups: medians over machines, and the place of one machine among others, as text for people."""

from collections.abc import Sequence

from bench import units
from bench.analyze import show
from bench.analyze.grouped import QUARTILES, named
from bench.analyze.row import Row
from bench.analyze.show import or_blank
from bench.analyze.table import arranged, spread_out
from bench.text import plain

_EXPLAINED = (
    "rate: median over machines, each by its typical run; middle half: between the quartiles of machines, "
    f"of fewer than {QUARTILES} from the slowest to the fastest"
)


def grouped(groups: Sequence[Row], by: str | None, style: str = "simple") -> list[str]:
    """Groups as a table: the values of `by` across where they are few and no money is asked for, else a line each."""
    if not groups:
        return ["no row is like that"]
    if by and "price_per_hour" not in groups[0] and spread_out(list(groups), by):
        columns, lines = arranged(list(groups), by)
        body = [[plain(name), *(_cell(one) if one else "" for one in found)] for name, *found in lines]
        several = any((one["machines"] or 0) > 1 for one in groups)
        said = ["in brackets: the number of machines that the median is over"] if several else []
        return [show.tabulate(["case", *map(plain, columns)], body, style), *_under(groups, said, style)]
    names, body = _listed(groups, by)
    shared = ["hosts: where several of the machines are boards of one host"] if "hosts" in names else []
    return [show.tabulate(names, body, style), *_under(groups, [_EXPLAINED, *shared], style)]


def standing(places: Sequence[Row], style: str = "simple") -> list[str]:
    """One machine among others, case by case."""
    if not places:
        return ["nothing in this file has a valid time: there is nothing to place"]
    header = ["case", "rate", "others", "faster than", "percentile", "clock", "others'", "limit", "others'", "at most"]
    header += ["others'"]
    body = [
        [
            plain(one["case"]),
            show.rate(one),
            _rate(one, one["speed_to_others"] and one["rate"] / one["speed_to_others"]),
            f"{one['slower']} of {one['others']}" if one["others"] else "no others",
            or_blank(one["percentile"], lambda share: f"{100 * share:.0f}"),
            *(or_blank(one[f"{whose}clock_hz"], lambda value: units.scaled(value, "Hz")) for whose in ("", "others_")),
            *(or_blank(one[f"{whose}power_limit_w"], lambda value: f"{value:.0f} W") for whose in ("", "others_")),
            *(or_blank(one[f"{whose}temperature_c"], lambda value: f"{value:.0f} °C") for whose in ("", "others_")),
        ]
        for one in places
    ]
    first = places[0]
    chip = f", chip {plain(first['chip'])}" if first["chip"] else ""
    lines = [
        f"device: {plain(first['device'])}{chip}, machine {plain(first['machine'])}",
        "others: the median of other machines with the same chip and the same work, each by its typical run",
    ]
    if not any(one["others"] for one in places):
        lines.append("nobody else's results of this work on such a device are here; this machine's own are not counted")
    if any(one["others"] and one["others"] < QUARTILES for one in places):
        lines.append(f"fewer than {QUARTILES} others are no distribution: their number says how much a place is worth")
    return [show.tabulate(*show.without_empty(header, body), style), "", *show.styled(lines, style)]


def left_out(errors: Sequence[tuple[str, str]], copies: Sequence[tuple[str, str]]) -> list[str]:
    """Files of which no row is in the table, each with its reason."""
    lines = [f"{plain(path)}: {plain(reason, 300)}" for path, reason in errors]
    lines += [f"{plain(path)}: the same run as {plain(first)}, which counts" for path, first in copies]
    return lines or ["every file was read, and none twice"]


def not_counted(num_left_out: int, quarantined: int | None) -> list[str]:
    """What of the files is in no row, and which rows are in no median; None: not looked for."""
    lines = []
    if num_left_out:
        files = "1 file was" if num_left_out == 1 else f"{num_left_out} files were"
        lines.append(f"{files} left out: --errors says why")
    if quarantined is None:
        lines.append("not looked for in so many files: cases that belong in quarantine; `accelmark check` finds them")
    elif quarantined:
        cases = "1 case is" if quarantined == 1 else f"{quarantined} cases are"
        lines.append(f"{cases} in quarantine and in no median: `accelmark check` says why")
    return lines


def _under(groups: Sequence[Row], said: list[str], style: str) -> list[str]:
    prices = {one["price_per_hour"] for one in groups if "price_per_hour" in one}
    said = said + [f"tokens per money at {units.significant(price)} an hour for each device" for price in prices]
    return ["", *show.styled(said, style)] if said else []


def _listed(groups: Sequence[Row], by: str | None) -> tuple[list[str], list[list[str]]]:
    several = by != "device" and len({one["device"] for one in groups}) > 1
    header = [
        by or "",
        "device",
        "case",
        "machines",
        "hosts",
        "runs",
        "rate",
        "middle half",
        "of measured",
        "of datasheet",
    ]
    header += ["tokens/J", "tokens/money", "power", "limit", "of default", "clock", "at most", "notes"]
    ordered = sorted(groups, key=lambda one: named(by, one)) if by else groups
    body = [
        [
            plain(named(by, one)) if by else "",
            plain(one["device"]) if several else "",
            plain(one["case"]),
            str(one["machines"]),
            str(one["hosts"]) if one["hosts"] != one["machines"] else "",
            str(one["runs"]),
            show.rate(one),
            _half(one),
            or_blank(one["of_measured"], lambda share: units.percent(share, 0)),
            or_blank(one["of_datasheet"], lambda share: units.percent(share, 0)),
            or_blank(one["tokens_per_joule"], units.significant),
            or_blank(one.get("tokens_per_money"), lambda tokens: units.scaled(tokens, "")),
            or_blank(one["power_w"], lambda value: f"{value:.0f} W"),
            or_blank(one["power_limit_w"], lambda value: f"{value:.0f} W"),
            or_blank(one["power_limit_share"], lambda share: units.percent(share, 0)),
            or_blank(one["clock_hz"], lambda value: units.scaled(value, "Hz")),
            or_blank(one["temperature_c"], lambda value: f"{value:.0f} °C"),
            "; ".join(show.notes({**one, "reason": None})),
        ]
        for one in ordered
    ]
    return show.without_empty(header, body)


def _cell(one: Row) -> str:
    return show.rate(one) + (f" ({one['machines']})" if one["machines"] > 1 else "")


def _half(one: Row) -> str:
    """Where the middle half of the machines lies, of several."""
    if one["machines"] < 2 or one["rate_low"] is None:
        return ""
    return f"{_rate(one, one['rate_low'])} to {_rate(one, one['rate_high'])}"


def _rate(one: Row, value: float | None) -> str:
    return "" if value is None else show.rate({**one, "rate": value})

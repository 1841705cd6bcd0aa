"""Page: everything in one HTML file that asks nothing of any network.

Its policy allows the one script and the one style sheet that are in it, by their hashes, and nothing else: no request,
no other script, no style in an attribute. Strings from files reach the page as text. No date but those of the files.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.analyze import show
from bench.analyze.report import words
from bench.analyze.report.evidence import Evidence, Kind, Machine, Result
from bench.analyze.report.figure import Body, Figure
from bench.analyze.report.svg import text
from bench.text import plain

_FOLDER = Path(__file__).parent
_SHOWN = 100  # rows that are there without the script, and on paper
_FINDINGS = 300


@functools.cache
def stylesheet(name: str) -> str:
    """A style sheet of ours."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def html(evidence: Evidence, figures: Sequence[Figure]) -> str:
    """The whole document."""
    style, script = stylesheet("figure.css") + stylesheet("page.css"), (_FOLDER / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src 'sha256-{_hash(script)}'; style-src 'sha256-{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    drawn = [one for one in figures if one.panels]
    sections = [(one.name, one.title) for one in drawn] + [("findings", "Findings"), ("table", "All results")]
    links = "".join(f'<li><a href="#{name}">{text(title)}</a></li>' for name, title in sections)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            "<title>What these machines deliver: accelmark report</title>",
            f"<style>{style}</style>\n</head>\n<body>",
            '<a class="skip" href="#table">To the table of all results</a>',
            *_first_screen(evidence),
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>',
            *map(_figure, drawn),
            *_not_drawn([one for one in figures if not one.panels]),
            *_findings(evidence),
            *_table(evidence),
            "</main>\n<footer>Made by accelmark from result files; the files themselves are the evidence.</footer>",
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _first_screen(evidence: Evidence) -> list[str]:
    """What machines, what stands out, in words."""
    said = words.stands_out(evidence) or [
        "Nothing: no file refused, no case failed, no machine unlike others of its kind."
    ]
    return [
        f'<header>\n<h1>What these machines deliver</h1>\n<p class="who">{text(words.who(evidence))}</p>',
        '<h2 id="out">What stands out</h2>\n<ul class="out">',
        *(f"<li>{text(sentence)}</li>" for sentence in said),
        '</ul>\n<h2 id="machines-here">Machines</h2>\n<ul class="cards">',
        *map(_card, evidence.kinds),
        "</ul>\n<p>In brackets: the share of what the chip's datasheet promises. Of several machines the median of "
        f"their best; of whole models the fastest case.</p>\n{_one_by_one(evidence)}</header>",
    ]


def _card(kind: Kind) -> str:
    facts = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in words.headline(kind))
    return (
        f"<li><h3>{text(kind.name)}</h3><p>{text(words.conditions(kind))}</p>"
        + (f"<dl>{facts}</dl>" if facts else "<p>No headline figure was measured.</p>")
        + "</li>"
    )


def _one_by_one(evidence: Evidence) -> str:
    """Which machine is which, and in what condition its card is."""
    body = []
    for kind, machine in evidence.machines:
        session, readings = machine.session, machine.facts.readings
        limit, default = readings.get("power_limit_w"), readings.get("power_limit_default_w")
        of = f" of {default:.0f} W" if limit and default and round(limit) != round(default) else ""
        told = [
            kind.label(machine),
            kind.name,
            session.started[:10],
            machine.facts.driver or "",
            f"{limit:.0f} W{of}" if limit else "",
            session.software.get("torch", ""),
            f"{session.host.cpu}, {session.host.threads} threads",
            f"{session.harness.version}, {session.harness.commit or 'no commit'}",
            f"{sum(one.measured for one in machine.latest.values())} of {len(machine.latest)}",
        ]
        body.append([plain(cell, 60) for cell in told])
    header = ["machine", "device", "measured", "driver", "power limit", "torch", "host", "accelmark", "results"]
    return _details("Machines one by one", "Machines one by one", header, body)


def _figure(one: Figure) -> str:
    drawn = "".join(
        f"<div>{panel.svg(f'{one.name}-{number}')}</div>" for number, panel in enumerate(one.panels, start=1)
    )
    numbers = _details("The numbers", one.title, one.header, one.body) if one.body else ""
    return (
        f'<section aria-labelledby="{one.name}">\n<h2 id="{one.name}">{text(one.title)}</h2>\n'
        f"<p>{_prose(one.says)}</p>\n"
        f'<div class="panels">{drawn}</div>\n{numbers}</section>'
    )


def _not_drawn(figures: Sequence[Figure]) -> list[str]:
    """What a reader may look for and why it is not there."""
    if not figures:
        return []
    lines = [f"<li>{text(one.title)}: {_prose(one.says)}</li>" for one in figures]
    return ['<section aria-labelledby="not-drawn">\n<h2 id="not-drawn">Not drawn</h2>\n<ul>', *lines, "</ul></section>"]


def _prose(words: str) -> str:
    """A sentence of ours, in which commands stand between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(words))


def _details(says: str, title: str, header: list[str], body: Body) -> str:
    return f"<details><summary>{text(says)} ({len(body)})</summary>{_plain_table(title, header, body)}</details>\n"


def _plain_table(title: str, header: list[str], body: Body) -> str:
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    lines = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in line) + "</tr>" for line in body)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {text(title)}"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _findings(evidence: Evidence) -> list[str]:
    """What the check found, refusals first."""
    found = sorted(evidence.findings, key=lambda one: one.level != "error")
    says = "Nothing: every file is whole and sound."
    if found:
        refused = f"{len(evidence.refused)} refused" if evidence.refused else "none refused"
        files = words.count(evidence.num_files, "file")
        says = f"{len(found)} in {files}, {refused}. `accelmark check FILE` prints them all."
    body = [[one.file, "" if one.line is None else str(one.line), one.level, one.message] for one in found[:_FINDINGS]]
    more = f"<p>{len(found) - _FINDINGS} more are not shown.</p>" if len(found) > _FINDINGS else ""
    table = _plain_table("Findings", ["file", "line", "level", "what was found"], body) if body else ""
    return [
        f'<section aria-labelledby="findings">\n<h2 id="findings">Findings of the check</h2>\n<p>{_prose(says)}</p>',
        (
            table
            if len(body) <= 8
            else f"<details><summary>All findings ({len(found)})</summary>{table}{more}</details>"
        ),
        "</section>",
    ]


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of the table of all results. One of numbers has its unit in the title: `>100` must mean something."""

    title: str
    value: Callable[[Kind, Machine, Result], Any]
    numeric: bool = False
    style: str = ""  # its cells' class: of numbers always `n`


def _number(title: str, field: str, factor: float = 1.0) -> _Column:
    def value(kind: Kind, machine: Machine, one: Result) -> float | None:
        found = one.row[field]
        return None if found is None else float(f"{found / factor:.4g}")

    return _Column(title=title, value=value, numeric=True, style="n")


def _tokens_per_s(kind: Kind, machine: Machine, one: Result) -> float | None:
    return float(f"{one.row['rate']:.4g}") if one.row["rate_unit"] == "tok/s" else None


def _words(value: Callable[[Result], Any], limit: int = 200) -> Callable[[Kind, Machine, Result], str]:
    return lambda kind, machine, one: plain(str(value(one) or "").strip(), limit)


_COLUMNS = (
    _Column(title="device", value=lambda kind, machine, one: kind.label(machine), style="d"),
    _Column(title="workload", value=_words(lambda one: one.row["workload"], 40), style="k"),
    _Column(title="case", value=_words(lambda one: one.row["case"].removeprefix(one.row["workload"])), style="w"),
    _number("step, ms", "step_s", 1e-3),
    _number("±95 %, in %", "spread", 0.01),
    _number("TFLOP/s", "flops_per_s", 1e12),
    _number("GB/s", "bytes_per_s", 1e9),
    _Column(title="tokens/s", value=_tokens_per_s, numeric=True, style="n"),
    _number("% of measured roof", "of_measured", 0.01),
    _number("% of datasheet", "of_datasheet", 0.01),
    _number("W", "power_w"),
    _number("mJ/token", "energy_per_token_j", 1e-3),
    _number("clock, GHz", "clock_hz", 1e9),
    _number("held by limit, %", "power_limited", 0.01),
    _number("rounds", "rounds"),
    _Column(title="notes", value=_words(lambda one: "; ".join(show.notes(one.row)), 400), style="x"),
    _Column(title="measured on", value=_words(lambda one: one.row["started"][:10], 40), style="k"),
    _Column(title="driver", value=_words(lambda one: one.row["driver"], 40), style="o"),
    _Column(title="torch", value=_words(lambda one: one.row["torch"], 40), style="o"),
    _Column(title="file", value=_words(lambda one: one.row["file"], 80), style="o"),
)


def _table(evidence: Evidence) -> list[str]:
    """All results, the first hundred as they are and all of them for the script."""
    lines = [
        [column.value(kind, machine, one) for column in _COLUMNS]
        for kind, machine in evidence.machines
        for one in machine.results
    ]
    kept = [place for place in range(len(_COLUMNS)) if any(line[place] not in (None, "") for line in lines)]
    columns = [_COLUMNS[place] for place in kept]
    lines = [[line[place] for place in kept] for line in lines]
    heads = "".join(
        f'<th scope="col" class="{column.style}" aria-sort="none">'
        f'<button type="button">{text(column.title)}</button></th>'
        for column in columns
    )
    filters = "".join(
        f'<td><input type="search" aria-label="filter {text(column.title)}" '
        f'placeholder="{text(">100" if column.numeric else "contains")}"></td>'
        for column in columns
    )
    return [
        '<section aria-labelledby="table">\n<h2 id="table">All results</h2>',
        '<p class="hint">A heading sorts. A filter keeps what contains its text; with numbers also '
        "<code>&gt;100</code>, <code>&lt;=5</code>, <code>=8</code> and <code>5..8</code>, in the heading's unit.</p>",
        f"<noscript><p>Without its script the page shows the first {_SHOWN} results and does not sort.</p></noscript>",
        '<p class="tools"><button type="button" id="back">previous page</button> '
        '<button type="button" id="on">next page</button> <button type="button" id="clear">clear filters</button> '
        f'<span id="told" role="status">{min(_SHOWN, len(lines))} of {len(lines)} results</span></p>',
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of all results"><table>',
        f'<thead><tr id="head">{heads}</tr><tr id="filters" class="filters">{filters}</tr></thead>',
        f'<tbody id="body">{"".join(_line(columns, line) for line in lines[:_SHOWN])}</tbody></table></div>',
        f'<script type="application/json" id="rows">{_json(columns, lines)}</script>',
        "</section>",
    ]


def _line(columns: Sequence[_Column], line: list[Any]) -> str:
    cells = (
        f'<td class="{column.style}">{text(_cell(value))}</td>' for column, value in zip(columns, line, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def _json(columns: Sequence[_Column], lines: list[list[Any]]) -> str:
    """By columns, each text once. No character of it can end the element round it."""
    document: list[dict[str, Any]] = []
    for place, column in enumerate(columns):
        values = [line[place] for line in lines]
        if column.numeric:
            document.append({"n": values, "c": column.style})
        else:
            texts = {value: number for number, value in enumerate(dict.fromkeys(values))}
            document.append({"s": list(texts), "i": [texts[value] for value in values], "c": column.style})
    packed = json.dumps(document, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return packed.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")

"""Gallery: results/README.md, the shared table at a glance, made from the files beside it and from nothing else.

The same files give the same text on every machine, so that a change request shows what it changes, and a test can tell
whether the text is current. `scripts/gallery` writes it; `scripts/gallery --check` only says whether it is current.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import record, units
from bench.analyze import foretold, show
from bench.analyze.report.evidence import Evidence, Kind, Machine, gather
from bench.analyze.shared import history
from bench.errors import UserError
from bench.text import plain

# Not of the shared table: this machine's own runs, and what others have published elsewhere.
_APART = {"local", "published"}
_FINDINGS = 50

Document = Mapping[str, Any]

_EMPTY = """\
There are no results here yet. Yours can be the first:

```
scripts/accelmark run --suite standard
scripts/accelmark check results/local/FILE.jsonl
scripts/accelmark submit results/local/FILE.jsonl
```
"""

_HEADER = """\
# Results

<!-- Made by scripts/gallery from the files in this folder. Do not edit: run it again. -->
"""

_FOOT = """\
`scripts/accelmark table results` prints every result, `scripts/accelmark report results` makes a page with figures.
"""


def gallery(folder: Path, sections: Mapping[str, Sequence[Document]] | None = None) -> str:
    """The text for the result files below `folder`. `sections` are further tables by title, such as the calibration of
    each machine or the error of estimates: rows with the same keys, which become the headings.
    """
    paths = files(folder)
    parts = [_HEADER]
    if not paths:
        parts.append(_EMPTY)
    else:
        evidence = gather(paths, accepted=history.accepted(folder))
        where = {path.name: path.relative_to(folder).parent for path in paths}
        parts += [*_machines(evidence, where), *_findings(evidence)]
    parts += [part for title, rows in (sections or {}).items() for part in section(title, rows)]
    return "\n".join([*parts, _FOOT])


def whole(folder: Path) -> str:
    """The gallery with each machine's calibration and the errors of its estimates."""
    read = [record.read(path) for path in files(folder)]
    return gallery(folder, foretold.sections(read, accepted=history.accepted(folder)))


def files(folder: Path) -> list[Path]:
    """The files of the shared table, in the order of their places."""
    found = (path for path in folder.rglob("*.jsonl") if path.is_file())
    return sorted(path for path in found if path.relative_to(folder).parts[0] not in _APART)


def section(title: str, rows: Sequence[Document]) -> list[str]:
    """A further table; nothing for no rows. Numbers have three digits, and unknown is empty."""
    if not rows:
        return []
    header = list(dict.fromkeys(name for row in rows for name in row))
    body = [[_said(row.get(name)) for name in header] for row in rows]
    return [f"## {title}\n", show.tabulate([plain(name) for name in header], body, "github") + "\n"]


def _said(value: Any) -> str:
    if value is None:
        return ""
    return units.significant(value) if isinstance(value, float) else plain(str(value), 120)


def _machines(evidence: Evidence, where: Mapping[str, Path]) -> Iterator[str]:
    """One row for each machine, with its headline figures."""
    number = len(evidence.machines)
    yield f"{number} machine{'s' if number != 1 else ''}, the latest result of each case.\n"
    header = [
        "machine", "folder", "measured", "driver", "commit", "limit",
        "matmul", "copy", "train_step", "decode", "energy", "results",
    ]  # fmt: skip
    body = [_machine(kind, machine, where) for kind, machine in evidence.machines]
    kept = [place for place in range(len(header)) if any(line[place] for line in body)]
    yield (
        show.tabulate([header[place] for place in kept], [[line[place] for place in kept] for line in body], "github")
        + "\n"
    )


def _machine(kind: Kind, machine: Machine, where: Mapping[str, Path]) -> list[str]:
    limit_w = machine.facts.readings.get("power_limit_w")
    harness = machine.session.harness
    return [
        kind.label(machine),
        plain(where[machine.results[-1].row["file"]].as_posix(), 80),
        plain(machine.session.started, 40)[:10],
        plain(machine.facts.driver or "", 40),
        plain(harness.commit or harness.version, 12) + (" changed" if harness.dirty else ""),
        f"{limit_w:.0f} W" if limit_w else "",
        _best(machine, "matmul", "flops_per_s", "FLOP/s", "dtype"),
        _best(machine, "memory_copy", "bytes_per_s", "B/s", ""),
        _best(machine, "train_step", "rate", "tok/s", "model"),
        _best(machine, "decode", "rate", "tok/s", "model"),
        _energy(machine),
        f"{sum(one.measured for one in machine.latest.values())} of {len(machine.latest)}",
    ]


def _best(machine: Machine, workload: str, value: str, unit: str, names: str) -> str:
    """The largest value of a workload, and of what it is."""
    one = machine.best(workload, value)
    if one is None:
        return ""
    rate = float(one.row[value])
    said = f"{units.significant(rate)} {unit}" if unit == "tok/s" else units.scaled(rate, unit)
    return said + (f" ({plain(str(one.row.get(names)), 30)})" if names else "")


def _energy(machine: Machine) -> str:
    """Of a token while training, else while decoding."""
    for workload in ("train_step", "decode"):
        found = [
            one
            for one in machine.latest.values()
            if one.row["workload"] == workload and one.row["energy_per_token_j"] is not None
        ]
        if found:
            least = min(found, key=lambda one: float(one.row["energy_per_token_j"]))
            return f"{units.joules(least.row['energy_per_token_j'])}/tok ({workload})"
    return ""


def _findings(evidence: Evidence) -> Iterator[str]:
    """What the check found, refusals first."""
    yield "## Findings\n"
    if not evidence.findings:
        yield "None: every file is whole and sound.\n"
        return
    found = sorted(evidence.findings, key=lambda one: one.level != "error")
    body = [[one.file, "" if one.line is None else str(one.line), one.level, one.message] for one in found[:_FINDINGS]]
    yield show.tabulate(["file", "line", "level", "what was found"], body, "github") + "\n"
    if len(found) > _FINDINGS:
        yield f"{len(found) - _FINDINGS} more: `scripts/accelmark check results` prints them all.\n"


def main(arguments: Sequence[str]) -> int:
    """0 written or current; 1 not current; 2 it cannot be done."""
    if any(argument != "--check" for argument in arguments):
        print("usage: scripts/gallery [--check]", file=sys.stderr)
        return 2
    folder = Path(__file__).resolve().parents[2] / "results"
    path = folder / "README.md"
    try:
        text = whole(folder)
    except UserError as error:
        print(f"gallery: {plain(str(error), 1000)}", file=sys.stderr)
        return 2
    if "--check" not in arguments:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print("results/README.md is not what the files beside it give: run scripts/gallery and commit it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

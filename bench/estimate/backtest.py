"""Back-test: every estimator asked about measurements that it has not seen, and its errors in one table.

Each kind of estimate offers its cases in a module `<kind>/backtest.py`: `cases(fast)` gives a `Case` for every row that
was predicted without its fold, and `remarks()`, where there is one, sentences on what was not asked. Figures are taken
per source first and then as the median over sources, for a source with a thousand rows would otherwise speak for all.
The error is max(predicted/measured, measured/predicted) - 1.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

STORED = Path(__file__).parent / "coefficients" / "backtest.json"
WORSE = 0.01  # a median that worsens by more than this is a failure


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prediction against one measurement. Errors are log(predicted / measured)."""

    group: str  # what was left out: one line of the table
    source: str
    error: float
    factor80: float | None = None
    factor90: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)  # errors of others on the same row, by name


@dataclass(frozen=True, kw_only=True)
class Line:
    """One group's figures, as medians over its sources."""

    group: str
    rows: int
    sources: int
    median: float
    p90: float
    bias: float
    coverage80: float | None
    coverage90: float | None
    lowest90: float | None  # of any source with ten rows
    factor90: float | None
    baselines: dict[str, tuple[float, float]]


class Backtest(Protocol):
    """What a module `<kind>/backtest.py` offers."""

    def cases(self, fast: bool) -> Iterable[Case]:
        """Predictions of rows left out; with `fast` those groups alone that take seconds."""


def run(*, fast: bool = False, kinds: Sequence[str] | None = None) -> list[Line]:
    """A line for each group of each kind there is, in order of the kinds' names."""
    return [line for module in _modules(kinds) for line in summarize(module.cases(fast))]


def remarks(kinds: Sequence[str] | None = None) -> list[str]:
    """What each kind has to say of rows that it leaves out."""
    return [sentence for module in _modules(kinds) if hasattr(module, "remarks") for sentence in module.remarks()]


def summarize(cases: Iterable[Case]) -> list[Line]:
    """A line for each group, in the order in which groups first come."""
    groups: dict[str, list[Case]] = {}
    for one in cases:
        groups.setdefault(one.group, []).append(one)
    return [_line(group, found) for group, found in groups.items()]


def markdown(lines: Sequence[Line]) -> str:
    """The table, with each baseline's median and p90 beside ours."""
    names = list(dict.fromkeys(name for line in lines for name in line.baselines))
    head = [
        "left out",
        "rows",
        "sources",
        "median",
        "p90",
        "bias",
        "in 80 %",
        "in 90 %",
        "lowest",
        "90 % factor",
        *names,
    ]
    body = [
        [
            line.group, f"{line.rows:,}", str(line.sources), _percent(line.median), _percent(line.p90),
            f"{100 * math.expm1(line.bias):+.0f} %", _percent(line.coverage80), _percent(line.coverage90),
            _percent(line.lowest90), "" if line.factor90 is None else f"{line.factor90:.2f}",
            *(" / ".join(map(_percent, line.baselines[name])) if name in line.baselines else "" for name in names),
        ]
        for line in lines
    ]  # fmt: skip
    rows = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def store(lines: Sequence[Line]) -> None:
    """Keeps the figures that later versions are held to, in place of what was kept of these groups."""
    groups = {line.group for line in lines}
    kept = [line for line in _kept() if line["group"] not in groups]
    text = json.dumps([*kept, *map(asdict, lines)], indent=1)
    STORED.write_text(text + "\n", encoding="utf-8")


def _kept() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else []
    return found


def worsened(lines: Sequence[Line]) -> list[str]:
    """A sentence for each group whose median is worse than the stored one by more than a point."""
    kept = {line["group"]: line["median"] for line in _kept()}
    return [
        f"{line.group}: the median over sources rose from {_percent(kept[line.group])} to {_percent(line.median)}"
        for line in lines
        if line.group in kept and line.median > kept[line.group] + WORSE
    ]


def _line(group: str, cases: Sequence[Case]) -> Line:
    sources: dict[str, list[Case]] = {}
    for one in cases:
        sources.setdefault(one.source, []).append(one)
    found = list(sources.values())
    large = [part for part in found if len(part) >= 10]
    names = dict.fromkeys(name for one in cases for name in one.baselines)
    return Line(
        group=group, rows=len(cases), sources=len(sources),
        median=_balanced(found, 0.5), p90=_balanced(found, 0.9),
        bias=statistics.median(statistics.median(one.error for one in part) for part in found),
        coverage80=_covered(found, "factor80"), coverage90=_covered(found, "factor90"),
        lowest90=min((share for part in large if (share := _covered([part], "factor90")) is not None), default=None),
        factor90=_median_factor(found),
        baselines={
            name: (_balanced(found, 0.5, name), _balanced(found, 0.9, name)) for name in names
        },
    )  # fmt: skip


def _balanced(sources: Sequence[Sequence[Case]], level: float, baseline: str | None = None) -> float:
    """The quantile of the errors of each source, and of these the median."""
    quantiles = []
    for part in sources:
        errors = [
            one.error if baseline is None else one.baselines[baseline]
            for one in part
            if baseline is None or baseline in one.baselines
        ]
        if errors:
            quantiles.append(quantile([math.expm1(abs(error)) for error in errors], level))
    return statistics.median(quantiles)


def _covered(sources: Sequence[Sequence[Case]], key: str) -> float | None:
    """The share of rows within their interval, as the mean over sources."""
    shares = []
    for part in sources:
        within = [abs(one.error) <= math.log(factor) for one in part if (factor := getattr(one, key)) is not None]
        if within:
            shares.append(sum(within) / len(within))
    return statistics.fmean(shares) if shares else None


def _median_factor(sources: Sequence[Sequence[Case]]) -> float | None:
    factors = [
        statistics.median(one.factor90 for one in part if one.factor90 is not None)
        for part in sources
        if any(one.factor90 for one in part)
    ]
    return statistics.median(factors) if factors else None


def quantile(values: Sequence[float], level: float) -> float:
    """Between the order statistics on both sides of it, in proportion."""
    ordered = sorted(values)
    place = level * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _kinds() -> list[str]:
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/backtest.py"))


def _modules(kinds: Sequence[str] | None) -> list[Backtest]:
    """Those of these kinds, or of all."""
    wanted = [kind for kind in _kinds() if kinds is None or kind in kinds]
    return [cast(Backtest, import_module(f"bench.estimate.{kind}.backtest")) for kind in wanted]


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/backtest", description=(__doc__ or "").partition("\n")[0])
    names = _kinds()
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(names)}; all, if none is named")
    parser.add_argument("--fast", action="store_true", help="the groups alone that the check asks for")
    parser.add_argument("--store", action="store_true", help="keep the figures that the check holds later ones to")
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(names):
        parser.error(f"there is no kind '{min(unknown)}', but {', '.join(names)}")
    kinds = options.kinds or None
    lines = run(fast=options.fast, kinds=kinds)
    sys.stdout.write(markdown(lines))
    sys.stdout.write("".join(f"\n{sentence}\n" for sentence in remarks(kinds)))
    if options.store:
        store(lines)
    worse = worsened(lines)
    sys.stderr.write("".join(f"{sentence}\n" for sentence in worse))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))

"""Writes coefficients/training.json: `python -m bench.estimate.training.store`. Deterministic; takes some minutes.

Beside the coefficients and the rows that likeness compares with, it keeps how far off estimates of each class of
evidence were in back-tests, in units of their own sigma: intervals come from these.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from bench.estimate import backtest
from bench.estimate.prediction import Evidence
from bench.estimate.training import backtest as backtest_training
from bench.estimate.training import folds as training_folds
from bench.estimate.training import rows as training_rows
from bench.estimate.training.folds import Asked
from bench.estimate.training.likeness import Likeness
from bench.estimate.training.rows import NAMED, STORED, Estimator

_SCORES = 40  # of each source, by rank: enough for its quantiles


def write() -> None:
    """Fits, back-tests and stores, the figures of the back-test as well."""
    rows, like = training_folds.measured_rows(), Likeness()
    known = training_folds.estimator(rows, like)
    stacks = list(training_folds.known_stacks(rows, like, known.values))
    groups = (backtest_training.SOURCE, backtest_training.DEVICE, backtest_training.FAMILY, backtest_training.LAYOUT)
    source, device, family, layout = (
        list(training_folds.left_out(rows, like, known.values, group.key)) for group in groups
    )
    local = list(training_folds.with_local(rows, like, known.values))
    _write(known, {"L0": local, "L1": stacks, "L2": source, "L3": device})
    training_rows.stored.cache_clear()
    stored = training_rows.stored()
    cases = [
        *backtest_training.as_cases(backtest_training.KNOWN_STACKS, stacks, stored),
        *backtest_training.as_cases(groups[0].title, source, stored),
        *backtest_training.as_cases(groups[1].title, device, stored, groups[1].key),
        *backtest_training.as_cases(groups[2].title, family, stored),
        *backtest_training.as_cases(groups[3].title, layout, stored),
        *backtest_training.as_cases(backtest_training.LOCAL, local, stored),
        *backtest_training.chosen(rows),
    ]
    lines = backtest.summarize(cases)
    backtest.store(lines)
    sys.stdout.write(backtest.markdown(lines))


def _write(known: Estimator, asked: dict[Evidence, list[Asked]]) -> None:
    names: list[str] = []
    sources = sorted(set(known.sources))
    kept = {
        "made_from": made_from(),
        "values": {name: float(f"{value:.5g}") for name, value in known.values.items()},
        "likeness": asdict(known.like),
        "scores": {name: _scores(found) for name, found in sorted(asked.items())},
        "accuracy": {name: _accuracy(found) for name, found in sorted(asked.items())},
        "sources": sources,
        "rows": {
            "codes": [[_code(names, getattr(stand, key)) for key in NAMED] for stand in known.stands],
            "shape": [[round(one, 3) for one in stand.shape] for stand in known.stands],
            "noise": [stand.noise for stand in known.stands],
            "source": [sources.index(one) for one in known.sources],
            "error": [round(float(one), 4) for one in known.errors],
        },
        "names": names,
    }
    text = json.dumps(kept, separators=(",", ":"), sort_keys=True)
    STORED.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


def made_from() -> str:
    """A digest of what a fit depends on: the published rows."""
    path = Path(__file__).resolve().parent.parent.parent.parent / "results" / "published" / "training.csv"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _scores(asked: Iterable[Asked]) -> dict[str, list[float]]:
    """Of each source some order statistics, evenly spread over the ranks."""
    found: dict[str, list[float]] = {}
    for one in asked:
        found.setdefault(one.drawn, []).append(abs(one.error) / one.sigma)
    kept = {}
    for source, scores in sorted(found.items()):
        count = min(_SCORES, len(scores))
        kept[source] = [
            round(backtest.quantile(scores, (index + 0.5) / count if count > 1 else 0.5), 3) for index in range(count)
        ]
    return kept


def _accuracy(asked: Iterable[Asked]) -> list[float]:
    cases = [backtest.Case(group="", source=one.source, error=one.error) for one in asked]
    line = backtest.summarize(cases)[0]
    return [round(line.median, 3), round(line.p90, 3)]


def _code(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


if __name__ == "__main__":
    write()

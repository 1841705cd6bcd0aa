"""Fits results/published/micro.csv and writes coefficients/micro.json: `python -m bench.estimate.operation.fit`.

Curves go through all rows graded A or B. The quantiles that widen an estimate from elsewhere are those of back-tests in
which each chip, and each source, was hidden.
"""

import json
from dataclasses import replace

from bench.estimate.operation import backtest as backtest_micro
from bench.estimate.operation.evidence import COEFFICIENTS, Evidences
from bench.estimate.published import rows


def fit() -> Evidences:
    """All curves, with the quantiles of their errors elsewhere."""
    published = rows("micro")
    outcomes = []
    for kind in ("gemm", "memory_bound_op", "collective"):
        of_kind = [row for row in published if row["kind"] == kind]
        for folds in (backtest_micro.chip_folds(of_kind), backtest_micro.source_folds(of_kind)):
            outcomes += [outcome for fold in folds for outcome in backtest_micro.hide(*fold) if outcome.elsewhere]
    return replace(Evidences.of(published), quantiles=backtest_micro.quantiles_of(outcomes))


def main() -> None:
    """Writes the file, with one line for each profile so that differences can be read."""
    values = fit().to_dict()
    lines = ",\n".join(json.dumps(profile, separators=(",", ":")) for profile in values["profiles"])
    quantiles = json.dumps(values["quantiles"])
    COEFFICIENTS.parent.mkdir(exist_ok=True)
    COEFFICIENTS.write_text(f'{{"quantiles": {quantiles},\n"profiles": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()

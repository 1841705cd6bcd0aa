"""One estimate per row of a CSV: `accelmark estimate --rows FILE.csv --out FILE.csv`.

The columns are those of results/published/*.csv; which of the three it is, the columns tell. Measured columns are
never read: they are blanked before any estimator sees the row, and written out as they came. A row that cannot be
estimated says why, and the rest goes on. A column that has the name of an answer's is kept as `given_NAME`.
"""

import contextlib
import csv
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from bench.errors import UserError
from bench.estimate.prediction import Prediction
from bench.estimate.published import Kind, Row

# The module that estimates each kind, and the columns without which a file is not of that kind.
_KINDS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "training": ("bench.estimate.training.rows", ("device", "task", "seq_len", "n_gpus")),
    "inference": ("bench.estimate.serving.rows", ("device", "phase", "input_len", "n_gpus")),
    "micro": ("bench.estimate.operation.rows", ("device", "kind", "op", "unit")),
}
# What was measured, in each kind of file. Everything else describes the job.
MEASURED: dict[Kind, tuple[str, ...]] = {
    "training": (
        "tok_s_gpu", "tok_s_total", "tflops_gpu", "mfu_pct", "hfu_pct", "step_time_s", "gpu_hours", "days", "cost_usd",
        "power_w_per_gpu", "node_power_w", "energy_kwh", "tco2e", "peak_mem_gb", "spread_rel", "notes",
    ),
    "inference": (
        "tok_s_total", "tok_s_prefill", "tok_s_decode", "tok_s_per_gpu", "ttft_s", "tpot_s", "e2e_latency_s",
        "bw_gbps_achieved", "avg_power_w", "peak_mem_gb", "notes",
    ),
    "micro": ("value", "second_value", "efficiency_pct", "notes"),
}  # fmt: skip
_BOUNDS = ("lo80", "hi80", "lo90", "hi90")
_ADDED: dict[Kind, tuple[str, ...]] = {
    "training": ("pred_tok_s_gpu", "pred_step_time_s"),
    "inference": (
        "pred_tok_s_total", "pred_tok_s_prefill", "pred_tok_s_decode", "pred_ttft_s", "pred_tpot_s", "pred_power_w",
    ),
    "micro": ("pred_value",),
}  # fmt: skip


class Estimator(Protocol):
    """What a module of `_KINDS` offers."""

    def predict(self, rows: Sequence[Row], local: Sequence[Row]) -> list[Prediction]:
        """A prediction for each row, in order; `local` are rows with figures, of the same machines and stacks."""


def kind_of(columns: Sequence[str]) -> Kind:
    """Which file has these columns. Raises UserError with what is missing."""
    missing = {kind: [name for name in needed if name not in columns] for kind, (_, needed) in _KINDS.items()}
    found = [kind for kind, names in missing.items() if not names]
    if len(found) == 1:
        return found[0]
    wanted = "; ".join(f"{kind} needs {', '.join(needed)}" for kind, (_, needed) in _KINDS.items())
    raise UserError(f"these columns are of no known kind: {wanted}")


def estimate_rows(source: Path, target: Path, local: Path | None = None) -> dict[str, int]:
    """Writes the rows of `source` with estimates to `target`; gives how many have a number and how many a reason."""
    columns, rows = _read(source)
    kind = kind_of(columns)
    known: list[Row] = []
    if local is not None:
        local_columns, known = _read(local)
        if kind_of(local_columns) != kind:
            raise UserError(f"{local}: has rows of another kind than {source}")
    estimator = cast(Estimator, import_module(_KINDS[kind][0]))
    blanked = [{**row, **{name: "" for name in MEASURED[kind] if name in row}} for row in rows]
    predictions = estimator.predict(blanked, known)
    added = [*_ADDED[kind], *_BOUNDS, "evidence", "basis", "reason"]
    kept = {name: f"given_{name}" if name in added else name for name in columns}
    kept = {name: new for name, new in kept.items() if new == name or new not in columns}  # else from an earlier answer
    answered = (
        {**{new: row[name] for name, new in kept.items()}, **_cells(prediction)}
        for row, prediction in zip(rows, predictions, strict=True)
    )
    _write(target, [*kept.values(), *added], answered)
    numbers = sum(1 for one in predictions if one.values)
    return {"rows": len(rows), "estimated": numbers, "refused": len(rows) - numbers}


def _write(target: Path, header: Sequence[str], rows: Iterable[Row]) -> None:
    """All of it or nothing: a full disk leaves what was there. A pipe or a device is written to as it is."""
    beside = target if target.exists() and not target.is_file() else target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(rows)
        if beside != target:
            beside.replace(target)
    except OSError as error:
        if beside != target:
            with contextlib.suppress(OSError):
                beside.unlink()
        raise UserError(f"cannot write {target}: {error.strerror}") from None


def _cells(prediction: Prediction) -> dict[str, str]:
    figures = {**prediction.values, **dict(zip(_BOUNDS, prediction.bounds, strict=True))}
    return {
        **{name: "" if value is None else f"{value:.6g}" for name, value in figures.items()},
        "evidence": prediction.evidence or "",
        "basis": prediction.basis,
        "reason": prediction.reason or "",
    }


def _read(path: Path) -> tuple[list[str], list[Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{name: cell or "" for name, cell in row.items() if name is not None} for row in reader]
            return list(reader.fieldnames or []), rows
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a CSV in UTF-8: {error}") from None

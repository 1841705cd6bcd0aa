"""Predicts steps of ours on this machine, writes the predictions down, then measures them and compares.

    scripts/predict_first --from FILE [--from FILE ...] [--cases CASES.json] [--device D] [--rounds N] [--out FOLDER]

FILE is a result file of this machine, a quick run for example. CASES.json is a list of [workload, parameters]; without
it a list of models and sizes that `quick` does not have is taken, those that fit. FOLDER gets predictions.json, whose
SHA-256 is printed before anything is measured; measured.jsonl, the result file; and compared.json.
An error is max(predicted / measured, measured / predicted) - 1.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import commands, record, workload
from bench.errors import UserError
from bench.estimate.own import calibration
from bench.estimate.own import predict as local
from bench.measure.choice import Request
from bench.measure.progress import Silent, Terminal

# Models, batches and lengths beside those of `quick` on two CPU cores, seconds each at most.
CASES: list[tuple[str, dict[str, Any]]] = [
    *(("train_step", {"model": m, "batch": b, "seq": s}) for m, b, s in (
        ("tiny", 1, 128), ("tiny", 1, 512), ("tiny", 8, 128), ("small", 2, 128), ("small", 1, 256), ("small", 4, 64),
        ("gpt2-124m", 1, 64), ("gpt2-124m", 1, 128))),
    ("train_step", {"model": "tiny", "batch": 4, "seq": 128, "recompute": "full"}),
    *(("decode", {"model": m, "batch": b, "context": c, "layers": n}) for m, b, c, n in (
        ("tiny", 1, 128, 0), ("small", 1, 128, 0), ("small", 4, 128, 0), ("small", 8, 512, 0),
        ("gpt2-124m", 4, 512, 0), ("gpt2-124m", 8, 128, 0), ("llama-3.2-1b", 1, 512, 4), ("llama-3.2-1b", 8, 512, 4))),
    *(("prefill", {"model": m, "batch": b, "prompt": p}) for m, b, p in (
        ("tiny", 1, 128), ("small", 1, 512), ("small", 4, 128), ("gpt2-124m", 1, 128), ("gpt2-124m", 1, 512))),
]  # fmt: skip


def main() -> int:
    """0 done, 2 not: with one line that says why."""
    options = _options()
    try:
        known = calibration.calibrations([record.read(path) for path in options.source])[0]
        cases = _cases(options.cases, known)
        options.out.mkdir(parents=True, exist_ok=True)
        predictions = [_predicted(known, case) for case in cases]
        written = {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "calibrated_from": {path.name: _sha256(path.read_bytes()) for path in options.source},
            "predictions": predictions,
        }
        text = json.dumps(written, indent=1, allow_nan=False).encode() + b"\n"
        (options.out / "predictions.json").write_bytes(text)
        print(f"{len(predictions)} predictions in {options.out / 'predictions.json'}, SHA-256 {_sha256(text)}")
        measured = _measure(options, cases)
        compared = _compared(predictions, measured)
        (options.out / "compared.json").write_text(json.dumps(compared, indent=1, allow_nan=False) + "\n")
        _print(compared)
    except UserError as error:
        print(f"predict_first: {error}", file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="source", action="append", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", type=Path, metavar="CASES.json")
    parser.add_argument("--device", default="default")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("predicted"), metavar="FOLDER")
    return parser.parse_args()


def _cases(path: Path | None, known: calibration.Calibration) -> list[workload.Workload]:
    """The cases, in a type that was measured where they name none."""
    listed = CASES if path is None else json.loads(path.read_text())
    dtypes = known.laws.products
    fastest = max(dtypes, key=lambda name: dtypes[name].flops_per_s if name in workload.FLOATS else 0.0)
    return [workload.case(name, {"dtype": fastest, **params}) for name, params in listed]


def _predicted(known: calibration.Calibration, case: workload.Workload) -> dict[str, Any]:
    made = local.predict_case(known, case)
    low80, high80, low90, high90 = made.bounds
    return {
        "case": case.label(), "workload": case.name, "step_s": made.values.get("pred_step_time_s"),
        "lo80": low80, "hi80": high80, "lo90": low90, "hi90": high90, "evidence": made.evidence,
        "reason": made.reason, "terms": {term.name: term.seconds for term in made.terms},
    }  # fmt: skip


def _measure(options: argparse.Namespace, cases: list[workload.Workload]) -> dict[str, float]:
    """Seconds of a step by case, of those that could be measured."""
    request = Request(workloads=("train_step",), suite="quick", rounds=options.rounds)
    laboratory, planned = commands.prepare_run(request, device=options.device)
    like = planned.cases[0]
    mine = [dataclasses.replace(like, case=case, protocol="macro") for case in cases]
    progress = Terminal() if sys.stderr.isatty() else Silent()
    outcome = commands.carry_out(
        laboratory, dataclasses.replace(planned, suite="predicted", cases=mine, skipped=[], refused=[]), seed=0,
        out=options.out / "measured.jsonl", argv=["scripts/predict_first"], progress=progress,
    )  # fmt: skip
    return {row["case"]: row["step_s"] for row in commands.table([outcome.path]) if row["step_s"] is not None}


def _compared(predictions: list[dict[str, Any]], measured: dict[str, float]) -> dict[str, Any]:
    rows = []
    for one in predictions:
        step_s, expected_s = measured.get(one["case"]), one["step_s"]
        both = step_s is not None and expected_s is not None
        rows.append(
            one
            | {
                "measured_s": step_s,
                "error": math.expm1(abs(math.log(expected_s / step_s))) if both else None,
                "in_80": one["lo80"] <= step_s <= one["hi80"] if both else None,
                "in_90": one["lo90"] <= step_s <= one["hi90"] if both else None,
            }
        )
    return {"rows": rows, "summary": [_summary(rows, name) for name in ("", "train_step", "decode", "prefill")]}


def _summary(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    mine = [one for one in rows if one["error"] is not None and name in ("", one["workload"])]
    errors = sorted(one["error"] for one in mine)
    if not errors:
        return {"workload": name or "all", "cases": 0}
    return {
        "workload": name or "all",
        "cases": len(errors),
        "median_error": errors[len(errors) // 2],
        "p90_error": errors[min(len(errors) - 1, math.ceil(0.9 * len(errors)) - 1)],
        "bias": math.expm1(math.fsum(math.log(one["step_s"] / one["measured_s"]) for one in mine) / len(mine)),
        "covered_80": sum(one["in_80"] for one in mine) / len(mine),
        "covered_90": sum(one["in_90"] for one in mine) / len(mine),
    }


def _print(compared: dict[str, Any]) -> None:
    for one in compared["rows"]:
        told = one["reason"] or f"{one['step_s'] * 1e3:9.2f} ms predicted"
        seen = "not measured" if one["measured_s"] is None else f"{one['measured_s'] * 1e3:9.2f} ms measured"
        error = "" if one["error"] is None else f"{one['step_s'] / one['measured_s'] - 1:+7.1%}"
        print(f"{one['case']:75.75s} {told}  {seen}  {error}")
    for one in compared["summary"]:
        if one["cases"]:
            print(
                f"{one['workload']}: {one['cases']} cases, error {one['median_error']:.1%} median, "
                f"{one['p90_error']:.1%} p90, bias {one['bias']:+.1%}; "
                f"within 80 %: {one['covered_80']:.0%}, within 90 %: {one['covered_90']:.0%}"
            )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

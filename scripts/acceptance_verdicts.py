"""What scripts/gpu_acceptance found, as one page of verdicts in Markdown: acceptance_verdicts.py OUT_FOLDER.

Each line has what was measured, what must hold, and pass, fail or not applicable. What must hold of speed is meant for
an H100 or H200 with its full power limit; on other devices these lines are for information.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
from bench import units
from bench.analyze.show import tabulate
from bench.errors import UserError

Line = tuple[str, str, str, str]
Row = dict[str, Any]
COPY_OF_DATASHEET, DECODE_OF_COPY, TRAINING_MFU, QUICK_S = 0.90, 0.70, 0.50, 90


def main() -> None:
    """Prints the page."""
    folder = Path(sys.argv[1])
    lines = [*_parts(folder), *_timers(folder), *_identical(folder), *_energy(folder), *_speed(folder), *_files(folder)]
    print(f"# Acceptance{_device(folder)}\n")
    print(tabulate(["check", "measured", "required", "verdict"], [list(line) for line in lines], "github"))


def _device(folder: Path) -> str:
    for name in ("quick", "steps", "standard"):
        for row in _rows(folder, name):
            return f": {row['device']}, driver {row.get('driver') or 'unknown'}"
    return ""


def _parts(folder: Path) -> Iterator[Line]:
    for line in (folder / "parts.txt").read_text().splitlines():
        name, said, seconds = line[:10].strip(), line[10:24].strip(), line[24:].strip()
        limit = f"at most {QUICK_S} s" if name == "quick" else ""
        slow = name == "quick" and int(seconds.split()[0]) > QUICK_S
        verdict = "fail" if slow else {"pass": "pass", "skipped": "not applicable"}.get(said, "fail")
        yield (f"part {name}", f"{said} in {seconds}", limit, verdict)


def _timers(folder: Path) -> Iterator[Line]:
    for one in _json(folder / "timer.txt") or []:
        if one["name"] != "accelmark":
            wanted = f"{one['lowest']:.2f} to {one['highest']:.2f}"
            yield (f"timer against {one['name']}", f"{one['ratio']:.3f} of ours", wanted, _verdict(one["passed"]))


def _identical(folder: Path) -> Iterator[Line]:
    document = _json(folder / "identical.txt")
    rows = document["rows"] if document else []
    different = [row["case"] for row in rows if row["verdict"] in {"faster", "slower"}]
    if rows:
        said = f"{len(different)} of {len(rows)} cases called different" + "".join(f", {case}" for case in different)
        yield ("the same thing measured as two sides", said, "none", _verdict(not different))


def _energy(folder: Path) -> Iterator[Line]:
    for one in _json(folder / "energy.txt") or []:
        yield (one["name"], one["measured"], one["required"], one["verdict"])


def _speed(folder: Path) -> Iterator[Line]:
    quick = _rows(folder, "quick")
    copies = [row for row in [*quick, *_rows(folder, "standard")] if row["workload"] == "memory_copy" and row["step_s"]]
    for row in copies[:1]:
        share = row["of_datasheet"]
        yield _reached("copy, share of the datasheet", share, COPY_OF_DATASHEET)
    for name in ("steps", "compiled", "large"):
        for row in _rows(folder, name):
            if row["workload"] == "train_step":
                yield _reached(f"MFU, {row['case']}", row.get("mfu"), TRAINING_MFU)
            if row["workload"] == "decode":
                yield _reached(f"share of measured bandwidth, {row['case']}", row.get("of_measured"), DECODE_OF_COPY)


def _reached(name: str, share: float | None, wanted: float) -> Line:
    if share is None:
        return (name, "unknown", f"at least {units.percent(wanted, 0)}", "not applicable")
    return (name, units.percent(share), f"at least {units.percent(wanted, 0)}", _verdict(share >= wanted))


def _files(folder: Path) -> Iterator[Line]:
    for path in sorted(folder.glob("*.jsonl")):
        try:
            found = bench.check([path])
        except UserError as error:
            found = [{"level": "error", "message": str(error)}]
        wrong = [one for one in found if one["level"] == "error"]
        said = f"{len(found)} findings, {len(wrong)} of them errors"
        yield (f"check {path.name}", said, "no error", _verdict(not wrong))


def _rows(folder: Path, name: str) -> list[Row]:
    path = folder / f"{name}.jsonl"
    try:
        return list(bench.table([path])) if path.exists() else []
    except UserError:
        return []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text().splitlines()[-1])
    except (OSError, IndexError, json.JSONDecodeError):
        return None


def _verdict(passed: bool) -> str:
    return "pass" if passed else "fail"


if __name__ == "__main__":
    main()

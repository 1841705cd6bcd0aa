"""What scripts/gpu_acceptance found, as one page of verdicts in Markdown: acceptance_verdicts.py OUT_FOLDER.

Each line has what was measured, what must hold, and pass, fail, not applicable or for information. What must hold of
speed is meant for an H100 or H200 with its full power limit; on other devices these lines are for information.
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
# What the targets of speed are meant for.
TARGETS = ("H100", "H200")
MEASURED = ("quick", "serve", "steps", "frontier", "large", "standard")
# Parts that end with status 1 when one of their own lines fails; these lines are on the page.
JUDGED = ("timer", "energy", "identical")


def main() -> None:
    """Prints the page."""
    folder = Path(sys.argv[1])
    rows = [row for name in MEASURED for row in _rows(folder, name)]
    lines = [
        *_parts(folder), *_timers(folder), *_identical(folder), *_energy(folder), *_speed(rows), *_frontier(rows),
        *_peers(folder), *_wrong(rows), *_files(folder),
    ]  # fmt: skip
    devices = dict.fromkeys(f": {row['device']}, driver {row.get('driver') or 'unknown'}" for row in rows)
    print(f"# Acceptance{next(iter(devices), '')}\n")
    print(tabulate(["check", "measured", "required", "verdict"], [list(line) for line in lines], "github"))


def _parts(folder: Path) -> Iterator[Line]:
    for line in (folder / "parts.txt").read_text().splitlines():
        name, said, seconds = line[:10].strip(), line[10:25].strip(), line[25:].strip()
        judged = name in JUDGED and said == "status 1" and _json(folder / f"{name}.txt") is not None
        said = "done, with lines that fail" if judged else said
        if name == "tests":
            said = _last_line(folder / "tests.txt") or said
        limit, slow = "", False
        if name == "quick":
            limit, slow = f"at most {QUICK_S} s", int(seconds.split()[0]) > QUICK_S
        failed = slow or said.startswith(("status", "out of time")) or " failed" in said or " error" in said
        neither = said in ("skipped", "not applicable")
        yield (f"part {name}", f"{said} in {seconds}", limit, "not applicable" if neither else _verdict(not failed))


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


def _speed(rows: list[Row]) -> Iterator[Line]:
    """Against the targets: copies, compiled training steps and single-user decoding; what is beside them is told."""
    copies = [row for row in rows if row["workload"] == "memory_copy" and row["bytes_per_s"]]
    best = max(copies, key=lambda row: row["bytes_per_s"], default=None)
    if best is not None:
        yield _reached("copy, share of the datasheet", best["of_datasheet"], COPY_OF_DATASHEET, best)
    for row in rows:
        name = f"{row['case']} [{row['launch']}]"
        if row["workload"] == "train_step" and row["step_s"]:
            wanted = TRAINING_MFU if row["compiled"] else None
            yield _reached(f"MFU, {name}", row["mfu_of_datasheet"], wanted, row)
        if row["workload"] == "decode" and row["step_s"] and best is not None:
            wanted = DECODE_OF_COPY if row["batch"] == 1 and row["launch"] == "graph" else None
            share = row["bytes_per_s"] / best["bytes_per_s"]
            yield _reached(f"share of the copy's bandwidth, {name}", share, wanted, row)


def _reached(name: str, share: float | None, wanted: float | None, row: Row) -> Line:
    required = "" if wanted is None else f"at least {units.percent(wanted, 0)}"
    if share is None:
        return (name, f"unknown: {row['reason'] or 'no datasheet of this device'}", required, "not applicable")
    if wanted is None or not any(target in row["device"] for target in TARGETS):
        return (name, units.percent(share), required, "for information")
    return (name, units.percent(share), required, _verdict(share >= wanted))


def _frontier(rows: list[Row]) -> Iterator[Line]:
    for row in rows:
        if row["workload"] == "memory_frontier":
            told = [(name, value) for name, value in row["facts"].items() if name.startswith(("largest", "smallest"))]
            said = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in told)
            yield (f"how far it fits, {row['case']}", said or row["reason"] or "nothing", "", "for information")


def _peers(folder: Path) -> Iterator[Line]:
    """The table of scripts/peers, below its head."""
    path = folder / "peers.txt"
    for line in path.read_text().splitlines()[2:] if path.exists() else []:
        work, ours, theirs, ratio, spread = (cell.strip() for cell in line.strip("|").split("|"))
        said = f"{ours} tok/s, {theirs} there: {ratio} times ({spread})"
        yield (f"beside transformers: {work}", said, "", "for information")


def _wrong(rows: list[Row]) -> Iterator[Line]:
    """Cases that went wrong; what a device lacks and what a budget leaves out is no fault."""
    for row in rows:
        if row["status"] in ("crash", "timeout", "oom") or "bad_output" in row["flags"]:
            said = row["reason"] or "the output is wrong"
            yield (f"{row['file']}: {row['case']} [{row['launch']}]", f"{row['status']}: {said}", "ok", "fail")


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


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text().split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _verdict(passed: bool) -> str:
    return "pass" if passed else "fail"


if __name__ == "__main__":
    main()

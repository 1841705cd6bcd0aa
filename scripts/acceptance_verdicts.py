"""What scripts/gpu_acceptance found, as one page of verdicts in Markdown: acceptance_verdicts.py OUT_FOLDER SAID.

SAID is what everything.tar.gz holds, unpacked. Each line has what was measured, what must hold, and pass, fail,
inconclusive, not applicable (the reason stands where the measurement would) or for information. What must hold of speed
is meant for an H100 or H200 at its default power limit; elsewhere these lines are for information.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
from bench import units
from bench.analyze.show import styled, tabulate
from bench.errors import UserError

Line = tuple[str, str, str, str]
Row = dict[str, Any]
COPY_OF_DATASHEET, DECODE_OF_COPY, TRAINING_MFU, QUICK_S = 0.90, 0.70, 0.50, 90
# What the targets of speed are meant for: neither a slice of one nor a GH200.
TARGETS = re.compile(r"^(?!.*\bMIG\b).*\b(H100|H200)\b")
FULL_POWER = 0.99
MEASURED = ("quick", "models", "steps", "frontier", "standard")
# Parts that end with status 1 when one of their own lines fails; these lines are on the page.
JUDGED = (*MEASURED, "timer", "energy", "identical")
_SOFTWARE = ("torch", "cuda", "hip", "triton", "pytorch-triton")
VERDICTS = ("pass", "fail", "inconclusive", "not applicable", "for information")


def main() -> None:
    """Prints the page."""
    out, said = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [row for name in MEASURED for row in _rows(out / f"{name}.jsonl")]
    session = _session(out)
    lines = [
        *_parts(out, said), *_tests(said), *_timers(said), *_identical(said), *_energy(said),
        *_speed(rows), *_joules(rows), *_frontier(rows), *_peers(said), *_cases(rows), *_files(out),
    ]  # fmt: skip
    counts = Counter(verdict for *_, verdict in lines)
    print(f"# Acceptance{_machine(session)}\n")
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]) + "\n")
    if failed := [line for line in lines if line[-1] == "fail"]:
        told = [
            f"{name}: {measured}" + (f"; required: {wanted}" if wanted else "") for name, measured, wanted, _ in failed
        ]
        print("What failed:\n\n" + "\n".join(styled(told, "github")) + "\n")
    if notes := _notes(session):
        print("Found before anything was measured:\n\n" + "\n".join(styled(notes, "github")) + "\n")
    print(tabulate(["check", "measured", "required", "verdict"], [list(line) for line in lines], "github"))


def _session(out: Path) -> dict[str, Any] | None:
    """Of the first file that can be read: what was judged, and by what."""
    for name in MEASURED:
        try:
            session: dict[str, Any] = bench.show(out / f"{name}.jsonl")["session"]
        except (UserError, OSError):
            continue
        return session
    return None


def _machine(session: dict[str, Any] | None) -> str:
    """The rest of the title, and a line below it."""
    if session is None:
        return ""
    (device, *_), software, harness = session["devices"], session["software"], session["harness"]
    limit_w, default_w = (device["readings"].get(key) for key in ("power_limit_w", "power_limit_default_w"))
    limit = None if limit_w is None else f"power limit {limit_w:.0f} W"
    told = [
        f"driver {device['driver'] or 'unknown'}",
        limit and (limit if default_w is None else f"{limit} of {default_w:.0f} W by default"),
        *(f"{key} {software[key]}" for key in _SOFTWARE if key in software),
        f"accelmark {harness['version']} at {harness['commit'] or 'an unknown commit'}"
        + (", changed since" if harness["dirty"] else ""),
        f"method {harness['method']}, {session['started']}",
    ]
    return f": {device['name']}\n\n" + ", ".join(filter(None, told))


def _notes(session: dict[str, Any] | None) -> list[str]:
    """What was found on the machine before anything was measured, and what the board does not tell of itself."""
    if session is None:
        return []
    capabilities = session["devices"][0]["capabilities"]
    withheld: dict[str, list[str]] = {}
    for name, why in capabilities.items():
        if why != "ok":
            withheld.setdefault(why, []).append(name)
    told = len(capabilities) - sum(map(len, withheld.values()))
    return [
        *(finding["message"] for finding in session["preflight"]),
        f"the board tells {told} of {len(capabilities)} quantities of itself",
        *(f"without {', '.join(names)}: {why}" for why, names in withheld.items()),
    ]


def _parts(out: Path, said: Path) -> Iterator[Line]:
    """How each part ended, the last time that it was called."""
    ends: dict[str, list[str]] = {}
    for line in (said / "parts.tsv").read_text().splitlines():
        name, end, *numbers = line.split("\t")
        if end != "there already":
            ends[name] = [end, *numbers]
    for name, (end, seconds, limit, left) in ends.items():
        judged = name in JUDGED and _answered(out, said, name)  # what fails has lines of its own
        told_wrong = name not in MEASURED or any(map(_is_wrong, _rows(out / f"{name}.jsonl")))
        passed = end == "done" or (end == "status 1" and judged and told_wrong)
        required = f"at most {QUICK_S} s" if name == "quick" else ""
        if end == "skipped":
            yield (f"part {name}", f"skipped: {left} s were left, it may take {limit} s", required, "not applicable")
            continue
        if name == "tests" and (count := _last_line(said / "tests.txt")):
            told = count if passed else f"{end}: {count}"
            none_ran = passed and "passed" not in count and "failed" not in count
            passed = passed or (end == "status 1" and "failed" in count)  # each that failed has a line of its own
            end, told = ("not applicable" if none_ran else end), f"{told}; {seconds} s"
        elif passed:
            told = f"{end if end == 'done' else 'done, not all of it passes'}; {seconds} s"
        elif end == "not applicable":
            told = _last_line(said / f"{name}.log") or end
        else:
            why = "" if end in ("out of time", "interrupted") else _last_line(said / f"{name}.log")
            told = (
                f"{end}{f' of {limit} s' if end == 'out of time' else ''}{f': {why[:200]}' if why else ''}; {seconds} s"
            )
        slow = name == "quick" and int(seconds) > QUICK_S
        if end == "not applicable":
            verdict = end
        elif end == "interrupted" or (end == "out of time" and judged and not slow):
            verdict = "inconclusive"  # nine minutes are less than `energy` takes: what it has said by then stands
        else:
            verdict = _verdict(passed and not slow)
        yield (f"part {name}", told, required, verdict)


def _answered(out: Path, said: Path, name: str) -> bool:
    """Whether a part that ended with status 1, or ran out of time, had said something by then."""
    return bool(_rows(out / f"{name}.jsonl")) if name in MEASURED else _json(said / f"{name}.txt") is not None


def _is_wrong(row: Row) -> bool:
    """Whether a case went wrong; what a device lacks is no fault."""
    return row["status"] in ("crash", "timeout", "oom") or "bad_output" in row["flags"]


def _tests(said: Path) -> Iterator[Line]:
    """Every test that failed, by its name."""
    path = said / "tests.txt"
    for line in path.read_text().splitlines() if path.exists() else []:
        if found := re.match(r"(FAILED|ERROR) \S*::(\S+)(?: - (.*))?", line):
            yield (f"test {found[2].replace('_', ' ')}", (found[3] or found[1].lower())[:200], "passes", "fail")


def _timers(said: Path) -> Iterator[Line]:
    for one in _json(said / "timer.txt") or []:
        if one["name"] == "accelmark":
            continue
        wanted = f"{one['lowest']:.3f} to {one['highest']:.3f} of ours"
        if one["ratio"] is None:
            yield (f"timer against {one['name']}", one["reason"], wanted, "fail" if one["broken"] else "not applicable")
        else:
            measured = (
                f"{one['ratio']:.4f} of ours turn by turn, {one['mode']} calls of {units.seconds(one['median_s'])}"
            )
            yield (f"timer against {one['name']}", measured, wanted, _verdict(one["passed"]))


def _identical(said: Path) -> Iterator[Line]:
    document = _json(said / "identical.txt")
    rows = document["rows"] if document else []
    different = [row["case"] for row in rows if row["verdict"] in {"faster", "slower"}]
    if rows:
        told = f"{len(different)} of {len(rows)} cases called different" + "".join(f", {case}" for case in different)
        told += f", {sum(row['verdict'] == 'equivalent' for row in rows)} shown to be equivalent"
        yield ("the same thing measured as two sides", told, "none", _verdict(not different))


def _energy(said: Path) -> Iterator[Line]:
    for one in _json(said / "energy.txt") or []:
        yield (one["name"], one["measured"], one["required"], one["verdict"])


def _speed(rows: list[Row]) -> Iterator[Line]:
    """Against the targets: copies, compiled training steps and single-user decoding, each case by its faster launch:
    a graph is only recorded where launches set the pace. What is beside them is told.
    """
    copies = [row for row in rows if row["workload"] == "memory_copy" and row["bytes_per_s"]]
    best = max(copies, key=lambda row: row["bytes_per_s"], default=None)
    fastest: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["workload"] == "decode" and row["step_s"]:
            place = row["file"], row["case"]
            fastest[place] = min(row["step_s"], fastest.get(place, row["step_s"]))
    lines: dict[str, list[Line]] = {"copy": [], "compiled training": [], "decoding for one user": []}
    beside: list[Line] = []
    if best is not None:
        lines["copy"] = [
            _reached(_named(best, "copy, share of the datasheet"), best["of_datasheet"], COPY_OF_DATASHEET, best)
        ]
    for row in rows:
        if row["workload"] == "train_step" and row["step_s"]:
            kept = lines["compiled training"] if row["compiled"] else beside
            wanted = TRAINING_MFU if row["compiled"] else None
            kept.append(_reached(_named(row, "MFU"), row["mfu_of_datasheet"], wanted, row))
        if row["workload"] == "decode" and row["step_s"] and best is not None:
            judged = row["batch"] == 1 and row["step_s"] == fastest[row["file"], row["case"]]
            share = row["bytes_per_s"] / best["bytes_per_s"]
            kept = lines["decoding for one user"] if judged else beside
            kept.append(
                _reached(_named(row, "share of the copy's bandwidth"), share, DECODE_OF_COPY if judged else None, row)
            )
    limits = dict(zip(lines, (COPY_OF_DATASHEET, TRAINING_MFU, DECODE_OF_COPY), strict=True))
    missing = {
        "compiled training": [row for row in rows if row["workload"] == "train_step" and row["compiled"]],
        "decoding for one user": [row for row in rows if row["workload"] == "decode" and row["batch"] == 1],
    }
    for name, found in lines.items():
        why = next((f": {row['reason']}" for row in missing.get(name, []) if row["reason"]), "")
        yield from found or [
            (name, f"not measured{why}", f"at least {units.percent(limits[name], 0)}", "not applicable")
        ]
    yield from beside


def _named(row: Row, what: str) -> str:
    return f"{row['file'].partition('.')[0]}: {what}, {row['case']} [{row['launch']}]"


def _reached(name: str, share: float | None, wanted: float | None, row: Row) -> Line:
    required = "" if wanted is None else f"at least {units.percent(wanted, 0)}"
    if share is None:
        return (name, f"unknown: {row['reason'] or 'no datasheet of this device'}", required, "not applicable")
    judged = bool(TARGETS.match(row["device"])) and (row["power_limit_share"] or 1.0) >= FULL_POWER
    spread = "" if row["spread"] is None else f" ± {units.percent(row['spread'] * share)}"
    if wanted is None or not judged:
        return (name, units.percent(share) + spread, required, "for information")
    return (name, units.percent(share) + spread, required, _verdict(share >= wanted))


def _joules(rows: list[Row]) -> Iterator[Line]:
    """What a token takes, where the board told it."""
    for row in rows:
        if row["energy_per_token_j"]:
            told = f"{units.joules(row['energy_per_token_j'])} ± {units.percent(row['energy_uncertainty'] or 0.0)}"
            told += f" at {row['power_w']:.0f} W" if row["power_w"] else ""
            told += ", counter and power disagree" if "energy_disagree" in row["flags"] else ""
            yield (_named(row, "energy of a token"), told, "", "for information")


def _frontier(rows: list[Row]) -> Iterator[Line]:
    for row in rows:
        if row["workload"] == "memory_frontier":
            told = [(name, value) for name, value in row["facts"].items() if name.startswith(("largest", "smallest"))]
            said = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in told)
            name = f"how far it fits, {row['case']}"
            yield (name, said, "", "for information") if said else (
                name, row["reason"] or "a simulation holds no tensors", "", "not applicable",
            )  # fmt: skip


def _peers(said: Path) -> Iterator[Line]:
    """The table of scripts/peers, below its head."""
    path = said / "peers.txt"
    for line in path.read_text().splitlines()[2:] if path.exists() else []:
        work, ours, theirs, ratio, spread = (cell.strip() for cell in line.strip("|").split("|"))
        told = f"{ours} tok/s, {theirs} there: {ratio} times ({spread})"
        yield (f"beside transformers: {work}", told, "", "for information")


def _cases(rows: list[Row]) -> Iterator[Line]:
    """How many cases went well in each file, and each that went wrong."""
    for file in dict.fromkeys(row["file"] for row in rows):
        of = [row for row in rows if row["file"] == file]
        wrong = [row for row in of if _is_wrong(row)]
        counts = Counter("wrong output" if "bad_output" in row["flags"] else row["status"] for row in of)
        told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        yield (f"cases of {file}", told, "none goes wrong", _verdict(not wrong))
        for row in wrong:
            why = row["reason"] or "the output is wrong"
            yield (f"{file}: {row['case']} [{row['launch']}]", f"{row['status']}: {why}", "ok", "fail")


def _files(out: Path) -> Iterator[Line]:
    for path in sorted(out.glob("*.jsonl")):
        try:
            found = bench.check([path])
        except UserError as error:
            found = [{"level": "error", "message": str(error)}]
        wrong = [one for one in found if one["level"] == "error"]
        told = wrong[:1] or found[:1]
        said = units.several(len(found), "finding") + (", such as" if len(found) > 1 else "")
        said += f": {told[0]['message']}" if told else ""
        yield (f"check {path.name}", said, "no error", _verdict(not wrong))


def _rows(path: Path) -> list[Row]:
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
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _verdict(passed: bool) -> str:
    return "pass" if passed else "fail"


if __name__ == "__main__":
    main()

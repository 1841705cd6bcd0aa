"""Hostile files: every one is refused in a sentence, quickly, in little memory, and nothing else happens.

`python tests/test_hostile.py SEED COUNT SOUND.jsonl` tries more mutations than the suite has time for.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from boards import metered, run, timed
from hostile import Hostile, cases, mutations

from bench import record
from bench.analyze import show, table
from bench.analyze.check import check, judge
from bench.analyze.check.safety import MAX_BYTES, MAX_RECORDS, MAX_STRINGS, MAX_VALUES
from bench.errors import UserError
from bench.text import plain
from bench.workload import find

CASES = cases()
FUZZED = 800
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
MOST_MEMORY = 200 << 20


@pytest.fixture(scope="module")
def sound(build: Any) -> bytes:
    """The bytes of a small sound file: three records of two products, one of attention, and one that failed."""
    small = {"m": 64, "n": 64, "k": 64, "dtype": "float32"}
    heads = {"batch": 1, "num_heads": 2, "num_kv_heads": 1, "seq": 16, "head_dim": 16, "dtype": "float32"}
    attention = build.record(
        workload="attention", params=heads, extras={"backend": "flash"}, version=find("attention").version
    )
    products = [*build.rounds([1e-3, 1e-3]), *build.rounds([2e-3], params={**small, "m": 128})]
    records = [*products, attention, build.failed("oom", params={**small, "m": 256})]
    file = build.file(records)
    return b"".join(record.encode(line) for line in [file.session, *file.records])


def test_there_are_at_least_150_and_each_has_its_name() -> None:
    assert len(CASES) >= 150
    assert len({one.name for one in CASES}) == len(CASES)


def test_the_file_that_they_are_made_of_is_sound(sound: bytes) -> None:
    assert judge("x.jsonl", sound) == [] or {one.level for one in judge("x.jsonl", sound)} == {"note"}


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_every_hostile_file_is_refused_for_its_reason(one: Hostile, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(one.make(sound))
    started = time.monotonic()
    found = [finding for finding in check(path) if finding.level == "error"]
    assert time.monotonic() - started < 5  # a second is promised; a busy machine may take longer
    said = [f"line {finding.line}: {finding.message}" for finding in found]
    assert any(one.says in text for text in said), said
    assert all(finding.message.isprintable() and finding.file.isprintable() for finding in found)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "kind", ["link", "dangling", "loop", "folder", "pipe", "socket", "device", "sparse", "long", "missing"]
)
def test_what_is_no_plain_file_is_refused_without_waiting(
    kind: str, sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sound_file = tmp_path / "x.jsonl", tmp_path / "sound.jsonl"
    sound_file.write_bytes(sound)
    if kind == "link":
        path.symlink_to(sound_file)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            monkeypatch.chdir(tmp_path)  # whose whole path is too long for a socket's name
            listening.bind("x.jsonl")
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "long":
        path = tmp_path / ("x" * 300)
    (finding,) = check(path)
    assert finding.level == "error"


def test_reading_never_crashes_on_mutations_of_a_sound_file(build: Any, tmp_path: Path) -> None:
    """A child of its own is watched: what it opens and starts, how much memory it takes, how long the slowest takes."""
    params = {"batch": 1, "num_heads": 2, "num_kv_heads": 1, "seq": 16, "head_dim": 16, "dtype": "float32"}
    attention = timed(build, workload="attention", params=params, extras={"backend": "flash"})
    products = [metered(build, 600.0), timed(build, params={"m": 128, "n": 64, "k": 64, "dtype": "float32"})]
    build.write(tmp_path / "sound.jsonl", run(build, [*products, attention, build.failed("oom", round=1)]))
    words = [sys.executable, __file__, "7", str(FUZZED), str(tmp_path / "sound.jsonl")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["events"] == []
    assert told["most_bytes"] < MOST_MEMORY
    assert told["longest_s"] < 5
    assert told["refused"] + told["read"] == FUZZED
    assert told["refused"] > FUZZED / 4  # they do reach the reader, and
    assert told["read"] > FUZZED / 50  # they do pass it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sound.jsonl"]


@pytest.mark.parametrize("kind", ["numbers", "strings"])  # the rest take less, and are there to be tried by hand
def test_the_worst_file_within_the_limits_takes_little(kind: str, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(worst(kind, sound))
    assert path.stat().st_size <= MAX_BYTES
    words = [sys.executable, __file__, "check", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["most_bytes"] < MOST_MEMORY, told
    assert told["s"] < 60, told  # two seconds on a core that is ours alone


def worst(kind: str, sound: bytes) -> bytes:
    """As much of one thing as is read at all."""
    lines = sound.splitlines(keepends=True)
    one = json.loads(lines[1])
    if kind == "numbers":
        one["samples_s"], one["step_samples_s"], one["unsteady_s"] = ([0.5] * 99_999 for _ in range(3))
        line = json.dumps(one, separators=(",", ":")).encode() + b"\n"
        return lines[0] + line * min((MAX_BYTES - len(lines[0])) // len(line), MAX_VALUES // 300_000)
    if kind == "strings":
        one["reasons"] = {f"{number:03}": "x" * 10 for number in range(200)}
    if kind == "brackets":
        return lines[0] + (b"[]" * (2 << 20) + b"\n") * 3
    if kind == "escapes":
        one["reasons"] = {f"{number:03}": "\\" * 1000 for number in range(200)}
    line = json.dumps(one, separators=(",", ":")).encode() + b"\n"
    strings = line.count(b'"') // 2
    room = min(
        (MAX_BYTES - len(lines[0])) // len(line), (MAX_STRINGS - 1000) // strings, MAX_VALUES // line.count(b",")
    )
    return lines[0] + line * min(room, MAX_RECORDS)


HOSTILE_TEXTS = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\tx",
    "\x1b[31m",
    "\u202eabc",
    "<script>alert(1)</script>",
    "a|b`c`",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_what_is_read_is_shown_as_text_and_never_acts(text: str, build: Any, tmp_path: Path) -> None:
    records = [build.failed("crash", round=0), build.record(extras={"kernel": text}, reasons={"x": text}, round=1)]
    path = build.write(tmp_path / "x.jsonl", build.file(records, software={"torch": text}))
    rows = table.rows(table.files([path]))
    for style in ("simple", "github"):
        assert all(char.isprintable() or char == "\n" for char in show.table(rows, style))
    cells = show.csv_text(rows).splitlines()[1].split(",")
    assert not [cell for cell in cells if cell.strip('"')[:1] in tuple("=@\t\r")]
    assert plain(text).isprintable()


def watch() -> list[str]:
    """From here on, what this process does beyond reading is noted."""
    events: list[str] = []

    def note(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event.startswith(
            ("subprocess", "os.exec", "os.system", "socket", "shutil", "os.remove", "os.rename")
        ):
            events.append(f"{event} {args!r}"[:200])

    sys.addaudithook(note)
    return events


def most_bytes() -> int:
    """The most memory that this process has had. On Linux getrusage includes its parent's, before the start."""
    if Path("/proc/self/status").exists():
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on a Mac


def fuzz(seed: int, count: int, content: bytes) -> dict[str, Any]:
    """Judges mutations; whatever is not refused in a planned way ends the process."""
    judge("sound.jsonl", content, published=True)  # everything that is imported on the way
    events, longest_s, refused = watch(), 0.0, 0
    for made in mutations(content, seed, count):
        started = time.monotonic()
        found = judge("x.jsonl", made, published=True)
        refused += any(one.code == "unreadable" for one in found)
        assert all(one.message.isprintable() for one in found)
        try:
            table.rows([record.parse("x.jsonl", made)])
        except UserError:
            pass
        longest_s = max(longest_s, time.monotonic() - started)
    told = {"refused": refused, "read": count - refused, "longest_s": longest_s}
    return {**told, "events": events[:5], "most_bytes": most_bytes()}


if __name__ == "__main__":
    if sys.argv[1] == "check":
        begin = time.monotonic()
        check(sys.argv[2], published=True)
        print(json.dumps({"s": time.monotonic() - begin, "most_bytes": most_bytes()}))
    else:
        print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).read_bytes())))

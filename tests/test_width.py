"""Width: on a narrow terminal a table loses nothing; everywhere else it is as wide as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.analyze import show, width

ROOT = Path(__file__).parents[1]
HEADER = ["device", "case", "step", "95 % interval", "of measured", "verdict"]
BODY = [
    ["NVIDIA L40S", "matmul m=64 n=64 k=64 dtype=float32", "1.00 ms", "0.98 to 1.02", "40 %", "slower: may be chance"],
    ["NVIDIA L40S", "softmax rows=4 columns=8 dtype=float32", "12.5 ms", "", "", ""],
]


@pytest.mark.parametrize("room", [24, 40, 60, 80, 100])
def test_a_table_fits_and_has_every_word_and_value(room: int) -> None:
    lines = width.fitted(HEADER, BODY, room).splitlines()
    assert max(map(len, lines)) <= room
    words = " ".join(lines).split()
    for name in [*HEADER[2:], *(cell for line in BODY for cell in line)]:
        assert all(word in words for word in name.split())
    assert not any(line.endswith(" ") for line in lines)


def test_the_case_stands_above_its_values_and_a_verdict_is_folded() -> None:
    body = [[*BODY[0][:-1], "slower: may be chance, as one of 7 comparisons"], BODY[1]]
    assert width.fitted(HEADER, body, 62).splitlines() == [
        "                   95 %        of",
        "     step      interval  measured  verdict",
        "  -------  ------------  --------  ---------------------------",
        "NVIDIA L40S  matmul m=64 n=64 k=64 dtype=float32",
        "  1.00 ms  0.98 to 1.02      40 %  slower: may be chance, as",
        "                                   one of 7 comparisons",
        "NVIDIA L40S  softmax rows=4 columns=8 dtype=float32",
        "  12.5 ms",
    ]


def test_what_has_no_room_stands_on_a_second_line() -> None:
    assert width.fitted(HEADER, BODY, 50).splitlines()[3:8] == [
        "  verdict",
        "  ---------------------",
        "NVIDIA L40S  matmul m=64 n=64 k=64 dtype=float32",
        "  1.00 ms  0.98 to 1.02      40 %",
        "  slower: may be chance",
    ]


def test_only_a_narrow_terminal_changes_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = show.tabulate(HEADER, BODY)
    for room, same in ((None, True), (400, True), (80, False)):
        monkeypatch.setattr(width, "of_terminal", lambda room=room: room)
        assert (show.tabulate(HEADER, BODY) == drawn) == same
        assert show.tabulate(HEADER, BODY, "github").startswith("| device ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_the_terminal_decides_and_a_pipe_does_not(golden: Path) -> None:
    command = [sys.executable, "-m", "bench", "show", str(golden)]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "72"}
    piped = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stdout
    assert max(map(len, piped.splitlines())) > 100
    ours, theirs = os.openpty()
    with subprocess.Popen(command, env=surroundings, stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(ours)
    assert process.returncode == 0
    rules = [line for line in seen.decode().replace("\r", "").splitlines() if line.strip().startswith("---")]
    assert rules and max(map(len, rules)) <= 72


def test_columns_of_nothing_and_terminals_of_none_raise_nothing():
    for columns in (1, 2, 5, 80):
        assert "a" in width.fitted(["case", "", "x"], [["a", "", "1"], ["b", "", "2"]], columns)

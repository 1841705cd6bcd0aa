"""The journal: what was measured is on the disk at once, and a full disk or a cut line loses nothing."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.errors import UserError
from bench.measure.journal import Journal

ROOT = Path(__file__).parents[1]


def test_every_line_is_on_disk_before_append_returns(tmp_path: Path, build: Any) -> None:
    path = tmp_path / "new" / "folder" / "x.jsonl"
    journal = Journal(path)
    lines = [build.session(), build.record(round=0), build.record(round=1)]
    for number, line in enumerate(lines, start=1):
        journal.append(line)
        seen = subprocess.run(["cat", str(path)], capture_output=True, check=True).stdout
        assert seen.count(b"\n") == number
        assert seen.endswith(record.encode(line))
    journal.close()
    assert record.read(path).records == lines[1:]


def test_every_line_is_forced_to_disk(tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", forced.append)
    journal = Journal(tmp_path / "x.jsonl")
    journal.append(build.session())
    journal.append(build.record())
    journal.close()
    assert len(forced) == 2


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from bench import record
from bench.measure.journal import Journal

found = record.read(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
journal = Journal(Path(sys.argv[2]))
for line in [found.session, *found.records]:
    journal.append(line)
journal.close()
"""


def carry_over(source: Path, target: Path, limit_bytes: int) -> subprocess.CompletedProcess[str]:
    """Copies a result file through a journal, in a process whose files may not grow beyond the limit."""
    return subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(source), str(target), str(limit_bytes)],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "TMPDIR": str(target.parent)},
    )  # fmt: skip


def test_a_full_disk_loses_nothing_and_says_where_the_rest_is(tmp_path: Path, build: Any) -> None:
    pytest.importorskip("resource")
    file = build.file(build.rounds([1e-3] * 6))
    source, target = build.write(tmp_path / "source.jsonl", file), tmp_path / "x.jsonl"
    whole = source.read_bytes()
    told = carry_over(source, target, len(whole) * 2 // 3).stderr
    kept = target.read_bytes()
    assert kept == whole[: len(kept)]
    assert record.read(target).torn is False
    (rest,) = tmp_path.glob("x-rest-*.jsonl")
    assert kept + rest.read_bytes() == whole
    assert str(rest) in told
    assert "kept in memory" in told


def test_with_no_room_anywhere_the_rest_is_printed(tmp_path: Path, build: Any) -> None:
    pytest.importorskip("resource")
    file = build.file(build.rounds([1e-3] * 2))
    source, target = build.write(tmp_path / "source.jsonl", file), tmp_path / "x.jsonl"
    told = carry_over(source, target, 1).stderr
    lines = [line.encode() + b"\n" for line in told.splitlines() if line.startswith("{")]
    assert b"".join(lines) == source.read_bytes()


def test_room_that_comes_back_is_used(tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = os.write, [False]

    def sometimes(descriptor: int, content: Any) -> int:
        if not full[0]:
            return write(descriptor, content)
        write(descriptor, bytes(content)[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", sometimes)
    journal = Journal(tmp_path / "x.jsonl")
    journal.append(build.session())
    full[0] = True
    journal.append(build.record(round=0))
    journal.append(build.record(round=1))
    assert record.read(tmp_path / "x.jsonl").records == []
    full[0] = False
    journal.append(build.record(round=2))
    journal.close()
    assert [one.round for one in record.read(tmp_path / "x.jsonl").records] == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [tmp_path / "x.jsonl"]


def test_a_line_that_cannot_be_written_does_not_hold_up_the_next(tmp_path: Path, build: Any) -> None:
    journal = Journal(tmp_path / "x.jsonl")
    journal.append(build.session())
    with pytest.raises(ValueError, match="nan"):
        journal.append(build.record([float("nan")]))
    journal.append(build.record())
    journal.close()
    assert len(record.read(tmp_path / "x.jsonl").records) == 1


@pytest.mark.parametrize("torn", [b"", b"{", b'{"kind":"record","work', b"x" * (3 << 20)])
def test_resuming_cuts_a_torn_last_line_and_nothing_else(planted: Path, build: Any, torn: bytes) -> None:
    before = record.read(planted).records
    with planted.open("ab") as file:
        file.write(torn)
    journal = Journal(planted, resume=True)
    journal.append(build.record(round=7))
    journal.close()
    found = record.read(planted)
    assert found.records == [*before, build.record(round=7)]
    assert not found.torn


def test_an_existing_file_is_never_written_over(planted: Path) -> None:
    before = planted.read_bytes()
    with pytest.raises(UserError, match="exists: choose another name, or continue it with --resume"):
        Journal(planted)
    assert planted.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused_in_one_sentence(planted: Path) -> None:
    for path in (planted / "x.jsonl", planted / "below" / "x.jsonl", Path("/proc/nowhere/x.jsonl")):
        with pytest.raises(UserError, match=r"cannot write .* choose a place with --out"):
            Journal(path)


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with contextlib.suppress(OSError):
        (folder / "probe").write_text("")
        pytest.skip("this user may write anywhere")
    with pytest.raises(UserError, match="cannot write"):
        Journal(folder / "x.jsonl")


def test_what_does_not_exist_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        Journal(tmp_path / "x.jsonl", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_may_read_while_the_first_writes(tmp_path: Path, build: Any) -> None:
    journal = Journal(tmp_path / "x.jsonl")
    journal.append(build.session())
    for number in range(5):
        journal.append(build.record(round=number))
        lines = (tmp_path / "x.jsonl").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["session"] + ["record"] * (number + 1)
    journal.close()


def test_a_run_whose_disk_is_full_does_not_end_as_if_all_were_well(tmp_path: Path) -> None:
    command = (
        f"ulimit -f 12; exec {sys.executable} -m bench run memory_copy matmul --device virtual --rounds 2 --out x.jsonl"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert "could not be written to" in ran.stderr or "no room anywhere" in ran.stderr
    written = record.read(tmp_path / "x.jsonl")
    assert not written.torn and 0 < len(written.records) < 2 * len(written.session.plan)

"""The table's own check: what a stranger's branch adds is refused for its reason, and what `submit` makes passes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boards import rounds, run

from bench import commands, record
from bench.analyze import history, place, published
from bench.analyze.history import Notice

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_results"


@pytest.fixture(autouse=True)
def _own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def clone(tmp_path: Path, build: Any) -> Path:
    """A clone whose table holds one run, on the branch main; the checkout is on a branch that adds nothing yet."""
    top = tmp_path / "clone"
    (top / "results" / "local").mkdir(parents=True)
    (top / "results" / "README.md").write_text("The table.\n")
    commands.submit(build.write(tmp_path / "a.jsonl", run(build, rounds(build, 1e-3))), to=top / "results")
    for words in (
        ["init", "-q", "-b", "main"], ["config", "user.name", "A"], ["config", "user.email", "a@b"], ["add", "."],
        ["commit", "-q", "-m", "first"], ["switch", "-q", "-c", "offer"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", str(top), *words], check=True)
    return top


def only(clone: Path) -> Path:
    (path,) = (clone / "results").rglob("*.jsonl")
    return path


def checked(clone: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(SCRIPT), "--in", str(clone), *words], capture_output=True, text=True)


def committed(clone: Path) -> "subprocess.CompletedProcess[str]":
    subprocess.run(["git", "-C", str(clone), "add", "-A", "-f"], check=True)
    subprocess.run(["git", "-C", str(clone), "commit", "-q", "-m", "offer"], check=True)
    return checked(clone, "--since", "main")


def test_what_submit_made_passes(clone: Path, build: Any, tmp_path: Path) -> None:
    whole = checked(clone)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.endswith("jsonl: accepted\n")
    another = build.write(tmp_path / "b.jsonl", run(build, rounds(build, 1.1e-3), session="b" * 16))
    done = commands.submit(another, to=clone / "results")
    commands.submit(to=clone / "results", retract=done["id"])
    offered = committed(clone)
    assert offered.returncode == 0, offered.stdout
    assert offered.stdout.count("accepted") == 2


def test_a_branch_that_adds_no_results_has_nothing_to_be_checked(clone: Path) -> None:
    (clone / "code.py").write_text("")
    assert committed(clone).returncode == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes().replace(b"0.001,", b"0.0009,", 1)), "changed, and what is in the table"),
        (lambda path: path.unlink(), "removed, and what is in the table"),
        (lambda path: path.rename(path.with_name("x.jsonl")), "removed"),
        (lambda path: path.with_name("x.jsonl").write_bytes(path.read_bytes()), "let `accelmark submit` place it"),
        (lambda path: path.with_name("note.txt").write_text("hello"), "nor a notice beside one"),
        (lambda path: (path.parent / "deep").mkdir() or (path.parent / "deep" / path.name).write_bytes(b""), "not <chip>/<machine>"),
        (lambda path: (path.parents[1] / "Machine 1").mkdir() or (path.parents[1] / "Machine 1" / path.name).write_bytes(b""), "not <chip>"),
        (lambda path: path.with_name("20260101T000000Z-" + "0" * 16 + ".jsonl").symlink_to("/etc/passwd"), "a link"),
        (lambda path: (path.parents[1] / "linked").symlink_to("/etc"), "a link"),
        (lambda path: (path.parents[2] / "linked").symlink_to(path.parents[1]), "a link"),
        (lambda path: (path.parents[2] / "x.sh").write_text("touch owned"), "not <chip>/<machine>"),
        (lambda path: path.with_name(f"{'0' * 16}-retract.json").write_text("{}"), "missing required field"),
        (lambda path: path.with_name("x.json").write_text("[" * 9999), "x.json"),
    ],
)  # fmt: skip
def test_what_does_not_belong_is_refused(clone: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(only(clone))
    offered = committed(clone)
    assert offered.returncode == 1
    assert says in offered.stdout, offered.stdout
    assert "Traceback" not in offered.stderr


def test_a_file_that_was_edited_after_submitting_no_longer_has_its_name(clone: Path) -> None:
    path = only(clone)
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":1', 1))
    (finding,) = published.check_table(clone / "results")
    assert (finding.level, finding.code) == ("error", "place")
    assert "it was edited or moved" in finding.message


def test_code_and_results_come_apart(clone: Path, build: Any, tmp_path: Path) -> None:
    another = build.write(tmp_path / "b.jsonl", run(build, rounds(build, 1.1e-3), session="b" * 16))
    commands.submit(another, to=clone / "results")
    (clone / "code.py").write_text("")
    offered = committed(clone)
    assert offered.returncode == 1
    assert "code.py: error: no part of the table" in offered.stdout


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"action": "retract"}, "nothing proves"),
        ({"action": "retract", "proof": "0" * 64}, "nothing proves"),
        ({"action": "accept"}, "only those who keep the table"),
        ({"action": "supersede", "by": "0" * 16}, "is not in the table"),
        ({"action": "retract", "id": "0" * 16}, "there is no file"),
    ],
)
def test_a_notice_of_somebody_else_is_refused(clone: Path, fields: dict[str, str], says: str) -> None:
    path = only(clone)
    about = path.name[-22:-6]
    notice = Notice(**{"id": about, "reason": "planted", **fields})  # type: ignore[arg-type]
    (path.parent / notice.file_name()).write_bytes(notice.content())
    messages = [finding.message for finding in published.check_table(clone / "results")]
    assert any(says in message for message in messages), messages


def test_one_run_stands_in_the_table_once(clone: Path, build: Any, tmp_path: Path) -> None:
    path = only(clone)
    stolen = record.read(path)
    content = b"".join(record.encode(line) for line in [stolen.session, *stolen.records[:-1]])
    (path.parent / place.file_name(stolen, content)).write_bytes(content)
    assert {finding.code for finding in published.check_table(clone / "results")} == {"twice", "missing"}


def test_what_cannot_be_done_is_said_in_a_sentence(clone: Path) -> None:
    for words in (["--since", "nowhere"], ["--all"], ["/etc/passwd"]):
        done = checked(clone, *words)
        assert done.returncode == 2
        assert done.stderr.startswith("check_results: ")
    assert subprocess.run([SCRIPT, "--help"], capture_output=True).returncode == 0


def test_the_workflow_runs_this_script_and_nothing_of_the_strangers() -> None:
    text = (SCRIPT.parents[1] / ".github" / "workflows" / "check-results.yml").read_text()
    runs = [line.strip() for line in text.splitlines() if "run:" in line]
    assert runs[-1] == '- run: trusted/scripts/check_results --in offered --since "origin/$BASE"'
    assert not any("offered/" in line for line in runs)
    assert "pull_request_target" not in text and "contents: read" in text


def test_history_of_the_table_reads_only_what_counts(clone: Path) -> None:
    assert [file.name for file in history.files(clone / "results")] == [only(clone).name]

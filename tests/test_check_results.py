"""The table's own check: what a stranger's branch adds is refused for its reason, and what `submit` makes passes."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import msgspec
import pytest
from boards import rounds, run

from bench import commands, record
from bench.analyze.shared import history, place, published
from bench.analyze.shared.history import Notice
from bench.errors import UserError

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
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "A"],
        ["config", "user.email", "a@b"],
        ["add", "."],
        ["commit", "-q", "-m", "first"],
        ["switch", "-q", "-c", "offer"],
    ):
        subprocess.run(["git", "-C", str(top), *words], check=True)
    return top


def only(clone: Path) -> Path:
    (path,) = (clone / "results").rglob("*.jsonl")
    return path


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], int]:
    """The script's own main, without starting a process each time."""
    loader = SourceFileLoader("check_results", str(SCRIPT))
    module = module_from_spec(spec_from_loader("check_results", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module.main  # type: ignore[no-any-return]


@pytest.fixture
def checked(clone: Path, main: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit status and output of the script on the clone."""

    def checked(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        return main(["--in", str(clone), *words]), capsys.readouterr().out

    return checked


@pytest.fixture
def committed(clone: Path, checked: Any) -> Callable[[], tuple[int, str]]:
    """The same for a branch of what has changed in the clone."""

    def committed() -> tuple[int, str]:
        subprocess.run(["git", "-C", str(clone), "add", "-A", "-f"], check=True)
        subprocess.run(["git", "-C", str(clone), "commit", "-q", "-m", "offer"], check=True)
        return checked("--since", "main")  # type: ignore[no-any-return]

    return committed


def test_what_submit_made_passes(clone: Path, build: Any, tmp_path: Path, checked: Any, committed: Any) -> None:
    status, said = checked()
    assert status == 0
    assert said.endswith("jsonl: accepted\n")
    another = build.write(tmp_path / "b.jsonl", run(build, rounds(build, 1.1e-3), session="b" * 16))
    done = commands.submit(another, to=clone / "results")
    commands.submit(to=clone / "results", retract=done["id"])
    status, said = committed()
    assert status == 0, said
    assert said.count("accepted") == 2


def test_a_branch_that_adds_no_results_has_nothing_to_be_checked(clone: Path, committed: Any) -> None:
    (clone / "code.py").write_text("")
    assert committed()[0] == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"0.001,", b"0.0009,", 1)),
            "changed, and what is in the table",
        ),
        (lambda path: path.unlink(), "removed, and what is in the table"),
        (lambda path: path.rename(path.with_name("x.jsonl")), "removed"),
        (lambda path: path.with_name("x.jsonl").write_bytes(path.read_bytes()), "let `accelmark submit` place it"),
        (lambda path: path.with_name("note.txt").write_text("hello"), "nor a notice beside one"),
        (
            lambda path: (path.parent / "deep").mkdir() or (path.parent / "deep" / path.name).write_bytes(b""),
            "not <chip>/<machine>",
        ),
        (
            lambda path: (
                (path.parents[1] / "Machine 1").mkdir() or (path.parents[1] / "Machine 1" / path.name).write_bytes(b"")
            ),
            "not <chip>",
        ),
        (lambda path: path.with_name("20260101T000000Z-" + "0" * 16 + ".jsonl").symlink_to("/etc/passwd"), "a link"),
        (lambda path: (path.parents[1] / "linked").symlink_to("/etc"), "a link"),
        (lambda path: (path.parents[2] / "linked").symlink_to(path.parents[1]), "a link"),
        (lambda path: (path.parents[2] / "x.sh").write_text("touch owned"), "not <chip>/<machine>"),
        (lambda path: path.with_name(f"{'0' * 16}-retract.json").write_text("{}"), "missing required field"),
        (lambda path: path.with_name("x.json").write_text("[" * 9999), "x.json"),
    ],
)
def test_what_does_not_belong_is_refused(
    clone: Path, committed: Any, spoil: Callable[[Path], object], says: str
) -> None:
    spoil(only(clone))
    status, said = committed()
    assert status == 1
    assert says in said, said


def test_a_file_that_was_edited_after_submitting_no_longer_has_its_name(clone: Path) -> None:
    path = only(clone)
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":1', 1))
    (finding,) = published.check_table(clone / "results")
    assert (finding.level, finding.code) == ("error", "place")
    assert "it was edited or moved" in finding.message


def test_code_and_results_come_apart(clone: Path, build: Any, tmp_path: Path, committed: Any) -> None:
    another = build.write(tmp_path / "b.jsonl", run(build, rounds(build, 1.1e-3), session="b" * 16))
    commands.submit(another, to=clone / "results")
    (clone / "code.py").write_text("")
    status, said = committed()
    assert status == 1
    assert "code.py: error: no part of the table" in said


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


def test_nobodys_run_is_displaced_by_a_forged_one_in_another_folder(clone: Path, build: Any, tmp_path: Path) -> None:
    """A table counts the first of two files of one run: one in a folder that sorts before would stand for the other."""
    path = only(clone)
    stolen = record.read(path)
    devices = [msgspec.structs.replace(stolen.session.devices[0], name="A forged chip", chip=None, uuid_hash="f" * 16)]
    session = msgspec.structs.replace(stolen.session, devices=devices)
    content = b"".join(record.encode(line) for line in [session, *stolen.records])
    forged = clone / "results" / place.folder(session) / place.file_name(stolen, content)
    forged.parent.mkdir(parents=True)
    forged.write_bytes(content)
    assert forged < path
    said = [one.message for one in published.check_table(clone / "results", [forged])]
    assert f"the same run as {path.relative_to(clone / 'results').as_posix()}: " in " ".join(said)
    forged.unlink()
    own = tmp_path / "own.jsonl"
    own.write_bytes(content)
    with pytest.raises(UserError, match=f"is in the table as {place.file_id_of(path.name)}, with other content"):
        commands.submit(own, to=clone / "results")
    (path.parent / "link.jsonl").symlink_to(own)
    os.mkfifo(path.parent / f"20260101T000000Z-{'0' * 16}.jsonl")  # is not waited for
    (path.parent / f"20260101T000000Z-{'1' * 16}.jsonl").write_bytes(b'{"kind":"session","id":' + b"[" * 100_000)
    assert history.runs(clone / "results") == {stolen.session.id: [path]}


@pytest.mark.parametrize("words", [["--since", "nowhere"], ["--all"], ["/etc/passwd"]])
def test_what_cannot_be_done_is_said_in_a_sentence(checked: Any, words: list[str]) -> None:
    with pytest.raises(UserError):
        checked(*words)


def test_the_script_runs_from_anywhere(clone: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--in", str(clone)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert subprocess.run([SCRIPT, "--help"], capture_output=True).returncode == 0
    bad = subprocess.run([sys.executable, str(SCRIPT), "--since"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith("check_results: ")


def test_the_workflow_runs_this_script_and_nothing_of_the_strangers() -> None:
    text = (SCRIPT.parents[1] / ".github" / "workflows" / "check-results.yml").read_text()
    runs = [line.strip() for line in text.splitlines() if "run:" in line]
    assert runs[-1] == '- run: trusted/scripts/check_results --in offered --since "origin/$BASE"'
    assert not any("offered/" in line for line in runs)
    assert "pull_request_target" not in text and "contents: read" in text


def test_history_of_the_table_reads_only_what_counts(clone: Path) -> None:
    assert [file.name for file in history.files(clone / "results")] == [only(clone).name]

"""Submit: what leaves the house identifies nobody, is what was checked, and is placed whole or not at all."""

import json
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from boards import board, replace, rounds, run, timed

from bench import commands, record
from bench.analyze.check import check
from bench.analyze.shared import deliver, history, place, redact
from bench.analyze.table import expand
from bench.errors import UserError

SECRETS = [
    "alice",
    "Alice Liddell",
    "lab-node-17",
    "wonderland.ac.uk",
    "10.20.30.40",
    "fe80::1ff:fe23:4567:890a",
    "2001:db8::8a2e:370:7334",
    "00:1b:44:11:3a:b7",
    "00-1B-44-11-3A-B7",
    "GPU-3d3dbb3b-7f0d-6f70-5de2-b3e3c5f5f0a1",
    "3d3dbb3b-7f0d-6f70-5de2-b3e3c5f5f0a1",
    "1324021012345",
    "alice@wonderland.org",
    "/home/alice/secret/llama.toml",
    "C:\\Users\\alice\\m.toml",
    "~alice",
    "rabbithole",
    "serial number: X7Q99ZZ1",
    "printer.local",
]


@pytest.fixture(autouse=True)
def _somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user and a host with names to be found."""
    for name, value in {
        "USER": "alice",
        "LOGNAME": "alice",
        "HOSTNAME": "lab-node-17",
        "SLURM_JOB_ACCOUNT": "rabbithole",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "node", lambda: "lab-node-17.wonderland.ac.uk")
    monkeypatch.setattr(redact, "_full_name", lambda: ["Alice Liddell", "Alice", "Liddell"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def local(build: Any, tmp_path: Path) -> Path:
    (tmp_path / "local").mkdir()
    return build.write(tmp_path / "local" / "r01.jsonl", run(build, rounds(build, 1e-3)))  # type: ignore[no-any-return]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "table").mkdir()
    return tmp_path / "table"


def submitted(path: Path, root: Path, **options: Any) -> dict[str, Any]:
    return commands.submit(path, to=root, **options)


# Redaction


def planted(build: Any, secret: str) -> record.ResultFile:
    """The secret in every place that holds free text."""
    text = f"before {secret} after"
    one = timed(build, extras={"note": text, text: 1.0}, reasons={**build.record().reasons, "note": text, text: "x"})
    failed = replace(build.failed("crash", round=1), reason=text, extras={"note": text})
    identity = replace(failed.identity, dtype=text, data=text)
    foreign = replace(failed, workload=text, params={text: 1, "model": text}, identity=identity)
    session = run(build, [one, failed, foreign]).session
    device = board(build, capabilities={"power_w": text, text: "ok"}, driver=text, spec=f"nvidia:{secret}")
    host = replace(
        session.host, kernel=f"6.1.0-{secret}", governor=text, settings={"note": text, text: "x"}, virtualisation=text
    )
    preflight = [record.Finding(code="note", message=text)]
    return run(
        build,
        [one, failed, foreign],
        devices=[device],
        host=host,
        preflight=preflight,
        software={"torch": "2.11.0+cu130", "note": text},
        argv=["accelmark", "run", "--out", secret, f"--model={secret}", text],
        suite=text,
        reasons={"note": text},
    )


@pytest.mark.parametrize("secret", SECRETS)
def test_no_planted_secret_survives_in_any_field(build: Any, secret: str) -> None:
    cleaned, counts = redact.redacted(planted(build, secret))
    told = b"".join(record.encode(line) for line in [cleaned.session, *cleaned.records]).decode().lower()
    assert secret.lower() not in told
    assert json.dumps(secret.lower())[1:-1] not in told
    assert sum(counts.values()) > 10
    for word in ("alice", "liddell", "wonderland", "secret", "x7q99zz1"):
        assert word not in told


def test_what_is_not_secret_is_left_as_it_is(build: Any, golden: Path) -> None:
    file = record.read(golden)
    assert redact.redacted(file) == (file, {})
    texts = {
        "torch": "2.11.0+cu130",
        "cudnn": "9.1.0.70",
        "driver": "31.0.15.4601",
        "kernel": "6.18.44-fc-v669",
        "python": "3.11.7",
    }
    file = run(build, [timed(build)], software=texts)
    assert redact.redacted(file)[0].session.software == texts
    for text in ("c10::Error", "at::native::add", "needs 85899345920 bytes", "at 17:13:42.420", "0.1 W", "16 x 4096"):
        assert redact.patterns(text) == (text, set()), text


def test_a_user_who_is_called_like_a_model_or_a_chip_takes_nothing_out(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("llama", "nvidia", "matmul", "root", "gpu", "float32", "h100"):
        monkeypatch.setenv("USER", name)
        monkeypatch.setenv("LOGNAME", name)
        decode = timed(
            build, workload="decode", params={"model": "llama-3.1-8b", "batch": 1, "context": 512, "dtype": "float32"}
        )
        file = run(build, [decode, timed(build)])
        assert redact.redacted(file)[0] == file


def test_words_of_ones_own_are_hidden_too(build: Any) -> None:
    file = run(build, [timed(build)], suite="our-looking-glass-lab")
    assert redact.redacted(file, ["Looking-Glass"])[0].session.suite == "our-<name>-lab"


def test_a_raw_uuid_in_the_place_of_its_hash_is_hashed(build: Any) -> None:
    raw = "GPU-3d3dbb3b-7f0d-6f70-5de2-b3e3c5f5f0a1"
    cleaned, _ = redact.redacted(run(build, [timed(build)], devices=[board(build, uuid=raw)]))
    assert cleaned.session.devices[0].uuid_hash == record.anonymous(raw)


def test_control_characters_leave_as_escapes(build: Any) -> None:
    cleaned, _ = redact.redacted(run(build, [timed(build)], suite="\x1b[31mred\u202e"))
    assert cleaned.session.suite == "\\x1b[31mred\\u202e"


def test_the_check_of_the_table_finds_what_was_not_taken_out(build: Any, tmp_path: Path) -> None:
    path = build.write(tmp_path / "x.jsonl", run(build, [timed(build)], suite="see 10.20.30.40"))
    (finding,) = check(path)
    assert (finding.level, finding.code, finding.line) == ("note", "privacy", 1)
    assert [one.level for one in check(path, published=True)] == ["error"]


# Placing


def test_what_a_dry_run_prints_is_what_is_written(local: Path, root: Path) -> None:
    dry = submitted(local, root, dry_run=True)
    assert list(root.rglob("*")) == []
    wet = submitted(local, root)
    assert [one["content"] for one in dry["files"]] == [one["content"] for one in wet["files"]]
    (path,) = (Path(one["file"]) for one in wet["files"])
    assert path.read_bytes() == wet["files"][0]["content"].encode()
    assert path.parent.parent == root / "h100-sxm"
    assert re.fullmatch(r"[0-9a-f]{12}", path.parent.name)
    assert place.file_id(path.read_bytes()) == wet["id"] == place.file_id_of(path.name)
    assert check(path, published=True) == []
    assert record.read(path).records == record.read(local).records


def test_submitting_again_changes_nothing(local: Path, root: Path) -> None:
    first, second = submitted(local, root), submitted(local, root)
    assert first["files"][0]["new"] and not second["files"][0]["new"]
    assert first["id"] == second["id"]
    assert len(list(root.rglob("*.jsonl"))) == 1


def test_the_same_run_from_another_computer_is_known(local: Path, root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    first = submitted(local, root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    again = submitted(local, root)
    assert again["id"] == first["id"] and not again["files"][0]["new"]


def test_a_run_with_more_in_it_replaces_only_when_told_to(build: Any, local: Path, root: Path) -> None:
    first = submitted(local, root)
    build.write(local, run(build, rounds(build, 1e-3, count=5)))
    with pytest.raises(UserError, match=f"--supersede {first['id']}"):
        submitted(local, root)
    second = submitted(local, root, supersede=first["id"], reason="two rounds more")
    assert [Path(one["file"]).name for one in second["files"]][1] == f"{first['id']}-supersede.json"
    assert second["proven"]
    assert [path.name for path in expand([root])] == [Path(second["files"][0]["file"]).name]
    assert len(list(root.rglob("*.jsonl"))) == 2  # history is kept
    assert submitted(local, root, supersede=first["id"], reason="two rounds more")["files"][0]["new"] is False


def test_retracting_hides_and_keeps_and_proves_its_author(
    local: Path, root: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    first = submitted(local, root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "stranger"))
    stranger = commands.submit(to=root, retract=first["id"], dry_run=True)
    assert stranger["proven"] is False
    assert json.loads(stranger["files"][0]["content"])["proof"] is None
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    done = commands.submit(to=root, retract=first["id"], reason="the fan was off, says alice")
    assert done["proven"] is True
    notice = history.read_notice(Path(done["files"][0]["file"]))
    assert (notice.action, notice.reason) == ("retract", "the fan was off, says <name>")
    assert history.proven(notice, record.read(Path(first["files"][0]["file"])).session)
    with pytest.raises(UserError, match="counts: each is withdrawn, hidden or a link"):
        expand([root])
    assert Path(first["files"][0]["file"]).exists()
    assert (
        commands.submit(to=root, retract=first["id"], reason="the fan was off, says alice")["files"][0]["new"] is False
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retract": "0" * 16}, "has the id"),
        ({"retract": "../../etc"}, "has the id"),
        ({"supersede": "*"}, "has the id"),
        ({"retract": "a", "supersede": "b"}, "give one of them"),
        ({"reason": "x"}, "goes with"),
        ({"retract": "0" * 16, "reason": "x" * 401}, "400 must do"),
    ],
)
def test_what_makes_no_sense_is_said(local: Path, root: Path, options: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        submitted(local, root, **options)
    assert list(root.rglob("*")) == []


def test_a_folder_or_no_file_is_the_users_mistake_and_no_refusal(local: Path, root: Path) -> None:
    with pytest.raises(UserError, match="is a folder: name the one result file of it"):
        submitted(local.parent, root, dry_run=True)
    with pytest.raises(UserError, match="is no file"):
        submitted(local.with_name("none.jsonl"), root, dry_run=True)


def test_neither_a_file_nor_an_id_is_said(root: Path) -> None:
    with pytest.raises(UserError, match="needs a result file"):
        commands.submit(to=root)


@pytest.mark.parametrize("spoil", ["work", "virtual", "garbage", "empty", "no device"])
def test_what_the_table_would_refuse_is_refused_and_nothing_is_written(
    build: Any, tmp_path: Path, root: Path, spoil: str
) -> None:
    path, one = tmp_path / "x.jsonl", timed(build)
    if spoil == "work":
        build.write(path, run(build, [replace(one, work=replace(one.work, gemm_flops=1))]))
    elif spoil == "no device":
        build.write(path, replace(run(build, []), session=replace(run(build, []).session, devices=[], speeds=[])))
    elif spoil == "virtual":
        build.write(path, build.file([build.record()]))
    else:
        path.write_bytes(b"garbage\n" if spoil == "garbage" else b"")
    document = submitted(path, root)
    assert document["refused"] and document["files"] == []
    assert any(finding["level"] == "error" for finding in document["findings"])
    assert list(root.rglob("*")) == []


def test_a_case_far_from_the_others_is_taken_and_told(build: Any, tmp_path: Path, root: Path) -> None:
    for number in range(4):
        devices = [board(build, uuid=f"{number:016x}")]
        file = run(build, rounds(build, 1e-3), devices=devices, session=f"{number:016x}")
        submitted(build.write(tmp_path / "x.jsonl", file), root)
    far = run(build, rounds(build, 10e-3), devices=[board(build, uuid="f" * 16)], session="f" * 16)
    document = submitted(build.write(tmp_path / "x.jsonl", far), root)
    assert not document["refused"] and document["files"][0]["new"]
    assert [one["level"] for one in document["findings"]] == ["quarantine"]


# Folders that others write to


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    where, content = PurePosixPath("chip/machine/x.jsonl"), b"x" * 300_000
    with ThreadPoolExecutor(16) as pool:
        new = list(pool.map(lambda _: deliver.deliver(tmp_path, where, content), range(64)))
    assert sum(new) == 1
    assert [path.name for path in (tmp_path / "chip" / "machine").iterdir()] == ["x.jsonl"]
    assert (tmp_path / "chip" / "machine" / "x.jsonl").read_bytes() == content


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    where = PurePosixPath("chip/machine/x.jsonl")
    deliver.deliver(tmp_path, where, b"first")
    with pytest.raises(UserError, match="other content"):
        deliver.deliver(tmp_path, where, b"other")
    assert (tmp_path / "chip/machine/x.jsonl").read_bytes() == b"first"
    assert len(list((tmp_path / "chip/machine").iterdir())) == 1


def test_a_file_system_without_links_is_written_to_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: Any) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "link", no_link)
    assert deliver.deliver(tmp_path, PurePosixPath("a/b/x.jsonl"), b"first")
    assert not deliver.deliver(tmp_path, PurePosixPath("a/b/x.jsonl"), b"first")
    with pytest.raises(UserError, match="other content"):
        deliver.deliver(tmp_path, PurePosixPath("a/b/x.jsonl"), b"other")
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["x.jsonl"]


def test_a_link_in_the_table_leads_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "table"
    outside.mkdir()
    root.mkdir()
    (root / "chip").symlink_to(outside)
    with pytest.raises(UserError, match="leads out"):
        deliver.deliver(root, PurePosixPath("chip/machine/x.jsonl"), b"x")
    assert not list(outside.rglob("*.jsonl"))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        deliver.deliver(tmp_path, PurePosixPath("a/b/x.jsonl"), b"x")
    assert list((tmp_path / "a/b").iterdir()) == []


# Git, and the command line


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    top = tmp_path / "clone"
    (top / "results").mkdir(parents=True)
    for words in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "A"],
        ["config", "user.email", "a@b"],
        ["commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", "-C", str(top), *words], check=True)
    return top


def git(top: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(top), *words], check=True, capture_output=True, text=True).stdout


def test_the_printed_commands_make_the_branch(local: Path, clone: Path) -> None:
    document = submitted(local, clone / "results")
    script = "\n".join(["set -e", *document["git"][:-1]])
    subprocess.run(["sh", "-c", script], check=True, capture_output=True)
    assert git(clone, "show", "--stat", "--format=%s").startswith("Results of NVIDIA H100 80GB HBM3: 3 records")
    assert git(clone, "branch", "--show-current").strip() == f"results-{document['id']}"
    assert document["git"][-1] == f"git push -u origin results-{document['id']}"


def test_a_branch_is_made_without_touching_the_checkout(local: Path, clone: Path) -> None:
    (clone / "work").write_text("unfinished")
    git(clone, "add", "work")
    document = submitted(local, clone / "results", branch=True)
    assert git(clone, "branch", "--show-current").strip() == "main"
    assert git(clone, "diff", "--cached", "--name-only").split() == ["work"]
    name = Path(document["files"][0]["file"]).relative_to(clone.resolve()).as_posix()
    assert git(clone, "diff", "--name-only", "main", document["commit"]).split() == [name]
    assert git(clone, "rev-parse", f"results-{document['id']}").strip() == document["commit"]
    with pytest.raises(UserError, match="already exists"):
        submitted(local, clone / "results", branch=True)


def test_a_shared_folder_has_no_git_commands(local: Path, root: Path) -> None:
    assert submitted(local, root)["git"] == []
    with pytest.raises(UserError, match="in no git clone"):
        submitted(local, root, branch=True)


def accelmark(*words: str) -> "subprocess.CompletedProcess[bytes]":
    top = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], capture_output=True, env={**os.environ, "PYTHONPATH": top}
    )


def test_on_the_command_line_a_dry_run_gives_the_bytes_and_nothing_else(local: Path, root: Path) -> None:
    dry = accelmark("submit", str(local), "--to", str(root), "--dry-run")
    assert dry.returncode == 0
    wet = accelmark("submit", str(local), "--to", str(root))
    (path,) = (Path(line) for line in wet.stdout.decode().splitlines())
    assert path.read_bytes() == dry.stdout
    assert b"taken out of its texts" in wet.stderr
    bad = accelmark("submit", str(Path(__file__)), "--to", str(root), "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["refused"] is True
    assert accelmark("submit", "--to", str(root)).returncode == 2

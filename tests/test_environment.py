"""What is kept of the machine: threads that may be used, versions, and nothing that names anybody."""

import getpass
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from bench import record
from bench.device.virtual import Virtual
from bench.measure import environment
from bench.record import DeviceFacts


def machine(
    monkeypatch: pytest.MonkeyPatch, root: Path, allowed: set[int], files: dict[str, str], siblings: int = 1
) -> None:
    """A machine of 128 logical processors of which `allowed` may be used, `siblings` to a core, in a control group."""
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed, raising=False)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    read = environment._first_line

    def first_line(path: str | Path) -> str | None:
        if "thread_siblings_list" in str(path):
            cpu = int(str(path).split("/cpu/cpu")[1].split("/")[0])
            return f"core {cpu // siblings}"
        return read(root / str(path).lstrip("/")) if str(path).startswith(("/sys", "/proc")) else read(path)

    monkeypatch.setattr(environment, "_first_line", first_line)
    monkeypatch.setattr(environment, "_CGROUP", root / "sys/fs/cgroup")


# Threads


@pytest.mark.parametrize(
    ("allowed", "siblings", "threads"),
    [
        ({0}, 1, 1),
        ({3, 7, 9}, 1, 3),
        (set(range(16)), 2, 8),  # hyper-threads of one core count once
        ({0, 2, 4}, 2, 3),  # unless only one of each may be used
        (set(range(64, 128)), 1, 64),
    ],
)
def test_threads_are_the_cores_that_affinity_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: set[int], siblings: int, threads: int
) -> None:
    machine(monkeypatch, tmp_path, allowed, {}, siblings)
    assert environment.usable_threads() == threads


V2 = "sys/fs/cgroup/cpu.max"
V1 = "sys/fs/cgroup/cpu/cpu.cfs_quota_us"
V1_PERIOD = {"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 16),
        ({V2: "max 100000\n"}, 16),
        ({V2: "400000 100000\n"}, 4),
        ({V2: "250000 100000\n"}, 2),  # a third thread would be throttled
        ({V2: "50000 100000\n"}, 1),
        ({V2: "6400000 100000\n"}, 16),
        ({V1: "300000\n", **V1_PERIOD}, 3),
        ({V1: "-1\n", **V1_PERIOD}, 16),
        ({V1: "300000\n"}, 16),
    ],
)
def test_threads_keep_within_the_quota_of_the_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], threads: int
) -> None:
    machine(monkeypatch, tmp_path, set(range(16)), files)
    assert environment.usable_threads() == threads


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"sys/fs/cgroup/user.slice/job/cpu.max": "300000 100000"}, 3),
        ({"sys/fs/cgroup/user.slice/cpu.max": "200000 100000", "sys/fs/cgroup/user.slice/job/cpu.max": "max 1"}, 2),
        ({"sys/fs/cgroup/other/cpu.max": "100000 100000"}, 16),
    ],
)
def test_a_quota_anywhere_above_this_process_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], threads: int
) -> None:
    machine(monkeypatch, tmp_path, set(range(16)), {**files, "proc/self/cgroup": "0::/user.slice/job\n"})
    assert environment.usable_threads() == threads


def test_without_affinity_threads_are_the_physical_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, tmp_path, set(), {})
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16 if logical else 10)
    assert environment.usable_threads() == 10


# Host and software


def texts(tree: object) -> list[str]:
    """Every text in a tree, keys included."""
    if isinstance(tree, dict):
        return [text for item in tree.items() for part in item for text in texts(part)]
    if isinstance(tree, list | tuple):
        return [text for part in tree for text in texts(part)]
    return [tree] if isinstance(tree, str) else []


def test_nothing_of_the_host_names_a_machine_a_person_or_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "/home/someone/secret-project/workspace")
    monkeypatch.setenv("SOMETHING_ELSE", "secret")
    found = texts(msgspec.to_builtins(environment.host(threads=2)))
    assert "workspace" in found  # of a path, only the last part
    names = {socket.gethostname(), socket.getfqdn(), getpass.getuser(), "someone", "secret"}
    for text in found:
        assert not [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)]
        assert not Path(text).is_absolute()
        assert str(Path.home()) not in text


def test_the_host_fits_its_place_in_the_file() -> None:
    host = environment.host(threads=2)
    assert msgspec.convert(msgspec.to_builtins(host), record.Host) == host
    assert (host.threads, host.memory_bytes) == (2, psutil.virtual_memory().total)
    assert 1 <= host.cores <= psutil.cpu_count(logical=True)


def test_versions_are_texts() -> None:
    found = environment.software()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"psutil", "nvidia-ml-py"} <= found.keys()
    assert {type(part) for item in found.items() for part in item} == {str}


def test_the_build_of_an_imported_torch_is_among_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Version(str):
        """As torch's own."""

    torch = SimpleNamespace(
        __version__=Version("9.8.7+here"),
        version=SimpleNamespace(cuda="12.9", hip=None),
        backends=SimpleNamespace(
            cudnn=SimpleNamespace(is_available=lambda: True, version=lambda: 91002),
            cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX512"),
        ),
        get_float32_matmul_precision=lambda: "highest",
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = environment.software()
    assert {type(value) for value in found.values()} == {str}
    assert [found[name] for name in ("torch", "cuda", "cudnn", "cpu_capability")] == [
        "9.8.7+here",
        "12.9",
        "91002",
        "AVX512",
    ]
    assert "hip" not in found

    def mismatch() -> None:
        raise RuntimeError(
            "cuDNN version incompatibility: compiled against (9, 1, 0) but found runtime version (8, 9, 7)"
        )

    torch.backends.cudnn.version = mismatch
    found = environment.software()
    assert "cudnn" not in found and found["cpu_capability"] == "AVX512"  # what comes after it is there


def test_every_quantity_of_a_device_is_a_number_or_a_reason() -> None:
    facts = environment.device_facts(Virtual())
    assert msgspec.convert(msgspec.to_builtins(facts), DeviceFacts) == facts
    assert facts.readings.keys() == {name for name, said in facts.capabilities.items() if said == "ok"}
    assert facts.capabilities.keys() - facts.readings.keys() == {"temperature_c"}
    assert all(facts.capabilities.values())
    assert facts.uuid_hash is None


def test_a_board_s_own_number_is_kept_as_a_hash_only() -> None:
    class Board(Virtual):
        def uuid(self) -> str:
            return "GPU-00000000-1111-2222-3333-444444444444"

    facts = environment.device_facts(Board())
    assert facts.uuid_hash == environment.device_facts(Board()).uuid_hash
    assert facts.uuid_hash
    assert not [text for text in texts(msgspec.to_builtins(facts)) if "1111" in text]


# The program itself


@pytest.fixture
def clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that the program believes to live in."""
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "bench" / "measure" / "environment.py"))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_without_a_clone_there_is_no_commit_and_nothing_is_said_of_changes(clone: Path) -> None:
    found = environment.harness()
    assert (found.commit, found.dirty) == (None, None)
    assert found.version
    assert found.method == record.METHOD


def test_the_commit_of_a_project_round_us_is_not_ours(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(clone, "init", "--quiet")
    git(clone, "commit", "--quiet", "--allow-empty", "-m", "somebody else's")
    installed = clone / "venv" / "site-packages" / "bench" / "measure" / "environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.harness().commit is None


def test_without_git_there_is_no_commit(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone / ".git").mkdir()
    monkeypatch.setenv("PATH", str(clone))
    assert (environment.harness().commit, environment.harness().dirty) == (None, None)


def test_a_commit_and_changes_to_it_are_told(clone: Path) -> None:
    git(clone, "init", "--quiet")
    (clone / "file").write_text("one")
    git(clone, "add", "file")
    git(clone, "commit", "--quiet", "-m", "first")
    (clone / "untracked").write_text("results, say")
    found = environment.harness()
    assert found.commit == git(clone, "rev-parse", "HEAD")[:12]
    assert found.dirty is False
    (clone / "file").write_text("two")
    assert environment.harness().dirty is True


def test_a_user_without_a_name_gets_one_for_our_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    assert environment.for_children().get("USER") == os.environ.get("USER")
    monkeypatch.setattr(getpass, "getuser", unknown)
    assert environment.for_children()["USER"].startswith("uid_")

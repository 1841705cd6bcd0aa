"""scripts/accelmark and scripts/test in a copy of the checkout: what they do to a torch that is there, and when.

All but the last test work offline. Their copy is built by a stand-in backend, so that pip has nothing to download, and
holds a stand-in `bench.cli`. The torch that "the lab has" is a stand-in, too: one that fails when it is imported.
"""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
# Behind any environment that runs these tests, so that what is installed there stays out of sight.
BASE_PYTHON = Path(sys.executable).resolve()
PACKAGES = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
# Newer and older than what pyproject.toml asks for, and the form of NVIDIA's containers, which is older than 2.13.
VERSIONS = ["99.0.0", "1.0.0", "2.13.0a0+5228986c39.nv26.5"]

PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "accelmark"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = []

[project.optional-dependencies]
torch = ["torch>=2.6"]
estimate = []
test = []
lint = []

[project.scripts]
accelmark = "bench.cli:main"
"""

BACKEND = '''\
"""Builds the editable wheel that hatchling would build, and needs nothing."""
import os, tomllib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with open("pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    metadata = "Metadata-Version: 2.1\\nName: accelmark\\nVersion: 0.1.0\\n"
    metadata += "".join(f"Requires-Dist: {need}\\n" for need in project["dependencies"])
    for extra, needs in project["optional-dependencies"].items():
        metadata += f"Provides-Extra: {extra}\\n"
        metadata += "".join(f"Requires-Dist: {need}; extra == '{extra}'\\n" for need in needs)
    files = {
        "_accelmark.pth": os.getcwd() + "\\n",
        "accelmark-0.1.0.dist-info/METADATA": metadata,
        "accelmark-0.1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "accelmark-0.1.0.dist-info/entry_points.txt": "[console_scripts]\\naccelmark = bench.cli:main\\n",
        "accelmark-0.1.0.dist-info/RECORD": "",
    }
    name = "accelmark-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
'''

# Says what it was started with; `hold` is a run that lasts until its stdin is closed.
COMMAND = """\
import importlib.util, json, sys

def main():
    spec = importlib.util.find_spec("torch")
    print(json.dumps({"arguments": sys.argv[1:], "torch": spec and spec.origin}), flush=True)
    if sys.argv[1:] == ["hold"]:
        sys.stdin.read()
    sys.exit(7 if sys.argv[1:] == ["fail"] else 0)
"""


class Lab:
    """A copy of the checkout, a python that it is used with, and a torch that pip could be tempted to install."""

    said: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "a checkout"  # the space is on purpose
        self.venv = self.checkout / ".venv"
        self.parent = folder / "parent"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        copy_checkout(self.checkout)
        (self.checkout / "pyproject.toml").write_text(PROJECT)
        (self.checkout / "backend.py").write_text(BACKEND)
        subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", self.parent], check=True)
        write_wheel(folder / "wheels", "torch", "2.13.0")
        self.environment = environment(
            PATH=f"{self.parent}/bin:{os.environ['PATH']}", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder / "wheels")
        )

    def start(self, *arguments: str, script: str = "accelmark", **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a script from a folder that is not the checkout."""
        return subprocess.run(
            [self.checkout / "scripts" / script, *arguments],
            cwd=self.elsewhere,
            env=self.environment | variables,
            capture_output=True,
            text=True,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """The same in the background, in a process group of its own."""
        return subprocess.Popen(
            [self.checkout / "scripts" / "accelmark", *arguments],
            cwd=self.elsewhere,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def why_not_ready(self, **variables: str) -> str:
        """What a start would give as the reason for a set-up; empty when it would start at once."""
        program = "set -euo pipefail; self=scripts/accelmark; source scripts/setup.sh; ready run || echo ${why:-none}"
        done = subprocess.run(
            ["bash", "-c", program],
            cwd=self.checkout,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    @property
    def bare_path(self) -> str:
        """A PATH with neither a compiler nor flock."""
        programs = self.folder / "programs"
        programs.mkdir()
        for name in ["bash", "cat", "cp", "env", "find", "grep", "ls", "mkdir", "rm", "sleep", "tail", "touch"]:
            (programs / name).symlink_to(str(shutil.which(name)))
        return f"{self.parent}/bin:{programs}"

    @property
    def folder_of_torch(self) -> Path:
        return self.parent / PACKAGES


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what would choose another python or torch."""
    unwanted = ("ACCELMARK_", "PYENV_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_CONSTRAINT", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | variables


def copy_checkout(target: Path) -> None:
    """What a set-up needs, with a stand-in command."""
    target.mkdir(parents=True)
    for name in ("bench", "workloads", "scripts"):
        shutil.copytree(CHECKOUT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        if (CHECKOUT / name).exists():
            shutil.copy(CHECKOUT / name, target)
        else:
            (target / name).write_text("stand-in\n")
    shutil.rmtree(target / "bench" / "cli")
    (target / "bench" / "cli.py").write_text(COMMAND)


def write_torch(folder: Path, version: str) -> None:
    """A torch that an installer takes for real."""
    package, information = folder / "torch", folder / f"torch-{version}.dist-info"
    package.mkdir(parents=True)
    information.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('a set-up has no need to import torch')\n")
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    (information / "INSTALLER").write_text("pip\n")
    (information / "RECORD").write_text(
        f"torch/__init__.py,,\n{information.name}/METADATA,,\n{information.name}/INSTALLER,,\n{information.name}/RECORD,,\n"
    )


def write_wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A wheel for pip to find in a folder."""
    folder.mkdir(exist_ok=True)
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": "",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file of torch below a folder, with the hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("torch*/**/*"))
        if path.is_file()
    }


def torch_seen(python: Path, env: dict[str, str]) -> list[str]:
    """Version and folder of the torch that a python would import, and of how many it knows."""
    program = """if True:
        import importlib.metadata as metadata, importlib.util, json
        known = {str(found._path) for found in metadata.distributions() if found.name == "torch"}
        print(json.dumps([metadata.version("torch"), importlib.util.find_spec("torch").origin, str(len(known))]))
    """
    done = subprocess.run([python, "-c", program], env=env, cwd="/", capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stderr.splitlines()


@contextlib.contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    """A file with another content for a while."""
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def moved(path: Path, target: Path) -> Iterator[None]:
    path.rename(target)
    try:
        yield
    finally:
        target.rename(path)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def ready_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One that is set up, with a torch in its python. The tests that use it leave it as it was."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    write_torch(lab.folder_of_torch, VERSIONS[2])
    done = lab.start(PATH=lab.bare_path)
    assert done.returncode == 0, done.stderr
    lab.said = done.stderr
    return lab


# A torch that is there


@pytest.mark.parametrize(
    ("place", "version"), [*(("activated", version) for version in VERSIONS), ("PYTHONPATH", VERSIONS[1])]
)
def test_a_torch_that_is_there_is_used_and_left_alone(lab: Lab, place: str, version: str) -> None:
    folder = lab.folder_of_torch if place == "activated" else lab.folder / "modules"
    if place == "PYTHONPATH":
        lab.environment["PYTHONPATH"] = str(folder)
    write_torch(folder, version)
    before = fingerprint(folder)
    # What containers set; it is for their own packages, and our pins for torch do not need it.
    (lab.folder / "pins.txt").write_text("accelmark==0.0.1\n")

    done = lab.start("run", PIP_CONSTRAINT=str(lab.folder / "pins.txt"), PIP_USER="1")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["torch"] == str(folder / "torch" / "__init__.py")
    # Also without PYTHONPATH, which a worker process may not get.
    env = environment()
    assert torch_seen(lab.venv / "bin" / "python", env) == [version, str(folder / "torch" / "__init__.py"), "1"]
    assert fingerprint(folder) == before
    assert not list(lab.venv.glob("lib/*/site-packages/torch*"))


def test_a_package_that_wants_a_newer_torch_gets_a_message_and_not_the_torch(lab: Lab) -> None:
    write_torch(lab.folder_of_torch, VERSIONS[2])
    before = fingerprint(lab.folder_of_torch)
    write_wheel(lab.folder / "wheels", "greedy", "1.0", "Requires-Dist: torch>=2.13\n")
    project = lab.checkout / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = []", 'dependencies = ["greedy"]'))

    done = lab.start("run")

    assert done.returncode == 2
    assert "pip could not install" in lines(done)[-1]
    assert "Traceback" not in done.stderr
    assert fingerprint(lab.folder_of_torch) == before
    assert not list(lab.venv.glob("lib/*/site-packages/torch*"))


def test_a_torch_in_an_editable_source_tree_is_found(lab: Lab) -> None:
    # What `pip install -e` writes for a torch built from source: a hook instead of a folder on the path.
    write_torch(lab.folder / "source", "2.14.0a0")
    origin = str(lab.folder / "source" / "torch" / "__init__.py")
    (lab.folder_of_torch / "torch_finder.py").write_text(
        textwrap.dedent(f"""
            import importlib.util, sys
            class Finder:
                @staticmethod
                def find_spec(name, path=None, target=None):
                    if name == "torch":
                        return importlib.util.spec_from_file_location(name, {origin!r})
            sys.meta_path.append(Finder)
        """)
    )
    (lab.folder_of_torch / "torch.pth").write_text("import torch_finder\n")
    done = lab.start("run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["torch"] == origin
    assert lab.why_not_ready() == ""


@pytest.mark.slow
def test_without_a_torch_the_tested_one_is_installed(lab: Lab) -> None:
    write_wheel(lab.folder / "wheels", "torch", "2.99.0")  # that constraints.txt does not name
    done = lab.start("run")
    assert done.returncode == 0, done.stderr
    assert torch_seen(lab.venv / "bin" / "python", environment())[0] == "2.13.0"
    assert lab.why_not_ready() == ""

    write_torch(lab.folder_of_torch, "1.0.0")
    assert f"torch is now in {lab.folder_of_torch}" in lab.why_not_ready()
    assert lab.why_not_ready(ACCELMARK_TORCH="install") == "ACCELMARK_TORCH is now 'install' and was ''"
    done = lab.start("run")
    assert json.loads(done.stdout)["torch"] == str(lab.folder_of_torch / "torch" / "__init__.py")
    assert not list(lab.venv.glob("lib/*/site-packages/torch*"))

    done = lab.start("run", ACCELMARK_TORCH="none")
    assert json.loads(done.stdout)["torch"] is None
    assert lab.why_not_ready(ACCELMARK_TORCH="none") == ""


def test_what_cannot_be_done_with_torch_is_said_in_one_line(lab: Lab) -> None:
    kept, odd = lab.start(ACCELMARK_TORCH="keep"), lab.start(ACCELMARK_TORCH="maybe")
    write_torch(lab.folder / "modules", "1.0.0")
    hidden = lab.start(ACCELMARK_TORCH="install", PYTHONPATH=str(lab.folder / "modules"))
    for done, expected in [(kept, "has no torch"), (odd, "can be keep, install or none"), (hidden, "would hide")]:
        assert (done.returncode, len(lines(done))) == (2, 1), done.stderr
        assert expected in done.stderr


# Once it is set up


def test_a_second_start_is_silent_and_passes_everything_on(ready_lab: Lab) -> None:
    done = ready_lab.start("run", "two words", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["arguments"] == ["run", "two words", ""]
    assert ready_lab.start("fail").returncode == 7


def test_a_second_start_adds_little(ready_lab: Lab) -> None:
    def fastest(*command: str | Path) -> float:
        times_s = []
        for _ in range(5):
            start_s = time.perf_counter()
            subprocess.run(command, env=ready_lab.environment, check=True, capture_output=True)
            times_s.append(time.perf_counter() - start_s)
        return min(times_s)

    bin_folder = ready_lab.venv / "bin"
    added_s = fastest(ready_lab.checkout / "scripts" / "accelmark") - fastest(
        bin_folder / "python", bin_folder / "accelmark"
    )
    assert added_s < 0.5  # it is 0.006 s


def test_a_second_start_runs_no_other_python(ready_lab: Lab) -> None:
    with moved(ready_lab.parent / "bin" / "python3", ready_lab.parent / "bin" / "kept"):
        failing = ready_lab.parent / "bin" / "python3"
        failing.write_text("#!/bin/sh\nexit 1\n")
        failing.chmod(0o755)
        done = ready_lab.start("run")
        failing.unlink()
    assert (done.returncode, done.stderr) == (0, "")


def test_it_starts_through_a_symbolic_link(ready_lab: Lab) -> None:
    link = ready_lab.elsewhere / "accelmark"
    link.symlink_to(ready_lab.checkout / "scripts" / "accelmark")
    done = subprocess.run(
        ["./accelmark"], cwd=ready_lab.elsewhere, env=ready_lab.environment, capture_output=True, text=True
    )
    link.unlink()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_named_bench_does_not_get_in_the_way(ready_lab: Lab) -> None:
    (ready_lab.elsewhere / "bench").mkdir()
    (ready_lab.elsewhere / "bench" / "__init__.py").write_text("raise RuntimeError('somebody else')\n")
    done = ready_lab.start("run")
    shutil.rmtree(ready_lab.elsewhere / "bench")
    assert (done.returncode, done.stderr) == (0, "")


def test_its_own_environment_may_be_activated(ready_lab: Lab) -> None:
    path = f"{ready_lab.venv}/bin:{os.environ['PATH']}"
    assert ready_lab.start("run", PATH=path, VIRTUAL_ENV=str(ready_lab.venv)).stderr == ""
    assert ready_lab.start("run", ACCELMARK_PYTHON=str(ready_lab.venv / "bin" / "python")).stderr == ""


def test_another_name_of_the_same_python_is_no_reason_for_a_set_up(ready_lab: Lab) -> None:
    assert ready_lab.start("run", ACCELMARK_PYTHON="../parent/bin/python").stderr == ""
    assert ready_lab.why_not_ready(ACCELMARK_PYTHON=str(ready_lab.elsewhere / "../parent/bin/python")) == ""


def test_nothing_is_stale_without_a_reason(ready_lab: Lab) -> None:
    assert ready_lab.why_not_ready() == ""
    assert ready_lab.why_not_ready(PYTHONPATH=f":{ready_lab.elsewhere}:relative") == ""


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_noticed(ready_lab: Lab, name: str) -> None:
    path = ready_lab.checkout / name
    with changed(path, path.read_text() + "# changed\n"):
        assert ready_lab.why_not_ready() == "pyproject.toml or constraints.txt changed"


def test_another_python_is_noticed(ready_lab: Lab) -> None:
    assert "the python is now" in ready_lab.why_not_ready(ACCELMARK_PYTHON=str(BASE_PYTHON))
    assert "PYENV" not in ready_lab.environment
    assert "the python is now" in ready_lab.why_not_ready(PYENV_VERSION="3.99")


def test_a_python_that_is_gone_is_noticed(ready_lab: Lab) -> None:
    with moved(ready_lab.venv / "bin" / "python", ready_lab.venv / "bin" / "kept"):
        assert "is gone" in ready_lab.why_not_ready()


def test_a_torch_that_was_upgraded_or_removed_is_noticed(ready_lab: Lab) -> None:
    information = ready_lab.folder_of_torch / f"torch-{VERSIONS[2]}.dist-info"
    with moved(information, information.with_name("torch-2.14.0.dist-info")):
        assert "was changed or removed" in ready_lab.why_not_ready()
    with moved(ready_lab.folder_of_torch / "torch", ready_lab.folder / "removed"):
        assert "torch is now in no folder" in ready_lab.why_not_ready()


def test_a_torch_that_comes_first_is_noticed(ready_lab: Lab, tmp_path: Path) -> None:
    write_torch(tmp_path, "1.0.0")
    assert f"torch is now in {tmp_path}" in ready_lab.why_not_ready(PYTHONPATH=f"/nowhere:{tmp_path}")


def test_a_moved_checkout_is_noticed(ready_lab: Lab) -> None:
    target = ready_lab.folder / "moved"
    with moved(ready_lab.checkout, target):
        ready_lab.checkout = target
        reason = ready_lab.why_not_ready()
        ready_lab.checkout = ready_lab.folder / "a checkout"
    assert "it was made in another folder" in reason


def test_changed_requirements_are_met_without_a_new_environment(lab: Lab) -> None:
    write_torch(lab.folder_of_torch, VERSIONS[2])
    assert lab.start().returncode == 0
    kept = lab.venv / "kept"
    kept.touch()

    project = lab.checkout / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = []", 'dependencies = ["missing"]'))
    done = lab.start("run")
    assert done.returncode == 2
    assert "No matching distribution found for missing" in lines(done)[-1]
    assert "network" in lines(done)[-1]
    assert "Traceback" not in done.stderr

    write_wheel(lab.folder / "wheels", "missing", "1.0")
    done = lab.start("run")
    assert done.returncode == 0, done.stderr
    assert kept.exists()
    assert lab.start("run").stderr == ""


# Accidents


def test_a_set_up_that_was_killed_is_repaired_by_the_next_start(lab: Lab) -> None:
    write_torch(lab.folder_of_torch, VERSIONS[0])
    running = lab.begin("run")
    # pip comes right after the environment was made, and takes a second.
    while not (lab.venv / ".gitignore").exists():
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert lab.why_not_ready() == "the last set-up was cut short"

    done = lab.start("run")
    assert done.returncode == 0
    assert "cut short" in done.stderr
    assert lab.start("run").stderr == ""


@pytest.mark.parametrize("with_flock", [True, False])
def test_two_at_once_make_one_environment(lab: Lab, with_flock: bool) -> None:
    write_torch(lab.folder_of_torch, VERSIONS[0])
    if not with_flock:
        lab.environment["PATH"] = lab.bare_path
    elif not shutil.which("flock"):
        pytest.skip("there is no flock here")
    both = [lab.begin("one"), lab.begin("two")]
    said = [running.communicate()[1] for running in both]
    assert [running.returncode for running in both] == [0, 0], said
    assert sorted("setting up" in text for text in said) == [False, True]
    assert "waiting until another accelmark is done" in "".join(said)
    assert not (lab.venv / ".accelmark" / "lock-folder").exists()


@pytest.mark.skipif(not shutil.which("flock"), reason="there is no flock here")
@pytest.mark.parametrize("set_up_by_it", [False, True])
def test_no_set_up_changes_packages_under_a_running_measurement(ready_lab: Lab, set_up_by_it: bool) -> None:
    path = ready_lab.checkout / "constraints.txt"
    text = path.read_text()
    first, then = (text + "# changed\n", text) if set_up_by_it else (text, text + "# changed\n")
    with changed(path, first):
        running = ready_lab.begin("hold")
        assert running.stdout is not None
        running.stdout.readline()
        path.write_text(then)
        second = ready_lab.begin("run")
        assert second.stderr is not None
        assert "waiting until another accelmark is done" in second.stderr.readline()
        assert second.poll() is None
        running.communicate()
        assert "constraints.txt changed" in second.communicate()[1]
        assert second.returncode == 0
    assert ready_lab.start("run").returncode == 0  # back to what it was


def test_somebody_elses_environment_is_left_alone(lab: Lab) -> None:
    lab.venv.mkdir()
    (lab.venv / "precious").touch()
    done = lab.start("run")
    assert (done.returncode, len(lines(done))) == (2, 1)
    assert "ACCELMARK_VENV=" in done.stderr
    assert list(lab.venv.iterdir()) == [lab.venv / "precious"]


# What is missing on the machine


def python_that(folder: Path, answer: str) -> str:
    """A python that behaves like the base one but for the given lines of shell."""
    path = folder / "python3"
    path.write_text(f'#!/bin/sh\n{answer}\nexec "{BASE_PYTHON}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ('case "$*" in *ensurepip*) exit 1;; esac', "sudo apt-get install -y python3-venv"),
        ('case "$*" in *venv*) exit 1;; esac', "sudo apt-get install -y python3-venv"),
        ("echo 3.9 0; exit", "module load python"),
        ("exit 127", "ACCELMARK_PYTHON=/path/to/python"),
    ],
)
def test_a_python_that_will_not_do_gets_one_line_with_the_remedy(lab: Lab, answer: str, remedy: str) -> None:
    done = lab.start("run", ACCELMARK_PYTHON=python_that(lab.folder, answer), ACCELMARK_TORCH="none")
    assert (done.returncode, done.stdout, len(lines(done))) == (2, "", 1), done.stderr
    assert done.stderr.startswith("accelmark: ")
    assert remedy in done.stderr


def test_a_newer_python_beside_one_that_is_too_old_is_taken(lab: Lab) -> None:
    programs = lab.folder / "old and new"
    programs.mkdir()
    python_that(programs, "echo 3.9 0; exit")
    (programs / "python3.14").symlink_to(BASE_PYTHON)
    lab.environment["PATH"] = f"{programs}:{lab.environment['PATH']}"
    done = lab.start("run", ACCELMARK_TORCH="none")
    assert done.returncode == 0, done.stderr
    assert f"(3.9) is too old, so {programs}/python3.14 is used" in lines(done)[0]
    assert lab.start("run", ACCELMARK_TORCH="none").stderr == ""

    # The same program in another environment is another python.
    other = lab.start("run", ACCELMARK_TORCH="none", ACCELMARK_PYTHON=str(lab.parent / "bin" / "python"))
    assert (other.returncode, "needs to be made anew: the python is now" in other.stderr) == (0, True)


def test_no_network_is_said_without_a_traceback(lab: Lab) -> None:
    project = lab.checkout / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = []", 'dependencies = ["missing"]'))
    del lab.environment["PIP_NO_INDEX"]
    nobody = "http://127.0.0.1:9/simple"  # the port of the discard service, which refuses
    done = lab.start("run", ACCELMARK_TORCH="none", PIP_INDEX_URL=nobody, PIP_EXTRA_INDEX_URL=nobody, PIP_RETRIES="1")
    assert done.returncode == 2
    assert len(lines(done)) == 2  # that it sets up, and why it could not
    assert "needs the network" in lines(done)[-1]
    assert "ERROR: No matching distribution found for missing" in lines(done)[-1]
    assert "Traceback" not in done.stderr


def test_a_missing_compiler_is_mentioned_once(ready_lab: Lab) -> None:
    assert "there is no C compiler" in ready_lab.said.splitlines()[-1]
    assert ready_lab.start("run").stderr == ""


# scripts/test


def write_tools(lab: Lab) -> None:
    """Stand-ins for the tools, which say what they were asked; `mypy` fails when there is a file named `wrong`."""
    for name in ("ruff", "mypy", "pytest"):
        tool = lab.folder_of_torch / name
        tool.mkdir()
        (tool / "__init__.py").touch()
        (tool / "__main__.py").write_text(
            "import os, sys\n"
            f"print({name!r}, *sys.argv[1:], flush=True)\n"
            f"sys.exit({name!r} == 'mypy' and os.path.exists('wrong'))\n"
        )
    linter = lab.folder_of_torch / "importlinter"
    linter.mkdir()
    (linter / "__init__.py").touch()
    (linter / "cli.py").write_text("def lint_imports_command():\n    print('lint-imports', flush=True)\n")


def test_the_whole_check_is_every_step_and_stops_at_the_first_that_fails(lab: Lab) -> None:
    write_torch(lab.folder_of_torch, VERSIONS[0])
    write_tools(lab)
    assert lab.start().returncode == 0
    kept = lab.venv / "kept"
    kept.touch()

    done = lab.start(script="test")
    assert done.returncode == 0, done.stderr
    assert "the tools for the tests are not in it yet" in done.stderr
    assert done.stdout.split("\n") == [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "lint-imports",
        "pytest --ignore tests/gpu -n logical --maxprocesses 4 --dist loadfile",
        "pytest tests/gpu",
        "",
    ]
    assert "accelmark: == ruff check" in lines(done)
    assert kept.exists()

    (lab.checkout / "wrong").touch()
    done = lab.start(script="test")
    assert done.returncode == 1
    assert "pytest" not in done.stdout

    done = lab.start("-k", "two words", script="test")
    assert (done.returncode, done.stdout, done.stderr) == (0, "pytest -k two words\n", "")


# With the network


@pytest.mark.slow
def test_the_real_project_installs_beside_a_torch_that_is_there(lab: Lab) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        lab.environment.pop(name)
        if name in os.environ:
            lab.environment[name] = os.environ[name]
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", lab.folder / "asked", "hatchling"],
        env=lab.environment | {"PIP_RETRIES": "1"},
        capture_output=True,
        text=True,
    )
    if asked.returncode != 0:
        pytest.skip(f"pip reaches no index: {asked.stderr.strip().splitlines()[-1:]}")
    shutil.copy(CHECKOUT / "pyproject.toml", lab.checkout)
    write_torch(lab.folder_of_torch, VERSIONS[2])
    before = fingerprint(lab.folder_of_torch)

    done = lab.start("run")

    assert done.returncode == 0, done.stderr
    python = lab.venv / "bin" / "python"
    assert torch_seen(python, environment()) == [
        VERSIONS[2],
        str(lab.folder_of_torch / "torch" / "__init__.py"),
        "1",
    ]
    assert fingerprint(lab.folder_of_torch) == before
    program = "import click, msgspec, psutil, pynvml, scipy, tabulate, bench, workloads; print(bench.__file__)"
    found = subprocess.run([python, "-c", program], env=environment(), cwd="/", capture_output=True, text=True)
    assert found.stdout.strip() == str(lab.checkout / "bench" / "__init__.py"), found.stderr
    assert lab.start("run").stderr == ""

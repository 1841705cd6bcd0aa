"""pytest-benchmark: it shows our samples and no others, and reads our files; the plug-in disturbs nobody."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import commands, record
from bench.analyze import pytest_export
from bench.pytest_plugin import Replay

ROOT = Path(__file__).parents[1]


def started(*arguments: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    """A pytest of its own, outside of this clone's settings; it finds the plug-in as anybody's does, as installed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**ours, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "ACCELMARK_RESULTS": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_timer_gives_back_every_sample_exactly() -> None:
    replay, samples_s = Replay(), [0.1, 1e-7, 0.30000000000000004]
    replay.load(samples_s)
    begins_and_ends = [(replay(), replay()) for _ in samples_s]
    assert [end - begin for begin, end in begins_and_ends] == samples_s


# What `accelmark run` would measure, without measuring: the golden file's plan and records.
RUNNER = """
import shutil
from types import SimpleNamespace
from bench import commands, record
from bench.measure import runner

session = record.read({golden!r}).session
laboratory = SimpleNamespace(
    specs=["virtual:0"], host=session.host, devices=session.devices, software=session.software, start_s=1.0
)
commands.prepare_run = lambda request, device, out: (laboratory, runner.plan_of(session, laboratory, 60.0))

def carry_out(laboratory, planned, *, seed, out, argv, progress):
    print("measured", sorted(one.case.name for one in planned.cases))
    shutil.copy({golden!r}, out)

commands.carry_out = carry_out
"""


def test_the_workloads_run_as_benchmarks_with_the_runners_rounds(tmp_path: Path, golden: Path) -> None:
    (tmp_path / "planted.py").write_text(RUNNER.format(golden=str(golden)))
    said = started(
        "-p", "planted", "-s", "--benchmark-only", "--pyargs", "bench.benchmarks",
        "-k", "float32 and (case[matmul or host_copy)",
        "--accelmark-out", tmp_path / "kept.jsonl", f"--benchmark-json={tmp_path / 'x.json'}", folder=tmp_path,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count("measured ['host_copy', 'matmul']") == 1
    document, kept = json.loads((tmp_path / "x.json").read_text()), record.read(tmp_path / "kept.jsonl")
    one, other = sorted(document["benchmarks"], key=lambda one: str(one["group"] != "matmul"))
    assert other["group"] == "host_copy"
    own = [made for made in kept.records if made.workload == "matmul" and made.identity.dtype == "float32"]
    assert one["stats"]["data"] == [sample for made in own for sample in made.samples_s]
    assert len(one["extra_info"]["rounds_s"]) == kept.session.rounds == 2
    assert one["name"].startswith("test_case[matmul m=") and one["group"] == "matmul"
    assert one["options"]["timer"] == "accelmark"
    assert os.uname().nodename not in json.dumps(document["machine_info"])
    assert "node" not in document["machine_info"]


def test_disabled_benchmarks_measure_nothing(tmp_path: Path) -> None:
    said = started("--benchmark-disable", "--pyargs", "bench.benchmarks", "-rs", folder=tmp_path)
    assert said.returncode == 0
    assert "benchmarks are disabled: add --benchmark-enable" in said.stdout


def test_what_cannot_be_planned_is_said_in_a_line(tmp_path: Path) -> None:
    said = started("--benchmark-only", "--pyargs", "bench.benchmarks", "--accelmark-suite", "huge", folder=tmp_path)
    assert said.returncode == pytest.ExitCode.INTERRUPTED and "Traceback" not in said.stdout
    assert "accelmark: no suite is named 'huge': there are full, quick, standard" in said.stdout + said.stderr


def test_other_peoples_tests_run_as_before_with_and_without_pytest_benchmark(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n"
        "def test_nothing_heavy_is_loaded():\n"
        "    assert not {'torch', 'numpy', 'pandas', 'msgspec', 'click'} & set(sys.modules)\n"
    )
    for options in ([], ["-p", "no:benchmark"]):
        said = started(*options, "-q", tmp_path, folder=tmp_path)
        assert said.returncode == 0, said.stdout


def test_a_file_is_read_by_pytest_benchmarks_own_compare(planted: Path, golden: Path, tmp_path: Path) -> None:
    for path, name in ((planted, "here"), (planted, "there"), (golden, "golden")):
        (tmp_path / f"{name}.json").write_text(json.dumps(commands.pytest_benchmark(path)))
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "here.json", "there.json", "--group-by=fullname"]
    said = subprocess.run([*command, "--csv=x.csv"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "matmul m=128" in said.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
    assert len(rows) == 4
    medians_s = sorted({float(row["median"]) for row in rows})
    assert medians_s == pytest.approx([1.05e-3, 2e-3])


def test_the_export_holds_the_samples_and_no_name_of_a_machine(golden: Path) -> None:
    file = record.read(golden)
    document = pytest_export.document(file)
    assert set(document) == {"machine_info", "commit_info", "benchmarks", "datetime", "version"}
    assert "node" not in document["machine_info"]
    names = [one["fullname"] for one in document["benchmarks"]]
    assert len(names) == len(set(names))
    matmul = document["benchmarks"][0]
    own = [one for one in file.records if one.workload == "matmul" and one.params == matmul["params"]]
    assert sorted(matmul["stats"]["data"]) == sorted(sample for one in own for sample in one.samples_s)
    assert matmul["stats"]["rounds"] == len(matmul["stats"]["data"])

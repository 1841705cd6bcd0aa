"""scripts/gpu_acceptance: that its parts run, end and come back whatever happens, and what the page makes of them."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "acceptance_verdicts.py"
GOLDEN = ROOT / "tests" / "golden" / "format-1.jsonl"
# Generous: what is waited for takes seconds, but the machine may be busy.
PATIENCE_S = 300.0

# The page of verdicts

PARTS = """\
devices\tdone\t9\t90\t530
timer\tstatus 1\t40\t90\t520
quick\tskipped\t0\t120\t40
quick\tdone\t71\t120\t530
tests\tstatus 1\t50\t110\t300
energy\tout of time\t140\t140\t250
frontier\tout of time\t150\t150\t160
steps\tstatus 2\t3\t130\t200
peers\tnot applicable\t1\t100\t150
quick\tthere already\t0\t120\t150
standard\tskipped\t0\t40\t12
"""


@pytest.fixture
def verdicts() -> Any:
    spec = importlib.util.spec_from_file_location("acceptance_verdicts", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(workload: str, **more: Any) -> dict[str, Any]:
    common = {
        "file": "quick.jsonl", "device": "NVIDIA H100 80GB HBM3", "driver": "580.1", "workload": workload,
        "case": workload, "launch": "eager", "status": "ok", "reason": None, "step_s": 1.0, "flags": [], "facts": {},
        "spread": 0.01, "power_limit_share": 1.0, "energy_per_token_j": None,
    }  # fmt: skip
    return common | more


ROWS = [
    row("memory_copy", bytes_per_s=3.0e12, of_datasheet=0.95),
    row("decode", batch=1, bytes_per_s=1.8e12, energy_per_token_j=0.7, energy_uncertainty=0.05, power_w=610.0),
    row("decode", batch=1, bytes_per_s=2.4e12, launch="graph", step_s=0.75),
    row("decode", case="decode of 8B", batch=1, bytes_per_s=2.0e12),
    row("train_step", compiled=False, mfu_of_datasheet=0.40),
    row("train_step", case="train_step compiled=True", compiled=True, mfu_of_datasheet=0.45),
    row("memory_frontier", facts={"largest_batch": 10.0, "tries": 5.0}),
    row("softmax", status="crash", step_s=None, reason="RuntimeError: no"),
]


def page(verdicts: Any, folder: Path, rows: list[Any], capsys: Any, monkeypatch: Any) -> dict[str, tuple[str, ...]]:
    """Measured, required and verdict of each line by its name; of two of one name the last."""
    (folder / "said").mkdir(exist_ok=True)
    if not (folder / "said" / "parts.tsv").exists():
        (folder / "said" / "parts.tsv").write_text(PARTS)
    monkeypatch.setattr(verdicts, "_rows", lambda path: rows if path.stem == "quick" else [])
    monkeypatch.setattr(sys, "argv", ["acceptance_verdicts.py", str(folder), str(folder / "said")])
    verdicts.main()
    told = capsys.readouterr().out.splitlines()
    lines = [line for line in told if line[:1] == "|"]
    cells = [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert all(verdict in verdicts.VERDICTS for *_, verdict in cells)
    assert all(name and measured for name, measured, _, _ in cells)
    failed = told[told.index("What failed:") :] if "What failed:" in told else []
    failed = failed[: failed.index("", 2)] if failed else []
    assert len(failed[2:]) == sum(verdict == "fail" for *_, verdict in cells)
    return {name: tuple(rest) for name, *rest in cells}


def test_a_page_of_verdicts(verdicts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    said = tmp_path / "said"
    said.mkdir()
    failed = "FAILED tests/gpu/test_gpu.py::test_a_graph_does - assert 2 < 1"
    (said / "tests.txt").write_text(f"....F\n{failed}\n1 failed, 190 passed in 49.10s\n")
    (said / "steps.log").write_text("looking\nno model is named 'llama'\n")
    (said / "peers.log").write_text("peers: python3 has no transformers\n")
    agreement = {
        "name": "triton do_bench", "mode": "eager", "median_s": 0.02, "ratio": 1.2, "lowest": 0.97, "highest": 1.03,
        "passed": False, "reason": "", "broken": False,
    }  # fmt: skip
    lacking = {**agreement, "name": "do_bench_cudagraph", "ratio": None, "passed": None, "reason": "no triton"}
    (said / "timer.txt").write_text(json.dumps([agreement, lacking]))
    told = {"name": "windows of 5 s repeat", "measured": "690.1 W", "required": "below 1 %", "verdict": "pass"}
    (said / "energy.txt").write_text(json.dumps([told]))
    sides = [{"case": "copy", "verdict": "slower"}, {"case": "norm", "verdict": "equivalent"}]
    (said / "identical.txt").write_text(json.dumps({"rows": sides}))
    shutil.copy(GOLDEN, tmp_path / "quick.jsonl")
    found = page(verdicts, tmp_path, ROWS, capsys, monkeypatch)
    assert found["part quick"] == ("done; 71 s", "at most 90 s", "pass")
    assert found["part tests"] == ("status 1: 1 failed, 190 passed in 49.10s; 50 s", "", "pass")
    assert found["test test a graph does"] == ("assert 2 &lt; 1", "passes", "fail")
    assert found["part timer"] == ("done, not all of it passes; 40 s", "", "pass")
    assert found["timer against triton do_bench"][1:] == ("0.970 to 1.030 of ours", "fail")
    assert found["timer against do_bench_cudagraph"] == ("no triton", "0.970 to 1.030 of ours", "not applicable")
    assert found["part energy"] == ("out of time of 140 s; 140 s", "", "inconclusive")  # its lines until then count
    assert found["part frontier"] == ("out of time of 150 s; 150 s", "", "fail")  # it has said nothing
    assert found["windows of 5 s repeat"] == ("690.1 W", "below 1 %", "pass")
    two = ("1 of 2 cases called different, copy, 1 shown to be equivalent", "none", "fail")
    assert found["the same thing measured as two sides"] == two
    assert found["part steps"] == ("status 2: no model is named 'llama'; 3 s", "", "fail")
    assert found["part peers"] == ("peers: python3 has no transformers", "", "not applicable")
    assert found["part standard"] == ("skipped: 12 s were left, it may take 40 s", "", "not applicable")
    assert found["quick: copy, share of the datasheet, memory_copy [eager]"] == (
        "95.0 % ± 0.9 %",
        "at least 90 %",
        "pass",
    )
    assert found["quick: share of the copy's bandwidth, decode [eager]"][0::2] == ("60.0 % ± 0.6 %", "for information")
    assert found["quick: share of the copy's bandwidth, decode [graph]"][0::2] == ("80.0 % ± 0.8 %", "pass")
    slow = found["quick: share of the copy's bandwidth, decode of 8B [eager]"]
    assert slow[0::2] == ("66.7 % ± 0.7 %", "fail")  # no graph beside it: launches did not set its pace
    assert found["quick: MFU, train_step [eager]"][1:] == ("", "for information")
    assert found["quick: MFU, train_step compiled=True [eager]"][1:] == ("at least 50 %", "fail")
    assert found["quick: energy of a token, decode [eager]"][0] == "700 mJ ± 5.0 % at 610 W"
    assert found["how far it fits, memory_frontier"] == ("largest batch 10", "", "for information")
    assert found["cases of quick.jsonl"] == ("7 ok, 1 crash", "none goes wrong", "fail")
    assert found["quick.jsonl: softmax [eager]"] == ("crash: RuntimeError: no", "ok", "fail")


def test_speed_is_judged_on_boards_it_is_meant_for(
    verdicts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    copy = {"bytes_per_s": 2e12, "of_datasheet": 0.8}
    name = "quick: copy, share of the datasheet, memory_copy [eager]"
    for changed, verdict in (
        ({}, "fail"),
        ({"device": "NVIDIA H200"}, "fail"),
        *(({"device": f"NVIDIA {name}"}, "for information") for name in ("A10", "GH200 480GB", "H100 MIG 1g.10gb")),
        ({"power_limit_share": 0.7}, "for information"),
        ({"power_limit_share": None}, "fail"),
        ({"of_datasheet": None}, "not applicable"),
    ):
        found = page(verdicts, tmp_path, [row("memory_copy", **copy | changed)], capsys, monkeypatch)
        assert found[name][-1] == verdict, changed


def test_what_was_not_measured_has_a_line_too(
    verdicts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found = page(verdicts, tmp_path, [], capsys, monkeypatch)
    for name in ("copy", "compiled training", "decoding for one user"):
        assert found[name][0::2] == ("not measured", "not applicable")
    skipped = row("train_step", compiled=True, status="skipped", step_s=None, reason="left out to fit into 34 s")
    found = page(verdicts, tmp_path, [skipped], capsys, monkeypatch)
    assert found["compiled training"][0::2] == ("not measured: left out to fit into 34 s", "not applicable")


def test_the_page_begins_with_what_was_found_and_what_is_not_told(
    verdicts: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(GOLDEN, tmp_path / "quick.jsonl")
    (tmp_path / "parts.tsv").write_text(PARTS)
    monkeypatch.setattr(sys, "argv", ["acceptance_verdicts.py", str(tmp_path), str(tmp_path)])
    verdicts.main()
    head = capsys.readouterr().out.partition("| check")[0]
    assert "- the board tells" in head and "quantities of itself" in head


# The script, with a python that stands in for the measuring ones


STANDING_IN = """\
#!/usr/bin/env bash
# Runs what reads, and plays what measures.
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
    -c*importlib*) echo -n "$LACKING" ;;
    -c* | scripts/acceptance_verdicts.py*) exec "$REAL" "$@" ;;
    "-m bench devices --json") echo "$DEVICES" ;;
    *"--out $OUT/$HANGS.jsonl"*)
        head -c 9000 "$GOLDEN" >"$OUT/$HANGS.jsonl" # the session and a record, and not the whole next
        trap 'cp "$GOLDEN" "$OUT/$HANGS.jsonl"; exit 130' TERM
        touch "$OUT/hangs"
        for _ in {1..600}; do sleep 0.1; done
        ;;
    *" run "*) [[ "$*" =~ --out\\ ([^ ]*) ]] && cp "$GOLDEN" "${BASH_REMATCH[1]}" ;;
    *pytest*) echo "5 passed in 1.00s" ;;
    *scripts/peers*) echo "no transformers" >&2; exit 77 ;;
    *) echo '[]' ;;
esac
"""
NVIDIA = [{"spec": "nvidia:0", "vendor": "nvidia"}, {"spec": "nvidia:1", "vendor": "nvidia"}]
CPU, ABSENT = [{"spec": "cpu:0", "vendor": "cpu"}], {"nvidia": "is the driver loaded?"}
ORDER = ["devices", "timer", "quick", "models", "tests", "energy", "steps", "peers", "identical", "frontier"]
ORDER += ["standard"]


class Acceptance:
    """The script in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.out, self._calls = folder / "out", folder / "calls"
        self._python = folder / "python"
        self._python.write_text(STANDING_IN)
        self._python.chmod(0o755)
        self.out.mkdir()

    def start(
        self,
        *parts: str,
        seconds: int = 900,
        lacking: str = "",
        hangs: str = "none",
        devices: Any = NVIDIA + CPU,
        **more: str,
    ) -> subprocess.Popen[str]:
        self._calls.write_text("")
        env = {name: value for name, value in os.environ.items() if not name.startswith("ACCELMARK")}
        env |= {
            "ACCELMARK_PYTHON": str(self._python), "ACCELMARK_SECONDS": str(seconds), "CALLS": str(self._calls),
            "REAL": sys.executable, "LACKING": lacking, "HANGS": hangs, "OUT": str(self.out), "GOLDEN": str(GOLDEN),
            "DEVICES": devices if isinstance(devices, str) else json.dumps({"devices": devices, "absent": ABSENT}),
        } | more  # fmt: skip
        return subprocess.Popen(
            ["bash", ROOT / "scripts" / "gpu_acceptance", str(self.out), *parts],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *parts: str, **how: Any) -> tuple[int, str, str]:
        process = self.start(*parts, **how)
        told, errors = process.communicate(timeout=PATIENCE_S)
        return process.returncode, told, errors

    def hang(self, part: str) -> subprocess.Popen[str]:
        process = self.start(hangs=part)
        deadline = time.monotonic() + PATIENCE_S
        while not (self.out / "hangs").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (self.out / "hangs").unlink()
        return process

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()

    def page(self) -> str:
        return (self.out / "verdicts.md").read_text()


@pytest.fixture
def acceptance(tmp_path: Path) -> Acceptance:
    return Acceptance(tmp_path)


def test_all_parts_run_in_order_on_one_device_and_few_files_come_back(acceptance: Acceptance) -> None:
    status, told, errors = acceptance.run()
    assert (status, errors) == (0, "")
    said = told.partition("# Acceptance")[0]
    assert [line.split()[0] for line in said.splitlines()] == ORDER
    devices = [part for call in acceptance.calls() for part in call.split() if part.startswith("nvidia")]
    assert set(devices) == {"nvidia:0"}  # of two
    assert len(list(acceptance.out.iterdir())) <= 8 and acceptance.page() in told
    with tarfile.open(acceptance.out / "everything.tar.gz") as everything:
        assert "./tests.txt" in everything.getnames()


def test_what_a_part_asks_for_fits_into_its_own_budget(acceptance: Acceptance) -> None:
    """On a board as fast as it is made for, whose processes take long to start: no case is left out."""
    from bench import units
    from bench.measure import plan
    from bench.measure.choice import Request
    from bench.record import Speeds

    rates = {"float32": 5e13, "bfloat16": 7e14, "float16": 7e14, "tf32": 4e14, "float8_e4m3fn": 1.2e15, "int8": 1e15}
    hopper = Speeds(flops_per_s=rates, bytes_per_s=2.8e12, free_bytes=78 << 30, launch_s=5e-6)
    acceptance.run()
    planned = {}
    for call in acceptance.calls():
        if not (found := re.search(r" run --device nvidia:0 --out \S*/(\w+)\.jsonl --progress (.*)", call)):
            continue
        options = dict(re.findall(r"--(\w+) (\S+)", found[2]))
        settings = {name: values.split(",") for name, values in re.findall(r"--set=(\w+)=(\S+)", found[2])}
        request = Request(
            workloads=tuple(re.match(r"[\w ]*", found[2])[0].split()), suite=options.get("suite"), settings=settings,
            model=options.get("model"), rounds=int(options["rounds"]) if "rounds" in options else None,
            budget_s=units.parse_duration(options["budget"]) if "budget" in options else None,
        )  # fmt: skip
        planned[found[1]] = plan.make(request, [hopper], start_s=15.0, metered=[True], spent_s=25.0)
    assert {name for name, one in planned.items() if one.skipped} <= {"standard"}  # which takes what time is left
    assert [one.case.params()["compiled"] for one in planned["steps"].cases] == [False, True]
    assert {"llama-3.2-1b", "llama-3.1-8b"} <= {one.case.params().get("model") for one in planned["models"].cases}
    assert len(planned["frontier"].cases) == 1


def test_where_nothing_can_be_written_it_does_not_set_out(acceptance: Acceptance) -> None:
    acceptance.out.rmdir()
    acceptance.out.write_text("a file stands there")
    status, told, errors = acceptance.run()
    assert (status, told) == (2, "") and errors.count("\n") <= 2 and "cannot be written to" in errors


def test_without_room_for_temporary_files_all_is_kept_beside_the_results(acceptance: Acceptance) -> None:
    status, _, _ = acceptance.run("timer", TMPDIR="/dev/null/nowhere")
    assert status == 0 and "| part timer" in acceptance.page()
    assert {path.name for path in acceptance.out.iterdir()} == {"verdicts.md", "everything.tar.gz"}


def test_what_is_lacking_is_said_before_any_part(acceptance: Acceptance) -> None:
    status, told, errors = acceptance.run(lacking="msgspec pytest ")
    assert status == 2 and not told and "has no msgspec pytest: see 'On a GPU' in README.md" in errors
    assert not any("-m bench" in call for call in acceptance.calls())


def test_without_an_accelerator_it_does_not_set_out(acceptance: Acceptance) -> None:
    status, told, errors = acceptance.run(devices=CPU)
    assert status == 2 and "no accelerator here (nvidia: is the driver loaded?)" in errors
    assert "timer" not in told and not any("selfcheck" in call for call in acceptance.calls())


def test_where_it_is_not_known_what_is_here_the_rest_goes_on(acceptance: Acceptance) -> None:
    acceptance.run("timer", devices="cut")
    assert any("selfcheck timer --device default" in call for call in acceptance.calls())


def test_without_its_binding_power_is_not_read_and_all_else_is(acceptance: Acceptance) -> None:
    status, _, errors = acceptance.run("timer", lacking="pynvml ")
    assert status == 0 and "without nvidia-ml-py" in errors
    assert any("selfcheck timer" in call for call in acceptance.calls())


def test_what_there_is_no_time_for_is_taken_by_a_second_call_and_the_page_has_both(acceptance: Acceptance) -> None:
    def ends() -> dict[str, str]:
        lines = [line for line in acceptance.page().splitlines() if line.startswith("| part")]
        return {line.split("|")[1].split()[1]: line.split("|")[2] for line in lines}

    acceptance.run(seconds=89)  # less than half of what `models` may take, and more than that of `quick`
    assert "done" in ends()["timer"] and "skipped" in ends()["models"]
    assert (acceptance.out / "quick.jsonl").exists() and not (acceptance.out / "models.jsonl").exists()
    _, told, _ = acceptance.run("models", "quick")
    assert "there already" in told  # a result file is never written over
    assert all("done" in ends()[name] for name in ("timer", "quick", "models"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(acceptance: Acceptance, number: signal.Signals) -> None:
    process = acceptance.hang("models")
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert (acceptance.out / "models.jsonl").read_bytes() == GOLDEN.read_bytes()  # its part had time to end
    (line,) = [line for line in acceptance.page().splitlines() if line.startswith("| part models")]
    assert "interrupted" in line and "inconclusive" in line
    assert not any("energy" in call for call in acceptance.calls())


def test_killed_at_once_it_leaves_files_that_can_be_read(acceptance: Acceptance) -> None:
    from bench import record

    process = acceptance.hang("models")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert record.read(acceptance.out / "quick.jsonl").records
    torn = record.read(acceptance.out / "models.jsonl")  # of the part at hand what was measured by then
    assert torn.torn
    assert "part quick" in acceptance.page() and "part models" not in acceptance.page()
    with tarfile.open(acceptance.out / "everything.tar.gz") as everything:
        assert "./parts.tsv" in everything.getnames()
    status, _, _ = acceptance.run("models")
    assert status == 0

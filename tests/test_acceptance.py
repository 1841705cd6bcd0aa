"""The page of verdicts of scripts/gpu_acceptance: what each part's end and each line comes to."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "acceptance_verdicts.py"
PARTS = """\
quick      done            71 s
tests      status 1        50 s
timer      status 1        40 s
energy     out of time    270 s
peers      not applicable   1 s
frontier   status 2         3 s
standard   skipped          0 s
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
    }  # fmt: skip
    return common | more


ROWS = [
    row("memory_copy", bytes_per_s=3.0e12, of_datasheet=0.95),
    row("decode", batch=1, bytes_per_s=1.8e12),
    row("decode", batch=1, bytes_per_s=2.4e12, launch="graph"),
    row("train_step", compiled=False, mfu_of_datasheet=0.40),
    row("train_step", compiled=True, mfu_of_datasheet=0.45),
    row("memory_frontier", facts={"largest_batch": 10.0, "tries": 5.0}),
    row("softmax", status="crash", reason="RuntimeError: no"),
]


def test_a_page_of_verdicts(
    verdicts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parts.txt").write_text(PARTS)
    (tmp_path / "tests.txt").write_text("....\n1 failed, 190 passed in 49.10s\n")
    agreement = {"name": "triton do_bench", "ratio": 1.2, "lowest": 0.97, "highest": 1.03, "passed": False}
    (tmp_path / "timer.txt").write_text(json.dumps([agreement]))
    told = {"name": "windows of 5 s repeat", "measured": "690.1 W", "required": "< 1 %", "verdict": "pass"}
    (tmp_path / "energy.txt").write_text(json.dumps([told]))
    monkeypatch.setattr(verdicts, "_rows", lambda folder, name: ROWS if name == "quick" else [])
    monkeypatch.setattr(sys, "argv", ["acceptance_verdicts.py", str(tmp_path)])
    verdicts.main()
    page = capsys.readouterr().out
    assert page.startswith("# Acceptance: NVIDIA H100 80GB HBM3, driver 580.1\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    found = {name.replace("\\", ""): (measured, verdict) for name, measured, _, verdict in cells}
    assert found["part quick"] == ("done in 71 s", "pass")
    assert found["part tests"] == ("1 failed, 190 passed in 49.10s in 50 s", "fail")
    assert found["part timer"] == ("done, with lines that fail in 40 s", "pass")
    assert found["timer against triton do_bench"][1] == "fail"
    assert found["part energy"] == ("out of time in 270 s", "fail")
    assert found["windows of 5 s repeat"] == ("690.1 W", "pass")
    assert found["part peers"][1] == found["part standard"][1] == "not applicable"
    assert found["part frontier"][1] == "fail"
    assert found["copy, share of the datasheet"] == ("95.0 %", "pass")
    assert found["share of the copy's bandwidth, decode [eager]"] == ("60.0 %", "for information")
    assert found["share of the copy's bandwidth, decode [graph]"] == ("80.0 %", "pass")
    assert [verdict for name, _, _, verdict in cells if name.startswith("MFU")] == ["for information", "fail"]
    assert found["how far it fits, memory_frontier"] == ("largest batch 10", "for information")
    assert found["quick.jsonl: softmax [eager]"] == ("crash: RuntimeError: no", "fail")

"""The real binding over a compiled NVML: its search for the library and for symbols, its structures and its errors.

A process loads the library once and for good, so each test opens the board in a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WATTS, PUBLISHED_S = 300, 0.1
UUID = "GPU-11111111-2222-3333-4444-555555555555"
OPEN = f"""
import json, os, sys, time
from bench.sensors import TICK, Lost, open_board
sensors = open_board("nvidia", "{UUID}")
"""
PROBE = """
told = {name: [one.value, one.reason] for name, one in sensors.probe().items()}
print(json.dumps({"boundary": sensors.boundary, "told": told, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def library(fake_nvml: Callable[..., Path]) -> Path:
    return fake_nvml()


@pytest.fixture(scope="module")
def old_library(fake_nvml: Callable[..., Path]) -> Path:
    return fake_nvml("OLD_DRIVER")


def start(library: Path, program: str, **modes: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAKE_NVML")}
    return subprocess.Popen(
        [sys.executable, "-c", OPEN + program],
        cwd=HERE.parent,
        env=environment | {"LD_LIBRARY_PATH": str(library)} | modes,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(library: Path, program: str, **modes: str) -> Any:
    with start(library, program, **modes) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(output)


def values(answer: dict[str, Any]) -> dict[str, float]:
    """What was told; the rest has its reason."""
    assert all((value is None) == bool(reason) for value, reason in answer["told"].values())
    assert answer["torch"] is False
    return {name: value for name, (value, _) in answer["told"].items() if value is not None}


def test_values_come_through_the_real_binding(library: Path) -> None:
    before_s = time.monotonic()
    answer = run(library, PROBE)
    told = values(answer)
    energy_j = told.pop("energy_j")
    assert WATTS * (before_s - PUBLISHED_S) <= energy_j <= WATTS * time.monotonic()
    assert told == {
        "power_w": 300.0,
        "power_average_w": 300.0,
        "clock_hz": 1.755e9,
        "memory_clock_hz": 2.619e9,
        "temperature_c": 61.0,
        "memory_temperature_c": 70.0,
        "kernel_active": 0.97,
        "memory_active": 0.41,
        "power_limit_w": 700.0,
        "throttle_power_cap_s": 2.5,
        "memory_used_bytes": 2.0 * 2**30,
        "memory_total_bytes": 80.0 * 2**30,
        "compute_processes": 2.0,
        "mig": 0.0,
    }
    assert answer["boundary"] == "gpu_board"
    reasons = {name: reason for name, (_, reason) in answer["told"].items()}
    assert reasons["persistence"] == "Function Not Found"
    assert reasons["temperature_margin_c"] == "Argument version mismatch"
    assert reasons["throttle_thermal_s"] == "Not Supported"


def test_an_older_driver_is_asked_by_the_older_names(old_library: Path) -> None:
    told = values(run(old_library, PROBE))
    assert "power_w" not in told and told["power_average_w"] == 300.0
    assert told["temperature_c"] == 62.0
    assert told["energy_j"] > 0
    assert not any(name.startswith("throttle") for name in told)


def test_a_slice_tells_the_power_of_its_whole_gpu(library: Path) -> None:
    answer = run(library, PROBE, FAKE_NVML="mig")
    told = values(answer)
    assert answer["boundary"] == "whole_gpu"
    assert told["power_w"] == 300.0 and told["mig"] == 1.0
    assert told["memory_total_bytes"] == 10.0 * 2**30
    assert not {"kernel_active", "memory_active"} & set(told)


def test_a_board_without_power_tells_the_rest(library: Path) -> None:
    answer = run(library, PROBE, FAKE_NVML="nopower")
    assert answer["boundary"] is None
    assert not {"power_w", "power_average_w", "energy_j"} & set(values(answer))
    assert values(answer)["clock_hz"] == 1.755e9


def test_a_library_of_another_version_is_withheld_with_advice(library: Path) -> None:
    answer = run(library, PROBE, FAKE_NVML="mismatch")
    assert values(answer) == {}
    assert all("reboot" in reason for _, reason in answer["told"].values())


def test_no_library_is_withheld(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a real NVML")
    answer = run(tmp_path, PROBE)
    assert values(answer) == {}
    assert all("Not Found" in reason for _, reason in answer["told"].values())


def test_another_board_is_not_found(library: Path) -> None:
    answer = run(library, 'sensors = open_board("nvidia", "GPU-22222222")' + PROBE)
    assert values(answer) == {}
    assert all("no board of this UUID" in reason for _, reason in answer["told"].values())


def test_a_board_lost_in_the_middle_is_lost(library: Path) -> None:
    program = """
sensors.probe()
before = sensors.read(TICK)
os.environ["FAKE_NVML"] = "lost"
try:
    sensors.read(TICK)
except Lost as error:
    print(json.dumps([len(before) == len(TICK), str(error)]))
"""
    assert run(library, program) == [True, "GPU is lost"]


def test_the_energy_counter_follows_the_clock(library: Path) -> None:
    program = """
sensors.probe()
seen = []
until = time.monotonic() + 0.35
while time.monotonic() < until or len(seen) < 3:
    energy = sensors.read(["energy_j"])["energy_j"]
    if not seen or energy != seen[-1]:
        seen.append(energy)
print(json.dumps(seen))
"""
    seen = run(library, program)
    step_j = WATTS * PUBLISHED_S
    steps = [(after - before) / step_j for before, after in pairwise(seen)]
    assert steps == pytest.approx([round(step) for step in steps]) and min(steps) >= 0.999


def test_a_call_may_hang_and_its_process_can_be_ended(library: Path) -> None:
    program = """
sensors.probe()
os.environ["FAKE_NVML"] = "hang"
print("asking", flush=True)
sensors.read(["power_w"])
print("answered", flush=True)
"""
    with start(library, program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.kill()
        assert process.stdout.read() == ""

"""What is said before a run: each finding for its cause, and none on a quiet machine."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.device import Absence
from bench.measure import preflight
from bench.record import DeviceFacts, Host

GIB = 1 << 30


def host(**changes: Any) -> Host:
    quiet: dict[str, Any] = {
        "cpu": "a CPU", "architecture": "x86_64", "cores": 8, "threads": 8, "memory_bytes": 64 * GIB,
        "system": "Linux", "kernel": "6.1", "virtualisation": None, "container": False, "governor": "performance",
        "settings": {},
    }  # fmt: skip
    return Host(**{**quiet, **changes})


def board(chip: str | None = "h100-sxm", vendor: str = "nvidia", **readings: float) -> DeviceFacts:
    return DeviceFacts(
        spec=f"{vendor}:0", vendor=vendor, name="A Board",
        chip=chip, uuid_hash=None, memory_bytes=80 * GIB, last_level_cache_bytes=None,
        driver=None, readings=readings, capabilities={},
    )  # fmt: skip


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A quiet machine, and a function that disturbs it."""

    def set_to(load: float = 0.0, available: int = 60 * GIB, swapped: int = 0, battery: Any = None) -> None:
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB, available=available))
        monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(used=swapped))
        monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)

    set_to()
    return set_to


def codes(on: Host | None = None, *devices: DeviceFacts, absences: dict[str, Absence] | None = None) -> list[str]:
    return [finding.code for finding in preflight.findings(on or host(), list(devices), absences or {})]


def test_a_quiet_machine_has_no_findings(machine: Callable[..., None]) -> None:
    assert codes(None, board(power_limit_w=700.0, power_limit_default_w=700.0, memory_used_bytes=4e8)) == []
    assert codes(host(governor=None), board(vendor="cpu", chip=None)) == []  # most virtual machines have no governor


@pytest.mark.parametrize(
    ("disturbance", "code"),
    [
        ({"load": 2.0}, "busy_host"),
        ({"available": 10 * GIB}, "little_memory"),
        ({"swapped": 8 * GIB}, "swapping"),
        ({"battery": SimpleNamespace(power_plugged=False)}, "battery"),
    ],
)
def test_a_disturbed_host_is_told(machine: Callable[..., None], disturbance: dict[str, Any], code: str) -> None:
    machine(**disturbance)
    assert codes() == [code]


def test_what_is_harmless_is_not_told(machine: Callable[..., None]) -> None:
    machine(load=1.5, available=20 * GIB, swapped=GIB, battery=SimpleNamespace(power_plugged=True))
    assert codes() == []
    machine(battery=SimpleNamespace(power_plugged=None))  # psutil: cannot be determined
    assert codes() == []


def test_settings_of_the_host_are_told(machine: Callable[..., None]) -> None:
    assert codes(host(governor="powersave")) == ["governor"]
    assert codes(host(virtualisation="virtual machine")) == ["virtual_machine"]


@pytest.mark.parametrize(
    ("readings", "code"),
    [
        ({"power_limit_w": 400.0, "power_limit_default_w": 700.0}, "power_capped"),
        ({"memory_used_bytes": 2.0 * GIB}, "shared_device"),
        ({"kernel_active": 0.4}, "shared_device"),
        ({"mig": 1.0}, "mig"),
    ],
)
def test_a_disturbed_board_is_told(machine: Callable[..., None], readings: dict[str, float], code: str) -> None:
    assert codes(None, board(**readings)) == [code]
    assert codes(None, board(), board(**readings), board()) == [code]


def test_an_unknown_board_is_measured_and_told(machine: Callable[..., None]) -> None:
    assert codes(None, board(chip=None)) == ["unknown_chip"]
    assert codes(None, board(chip=None, vendor="virtual")) == []


def test_hardware_that_torch_cannot_use_is_told(machine: Callable[..., None]) -> None:
    absences = {"nvidia": Absence("this torch is built without CUDA", hardware=True), "amd": Absence("no driver")}
    (finding,) = preflight.findings(host(), [], absences)
    assert finding.code == "unused_hardware"
    assert "nvidia" in finding.message and "built without CUDA" in finding.message


def test_each_finding_is_one_line_with_a_number_or_a_name(machine: Callable[..., None]) -> None:
    machine(load=6.5, available=GIB, swapped=9 * GIB, battery=SimpleNamespace(power_plugged=False))
    found = preflight.findings(
        host(governor="powersave", virtualisation="virtual machine"),
        [
            board(
                None,
                power_limit_w=400.0,
                power_limit_default_w=700.0,
                memory_used_bytes=9e9,
                kernel_active=1.0,
                mig=1.0,
            )
        ],
        {"amd": Absence("torch is built without ROCm", hardware=True)},
    )
    assert len(found) == 12 and len({finding.code for finding in found}) == 11
    assert all("\n" not in finding.message and 20 < len(finding.message) < 200 for finding in found)
    said = " ".join(finding.message for finding in found)
    for part in ("powersave", "6.5 on 8 CPUs", "1.00 GiB of 64.0 GiB", "9.00 GiB", "400 W of 700 W", "100 %"):
        assert part in said


@pytest.mark.parametrize(
    ("readings", "code"),
    [
        ({"compute_processes": 2.0}, "shared_device"),
        ({"remapped_rows_pending": 1.0}, "needs_service"),
        ({"remapped_rows_failed": 1.0}, "needs_service"),
        ({"recovery_action": 1.0}, "needs_service"),
        ({"persistence": 0.0}, "persistence"),
    ],
)
def test_the_state_of_a_board_is_said_before_the_run(
    machine: Callable[..., None], readings: dict[str, float], code: str
) -> None:
    assert codes(None, board(**readings)) == [code]
    assert codes(None, board(compute_processes=1.0, persistence=1.0, recovery_action=0.0)) == []

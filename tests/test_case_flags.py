"""The flags of a timing, each from the evidence that raises it, and from nothing else."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from bench import workload
from bench.device.cpu import Cpu
from bench.measure import draft, messages
from bench.measure.timer import Measurement
from bench.record import Check, Contention, Protocol

PROTOCOL = Protocol(
    settle_s=0.0, min_samples=3, min_time_s=0.0, max_time_s=1.0, max_samples=500, half_width=1.0, sample_s=1e-5
)


def flags(**changes: Any) -> set[str]:
    """Of a quiet window of 400 samples of a millisecond, but for what is changed of it."""
    noise = random.Random(0)
    told = {
        "samples_s": [1e-3 * noise.gauss(1, 1e-3) for _ in range(400)], "unsteady_s": [], "step_samples_s": [],
        "repeats": 1, "cold_start_s": 0.1, "settle_s": 0.0, "window_s": 0.4, "event_floor_s": 1e-6, "enqueue_s": None,
        "stop": "precise", "led": False, "steps": 400,
    }  # fmt: skip
    quiet = {
        "cpu_share": 0.5, "involuntary_switches_per_s": 0.0, "pressure": 0.0, "stolen": 0.0,
        "page_faults_per_step": 0.0, "spin_slowdown": 0.0,
    }  # fmt: skip
    check = Check(error=changes.pop("error", 0.0), tolerance=1e-3)
    evidence = Contention(**{name: changes.pop(name, value) for name, value in quiet.items()})
    case_of = workload.case("rms_norm", dict(workload.find("rms_norm").smoke))
    job = messages.Job(workload="rms_norm", params=case_of.params(), device=0, round=0, protocol=PROTOCOL)
    filled_in = draft.Draft(case_of, job)
    changes.pop("meanwhile", lambda: None)()
    device = Cpu(vendor="cpu", index=0, name="A CPU", backend="cpu")
    return set(filled_in._flags(device, Measurement(**told | changes), check, evidence))


def test_a_quiet_window_has_none() -> None:
    assert flags() == set()


def drifting() -> list[float]:
    return [1e-3 * (1 + 1e-4 * place) for place in range(400)]


def swinging() -> list[float]:
    """Each sample nearly the one before, and at the end where it began."""
    noise, last, found = random.Random(1), 0.0, []
    for _ in range(400):
        last = 0.97 * last + noise.gauss(0, 1e-4)
        found.append(1e-3 * (1 + last))
    return found


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"samples_s": drifting()}, "not_steady"),
        ({"samples_s": swinging()}, "strong_autocorrelation"),
        ({"samples_s": [1e-6] * 400}, "below_timer_floor"),
        ({"stop": "time"}, "ci_not_reached"),
        ({"enqueue_s": 0.99e-3}, "launch_bound"),
        ({"error": 1.0}, "bad_output"),
        ({"pressure": 0.5}, "host_noisy"),
        ({"page_faults_per_step": 100.0}, "page_faults"),
    ],
)
def test_each_has_its_evidence(changes: dict[str, Any], flag: str) -> None:
    assert flag in flags(**changes)


def test_a_clock_of_the_day_that_is_set_within_a_case_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[], float] = time.time

    def step() -> None:
        monkeypatch.setattr(draft.time, "time", lambda: real() + 2.0)

    assert flags(meanwhile=step) == {"wallclock_stepped"}

"""Pytest export: a result file as pytest-benchmark writes its own, so that `pytest-benchmark compare` reads it.

A benchmark there is a case here, named so that files of different machines meet; its rounds are the samples of all our
rounds. It is a view: seconds only, one spread, and nothing of power, clocks or what may be compared.
"""

from collections.abc import Sequence
from typing import Any

from bench import stats
from bench.analyze.summary import Summary, summarize
from bench.errors import not_installed
from bench.record import DeviceFacts, Host, ResultFile


def document(file: ResultFile) -> dict[str, Any]:
    """The file in pytest-benchmark's format, by its own arithmetic. Raises UserError where it is not installed."""
    try:
        import pytest_benchmark
        from pytest_benchmark.stats import Stats
    except ImportError:
        raise not_installed("pytest-benchmark") from None
    session = file.session
    several = len(session.devices) > 1
    return {
        "machine_info": machine_info(session.host, session.devices, session.software),
        "commit_info": {"id": session.harness.commit, "dirty": session.harness.dirty, "project": "accelmark"},
        "benchmarks": [_benchmark(one, several, Stats()) for one in summarize([file]) if one.valid],
        "datetime": session.started,
        "version": pytest_benchmark.__version__,
    }


def machine_info(host: Host, devices: Sequence[DeviceFacts], software: dict[str, str]) -> dict[str, Any]:
    """The machine without a name."""
    return {
        "system": host.system,
        "release": host.kernel,
        "machine": host.architecture,
        "python_version": software.get("python"),
        "cpu": {"brand_raw": host.cpu, "count": host.cores, "arch": host.architecture},
        "accelmark": {"devices": [device.name for device in devices], "torch": software.get("torch")},
    }


def _benchmark(summary: Summary, several: bool, counted: Any) -> dict[str, Any]:
    first = summary.first
    counted.data = [sample for one in summary.valid for sample in one.samples_s]
    name = summary.case + (f" on device {first.device}" if several else "")
    rate = summary.rate
    return {
        "group": first.workload,
        "name": name,
        "fullname": name,
        "params": dict(first.params),
        "param": None,
        "extra_info": {
            "rounds_s": [stats.median(one.samples_s) for one in summary.valid],
            "rate": rate[0] if rate else None,
            "rate_unit": rate[1] if rate else None,
            "flags": summary.flags,
        },
        "options": {"timer": "accelmark"},
        "stats": {**counted.as_dict(), "data": counted.data, "iterations": 1},
    }

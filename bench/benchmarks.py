"""Benchmarks: a test for each case of a suite, for `pytest --benchmark-only --pyargs bench.benchmarks`.

What is measured and how is the runner's affair: see bench/pytest_plugin.py.
"""

from typing import Any

import pytest

from bench import stats
from bench.pytest_plugin import replay
from bench.record import Record

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed: pip install pytest-benchmark")


@pytest.mark.benchmark(timer=replay)
def test_case(accelmark_case: list[Record], benchmark: Any) -> None:
    """The samples of all rounds, in order of time, as pytest-benchmark's rounds."""
    samples_s = [sample for one in accelmark_case for sample in one.samples_s]
    first = accelmark_case[0]
    benchmark.group = first.workload
    benchmark.extra_info.update(
        rounds_s=[stats.median(one.samples_s) for one in accelmark_case],
        repeats=first.timing.repeats if first.timing else None,
        flags=sorted({flag for one in accelmark_case for flag in one.flags}),
        flops=first.work.cost().flops,
        bytes=first.work.bytes,
        tokens=first.work.tokens,
    )
    replay.load(samples_s)
    benchmark.pedantic(lambda: None, rounds=len(samples_s), iterations=1)

"""Pytest plug-in: the workloads as benchmarks of pytest-benchmark.

    pytest --benchmark-only --pyargs bench.benchmarks --accelmark-suite quick -k matmul

The runner measures, with the device's own timer and every round in a fresh process, all selected cases together before
the first test. Each test then hands over the samples of its case, so that pytest-benchmark's table, files and
comparisons hold exactly what the result file holds. Every pytest run in the environment loads this module: it imports
nothing but pytest, and does nothing until bench/benchmarks.py is collected.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.measure.laboratory import Laboratory
    from bench.measure.plan import Plan, PlannedCase
    from bench.record import Record

FIXTURE = "accelmark_case"


class Replay:
    """A timer for pytest-benchmark that gives differences known beforehand: 0, s0, 0, s1, ..."""

    __name__ = "accelmark"  # stands in the JSON as options.timer

    def __init__(self) -> None:
        self._samples_s: list[float] = []
        self._begun = False

    def load(self, samples_s: list[float]) -> None:
        """What to give next, in order."""
        self._samples_s, self._begun = samples_s[::-1], False

    def __call__(self) -> float:
        """Zero and a sample in turns."""
        self._begun = not self._begun
        return 0.0 if self._begun else self._samples_s.pop()


replay = Replay()


@dataclass
class Measurement:
    """The cases of one pytest run, measured when the first test asks."""

    laboratory: "Laboratory"
    plan: "Plan"
    out: Path | None
    records: "list[Record] | None" = field(default=None)

    def names(self) -> "dict[str, PlannedCase]":
        """The planned cases by the name of their test."""
        several = len(self.laboratory.specs) > 1
        return {
            one.case.label() + (f" on {self.laboratory.specs[one.device]}" if several else ""): one
            for one in self.plan.cases
        }

    def measured(self, name: str, selected: set[str], folder: Path) -> "list[Record]":
        """The records of one case; all that are `selected` are measured at the first call."""
        from bench import commands, record
        from bench.measure.progress import Silent
        from bench.workload import label

        if self.records is None:
            planned = replace(self.plan, cases=[one for key, one in self.names().items() if key in selected])
            out = self.out or folder / "accelmark.jsonl"
            commands.carry_out(self.laboratory, planned, seed=0, out=out, argv=["pytest"], progress=Silent())
            self.records = record.read(out).records
        wanted = self.names()[name]
        return [
            one
            for one in self.records
            if label(one.workload, one.params) == wanted.case.label() and one.device == wanted.device
        ]


_MEASUREMENT = pytest.StashKey[Measurement]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for bench/benchmarks.py."""
    group = parser.getgroup("accelmark", "accelmark: workloads as benchmarks")
    group.addoption("--accelmark-suite", default="quick", metavar="NAME", help="quick, standard or full")
    group.addoption("--accelmark-device", default="default", metavar="SPEC", help="as --device of accelmark run")
    group.addoption("--accelmark-out", default=None, metavar="PATH", help="keep the result file")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case of the suite that this machine's devices get."""
    if FIXTURE not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("benchmark_disable", False):
        why = "benchmarks are disabled: add --benchmark-enable"
        metafunc.parametrize(FIXTURE, [pytest.param("", marks=pytest.mark.skip(reason=why))], ids=["disabled"])
        return
    from bench import commands
    from bench.errors import UserError
    from bench.measure.choice import Request

    config = metafunc.config
    out = config.getoption("accelmark_out")
    try:
        laboratory, plan = commands.prepare_run(
            Request(suite=config.getoption("accelmark_suite")),
            device=config.getoption("accelmark_device"),
            out=Path(out) if out else None,
        )
    except UserError as error:
        raise pytest.Collector.CollectError(f"accelmark: {error}") from None
    config.stash[_MEASUREMENT] = Measurement(laboratory, plan, Path(out) if out else None)
    metafunc.parametrize(FIXTURE, list(config.stash[_MEASUREMENT].names()), indirect=True)


@pytest.fixture
def accelmark_case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "list[Record]":
    """The records of one case, a round each. Skips what this device cannot run; fails for what went wrong."""
    selected = {
        str(item.callspec.params[FIXTURE])
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and FIXTURE in item.callspec.params
    }
    measurement = request.config.stash[_MEASUREMENT]
    records = measurement.measured(request.param, selected, tmp_path_factory.mktemp("accelmark"))
    eager = [one for one in records if one.identity.launch == "eager"]
    if not any(one.valid for one in eager):
        reason = next((f"{one.status}: {one.reason}" for one in eager if one.reason), "its output is wrong")
        pytest.skip(reason) if eager and eager[0].status in {"unsupported", "skipped"} else pytest.fail(reason)
    return [one for one in eager if one.valid]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Nothing that names a machine: by default the host's name and all of /proc/cpuinfo go into the file."""
    if _MEASUREMENT in config.stash:
        from bench.analyze.pytest_export import machine_info as described

        laboratory = config.stash[_MEASUREMENT].laboratory
        machine_info.clear()
        machine_info.update(described(laboratory.host, laboratory.devices, laboratory.software))

"""Shared fixtures: result files as they would be if the truth were known."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import record, workload
from bench.record import Planned, Record, ResultFile, Session, Work

GOLDEN = Path(__file__).parent / "golden" / "format-1.jsonl"
SMALL = {"m": 64, "n": 64, "k": 64, "dtype": "float32"}


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends what tests start, also where a shell that started them in its background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Builder:
    """Sessions and records that are valid in every field, like those of the golden file, except where told."""

    def __init__(self) -> None:
        golden = record.read(GOLDEN)
        self._session = msgspec.structs.replace(golden.session, plan=[], preflight=[], rounds=1)
        like = next(one for one in golden.records if (one.workload, one.identity.dtype) == ("matmul", "float32"))
        self._record = msgspec.structs.replace(like, samples_s=[1e-3] * 8, flags=[], round=0)

    def session(self, **fields: Any) -> Session:
        return msgspec.structs.replace(self._session, **{"id": "a" * 16, **fields})

    def record(self, samples_s: Sequence[float] = (1e-3,) * 8, **fields: Any) -> Record:
        """A case of matmul, unless `workload` and `params` say otherwise; its work is what these come to."""
        name, params = fields.pop("workload", "matmul"), fields.pop("params", SMALL)
        identity = msgspec.structs.replace(self._record.identity, dtype=str(params.get("dtype", "float32")))
        fields.setdefault("identity", identity)
        if "work" not in fields:
            fields["work"] = Work.of(workload.case(name, dict(params)).cost())
        if samples_s and "timing" not in fields and self._record.timing:
            window_s = sum(samples_s) * self._record.timing.repeats
            fields["timing"] = msgspec.structs.replace(self._record.timing, window_s=window_s)
        return msgspec.structs.replace(self._record, workload=name, params=params, samples_s=list(samples_s), **fields)

    def failed(self, status: str, **fields: Any) -> Record:
        """A round that came to nothing."""
        why = dict.fromkeys(("timing", "check", "contention", "peak_memory_bytes", "energy", "telemetry"), "it failed")
        empty = {"timing": None, "check": None, "contention": None, "peak_memory_bytes": None}
        return self.record([], status=status, reason=f"{status}, as planted", reasons=why, **empty, **fields)

    def file(self, records: Sequence[Record], *, name: str = "planted.jsonl", **session: Any) -> ResultFile:
        """A file of these records, with the plan that they carry out."""
        plan = {
            (workload.label(one.workload, one.params), one.device): Planned(
                workload=one.workload, params=one.params, device=one.device
            )
            for one in records
        }
        rounds = max((one.round for one in records), default=0) + 1
        session = {"plan": list(plan.values()), "rounds": rounds, **session}
        return ResultFile(name=name, session=self.session(**session), records=list(records), torn=False)

    def rounds(self, medians_s: Sequence[float], *, start: int = 0, step: int = 1, **fields: Any) -> list[Record]:
        """One record for each median, started `step` seconds after one another."""
        return [
            self.record([median] * 8, round=index, started=moment(start + step * index), **fields)
            for index, median in enumerate(medians_s)
        ]

    @staticmethod
    def write(path: Path, file: ResultFile) -> Path:
        path.write_bytes(b"".join(record.encode(line) for line in [file.session, *file.records]))
        return path


def moment(second: int) -> str:
    """A time of day in the form that records have."""
    return f"2026-01-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.000+00:00"


@pytest.fixture(scope="session")
def build() -> Builder:
    return Builder()


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture
def planted(tmp_path: Path, build: Builder) -> Path:
    """A small sound file on disk: two cases, two rounds."""
    records = [*build.rounds([1e-3, 1.1e-3]), *build.rounds([2e-3, 2e-3], params={**SMALL, "m": 128})]
    return build.write(tmp_path / "planted.jsonl", build.file(records))


@pytest.fixture
def hostile(tmp_path: Path, build: Builder) -> Path:
    """A file that `check` takes, in which every string that a stranger may choose is meant to do harm.

    Control and direction-changing characters are not among them: with those no file is taken (test_hostile.py).
    """
    evil = "</script><script>window.stolen=1</script><img src=x onerror=stolen=1>|`&lt;"
    session = build.session()
    device = msgspec.structs.replace(session.devices[0], name=evil[:190], driver="=1+1|`[x](javascript:x)", spec=evil)
    host = msgspec.structs.replace(session.host, cpu=evil[::-1], kernel="W" * 200)
    params = [{**SMALL, "m": m, "n": m, "k": m, "dtype": "float32"} for m in (64, 128)]
    records = [build.record(params=one, extras={"kernel": evil}, round=0) for one in params]
    records.append(build.failed("crash", params={**SMALL, "m": 256}, workload="matmul"))
    records[-1] = msgspec.structs.replace(records[-1], reason=evil * 3)
    fields = {"devices": [device], "host": host, "software": {"torch": evil, "x": "y"}, "argv": [evil], "suite": evil}
    return build.write(tmp_path / "hostile <b>.jsonl", build.file(records, **fields))


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles tests/fake_nvml.c, with definitions; gives the folder for LD_LIBRARY_PATH."""

    def compiled(*defines: str) -> Path:
        compiler = shutil.which("gcc")
        if compiler is None or not sys.platform.startswith("linux"):
            pytest.skip("the fake NVML is compiled by gcc, on Linux")
        folder = tmp_path_factory.mktemp("nvml")
        flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
        flags += [f"-D{name}" for name in defines]
        source = Path(__file__).parent / "fake_nvml.c"
        subprocess.run([compiler, *flags, source, "-o", folder / "libnvidia-ml.so.1"], check=True)
        return folder

    return compiled

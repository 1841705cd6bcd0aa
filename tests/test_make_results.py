"""The generator of result files for trying tables on."""

import subprocess
import sys
from pathlib import Path

from bench import record
from bench.analyze import source
from bench.analyze.check import check

ROOT = Path(__file__).parents[1]


def made(out: Path, *options: str) -> list[Path]:
    subprocess.run([sys.executable, ROOT / "scripts" / "make_results", *options, "--out", out], check=True)
    return source.expand([out])


def test_files_are_valid_and_as_many_as_asked_for(tmp_path: Path) -> None:
    paths = made(tmp_path / "a", "4", "--records", "30", "--rounds", "3")
    assert len(paths) == 4
    for path in paths:
        assert len(record.read(path).records) == 30
        assert check(path) == []
    assert {path.parent.parent.name for path in paths} == {record.read(path).session.devices[0].chip for path in paths}
    again = made(tmp_path / "b", "4", "--records", "30", "--rounds", "3")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]

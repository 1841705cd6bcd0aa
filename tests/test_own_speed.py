"""How fast the harness is: `scripts/test tests/test_own_speed.py --benchmark-enable`. Otherwise each runs once."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import record
from bench.analyze import compare, table

ROOT = Path(__file__).parents[1]


def test_reading_a_file(benchmark: Any, golden: Path) -> None:
    assert benchmark(record.read, golden).records


def test_tabulating_a_file(benchmark: Any, golden: Path) -> None:
    assert benchmark(table.rows, [record.read(golden)])


def test_comparing_a_file_with_itself(benchmark: Any, golden: Path) -> None:
    file = record.read(golden)
    assert benchmark(compare.compare, [file], [file]).rows


def test_help_and_a_small_table_are_there_at_once(golden: Path) -> None:
    """0.15 s and 1 s are promised; a factor of five is left to a busy machine."""
    for arguments, promised_s in ((["--help"], 0.15), (["table", str(golden)], 1.0)):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            command = [sys.executable, "-m", "bench", *arguments]
            subprocess.run(command, cwd=ROOT, env=os.environ, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        assert min(times) < 5 * promised_s, arguments

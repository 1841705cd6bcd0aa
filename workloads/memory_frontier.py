"""Memory frontier: the largest micro-batch, or the longest sequence, with which a training step fits into memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from bench.device import Device, Facts
from bench.errors import Unsupported
from bench.workload import Scalar, Step
from workloads._shape import stack
from workloads.train_step import TrainStep

# Of free memory on a CPU, where going over it would end other people's programs.
_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class MemoryFrontier(TrainStep):
    """A training step as given is timed; how far `along` can grow before memory is full is found by bisection.

    Each size is tried by one whole step in a process of its own, so that none finds memory that another left behind.
    A longer sequence or a larger batch never needs less, so what is above a size that failed is not tried again.
    """

    starts: ClassVar[int] = 8
    smoke: ClassVar[dict[str, Scalar]] = {"model": "tiny", "batch": 1, "seq": 32, "dtype": "float32", "most": 2}

    along: Literal["batch", "seq"] = "batch"
    most: int = 1 << 20  # nothing larger is tried

    def prepare(self, device: Device) -> Step:
        """The search, then the step."""
        limit_bytes = int(_SHARE * device.free_bytes()) if device.backend == "cpu" else 0
        sizes = _Sizes(self.batch, self._most, 1) if self.along == "batch" else _Sizes(self.seq, self._most, 64)
        largest, failed, tries = sizes.frontier(lambda size: _fits(self._at(size), device, limit_bytes))
        found: Facts = {f"largest_{self.along}": largest, "tries": tries}
        if failed is not None:
            found[f"smallest_{self.along}_that_failed"] = failed
        step = super().prepare(device)
        return replace(step, facts=lambda: step.facts() | found)

    @property
    def _most(self) -> int:
        positions = stack(self.model, self.layers).max_position_embeddings
        return min(self.most, positions) if self.along == "seq" else self.most

    def _at(self, size: int) -> dict[str, Scalar]:
        """The parameters of a plain training step of that size."""
        params = self.params() | {self.along: size}
        return {key: value for key, value in params.items() if key not in ("along", "most")}


@dataclass(frozen=True)
class _Sizes:
    """From `least` to `most`, as exact as `grain`."""

    least: int
    most: int
    grain: int

    def frontier(self, fits: Callable[[int], bool]) -> tuple[int, int | None, int]:
        """The largest size that fits, the smallest found not to (None where none was), and how many were tried."""
        tries, failed = 1, None
        if not fits(self.least):
            raise MemoryError(f"out of memory already at {self.least}")
        largest = self.least
        while failed is None and largest < self.most:  # doubling
            tries, size = tries + 1, min(2 * largest, self.most)
            largest, failed = (size, None) if fits(size) else (largest, size)
        while failed is not None and failed - largest > self.grain:
            middle = (largest + failed) // 2
            whole = middle - middle % self.grain
            tries, size = tries + 1, whole if whole > largest else middle
            largest, failed = (size, failed) if fits(size) else (largest, size)
        return largest, failed, tries


def _fits(params: dict[str, Scalar], device: Device, limit_bytes: int) -> bool:
    """Whether one whole step of `train_step` runs, in a fresh process. Raises Unsupported where it fails otherwise."""
    root = str(Path(__file__).resolve().parent.parent)
    order = {"params": params, "device": device.spec, "limit_bytes": limit_bytes}
    tried = subprocess.run(
        [sys.executable, "-P", "-m", "workloads._probe"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
    )
    if tried.returncode in (0, 3):
        return tried.returncode == 0
    if tried.returncode < 0:  # ended by a signal: a library that cannot allocate, or the kernel short of memory
        return False
    last = (tried.stderr.strip().splitlines() or ["nothing said"])[-1]
    raise Unsupported(f"a trial step failed: {last[:200]}")

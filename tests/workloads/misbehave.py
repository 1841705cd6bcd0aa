"""A workload that does whatever can go wrong, for the tests of the runner: `how` says what."""

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import Unsupported
from bench.workload import Scalar, Step, Workload

# What a test looks for among all processes.
CHILD_SECONDS = "98765.4321"
_lost = False  # once true, nothing works any more in this process


@dataclass(frozen=True, kw_only=True)
class Misbehave(Workload):
    """Nothing, done badly."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    rotate: ClassVar[bool] = False
    smoke: ClassVar[dict[str, Scalar]] = {"how": "not"}

    how: str
    dtype: str = "float32"

    def cost(self) -> Cost:
        """As if something were done."""
        return Cost(bytes=8)

    def memory_bytes(self) -> int:
        """Two numbers."""
        return 8

    def tolerance(self) -> float:
        """Some."""
        return 1e-3

    def prepare(self, device: Device) -> Step:
        """What goes wrong before the step, and the step."""
        if _lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered, in a case before this one")
        if self.how == "unsupported":
            raise Unsupported(f"{device.name} refuses")
        if self.how == "prints":
            print('{"type":"measured"}\nnot a reply')
            os.write(1, b"nor this \xff\x00\n")
            subprocess.run(["echo", "nor that of a child"], check=True)
        if self.how == "leaves a child":
            subprocess.Popen(["sleep", CHILD_SECONDS])
        errors = {"wrong": 1.0, "nan": math.nan, "infinite": math.inf}
        check = _CHECKS.get(self.how, lambda: errors.get(self.how, 0.0))
        if self.how == "spoils":
            device.spoilt = True
        return Step(run=_STEPS.get(self.how, lambda: None), error=check)


def _raise() -> None:
    raise ValueError(f"cannot read {os.getcwd()}/weights.bin\nor anything else")


def _check_raises() -> float:
    raise ArithmeticError("no reference")


def _out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def _allocate() -> None:
    import torch

    torch.empty(1 << 50, dtype=torch.uint8)


def _check_out_of_memory() -> float:
    raise RuntimeError("NPU out of memory. Tried to allocate 20.00 GiB")


def _lose_the_device() -> None:
    global _lost
    _lost = True


def _lost_in_the_step() -> None:
    _lose_the_device()
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _lost_in_the_check() -> float:
    _lose_the_device()
    return 0.0


def _exit() -> None:
    print(f"fatal: {os.getcwd()}/driver.so is gone", file=sys.stderr, flush=True)
    os._exit(3)


def _hang() -> None:
    while True:
        time.sleep(60)


_CHECKS: dict[str, Callable[[], float]] = {
    "check raises": _check_raises,
    "check out of memory": _check_out_of_memory,
    "spoils": _lost_in_the_check,
}
_STEPS: dict[str, Callable[[], object]] = {
    "raises": _raise,
    "out of memory": _out_of_memory,
    "allocates": _allocate,
    "loses the device": _lost_in_the_step,
    "exits": _exit,
    "exits politely": lambda: sys.exit(4),
    "kills itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "aborts": os.abort,
    "segfaults": lambda: ctypes.string_at(0),
    "hangs": _hang,
}

"""Peers: the same call timed by our timer and by others', turn by turn in one process."""

import time
from collections.abc import Callable

import msgspec

from bench import stats, workload
from bench.device import Device
from bench.measure import timer
from bench.record import Protocol

# Well-known timers agree this well with each other on work of some milliseconds.
AGREEMENT = 0.03
TURNS = 7
# Rows of the square matrix product that is timed.
SMALL, LARGE = 1024, 8192
_PROTOCOL = Protocol(
    settle_s=0.2, min_samples=30, min_time_s=0.3, max_time_s=1.0, max_samples=1000, half_width=0.005, sample_s=1e-4
)
_SECONDS = 0.4  # for each turn of each timer

Timer = Callable[[], float]


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How one timer reads the same call as ours. `ratio` is its time by ours, the median of the turns."""

    name: str
    median_s: float
    ratio: float

    @property
    def passed(self) -> bool:
        """Whether it agrees."""
        return abs(self.ratio - 1) <= AGREEMENT


def timers(device: Device) -> list[Agreement]:
    """The same step by every timer that works on this device, ours first, in turns.

    On an accelerator it is so large that the state of the cache, in which timers differ, does not matter.
    """
    size = LARGE if device.asynchronous else SMALL
    device.seed(0)
    run = device.prepare(workload.case("matmul", {"m": size, "n": size, "k": size, "dtype": "float32"})).run
    found: dict[str, Timer] = {
        "accelmark": lambda: timer.measure(device, [run], _PROTOCOL).median_s,
        "long host loop": lambda: _host_loop(device, run),
        **_peers(device, run),
    }
    readings: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(TURNS):
        names = list(found)
        for place in range(len(names)):  # another one begins each turn
            name = names[(place + turn) % len(names)]
            readings[name].append(found[name]())
    ours = readings["accelmark"]
    return [
        Agreement(
            name=name,
            median_s=stats.median(theirs),
            ratio=stats.median([their / our for their, our in zip(theirs, ours, strict=True)]),
        )
        for name, theirs in readings.items()
    ]


def _host_loop(device: Device, run: timer.Run) -> float:
    """So many calls that the clock and the waits at both ends do not count."""
    calls = max(1, int(_SECONDS / max(timer.measure(device, [run], _QUICK).median_s, 1e-7)))
    device.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    device.synchronize()
    return (time.perf_counter() - start) / calls


_QUICK = msgspec.structs.replace(_PROTOCOL, settle_s=0.02, min_samples=6, min_time_s=0.0, max_time_s=0.05)


def _peers(device: Device, run: timer.Run) -> dict[str, Timer]:
    import torch
    from torch.utils.benchmark import Timer as TorchTimer

    # Its default is one thread, whatever the program uses.
    theirs = TorchTimer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    found: dict[str, Timer] = {
        "torch.utils.benchmark": lambda: float(theirs.blocked_autorange(min_run_time=_SECONDS).median)
    }
    if device.asynchronous:
        try:
            from triton.testing import do_bench  # type: ignore[import-not-found]
        except ImportError:
            return found
        found["triton.testing.do_bench"] = lambda: (
            float(do_bench(run, warmup=500, rep=int(1e3 * _SECONDS), return_mode="median"))
            / 1e3  # it takes milliseconds
        )
    return found

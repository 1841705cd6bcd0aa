"""Peers: the same call timed by our timer and by others', turn by turn in one process.

Each peer is set beside the mode of ours that does what it does: calls launched one by one, calls replayed from a graph,
or, last because a profiler slows what comes after it, the kernels alone.
"""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bench import stats, workload
from bench.device import Device
from bench.errors import Unsupported, describe
from bench.measure import timer
from bench.record import Protocol

# Well-known timers agree this well with each other on work of some milliseconds, and on graphs of some microseconds.
AGREEMENT, GRAPH_AGREEMENT = 0.03, 0.05
# Kernels leave gaps of at most two microseconds between them; ours counts these, a profiler does not.
KERNEL_GAP_S = 2e-6
TURNS = 7
# Rows of the square matrix product that is timed: on a CPU, on an accelerator, and in a graph.
SMALL, LARGE, GRAPHED = 1024, 8192, 2048
GRAPH_CALLS = 32  # in one replay, so that the launch of the graph itself hardly counts
GRAPH_MS = 100  # of one replay of theirs
_PROTOCOL = Protocol(
    settle_s=0.2, min_samples=30, min_time_s=0.3, max_time_s=1.0, max_samples=1000, half_width=0.005, sample_s=1e-4
)
_QUICK = msgspec.structs.replace(_PROTOCOL, settle_s=0.02, min_samples=6, min_time_s=0.0, max_time_s=0.05)
_SECONDS = 0.4  # for each turn of each timer
# What triton raises where something is missing: itself, a C compiler, Python's headers, the driver's library.
_LACKING_TRITON = (ImportError, OSError, RuntimeError, AssertionError, subprocess.SubprocessError)

Timer = Callable[[], float]


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How one timer reads the same call as ours. `ratio` is its time by ours, the median of the turns."""

    name: str
    mode: str  # "eager", "graph", "kernels", or empty where `reason` says why there is nothing to compare
    median_s: float | None
    ratio: float | None
    lowest: float  # ratios that agree
    highest: float
    reason: str = ""
    broken: bool = False  # it could have been compared, and that went wrong

    @property
    def passed(self) -> bool | None:
        """Whether it agrees; None where this device, or what is installed, has nothing to compare."""
        if self.ratio is None:
            return False if self.broken else None
        return self.lowest <= self.ratio <= self.highest


def without(name: str, reason: str, *, broken: bool = False) -> Agreement:
    """A timer that reads nothing here, and why."""
    return Agreement(
        name=name, mode="", median_s=None, ratio=None, lowest=1 - AGREEMENT, highest=1 + AGREEMENT,
        reason=reason, broken=broken,
    )  # fmt: skip


def timers(device: Device) -> Iterator[Agreement]:
    """The same step by every timer that works on this device, ours first in each mode; each as soon as it is known."""
    yield from _eager(device)
    if device.clock == "event":
        yield from _graphs(device)
    if device.backend == "cuda":
        yield from _kernels(device)


def _eager(device: Device) -> Iterator[Agreement]:
    """On an accelerator the step is so large that the state of the cache, in which timers differ, does not matter."""
    run = _product(device, LARGE if device.asynchronous else SMALL, "float32")
    theirs = {"long host loop": lambda: _host_loop(device, run)}
    others = {"torch.utils.benchmark": _torch_timer} if device.clock != "virtual" else {}  # whose time no other knows
    if device.clock == "event":
        others["triton do_bench"] = _triton_timer
    for name, peer in others.items():
        try:
            theirs[name] = peer(run)
        except _Lacking as error:
            yield without(name, str(error))
    yield from _in_turns(lambda: timer.measure(device, [run], _PROTOCOL).median_s, theirs, "eager", AGREEMENT)


def _graphs(device: Device) -> Iterator[Agreement]:
    """A reason where there are no graphs, or no peer that measures them."""
    name = "triton do_bench_cudagraph"
    try:
        from triton.testing import do_bench_cudagraph  # type: ignore[import-not-found]

        run = _product(device, GRAPHED, "bfloat16")
        replay = device.capture(lambda: [run() for _ in range(GRAPH_CALLS)])
        do_bench_cudagraph(run, rep=1, return_mode="median")
    except (*_LACKING_TRITON, Unsupported) as error:
        yield without(name, describe(error))
        return

    def ours() -> float:
        return timer.measure(device, [replay], _PROTOCOL).shared_by(GRAPH_CALLS).median_s

    # It takes and gives milliseconds, and replays ten graphs of so many.
    theirs = {name: lambda: float(do_bench_cudagraph(run, rep=GRAPH_MS, return_mode="median")) / 1e3}
    yield from _in_turns(ours, theirs, "graph", GRAPH_AGREEMENT)


def _kernels(device: Device) -> Iterator[Agreement]:
    """What a profiler adds up of the kernels alone: never more than ours, and less by small gaps only.

    Its first start takes a second or two, in which the device rests and may clock up: so that is done once for nothing,
    and the load is back before the second. In float32, because products of narrow types are bound by the power limit.
    """
    from torch.profiler import ProfilerActivity, profile

    run = _product(device, LARGE, "float32")
    ours_s = timer.measure(device, [run], _PROTOCOL).median_s
    calls = max(20, int(_SECONDS / ours_s))

    def profiled(count: int) -> Any:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as found:
            for _ in range(count):
                run()
            device.synchronize()
        return found.key_averages()

    profiled(1)
    _host_loop(device, run)
    kernels = [one for one in profiled(calls) if str(getattr(one, "device_type", "")).endswith("CUDA")]
    if not kernels:
        yield without("torch.profiler, kernels", "the profiler saw no kernel: may this user read CUPTI's counters?")
        return
    total_s = sum(one.self_device_time_total for one in kernels) / calls / 1e6  # it reports microseconds
    gap = KERNEL_GAP_S * max(1.0, sum(one.count for one in kernels) / calls) / ours_s
    yield _agreement("accelmark", "kernels", [ours_s], [1.0], 0.0)
    yield Agreement(
        name="torch.profiler, kernels", mode="kernels", median_s=total_s, ratio=total_s / ours_s,
        lowest=1 - AGREEMENT - gap, highest=1 + AGREEMENT,
    )  # fmt: skip


def _product(device: Device, size: int, dtype: str) -> timer.Run:
    device.seed(0)
    return device.prepare(workload.case("matmul", {"m": size, "n": size, "k": size, "dtype": dtype})).run


def _in_turns(ours: Timer, theirs: dict[str, Timer], mode: str, allowed: float) -> Iterator[Agreement]:
    found = {"accelmark": ours, **theirs}
    readings: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(TURNS):
        names = list(found)
        for place in range(len(names)):  # another one begins each turn
            name = names[(place + turn) % len(names)]
            readings[name].append(found[name]())
    for name, times in readings.items():
        ratios = [their / our for their, our in zip(times, readings["accelmark"], strict=True)]
        yield _agreement(name, mode, times, ratios, allowed)


def _agreement(name: str, mode: str, times: list[float], ratios: list[float], allowed: float) -> Agreement:
    return Agreement(
        name=name, mode=mode, median_s=stats.median(times), ratio=stats.median(ratios),
        lowest=1 - allowed, highest=1 + allowed,
    )  # fmt: skip


def _host_loop(device: Device, run: timer.Run) -> float:
    """So many calls that the clock and the waits at both ends do not count."""
    calls = max(1, int(_SECONDS / max(timer.measure(device, [run], _QUICK).median_s, 1e-7)))
    device.synchronize()
    start_s = device.now_s()
    for _ in range(calls):
        run()
    device.synchronize()
    return (device.now_s() - start_s) / calls


class _Lacking(Exception):
    """A peer does not work here; the message says why."""


def _torch_timer(run: timer.Run) -> Timer:
    """Raises _Lacking where what it imports is not there: setuptools, in its newer versions."""
    import torch

    try:
        from torch.utils.benchmark import Timer as TorchTimer
    except ImportError as error:
        raise _Lacking(describe(error)) from error
    # Its default is one thread, whatever the program uses.
    theirs = TorchTimer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return lambda: float(theirs.blocked_autorange(min_run_time=_SECONDS).median)


def _triton_timer(run: timer.Run) -> Timer:
    """Tried once, because its first call compiles a part of its own. Raises _Lacking where that fails."""
    try:
        from triton.testing import do_bench

        do_bench(run, warmup=1, rep=1, return_mode="median")
    except _LACKING_TRITON as error:
        raise _Lacking(describe(error)) from error
    # It takes and gives milliseconds.
    return lambda: float(do_bench(run, warmup=500, rep=int(1e3 * _SECONDS), return_mode="median")) / 1e3

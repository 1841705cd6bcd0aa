"""Conditions: what the state of the cache, a rest before each sample and the data change in a time.

All three are part of what a result says of itself, because the same call gives another time under others; here is by
how much on this device. Nothing of the device is set.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from bench import stats, workload
from bench.device import Device
from bench.errors import Unsupported
from bench.measure import timer
from bench.measure.powercheck import Verdict
from bench.record import Protocol

# What lies in the last-level cache is copied faster by this factor at least; what no cache holds hardly at all.
CACHED, UNCACHED = 1.3, 0.02
# Source and target together, as a share of that cache; and the bytes of a copy that is far larger.
SMALL_SHARE, LARGE_BYTES = 0.5, 1 << 30
# Rows of the square products. The longer one heats the chip more.
PRODUCT, LONG_PRODUCT = 8192, 16384
TURNS = 3
_PROTOCOL = Protocol(
    settle_s=0.5, min_samples=30, min_time_s=0.3, max_time_s=1.0, max_samples=1000, half_width=0.005, sample_s=1e-4
)

Run = Callable[[], object]


def check(device: Device) -> Iterator[Verdict]:
    """Every line, each as soon as it is known; none for a CPU, which has neither a queue nor a clock of its own."""
    if not device.asynchronous:
        return
    few_bytes = int(SMALL_SHARE * device.cache_bytes() / 2) // 4096 * 4096
    many_bytes = int(min(LARGE_BYTES, device.free_bytes() / 8)) // 4096 * 4096
    gain = _gain_of_cache(device, few_bytes)
    yield _copied("a copy that the cache holds", few_bytes, gain, f"more than {CACHED} times", gain > CACHED)
    gain = _gain_of_cache(device, many_bytes)
    required = f"within {100 * UNCACHED:.0f} % of the same"
    yield _copied("a copy that no cache holds", many_bytes, gain, required, abs(gain - 1) < UNCACHED)
    yield _rested(device)
    if device.clock != "virtual":  # which knows no data
        yield _zeros(device)


def _gain_of_cache(device: Device, num_bytes: int) -> float:
    """Time of a copy between other buffers each time, by that between the same ones."""
    copy = workload.case("memory_copy", {"num_bytes": num_bytes, "dtype": "float32"})
    device.release()
    device.seed(0)
    sets = max(2, math.ceil(4 * device.cache_bytes() / copy.memory_bytes()))
    runs = [device.prepare(copy).run for _ in range(sets)]
    cold, warm = _recorded(device, runs), _recorded(device, runs[:1] * sets)
    return _ratio(lambda: _time_s(device, cold), lambda: _time_s(device, warm))


def _copied(name: str, num_bytes: int, gain: float, required: str, passed: bool) -> Verdict:
    measured = f"{num_bytes / 2**20:.0f} MiB from and to other buffers each time: {gain:.3f} times the time"
    return Verdict(name=name, measured=measured, required=required, verdict="pass" if passed else "fail")


def _rested(device: Device) -> Verdict:
    """The same product under a load without pauses, and after a rest before each sample."""
    run = _product(device, LONG_PRODUCT)
    ratio = _ratio(lambda: _time_s(device, run, "burst"), lambda: _time_s(device, run))
    return Verdict(
        name="a product after a rest",
        measured=f"{ratio:.3f} times the time of one under sustained load",
        required="less than 1 where heat or the power limit sets the clock, more where it falls at rest",
        verdict="for information",
    )


def _zeros(device: Device) -> Verdict:
    """Matrices of zeros, which toggle no bits and draw less power, against normal numbers."""
    import torch

    def product(std: float) -> Run:
        a, b = (device.normal(PRODUCT, PRODUCT, dtype="bfloat16", std=std) for _ in range(2))
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b.T, out=out)

    device.release()
    zeros, normal = product(0.0), product(1.0)
    ratio = _ratio(lambda: _time_s(device, zeros), lambda: _time_s(device, normal))
    return Verdict(
        name="a product of zeros",
        measured=f"{ratio:.3f} times the time of one of normal numbers",
        required="less than 1 where the power limit sets the clock",
        verdict="for information",
    )


def _product(device: Device, size: int) -> Run:
    device.release()
    device.seed(0)
    return device.prepare(workload.case("matmul", {"m": size, "n": size, "k": size, "dtype": "bfloat16"})).run


def _recorded(device: Device, runs: Sequence[Run]) -> Run:
    """All of them in one launch where the device records launches: a short copy would wait for its own."""

    def run_all() -> None:
        for run in runs:
            run()

    try:
        return device.capture(run_all)
    except Unsupported:
        return run_all


def _time_s(device: Device, run: Run, duty: timer.Duty = "sustained") -> float:
    return timer.measure(device, [run], _PROTOCOL, duty=duty).median_s


def _ratio(one: Callable[[], float], other: Callable[[], float]) -> float:
    """Of two times, measured in turns: the median of the turns."""
    return stats.median([one() / other() for _ in range(TURNS)])

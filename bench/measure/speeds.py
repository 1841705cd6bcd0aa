"""Speeds: a first, rough look at a device, from which the sizes of cases are chosen. Never a result."""

from collections.abc import Callable
from functools import partial

from bench import workload
from bench.device import Device
from bench.measure import timer
from bench.record import Protocol, Speeds
from bench.workload import Scalar

# A narrower type that seems faster or slower than float32 by less than this is looked at again.
NEAR = 3.0


def measure(device: Device) -> Speeds:
    """Matrix products by type, a copy and a launch, each for about a tenth of a second."""
    protocol = Protocol(
        settle_s=0.02, settle_steps=1, min_samples=6, min_time_s=0.03, max_time_s=0.1, max_samples=100, half_width=0.05,
        sample_s=1e-3,
    )  # fmt: skip

    def step_s(name: str, params: dict[str, Scalar]) -> float:
        device.release()
        device.seed(0)
        step = device.prepare(workload.case(name, params))
        # The fastest sample, for once: other programs can only slow it, and a size must not depend on them.
        return min(timer.measure(device, [step.run], protocol).samples_s)

    def matmul_s(dtype: str, size: int) -> float:
        return step_s("matmul", {"m": size, "n": size, "k": size, "layout": "nt", "dtype": dtype})

    flops_per_s = {}
    for dtype in workload.DTYPE_BYTES:
        if device.supports(dtype):
            device.use_precision(dtype)
            flops_per_s[dtype] = _matmul_rate(partial(matmul_s, dtype))
    for dtype in _near(flops_per_s):
        device.use_precision(dtype)
        flops_per_s[dtype] = max(flops_per_s[dtype], _matmul_rate(partial(matmul_s, dtype)))
    device.use_precision("float32")
    device.release()
    free_bytes = device.free_bytes()
    num_bytes = int(min(256 << 20, free_bytes / 8)) // 4096 * 4096
    copy_s = step_s("memory_copy", {"num_bytes": num_bytes, "dtype": "float32"})
    launches = 50
    return Speeds(
        flops_per_s=flops_per_s,
        bytes_per_s=2 * num_bytes / copy_s,
        free_bytes=free_bytes,
        launch_s=step_s("launch_overhead", {"num_launches": launches, "dtype": "float32"}) / launches,
    )


def _near(flops_per_s: dict[str, float]) -> list[str]:
    """float32 and the fastest narrower type, where they are so near that one busy moment would choose between them.

    Suites measure in the faster one alone, so the choice must not depend on the moment: on a busy CPU one look made 1.7
    of what is 1.0.
    """
    narrow = [dtype for dtype in workload.FLOATS if dtype in flops_per_s and dtype != "float32"]
    if "float32" not in flops_per_s or not narrow:
        return []
    fastest = max(narrow, key=flops_per_s.__getitem__)
    return ["float32", fastest] if 1 / NEAR < flops_per_s[fastest] / flops_per_s["float32"] < NEAR else []


def _matmul_rate(step_s: Callable[[int], float]) -> float:
    """FLOP/s of a square product that is large enough: doubling it takes most of eight times as long, and some time."""
    size, seconds = 128, step_s(128)
    while size < 8192 and seconds < 0.05:
        before_s, size = seconds, 2 * size
        seconds = step_s(size)
        if seconds > 4 * before_s and seconds > 2e-3:
            break
    return 2 * size**3 / seconds

"""Where the time of a step goes, by kind of operation, from one step under torch's profiler."""

import re
from collections.abc import Callable
from typing import Any

from bench.device import Facts
from bench.errors import describe

# The first kind whose words are found in the name of a kernel or operation is taken. What torch.compile fuses has names
# made of the operations in it, and counts as element-wise unless there is a product in it.
_KINDS = {
    "attention": "attention|flash|fmha|sdpa|softmax_warp",
    "gemm": "gemm|nvjet|cutlass|cublas|sm[0-9]+_xmma|::mm|addmm|bmm|linear|matmul|_scaled_mm|grouped_mm|gemv|onednn",
    "optimizer": "adam|multi_tensor|foreach",
    "loss": "log_softmax|nll_loss|cross_entropy",
    "copy": "copy|memcpy|memset|::to$|cast|fill|zero",
}


def shares(run: Callable[[], object]) -> Facts:
    """Share of each kind of operation in the device's time, or on a CPU in the time of the operations.

    A profiler that once looked at an accelerator slows down launches in its process from then on.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    try:
        run()
        with profile(activities=activities, acc_events=True) as looked:
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    except RuntimeError as error:  # no permission, no memory for one step more: what was measured stands without it
        return {"profile": describe(error)}
    spent = [(event.key, _own_us(event)) for event in looked.key_averages()]
    total = sum(us for _, us in spent)
    if total <= 0:
        return {"profile": "the profiler of this torch sees no time on this device"}
    found: dict[str, float] = {}
    for name, us in spent:
        kind = kind_of(name)
        found[kind] = found.get(kind, 0.0) + us / total
    return {f"share_{kind}": round(share, 4) for kind, share in sorted(found.items()) if share >= 5e-4}


def kind_of(name: str) -> str:
    """gemm, attention, optimizer, loss, copy, or elementwise for everything else."""
    return next((kind for kind, words in _KINDS.items() if re.search(words, name, re.IGNORECASE)), "elementwise")


def _own_us(event: Any) -> float:
    """Microseconds of the event itself on the accelerator where the event is a kernel, else on the CPU where only that
    was looked at.
    """
    import torch

    if torch.cuda.is_available():
        on_device = str(getattr(event, "device_type", "")).endswith("CUDA")
        return float(event.self_device_time_total) if on_device else 0.0
    return float(event.self_cpu_time_total)

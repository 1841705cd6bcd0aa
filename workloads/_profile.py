"""Where the time of a step goes, by kind of operation, from one step under torch's profiler."""

import re
from collections.abc import Callable
from typing import Any

from bench.device import Device, Facts
from bench.errors import describe

# The first kind whose words are found in the name of a kernel or operation is taken. What torch.compile fuses has names
# made of the operations in it, and counts as element-wise unless there is a product in it.
_KINDS = {
    "attention": "attention|flash|fmha|sdpa|softmax_warp",
    "gemm": "gemm|nvjet|cutlass|cublas|sm[0-9]+_xmma|::mm|addmm|bmm|linear|matmul|_scaled_mm|grouped_mm|gemv|onednn",
    "optimizer": "adam|multi_tensor|foreach",
    "loss": "log_?softmax|nll_loss|cross_entropy",
    "copy": "copy|memcpy|memset|::to$|cast|fill|zero",
}


def shares(run: Callable[[], object], device: Device) -> Facts:
    """Share of each kind of operation in the device's time, or on a CPU in the time of the operations.

    A profiler that once looked at an accelerator slows down launches in its process from then on.
    """
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if device.asynchronous:
        if not hasattr(ProfilerActivity, device.backend.upper()):
            return {"profile": f"the profiler of this torch sees no kernels on {device.backend}"}
        activities.append(getattr(ProfilerActivity, device.backend.upper()))
    try:
        run()
        with profile(activities=activities, acc_events=True) as looked:
            run()
            device.synchronize()
    except RuntimeError as error:  # no permission, no memory for one step more: what was measured stands without it
        return {"profile": describe(error)}
    spent = [(event.key, own_us(event, device)) for event in looked.key_averages()]
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


def own_us(event: Any, device: Device) -> float:
    """Microseconds of the event itself: of a kernel on the device, on a CPU of the operation.

    The profiler lays ranges with a name, such as an optimizer's step or what torch.compile made, over the device's time
    too: they last as long as the kernels in them, which would count twice.
    """
    if not device.asynchronous:
        return float(event.self_cpu_time_total)
    is_kernel = event.device_type.name == device.backend.upper() and not getattr(event, "is_user_annotation", False)
    return float(event.self_device_time_total) if is_kernel else 0.0

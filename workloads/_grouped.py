"""Products of groups of rows, each with a matrix of its own: what experts do."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# T rows, X groups, E inputs, F outputs


def grouped_mm(x_TE: "Tensor", weights_XEF: "Tensor", ends_X: "Tensor") -> "Tensor":
    """Rows of `x_TE`, sorted by group, times the matrix of their group: [T, F]. `ends_X` is where each group ends.

    By torch's own kernel where the device and the type have one, which reads `ends_X` on the device; else by a product
    for each group, for which the host must know the ends and waits.
    """
    import torch

    if torch.is_autocast_enabled(x_TE.device.type):  # which does not know this operation
        dtype = torch.get_autocast_dtype(x_TE.device.type)
        x_TE, weights_XEF = x_TE.to(dtype), weights_XEF.to(dtype)
    if kernel(x_TE.device.type, x_TE.dtype) == "grouped_mm":
        return _operation()(x_TE, weights_XEF, offs=ends_X)
    ends = [0, *ends_X.tolist()]
    parts = [x_TE[ends[i] : ends[i + 1]] @ weights_XEF[i] for i in range(len(ends) - 1) if ends[i + 1] > ends[i]]
    return torch.cat(parts)


@cache
def kernel(device_type: str, dtype: "torch.dtype") -> str:
    """`grouped_mm` where torch has it for this device and type, found by trying, else `loop`."""
    import torch

    if device_type == "cpu" or not hasattr(torch, "_grouped_mm"):
        return "loop"  # on a CPU torch's own is that loop too, and slower in float32
    try:
        x = torch.zeros(32, 32, dtype=dtype, device=device_type)
        weights = torch.zeros(2, 32, 32, dtype=dtype, device=device_type)
        _operation()(x, weights, offs=torch.tensor([16, 32], dtype=torch.int32, device=device_type))
    except (RuntimeError, TypeError, ValueError):
        return "loop"
    return "grouped_mm"


def _operation() -> Any:
    import torch

    return getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm

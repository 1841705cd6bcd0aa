"""Matrix products of several experts in one call: the heart of a layer of experts.

T rows sorted by expert, X experts, E columns in, F columns out
"""

from functools import cache

import torch
from torch import Tensor

from workloads._capability import constant


def grouped_mm(x_TE: Tensor, weights_XEF: Tensor, offsets_X: Tensor) -> Tensor:
    """[T, F]: rows `offsets_X[i - 1]` to `offsets_X[i]` (int32) times `weights_XEF[i]`, stored by rows or by columns.

    Differentiable. Every row belongs to an expert: the last offset is T. Where the device has a grouped product the
    offsets stay on it and the host waits for nothing; elsewhere they are read, and each expert that has rows is a
    product of its own.
    """
    if torch.is_autocast_enabled(x_TE.device.type):
        dtype = torch.get_autocast_dtype(x_TE.device.type)
        x_TE, weights_XEF = x_TE.to(dtype), weights_XEF.to(dtype)
    if has_grouped_product(x_TE.device, x_TE.dtype, *weights_XEF.shape[1:]):
        return torch._grouped_mm(x_TE, weights_XEF, offs=offsets_X)
    ends = offsets_X.tolist()
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    # By `unbind`, whose gradient is written once: that of an index is as large as all experts, for each of them.
    groups = zip(x_TE.split(sizes), weights_XEF.unbind(), sizes, strict=True)
    return torch.cat([rows_TE @ weight_EF for rows_TE, weight_EF, size in groups if size])


@constant
def has_grouped_product(device: torch.device, dtype: torch.dtype, *widths: int) -> bool:
    """Whether torch multiplies groups on this device without waiting for their sizes. Found by trying, once for each.

    Where it has no kernel it falls back to a loop that reads the offsets, which fails while reads are forbidden. It
    takes rows that begin at multiples of 16 bytes only.
    """
    return _tried(device, dtype) and all(width * dtype.itemsize % 16 == 0 for width in widths)


@cache
def _tried(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cuda" or dtype != torch.bfloat16 or not hasattr(torch, "_grouped_mm"):
        return False
    x_TE = torch.ones(32, 64, device=device, dtype=dtype)
    weights_XEF = torch.ones(2, 64, 64, device=device, dtype=dtype)
    offsets_X = torch.tensor([16, 32], device=device, dtype=torch.int32)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch._grouped_mm(x_TE, weights_XEF.mT, offs=offsets_X)
    except (RuntimeError, ValueError):  # the latter is how newer versions refuse sizes and chips
        return False
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return True

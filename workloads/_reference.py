"""Comparing an output with its reference in higher precision."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def wide(tensor: "torch.Tensor") -> "torch.Tensor":
    """In float64: where it lies on CUDA and the CPU, and on the CPU for devices that may lack the type."""
    return (tensor if tensor.device.type in {"cuda", "cpu"} else tensor.cpu()).detach().double()


def relative_error(out: "torch.Tensor", reference: "torch.Tensor") -> float:
    """||out - reference|| / ||reference|| for a float64 reference; NaN or infinity anywhere in `out` gives infinity.

    Not NaN, which the `max` of several errors may lose: max(0.0, nan) is 0.0. Of a reference that is zero, such as the
    gradient of a softmax of one number, it is ||out|| itself.
    """
    error = float((wide(out).to(reference.device) - reference).norm() / (reference.norm() or 1.0))
    return error if math.isfinite(error) else math.inf


def poison(*tensors: "torch.Tensor") -> None:
    """Fills outputs with NaN, so that an element that the step does not write is found."""
    for tensor in tensors:
        tensor.fill_(float("nan"))

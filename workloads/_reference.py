"""Comparing an output with its reference in higher precision."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def relative_error(out: "torch.Tensor", reference: "torch.Tensor") -> float:
    """||out - reference|| / ||reference|| in float64; NaN or infinity anywhere in `out` gives NaN or infinity."""
    reference = reference.to("cpu").double()
    return float((out.to("cpu").double() - reference).norm() / reference.norm())


def poison(*tensors: "torch.Tensor") -> None:
    """Fills outputs with NaN, so that an element that the step does not write is found."""
    for tensor in tensors:
        tensor.fill_(float("nan"))

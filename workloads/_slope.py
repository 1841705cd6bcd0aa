"""Whether gradients are those of the loss, seen from outside: by how the loss changes along them, in float64."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# How far the loss is moved to either side, as a share of it: at a hundredth it bends, at a millionth the weights' own
# rounding shows. Of a training step in float32 the slope is then right to 6e-6 (seen on a model of 1 M).
_MOVED = 1e-3


def slope_error(
    loss: "Callable[[], Tensor]", reference: Callable[[], float], parameters: "Sequence[Tensor]", *, each: bool
) -> float:
    """How far the slope of `reference` along the gradients of `loss` is from their length, relative to that.

    `reference` works the loss out anew, in float64 and from the parameters as they are, which are moved a little to
    both sides and back. Infinity where a parameter has no gradient, or where `each` must have more than zeros: the way
    along gradients does not show what they lack. Gradients that were there are gone afterwards.
    """
    import torch

    for parameter in parameters:
        parameter.grad = None
    with torch.enable_grad():
        loss().backward()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [_norm(gradient) for gradient in gradients]
    for parameter in parameters:
        parameter.grad = None
    if len(norms) < len(parameters) or not all(norm > 0 or not each for norm in norms):
        return math.inf
    length = math.hypot(*norms)
    way = _MOVED * reference() / length  # in the space of all parameters; a NaN goes through to the end

    def move(by: float) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=by / length)

    with torch.no_grad():
        move(way)
        ahead = reference()
        move(-2 * way)
        behind = reference()
        move(way)
    error = abs((ahead - behind) / (2 * way * length) - 1)
    return error if math.isfinite(error) else math.inf


def _norm(tensor: "Tensor") -> float:
    """Summed in float64, where the device has it: on a CPU that of a large tensor in float32 is off by 1e-5."""
    import torch

    near = tensor if tensor.device.type in {"cuda", "cpu"} else tensor.cpu()
    return float(torch.linalg.vector_norm(near, dtype=torch.float64))

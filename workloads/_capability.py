"""What a CUDA device can do: asked once, so that neither eager code nor a compiled graph asks it in each layer."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def constant(function: Function) -> Function:
    """Marks what torch.compile calls once and takes the answer of, whatever is in it.

    As torch.compiler.assume_constant_result does, which imports the compiler for it: three seconds that would be in the
    first call of programs that compile nothing. The mark must be on a function of its own: through a `cache` the
    compiler looks at the function beneath.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def is_of_ampere(device: torch.device) -> bool:
    """Whether a CUDA device is of Ampere or newer. At the call of torch's own function a compiled graph would break."""
    return _of_ampere(device)


@cache
def _of_ampere(device: torch.device) -> bool:
    return bool(torch.cuda.get_device_capability(device) >= (8, 0))

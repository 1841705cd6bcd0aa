"""What a CUDA device can do: asked once, so that neither eager code nor a compiled graph asks it in each layer."""

from functools import cache

import torch


# torch.compile takes the answer as a constant; at the call of torch's own function a graph would break. The mark must
# be on a function of its own: through a `cache` the compiler looks at the function beneath.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch's types are not followed
def is_of_ampere(device: torch.device) -> bool:
    """Whether a CUDA device is of Ampere or newer."""
    return _of_ampere(device)


@cache
def _of_ampere(device: torch.device) -> bool:
    return bool(torch.cuda.get_device_capability(device) >= (8, 0))

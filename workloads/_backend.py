"""Back ends of torch's attention: choosing one, and finding out which one ran."""

import warnings
from collections.abc import Callable
from typing import Any

from bench.errors import Unsupported

# Words of torch's operations by which a back end is known; `overrideable` is the slot that vendors fill.
_KNOWN = ("flash", "cudnn", "efficient", "overrideable")
# What torch says when its choice is restricted to what it lacks, on accelerators and on the CPU.
_LACKING = ("No available kernel", "No viable backend")

Function = Callable[..., Any]


def restricted(function: Function, backend: str) -> Function:
    """`function` with torch's attention held to one back end; Unsupported, with torch's reason, where it has none.

    With `auto` the choice is torch's, and `function` is given back as it is.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if backend == "auto":
        return function
    kind = getattr(SDPBackend, backend.upper() if backend == "math" else f"{backend.upper()}_ATTENTION")

    def held(*inputs: Any) -> Any:
        try:
            with sdpa_kernel(kind):
                return function(*inputs)
        except RuntimeError as error:
            if not any(words in str(error) for words in _LACKING):
                raise
        raise Unsupported(f"torch has no {backend} attention for this here{_reason(kind, function, inputs)}")

    return held


def backend_of(run: Callable[[], object]) -> str:
    """The back end of the attention in `run`, read off the operations that it calls; math is made of plain products."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):  # type: ignore[misc]  # torch's types are not followed
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(operation._schema.name)
            return operation(*args, **(kwargs or {}))

    names: list[str] = []
    with Seen():
        run()
    attention = next((name for name in names if "attention" in name), "::math")
    return next((word for word in _KNOWN if word in attention), attention.partition("::")[2])


def _reason(kind: Any, function: Function, inputs: Any) -> str:
    """Torch says in warnings what keeps it from a back end."""
    from torch.nn.attention import sdpa_kernel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(kind):
                function(*inputs)
        except RuntimeError:
            pass
    said = [str(one.message).partition(" (Triggered")[0].strip() for one in caught]
    # Of the back ends that were not asked for it says that they are disabled.
    told = [text for text in said if not text.endswith(("because:", "runtime disabled."))]
    return f": {' '.join(told)[:300]}" if told else ""

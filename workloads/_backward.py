"""A forward pass, or a forward and a backward pass as one step, and the check of both against float64.

How the bytes of such a step are counted: each pass by itself reads every one of its inputs once and writes every one of
its outputs once. What one pass writes and the other reads counts twice, because at the sizes of a model no cache keeps
it in between. Statistics of a row are too few to count.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from workloads._reference import relative_error, wide

if TYPE_CHECKING:
    from torch import Tensor

Forward = Callable[..., "tuple[Tensor, ...]"]


def passes(
    forward: Forward, inputs: "Sequence[Tensor]", incoming: "Sequence[Tensor]" = ()
) -> "tuple[Callable[[], Tensor], list[Tensor]]":
    """The step, and the list in which it leaves its results: what `forward` gives, then each input's gradient.

    There is a backward pass where there are `incoming` gradients, one for each output. Results stay until the next ones
    are there: steps in rotation then write to different memory. Nothing waits for the device, so a graph can hold it.
    """
    import torch

    kept: list[Tensor] = []
    leaves = [x.detach().requires_grad_() for x in inputs] if incoming else []

    def run() -> "Tensor":
        kept[:] = forward(*inputs)
        return kept[0]

    def run_both() -> "Tensor":
        with torch.enable_grad():
            outputs = forward(*leaves)
            gradients = torch.autograd.grad(outputs, leaves, incoming)
        kept[:] = [*(out.detach() for out in outputs), *gradients]
        return gradients[0]  # the last to be computed, so that who compares it has compared the way to it

    return run_both if incoming else run, kept


def rows(x: "Tensor") -> "Tensor":
    """About 64 of the rows, which are the last dimension but one: their reference costs little at any size."""
    return x[..., :: max(1, x.shape[-2] // 64), :]


def rows_error(
    kept: "Sequence[Tensor]", reference: Forward, inputs: "Sequence[Tensor]", incoming: "Sequence[Tensor]" = ()
) -> float:
    """The largest error of the outputs and of the gradients of `inputs` in operations whose rows do not mix.

    `reference` writes the operation out for `rows` of the inputs in float64; its gradients are those of the elementary
    operations that it consists of. `inputs` are those with rows; inputs that all rows share come after them.
    """
    import torch

    if not all(bool(result.isfinite().all()) for result in kept):
        return float("inf")
    with torch.enable_grad():
        leaves = [wide(rows(x)).requires_grad_() for x in inputs]
        expected = list(reference(*leaves))
        if incoming:
            expected += torch.autograd.grad(expected, leaves, [wide(rows(x)) for x in incoming])
    return max(relative_error(rows(out), right.detach()) for out, right in zip(kept, expected, strict=False))


def sum_over_rows(summand: "Callable[..., Tensor]", *tensors_TE: "Tensor") -> "Tensor":
    """The sum over all rows of what `summand` makes of them in float64, some rows at a time: a shared gradient."""
    count = max(1, 2**22 // tensors_TE[0].shape[-1])
    parts = zip(*(x_TE.split(count) for x_TE in tensors_TE), strict=True)
    total: Tensor = sum(summand(*map(wide, part)).sum(0) for part in parts)
    return total

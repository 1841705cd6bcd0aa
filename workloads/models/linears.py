"""The linear layers of a transformer's blocks, for those that put something else in their place."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from workloads.models.mlp import Router

if TYPE_CHECKING:
    from workloads.models.transformer import Transformer


def linears(
    transformer: "Transformer", kinds: tuple[type[nn.Module], ...] = (nn.Linear,)
) -> Iterator[tuple[nn.Module, str, Any]]:
    """Each with the module that has it and its name there. Routers are left out: they are a thousandth of the weights,
    and choices of experts suffer first.
    """
    for parent in list(transformer.blocks.modules()):
        if not isinstance(parent, Router):
            for name, child in list(parent.named_children()):
                if isinstance(child, kinds):
                    yield parent, name, child

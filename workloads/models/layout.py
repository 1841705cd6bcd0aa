"""Layout: whether a CPU reads a weight faster by rows or by columns when few tokens are multiplied with it.

For one token a product only reads the weight, and how fast depends on which of its dimensions is contiguous: on one
EPYC core float32 weights of 32000 x 512 were read at 10 GB/s by rows and at 22 GB/s by columns, those of 512 x 1536 at
15 and 11 GB/s. Which is better changes with shape and batch, so both are tried. Values stay as they are. Narrower types
are left alone: their products are another library's, which packs weights by itself, and gained or lost a tenth.
"""

import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_TURNS = 5
# Enough weights of one shape to overflow a cache, and few enough not to matter beside the model's own memory.
_TRIED_BYTES = 256 << 20


def choose_layouts(transformer: Any, num_tokens: int) -> str:
    """Stores each float32 weight of the linear layers in its faster order for products of `num_tokens`; says how many
    by columns, and nothing where there are no such weights. Those of one shape are tried together, so that they do not
    stay in a cache that real steps would miss.
    """
    alike: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for module in transformer.modules():
        if isinstance(module, nn.Linear) and module.weight.is_contiguous() and module.weight.dtype == torch.float32:
            alike[tuple(module.weight.shape)].append(module)
    turned = 0
    for (_, num_inputs), modules in alike.items():
        by_rows = [module.weight.data for module in _some(modules)]
        x_TK = torch.randn(num_tokens, num_inputs)
        if _faster(x_TK, [_turned(weight) for weight in by_rows], by_rows):
            turned += len(modules)
            for module in modules:  # one after the other: there is room for one more, not for all
                module.weight.data = _turned(module.weight.data)
    return f"{turned} of {sum(map(len, alike.values()))} weights by columns" if alike else ""


def _some(modules: list[Any]) -> list[Any]:
    """As many as no cache holds; at least one."""
    return modules[: max(1, _TRIED_BYTES // modules[0].weight.nbytes)]


def _turned(weight_NK: Tensor) -> Tensor:
    """The same matrix, its columns contiguous."""
    return weight_NK.t().contiguous().t()


def _faster(x_TK: Tensor, first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether the first weights are multiplied faster than the second: the best of some turns of each."""
    best_s = [float("inf"), float("inf")]
    with torch.inference_mode():
        for _ in range(_TURNS):
            for side, weights in enumerate((first, second)):
                start_s = time.perf_counter()
                for weight_NK in weights:
                    functional.linear(x_TK, weight_NK)
                best_s[side] = min(best_s[side], time.perf_counter() - start_s)
    return best_s[0] < best_s[1]

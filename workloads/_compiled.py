"""torch.compile, with its silences made audible: what it did not compile is not reported as compiled."""

import os
import shutil
from collections.abc import Callable
from typing import Any

from bench.device import Facts
from bench.errors import Unsupported


def compiled(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[[], Facts]]:
    """The function compiled at its first call, and how many graphs that took and how often it broke off.

    Raises Unsupported at the first call where nothing was compiled: torch then runs the plain code without a word.
    """
    import torch
    from torch._dynamo.utils import counters

    if not torch.cuda.is_available() and not shutil.which(os.environ.get("CXX", "g++")):
        raise Unsupported("torch.compile needs a C++ compiler: install g++, or name one in the variable CXX")
    torch._dynamo.reset()  # else graphs of the case before count against the limit of recompilations
    counters.clear()
    fast = torch.compile(function, dynamic=False)
    known: list[bool] = []

    def call(*arguments: Any, **options: Any) -> Any:
        result = fast(*arguments, **options)
        if not known:
            known.append(True)
            if not counters["stats"]["unique_graphs"]:
                raise Unsupported("torch.compile compiled nothing and ran the plain code instead")
        return result

    def facts() -> Facts:
        breaks = sum(counters["graph_break"].values())
        return {"graphs": int(counters["stats"]["unique_graphs"]), "graph_breaks": int(breaks)}

    return call, facts

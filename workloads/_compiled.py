"""torch.compile, with its silences made audible: what it lacks, and whether anything was compiled at all."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import Unsupported
from bench.workload import Facts

Function = TypeVar("Function", bound=Callable[..., Any])

# What the compiler's errors say where a tool is missing, and what helps. Matched in the text, because the classes moved
# from version to version and each wraps the one before.
_REMEDIES = {
    "InvalidCxxCompiler": "no C++ compiler: install g++, or name one in the environment variable CXX",
    "Failed to find C compiler": "no C compiler: install gcc, or name one in the environment variable CC",
    "Python.h": "no headers of Python: install python3-dev",
    "TritonMissing": "no Triton: install the one that belongs to this torch",
    "working triton installation": "no Triton: install the one that belongs to this torch",
}

# A library in torch's cache whose compiler was ended while it wrote, by a time limit or Ctrl-C. Torch takes it for a
# whole one for ever after (seen with 2.13).
_CUT_SHORT = re.compile(r"(/[^\s:]+\.so): (?:file too short|invalid ELF header)")


def compiled(function: Function) -> tuple[Function, Callable[[], Facts]]:
    """`function` as torch.compile makes it, and afterwards the number of its graphs and of the breaks between them.

    Compiled at the first call, which raises Unsupported where a tool is missing; so do the facts where nothing was
    compiled: torch.compile then runs the function as it is and tells nobody. What was compiled before is forgotten, so
    that no case meets another's limit of recompilations: prepare all steps of a case before the first of them runs.
    """
    import torch
    from torch._dynamo.utils import counters, graph_break_reasons

    def start_anew() -> None:
        torch._dynamo.reset()
        counters.clear()

    start_anew()
    fast = torch.compile(function, dynamic=False)  # shapes of a case never change

    def run(*args: Any, **options: Any) -> Any:
        try:  # costs nothing where nothing is raised
            return fast(*args, **options)
        except RuntimeError as error:
            if (broken := _CUT_SHORT.search(str(error))) and Path(broken[1]).exists():
                Path(broken[1]).unlink()  # each once, so this ends
                start_anew()
                return run(*args, **options)
            for words, remedy in _REMEDIES.items():
                if words in str(error):
                    raise Unsupported(f"torch.compile has {remedy}") from None
            raise

    def facts() -> Facts:
        graphs = counters["stats"]["unique_graphs"]
        if not graphs:
            raise Unsupported("torch.compile compiled nothing: is it switched off by TORCHDYNAMO_DISABLE?")
        return {"graphs": graphs, "graph_breaks": len(graph_break_reasons)}

    return run, facts  # type: ignore[return-value]

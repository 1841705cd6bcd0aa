"""accelmark: what accelerators really deliver on LLM workloads.

The commands are functions here: `bench.run("matmul")`, `bench.table(["results"])`, `bench.compare(before, after)`.
"""

from typing import Any

__version__ = "0.1.0"

_COMMANDS = (
    "calibrate", "check", "compare", "devices", "estimate_rows", "estimate_serving", "estimate_training",
    "frame", "grouped", "listing", "meter", "plan", "report", "run", "show", "standing", "submit", "table",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """The command of that name, imported when it is first used: `import bench` alone costs nothing."""
    if name not in _COMMANDS:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    from bench import commands

    return getattr(commands, name)

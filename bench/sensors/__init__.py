"""What tells of the hardware: one file for each vendor, with `open_board(board) -> Sensors`. Nothing imports torch."""

import importlib
from pathlib import Path

from bench.sensors.base import COUNTERS, HOST_COUNTERS, SLOW, STATE, TICK, Lost, NoSensors, Reading, Sensors, Withheld

__all__ = [
    "COUNTERS",
    "HOST_COUNTERS",
    "SLOW",
    "STATE",
    "TICK",
    "Lost",
    "NoSensors",
    "Reading",
    "Sensors",
    "Withheld",
    "open_board",
    "vendors",
]


def vendors() -> list[str]:
    """Every vendor there is a file for."""
    shared = {"__init__", "base", "nvml"}
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in shared)


def open_board(vendor: str, board: str | None) -> Sensors:
    """The sensors of one board, which its vendor's driver knows by `board`. Raises nothing: what cannot be opened gives
    sensors that tell nothing, and why.
    """
    if vendor not in vendors():
        return NoSensors(f"accelmark reads no sensors of {vendor} devices")
    try:
        opened: Sensors = importlib.import_module(f"bench.sensors.{vendor}").open_board(board)
        return opened
    except Withheld as error:
        return NoSensors(str(error))

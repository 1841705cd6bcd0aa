"""Apple silicon: the energy of the GPU by IOReport, which wants no privileges, through the package zeus-apple-silicon.

IOReport's `Energy Model` computes energies from activity, so they are estimates (`modelled`) and no measurement. It has
not run on hardware yet: what is here follows the documentation of the package.
"""

import time
from collections.abc import Callable
from typing import Any

from bench.sensors.base import Sensors, Withheld

# Energies come in whole millijoules: over the shorter time one of them is 0.02 W. Over more than the longer one, power
# would be that of something else than what runs now.
_MIN_INTERVAL_S, _MAX_INTERVAL_S = 0.05, 1.0


class Apple(Sensors):
    """The GPU of the chip, and the memory that it shares with the CPU."""

    boundary = "gpu"
    modelled = True

    def __init__(self, monitor: Any) -> None:
        super().__init__()
        self._monitor = monitor
        self._last: tuple[float, float] | None = None

    def asks(self) -> dict[str, Callable[[], float]]:
        """`gpu_sram_mj` is left out: nothing says whether `gpu_mj` holds it already."""
        return {
            "power_w": self._power_w,
            "energy_j": lambda: self._joules("gpu_mj"),
            "dram_energy_j": lambda: self._joules("dram_mj"),
        }

    def close(self) -> None:
        """Lets go of IOReport: at exit the extension complains of a monitor that still lives."""
        self._monitor = None

    def _joules(self, field: str) -> float:
        """Since a moment that stays the same for as long as the monitor lives, and is not known."""
        try:
            found = getattr(self._monitor.get_cumulative_energy(), field)
        except (AttributeError, OSError, RuntimeError) as error:
            raise Withheld(f"zeus-apple-silicon: {type(error).__name__}: {error}") from error
        if found is None:
            raise Withheld(f"this chip, or this macOS, does not report {field}")
        return float(found) / 1e3  # millijoules

    def _moment(self) -> tuple[float, float]:
        """Joules and seconds, now."""
        energy_j = self._joules("gpu_mj")
        return energy_j, time.monotonic()

    def _power_w(self) -> float:
        """The mean since it was last asked, IOReport having energies only. It takes a moment where that is long ago."""
        if self._last is None or time.monotonic() - self._last[1] > _MAX_INTERVAL_S:
            self._last = self._moment()
        time.sleep(max(0.0, self._last[1] + _MIN_INTERVAL_S - time.monotonic()))
        (before_j, before_s), self._last = self._last, self._moment()
        (now_j, now_s) = self._last
        if now_j < before_j:
            raise Withheld("the energy fell: it is counted anew")
        return (now_j - before_j) / (now_s - before_s)


def open_board(board: str | None) -> Sensors:
    """The chip, whatever `board` is: there is one. Raises Withheld."""
    try:
        import zeus_apple_silicon  # type: ignore[import-not-found]
    except (ImportError, OSError) as error:
        raise Withheld(f"energy wants a package for Macs: pip install zeus-apple-silicon ({error})") from error
    try:
        return Apple(zeus_apple_silicon.AppleEnergyMonitor())
    except (AttributeError, OSError, RuntimeError) as error:
        raise Withheld(f"zeus-apple-silicon: {type(error).__name__}: {error}") from error

"""Sensors: what a board tells of itself while others work. One file for each vendor, and never torch.

The sampler asks from a process of its own beside the worker: a context of torch's would cost memory and power on the
very board that is judged, and a thread in the worker would wait for the interpreter when it should read. Every quantity
is asked for once and none assumed from a model's name; what a board, a driver or a permission withholds has a reason.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# What may be asked several times a second. The rest is asked at the two ends of a window only: some of it takes
# milliseconds, or holds a lock of the driver's for as long.
TICK = (
    "power_w",
    "power_average_w",
    "energy_j",
    "clock_hz",
    "temperature_c",
    "memory_temperature_c",
    "kernel_active",
)
# Of these, once a second is enough: heat moves slowly, and activity is a share of up to the last second. On most boards
# each is a call of its own.
SLOW = frozenset({"temperature_c", "memory_temperature_c", "kernel_active"})
# Counters that only rise: the difference over a window says what happened in it.
COUNTERS = (
    "throttle_power_cap_s",
    "throttle_sync_boost_s",
    "throttle_thermal_s",
    "throttle_hw_thermal_s",
    "throttle_power_brake_s",
    "ecc_corrected",
    "ecc_uncorrected",
    "pcie_replays",
)
# Energies beside the board's own: of a CPU's memory, and of the host beside an accelerator.
HOST_COUNTERS = ("dram_energy_j", "host_energy_j", "host_dram_energy_j")
# What is worth knowing of the board and the host at the end of a window.
STATE = (
    "pcie_generation",
    "pcie_width",
    "memory_clock_hz",
    "memory_active",
    "memory_used_bytes",
    "temperature_margin_c",
    "compute_processes",
    "performance_state",
    "remapped_rows_pending",
    "remapped_rows_failed",
    "recovery_action",
    "host_cpu_share",
    "host_memory_used_bytes",
    "host_clock_hz",
    "host_temperature_c",
)


@dataclass(frozen=True)
class Reading:
    """One quantity: a number in SI units, or the reason why there is none."""

    value: float | None
    reason: str = ""


class Withheld(Exception):
    """A quantity is not told, now or ever; the message says why."""


class Lost(Exception):
    """The board is gone from the bus, or wants a reset: nothing more will come from it."""


class Sensors:
    """All that one board tells. A vendor's file says how each quantity is asked; the rest is here.

    `boundary` is what power and energy cover: `gpu_board`, `gpu`, `npu_chip`, `module` (with the CPU beside the GPU),
    `whole_gpu` (of which a MIG slice is a part), `package`; None where neither is told.
    `modelled` where the vendor computes them from activity instead of measuring.
    """

    boundary: str | None = "gpu_board"
    modelled: bool = False

    def asks(self) -> dict[str, Callable[[], float]]:
        """How each quantity is asked, in SI units. Asking raises Withheld, or Lost."""
        raise NotImplementedError

    def __init__(self) -> None:
        self.readings: dict[str, Reading] = {}
        self._asks: dict[str, Callable[[], float]] = {}

    def probe(self) -> dict[str, Reading]:
        """Asks for everything once. From here on only what was told is asked again."""
        found = self.asks()
        self.readings = {name: _reading(ask) for name, ask in found.items()}
        self._asks = {name: ask for name, ask in found.items() if self.readings[name].value is not None}
        return self.readings

    def has(self, name: str) -> bool:
        """Whether `probe` was told this quantity."""
        return name in self._asks

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """The quantities of `names` that the board tells, now; one that is withheld this time is left out.

        Raises Lost. A vendor that can ask for several in one call overrides this.
        """
        values = {}
        for name in names:
            if ask := self._asks.get(name):
                reading = _reading(ask)
                if reading.value is not None:
                    values[name] = reading.value
        return values

    def since_last(self) -> dict[str, float]:
        """What a board keeps by itself, of the time since this was last called: means of what it counts, and `xid`, the
        number of an error that it reported. Nothing the first time. Raises Lost.
        """
        return {}

    def others(self) -> list["Sensors"]:
        """Those of the other boards that the vendor's driver shows here: by them it is seen which one a load is on.

        They stand on what this one has opened, and are not closed. Raises Lost.
        """
        return []

    def close(self) -> None:
        """Gives back what was opened."""


class NoSensors(Sensors):
    """A board of which nothing can be read, and why."""

    boundary = None

    def __init__(self, reason: str, quantities: Iterable[str] = TICK) -> None:
        super().__init__()
        self._reason, self._quantities = reason, tuple(quantities)

    def asks(self) -> dict[str, Callable[[], float]]:
        """Nothing is told."""

        def withheld() -> float:
            raise Withheld(self._reason)

        return dict.fromkeys(self._quantities, withheld)


def finite(value: float) -> Reading:
    """A number, if it is one: what is not has no form on the line to the worker, and would end the sampler."""
    return Reading(value) if math.isfinite(value) else Reading(None, f"told as {value}, which is no number")


def _reading(ask: Callable[[], float]) -> Reading:
    """What is told, or why not. A value's bounds are judged by whoever uses it, not here."""
    try:
        return finite(float(ask()))
    except Withheld as error:
        return Reading(None, str(error))
    # A name, a type or a shape that this driver or binding lacks.
    except (AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        return Reading(None, f"{type(error).__name__}: {error}")

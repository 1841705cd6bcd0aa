"""The processor: energy by the counters of RAPL, and what psutil tells of the machine.

Linux shows RAPL under the same names for Intel and AMD. There is no sensor of power behind it, and none is made up from
a nominal power: the energy's slope is the power. RAPL was tested on a made-up tree of files only, not on a machine.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.sensors.base import Sensors, Withheld

POWERCAP = Path("/sys/class/powercap")
# No zone draws more: one that is read before it could use its range up at this power wrapped once at most.
_MAX_POWER_W = 1000
# psutil compares two readings of the kernel's clock ticks: nearer than this, it may see no tick and give 0.0.
_MIN_INTERVAL_S = 0.1
# `Tctl` is shifted on some models, so it only stands in for `Tdie`.
_PACKAGE_TEMPERATURES = (("coretemp", "Package id"), ("k10temp", "Tdie"), ("k10temp", "Tctl"))


class Cpu(Sensors):
    """The whole machine: the energy of every package, of the memory beside it, and what the host is doing."""

    boundary: str | None = "package"

    def __init__(self) -> None:
        super().__init__()
        self._counters: dict[str, _Counter] = {}
        self._reasons: dict[str, str] = {}
        for kind in ("package", "dram"):
            try:
                self._counters[kind] = _Counter(_zones(kind))
            except Withheld as error:
                self._reasons[kind] = str(error)
        if "package" not in self._counters:
            self.boundary = None
        with contextlib.suppress(Withheld):
            _psutil(lambda: psutil.cpu_percent(interval=None))  # the first call compares with nothing and gives 0.0
        self._shared_s = time.monotonic()

    def asks(self) -> dict[str, Callable[[], float]]:
        """Energy counts from 0 when opened. `host_cpu_share` is of all CPUs, since it was last asked."""
        return {
            "energy_j": lambda: self._joules("package"),
            "dram_energy_j": lambda: self._joules("dram"),
            "host_clock_hz": lambda: _clock_mhz("current") * 1e6,
            "host_clock_max_hz": lambda: _clock_mhz("max") * 1e6,
            "host_temperature_c": _temperature_c,
            "host_cpu_share": self._cpu_share,
            "host_memory_used_bytes": _memory_used_bytes,
        }

    def _joules(self, kind: str) -> float:
        if kind not in self._counters:
            raise Withheld(self._reasons[kind])
        # All of them advance whichever is asked: the memory's may be asked too seldom to see each of its wraps.
        for counter in self._counters.values():
            counter.advance()
        return self._counters[kind].joules()

    def _cpu_share(self) -> float:
        time.sleep(max(0.0, self._shared_s + _MIN_INTERVAL_S - time.monotonic()))
        share = _psutil(lambda: psutil.cpu_percent(interval=None)) / 100
        self._shared_s = time.monotonic()
        return float(share)


@dataclass
class _Zone:
    """One counter as last read. `range_uj` is where it starts again from 0; None where that is not told."""

    folder: Path
    range_uj: int | None
    last_uj: int
    last_s: float


class _Counter:
    """The energy of several zones since it was made, or since the last interval that could not be counted: it starts
    anew after one, so that a difference across it is a fall, which whoever uses a counter refuses.
    """

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones, self._total_uj, self._reason = zones, 0, ""

    def advance(self) -> None:
        """Adds what each zone used since it was last read."""
        for zone in self._zones:
            try:
                now_uj, now_s = _energy_uj(zone.folder), time.monotonic()
            except Withheld as error:  # nothing is lost: the next reading covers this time as well
                self._reason = str(error)
                continue
            used_uj, unread_s = now_uj - zone.last_uj, now_s - zone.last_s
            zone.last_uj, zone.last_s = now_uj, now_s
            if used_uj < 0 and zone.range_uj:
                used_uj += zone.range_uj
            if zone.range_uj and unread_s * _MAX_POWER_W * 1e6 > zone.range_uj:
                self._skip(f"{zone.folder.name} was not read for {unread_s:.0f} s and may have wrapped more than once")
            elif used_uj < 0:
                self._skip(f"{zone.folder.name} fell, and the range at which it wraps is not told")
            else:
                self._total_uj += used_uj

    def joules(self) -> float:
        """Raises Withheld once after an interval that could not be counted or read."""
        reason, self._reason = self._reason, ""
        if reason:
            raise Withheld(reason)
        return self._total_uj / 1e6  # RAPL counts microjoules

    def _skip(self, reason: str) -> None:
        self._total_uj, self._reason = 0, f"interval skipped: {reason}"


def open_board(board: str | None) -> Sensors:
    """The machine, whatever `board` is."""
    return Cpu()


def _zones(kind: str) -> list[_Zone]:
    """The zones of a kind, without those that mirror another. `core` and `uncore` are parts of a package, and `psys`
    holds the packages: adding them would count twice.
    """
    zones: list[_Zone] = []
    # `intel-rapl-mmio:*` shows the same packages once more, and does not match.
    for folder in sorted(POWERCAP.glob("intel-rapl:*")):
        if _kind(folder) == kind and not any(_mirrors(folder, zone) for zone in zones):
            zones.append(_Zone(folder, _range_uj(folder), _energy_uj(folder), time.monotonic()))
    if not zones:
        raise Withheld(f"no RAPL here ({kind}): virtual machines and containers rarely have it")
    return zones


def _kind(folder: Path) -> str:
    """`package` of `package-0` or `package-0-die-1`; `dram` of `dram`."""
    try:
        return (folder / "name").read_text().strip().partition("-")[0]
    except OSError:
        return ""


def _mirrors(folder: Path, zone: _Zone) -> bool:
    """Whether both show one counter, read between two readings of it: some AMD processors show a socket's counter once
    for each die (codecarbon's issue 1274). Equal zeros prove nothing.
    """
    before, between, after = (_energy_uj(path) for path in (zone.folder, folder, zone.folder))
    return _range_uj(folder) == zone.range_uj and 0 < before <= between <= after


def _energy_uj(folder: Path) -> int:
    path = folder / "energy_uj"
    try:
        return int(path.read_text())
    except PermissionError as error:
        hint = f"ask the administrator for a read-only group on {path}"
        raise Withheld(f"EACCES: RAPL is readable by root only since CVE-2020-8694; {hint}") from error
    except (OSError, ValueError) as error:
        raise Withheld(f"{path}: {error}") from error


def _range_uj(folder: Path) -> int | None:
    try:
        return int((folder / "max_energy_range_uj").read_text()) or None
    except (OSError, ValueError):
        return None


def _psutil(ask: Callable[[], Any]) -> Any:
    """What psutil answers. Raises Withheld where this platform has no such call, or the call fails."""
    try:
        return ask()
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError, psutil.Error) as error:
        raise Withheld(f"psutil: {type(error).__name__}: {error}") from error


def _clock_mhz(which: str) -> float:
    """The mean over all CPUs, in psutil's megahertz."""
    clock = _psutil(lambda: psutil.cpu_freq())
    # A virtual machine shows one fixed number that is no clock.
    if clock is None or not (clock.min or clock.max) or not getattr(clock, which):
        raise Withheld(f"psutil sees no {which} clock: this machine does not scale it, or does not say so")
    return float(getattr(clock, which))


def _temperature_c() -> float:
    """That of the hottest package."""
    found = _psutil(lambda: psutil.sensors_temperatures())
    for chip, label in _PACKAGE_TEMPERATURES:
        told = [one.current for one in found.get(chip, []) if one.label.startswith(label) and one.current is not None]
        if told:
            return float(max(told))
    raise Withheld("no sensor of a package's temperature (coretemp, k10temp) is told")


def _memory_used_bytes() -> float:
    """What new work could not have; psutil's own `used` means another thing on each platform."""
    memory = _psutil(lambda: psutil.virtual_memory())
    return float(memory.total - memory.available)

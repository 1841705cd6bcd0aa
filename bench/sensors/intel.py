"""Intel's GPUs, through Level Zero Sysman by the package pyzes.

Sysman tells energy and no power: power is how far the counter went between two asks, over how far its own timestamp
went. It has not run on hardware yet: names, units and sentinels are those of the specification and of pyzes 0.1.3.
"""

import contextlib
import ctypes
import importlib
import sys
import time
from collections.abc import Callable, Iterable
from ctypes import byref
from functools import partial
from types import ModuleType
from typing import Any

from bench.sensors.base import Lost, Reading, Sensors, Withheld

_GONE = {0x70000001: "the device is lost", 0x70000006: "the device wants a reset"}  # ze_result_t
# What the codes mean that a user can do something about; the others are told by number.
_REFUSED = {
    0x70000007: "the device is in a low power state",
    0x70010000: "not permitted",
    0x78000001: "not initialised: is the Level Zero driver installed?",
    0x78000003: "not supported",
}
_APART_S = 0.5  # between the first two asks for a counter; drivers publish one anew about every 0.1 s
# What a device may have several of: the calls that list them and tell of each, and its name within those of C types.
_PARTS = {
    "clock": ("zesDeviceEnumFrequencyDomains", "zesFrequencyGetProperties", "freq"),
    "temperature": ("zesDeviceEnumTemperatureSensors", "zesTemperatureGetProperties", "temp"),
    "engine": ("zesDeviceEnumEngineGroups", "zesEngineGetProperties", "engine"),
    "memory": ("zesDeviceEnumMemoryModules", "zesMemoryGetProperties", "mem"),
}
_LONGEST_US = 2e6  # between two asks: a mean over longer would be of what was before the window, too
Counter = tuple[int, int]  # a count, and its timestamp in microseconds


class Intel(Sensors):
    """One device of Sysman's, which is a whole card: of two tiles, what the slower or the hotter of them tells."""

    def __init__(self, zes: ModuleType, device: Any, wait: Callable[[float], object], *, tile: bool) -> None:
        super().__init__()
        self._zes, self._device, self._wait = zes, device, wait
        self._tile = tile  # what is judged may be but a tile of the card
        self._answers: dict[tuple[object, ...], Any] = {}
        self._found: dict[str, list[tuple[Any, Any]]] = {}
        self._domain: tuple[Any, Any] | None = None
        self._counted: dict[object, Counter] = {}  # at the last ask
        self._rises = False  # the counter of energy

    def asks(self) -> dict[str, Callable[[], float]]:
        """`kernel_active` is of the compute engines: copies are no kernels."""
        zes, link, power = self._zes, self._link, self._power_domain
        clocks = partial(self._parts, "clock")
        return {
            "power_w": self._power,
            "energy_j": self._energy,
            # Megahertz. An engine that sleeps has 0; below that, the driver does not know.
            "clock_hz": lambda: min(self._clock(part) for part, _ in clocks(zes.ZES_FREQ_DOMAIN_GPU)) * 1e6,
            "clock_max_hz": lambda: min(_known(told.max) for _, told in clocks(zes.ZES_FREQ_DOMAIN_GPU)) * 1e6,
            "memory_clock_hz": lambda: min(self._clock(part) for part, _ in clocks(zes.ZES_FREQ_DOMAIN_MEMORY)) * 1e6,
            "temperature_c": lambda: self._temperature(zes.ZES_TEMP_SENSORS_GPU, zes.ZES_TEMP_SENSORS_GLOBAL),
            "memory_temperature_c": lambda: self._temperature(zes.ZES_TEMP_SENSORS_MEMORY),
            "kernel_active": self._active,
            "power_limit_w": self._limit,
            "power_limit_default_w": lambda: _known(power()[1].defaultLimit, zero=False) / 1e3,  # milliwatts
            "power_limit_min_w": lambda: _known(power()[1].minLimit) / 1e3,  # milliwatts
            "power_limit_max_w": lambda: _known(power()[1].maxLimit, zero=False) / 1e3,  # milliwatts
            "pcie_generation": lambda: _known(link("STATE").speed.gen, zero=False),
            "pcie_width": lambda: _known(link("STATE").speed.width, zero=False),
            "pcie_generation_max": lambda: _known(link("PROPERTIES").maxSpeed.gen, zero=False),
            "pcie_width_max": lambda: _known(link("PROPERTIES").maxSpeed.width, zero=False),
            "pcie_replays": self._replays,
            "memory_used_bytes": self._memory,
            "open_processes": self._processes,
        }

    def probe(self) -> dict[str, Reading]:
        """Asks for everything once. A counter of energy that stands still meanwhile is not told."""
        self._answers.clear()
        readings = super().probe()
        if not (self.has("power_w") or self.has("energy_j")):
            self.boundary = None
        return readings

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """As in base; what one call tells is asked once, and so is of one moment."""
        self._answers.clear()
        return super().read(names)

    def _power(self) -> float:
        part, _ = self._power_domain()
        (power_w,) = self._rates({part.value: partial(self._joules, part)}, rests=False)  # microjoules a microsecond
        self._rises = True
        return power_w

    def _energy(self) -> float:
        if not self._rises:
            self._power()
        return self._joules(self._power_domain()[0])[0] / 1e6  # microjoules

    def _joules(self, part: Any) -> Counter:
        told = self._told("zesPowerGetEnergyCounter", part, "zes_power_energy_counter_t")
        return told.energy, told.timestamp

    def _power_domain(self) -> tuple[Any, Any]:
        """The card's if it tells energy, else the package's; and what it is."""
        if self._domain is None:
            zes, listed = self._zes, {}
            for part in _handles(zes, "zesDeviceEnumPowerDomains", "zes_pwr_handle_t", self._device):
                more = _struct(zes, "zes_power_ext_properties_t", "POWER_EXT_PROPERTIES")
                told = _struct(zes, "zes_power_properties_t", "POWER_PROPERTIES")
                told.pNext = ctypes.cast(ctypes.pointer(more), ctypes.c_void_p)
                _call(zes, "zesPowerGetProperties", part, byref(told))
                if not told.onSubdevice:
                    listed[more.domain] = part, told
            for domain, boundary in (
                (zes.ZES_POWER_DOMAIN_CARD, "gpu_board"),
                (zes.ZES_POWER_DOMAIN_PACKAGE, "package"),
            ):
                with contextlib.suppress(Withheld, KeyError):
                    self._joules(listed[domain][0])
                    self._domain = listed[domain]
                    self.boundary = "whole_gpu" if self._tile else boundary
                    break
            else:
                raise Withheld("neither the card nor its package tells energy")
        return self._domain

    def _rates(self, reads: dict[object, Callable[[], Counter]], *, rests: bool) -> list[float]:
        """How far counters went since the last ask, over how far their timestamps did; the first time, over a wait.
        Only one that may rest is believed to have stood still.
        """
        if new := {key: read() for key, read in reads.items() if key not in self._counted}:
            self._counted |= new
            self._answers.clear()
            self._wait(_APART_S)
        rates = []
        for key, read in reads.items():
            (count, at), last = read(), self._counted[key]
            rise, elapsed = count - last[0], at - last[1]
            if rise < 0 or not 0 <= elapsed <= _LONGEST_US:
                self._counted[key] = count, at
                raise Withheld("the counter went back, or was not asked for a long time")
            if not elapsed or not (rise or rests):
                raise Withheld("the counter has not been published anew")
            self._counted[key] = count, at
            rates.append(rise / elapsed)
        return rates

    def _active(self) -> float:
        def count(part: Any) -> Counter:
            told = self._told("zesEngineGetActivity", part, "zes_engine_stats_t")
            return told.activeTime, told.timestamp

        engines = self._parts(
            "engine", self._zes.ZES_ENGINE_GROUP_COMPUTE_ALL, self._zes.ZES_ENGINE_GROUP_COMPUTE_SINGLE
        )
        return max(self._rates({part.value: partial(count, part) for part, _ in engines}, rests=True))

    def _clock(self, part: Any) -> float:
        return _known(self._told("zesFrequencyGetState", part, "zes_freq_state_t", "FREQ_STATE").actual)

    def _temperature(self, *sensors: int) -> float:
        degrees = []
        for part, _ in self._parts("temperature", *sensors):
            told = ctypes.c_double()
            _call(self._zes, "zesTemperatureGetState", part, byref(told))
            degrees.append(told.value)
        return max(degrees)

    def _limit(self) -> float:
        """The lowest sustained limit that is enabled; bursts and peaks may go beyond it."""
        zes, count = self._zes, ctypes.c_uint32()
        part, _ = self._power_domain()
        _call(zes, "zesPowerGetLimitsExt", part, byref(count), None)
        limits = (zes.zes_power_limit_ext_desc_t * count.value)()
        for limit in limits:
            limit.stype = zes.ZES_STRUCTURE_TYPE_POWER_LIMIT_EXT_DESC
        _call(zes, "zesPowerGetLimitsExt", part, byref(count), limits)
        kind = zes.ZES_POWER_LEVEL_SUSTAINED, zes.ZES_LIMIT_UNIT_POWER
        enabled = [one.limit for one in limits if (one.level, one.limitUnit) == kind and one.enabled and one.limit > 0]
        if not enabled:
            raise Withheld("no sustained limit of power is enabled")
        return float(min(enabled)) / 1e3  # milliwatts

    def _link(self, what: str) -> Any:
        call = f"zesDevicePciGet{what.title()}"
        return self._told(call, self._device, f"zes_pci_{what.lower()}_t", f"PCI_{what}")

    def _replays(self) -> float:
        if not self._link("PROPERTIES").haveReplayCounters:
            raise Withheld("the device counts no replays")
        return float(self._told("zesDevicePciGetStats", self._device, "zes_pci_stats_t").replayCounter)

    def _memory(self) -> float:
        modules = self._parts("memory", self._zes.ZES_MEM_LOC_DEVICE, of="location")
        told = [self._told("zesMemoryGetState", part, "zes_mem_state_t", "MEM_STATE") for part, _ in modules]
        return float(sum(state.size - state.free for state in told))

    def _processes(self) -> float:
        """All that have the device open, a desktop's too: which engines they use is not told everywhere."""
        count = ctypes.c_uint32()
        _call(self._zes, "zesDeviceProcessesGetState", self._device, byref(count), None)
        return count.value

    def _parts(self, kind: str, *wanted: int, of: str = "type") -> list[tuple[Any, Any]]:
        """Handles and properties of the first of these types that there is: the card's own, or else its tiles'."""
        if kind not in self._found:
            enumerate_, tell, name = _PARTS[kind]
            parts = _handles(self._zes, enumerate_, f"zes_{name}_handle_t", self._device)
            structure, stype = f"zes_{name}_properties_t", f"{name.upper()}_PROPERTIES"
            self._found[kind] = [(part, self._told(tell, part, structure, stype)) for part in parts]
        for one in wanted:
            if found := [pair for pair in self._found[kind] if getattr(pair[1], of) == one]:
                return [pair for pair in found if not pair[1].onSubdevice] or found
        raise Withheld(f"the device has no {kind} of this kind, or it is not permitted to see it")

    def _told(self, call: str, handle: Any, structure: str, stype: str = "") -> Any:
        key = (call, handle.value)
        if key not in self._answers:
            told = _struct(self._zes, structure, stype)
            _call(self._zes, call, handle, byref(told))
            self._answers[key] = told
        return self._answers[key]


def open_board(board: str | None, wait: Callable[[float], object] = time.sleep) -> Sensors:
    """The sensors of the card `uuid:<hex>` or `pci:<domain>:<bus>:<device>.<function>`. Raises Withheld, and that too
    where not exactly one answers to it: a tile has a UUID of its own, which is no card's.
    """
    if not board:
        raise Withheld("this torch does not tell which board its device is")
    zes = _pyzes()
    try:
        _call(zes, "zesInit", 0)
        drivers = _handles(zes, "zesDriverGet", "zes_driver_handle_t")
        devices = [
            device for driver in drivers for device in _handles(zes, "zesDeviceGet", "zes_device_handle_t", driver)
        ]
        found = [device for device in devices if _is(zes, device, board)]
        if len(found) != 1:
            raise Withheld(f"Sysman finds {len(found)} devices for {board}")
        tile = board.startswith("pci:") and _properties(zes, found[0]).numSubdevices > 0
    except (Lost, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        raise Withheld(f"Sysman does not name its devices: {type(error).__name__}: {error}") from error
    return Intel(zes, found[0], wait, tile=tile)


def _pyzes() -> ModuleType:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the first versions print what they load
            return importlib.import_module("pyzes")
    except ModuleNotFoundError as error:
        raise Withheld(f"the package pyzes is not installed: {error}") from error
    # Around a vendor's detection: OSError without the loader of Level Zero, a plain Exception on Windows.
    except Exception as error:
        raise Withheld(f"pyzes: {type(error).__name__}: {error}") from error


def _is(zes: ModuleType, device: Any, board: str) -> bool:
    how, _, wanted = board.lower().partition(":")
    try:
        if how == "pci":
            told = _struct(zes, "zes_pci_properties_t", "PCI_PROPERTIES")
            _call(zes, "zesDevicePciGetProperties", device, byref(told))
            at = told.address
            return f"{at.domain:04x}:{at.bus:02x}:{at.device:02x}.{at.function:x}" == wanted
        uuid = bytes(_properties(zes, device).core.uuid.id)
    except (Withheld, Lost):  # another device may be in trouble
        return False
    return how == "uuid" and any(uuid) and uuid.hex() == wanted.replace("-", "")


def _properties(zes: ModuleType, device: Any) -> Any:
    told = _struct(zes, "zes_device_properties_t", "DEVICE_PROPERTIES")
    _call(zes, "zesDeviceGetProperties", device, byref(told))
    return told


def _handles(zes: ModuleType, call: str, kind: str, *of: Any) -> list[Any]:
    """Asked twice, as everywhere in Level Zero: how many there are, and which."""
    count = ctypes.c_uint32()
    _call(zes, call, *of, byref(count), None)
    handles = (getattr(zes, kind) * count.value)()
    _call(zes, call, *of, byref(count), handles)
    return list(handles)[: count.value]


def _struct(zes: ModuleType, name: str, stype: str = "") -> Any:
    """An empty C structure, which says in its first field what it is where it has one."""
    empty = getattr(zes, name)()
    if stype:
        empty.stype = getattr(zes, f"ZES_STRUCTURE_TYPE_{stype}")
    return empty


def _call(zes: ModuleType, call: str, *arguments: Any) -> None:
    """Raises Withheld, and Lost."""
    try:
        code = getattr(zes, call)(*arguments)
    except AttributeError as error:
        raise Withheld(f"this pyzes, or this driver, has no {call}") from error
    except ctypes.ArgumentError as error:
        raise Withheld(f"this pyzes has another {call}: {error}") from error
    if code in _GONE:
        raise Lost(f"{call}: {_GONE[code]}")
    if code:
        raise Withheld(f"{call}: {_REFUSED.get(code, f'code {code:#x}')}")


def _known(value: float, *, zero: bool = True) -> float:
    """Where the driver does not know a number it says -1; 0 only where that can be."""
    if value < 0 or not (value or zero):
        raise Withheld(f"the driver says {value:g}, which is none")
    return float(value)

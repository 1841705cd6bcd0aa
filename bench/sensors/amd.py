"""AMD's boards, through the package amdsmi of ROCm 6.3 or newer (older ones had units wrong).

It has not run on hardware yet: names, units and sentinels are those of AMD's documentation and sources. A number that
is missing comes as the string "N/A", as the highest number of its C type, or for power as 0, by version and board.
"""

import contextlib
import importlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any

from bench.sensors.base import Lost, Reading, Sensors, Withheld

_GONE = {31, 34}  # amdsmi_status_t: the processor is not found, its driver is not loaded
_NOTHING = {0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
_APART_S = 0.5  # between the two reads by which a counter of energy is judged
_POWERS = ("current_socket_power", "average_socket_power")  # MI300 has the first, what came before it the second
_PCIE_GENERATIONS = {2.5e3: 1, 5e3: 2, 8e3: 3, 16e3: 4, 32e3: 5, 64e3: 6}  # by MT/s
# Under these HIP counts from 0 what they leave visible, and the driver's tools still count all.
_MASKS = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
# PPT is Package Power Tracking. Voltage regulators and memory may be too hot while the socket is not.
_THROTTLES = {
    "throttle_power_cap_s": ("acc_ppt_pwr",),
    "throttle_thermal_s": ("acc_socket_thrm", "acc_vr_thrm", "acc_hbm_thrm"),
    "throttle_hw_thermal_s": ("acc_prochot_thrm",),
}


class Amd(Sensors):
    """One HIP device: a board, a die of a board that has two, or a partition."""

    def __init__(self, smi: ModuleType, handle: Any, wait: Callable[[float], object]) -> None:
        super().__init__()
        self._smi, self._handle, self._wait = smi, handle, wait
        self._answers: dict[tuple[object, ...], Any] = {}
        self._agrees = False  # the counter of energy with power
        self._throttled = {name: _Throttled(keys) for name, keys in _THROTTLES.items()}

    def asks(self) -> dict[str, Callable[[], float]]:
        """Clocks and activity are means over about a second."""
        tell, smi = self._tell, self._smi
        cap, link, ecc = "amdsmi_get_power_cap_info", "amdsmi_get_pcie_info", "amdsmi_get_gpu_total_ecc_count"
        return {
            "power_w": lambda: tell("amdsmi_get_power_info", "current_socket_power", zero=False),  # watts
            "power_average_w": lambda: tell("amdsmi_get_power_info", "average_socket_power", zero=False),  # watts
            "energy_j": self._energy,
            # Megahertz, percent.
            "clock_hz": lambda: tell("amdsmi_get_clock_info", "clk", of=smi.AmdSmiClkType.GFX) * 1e6,
            "clock_max_hz": lambda: tell("amdsmi_get_clock_info", "max_clk", of=smi.AmdSmiClkType.GFX) * 1e6,
            "memory_clock_hz": lambda: tell("amdsmi_get_clock_info", "clk", of=smi.AmdSmiClkType.MEM) * 1e6,
            "temperature_c": lambda: self._temperature(smi.AmdSmiTemperatureType.JUNCTION),
            "memory_temperature_c": lambda: self._temperature(smi.AmdSmiTemperatureType.VRAM),
            "kernel_active": lambda: tell("amdsmi_get_gpu_activity", "gfx_activity") / 100,
            "memory_active": lambda: tell("amdsmi_get_gpu_activity", "umc_activity") / 100,
            # Microwatts. A limit of 0 stands for none, except as the lowest that may be set.
            "power_limit_w": lambda: tell(cap, "power_cap", zero=False) / 1e6,
            "power_limit_default_w": lambda: tell(cap, "default_power_cap", zero=False) / 1e6,
            "power_limit_min_w": lambda: tell(cap, "min_power_cap") / 1e6,
            "power_limit_max_w": lambda: tell(cap, "max_power_cap", zero=False) / 1e6,
            "ecc_corrected": lambda: tell(ecc, "correctable_count"),
            "ecc_uncorrected": lambda: tell(ecc, "uncorrectable_count"),
            "pcie_generation": lambda: _generation(tell(link, "pcie_metric", "pcie_speed", zero=False)),
            "pcie_width": lambda: tell(link, "pcie_metric", "pcie_width", zero=False),
            "pcie_generation_max": lambda: _generation(tell(link, "pcie_static", "max_pcie_speed", zero=False)),
            "pcie_width_max": lambda: tell(link, "pcie_static", "max_pcie_width", zero=False),
            "pcie_replays": lambda: tell(link, "pcie_metric", "pcie_replay_count"),
            "memory_used_bytes": lambda: tell("amdsmi_get_gpu_memory_usage", of=smi.AmdSmiMemoryType.VRAM),
            "compute_processes": self._processes,
            **{name: partial(self._throttle, state) for name, state in self._throttled.items()},
        }

    def probe(self) -> dict[str, Reading]:
        """Asks for everything once, and finds what power and energy cover."""
        self._answers.clear()
        readings = super().probe()
        if not any(self.has(name) for name in ("power_w", "power_average_w", "energy_j")):
            self.boundary = None
        elif self._speaks_for_another():
            self.boundary = "whole_gpu"
        return readings

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """As in base; what one call tells is asked once, and so is of one moment."""
        self._answers.clear()
        return super().read(names)

    def others(self) -> list[Sensors]:
        """Every board or die that amdsmi lists, without this one; they are told apart by their places on the bus."""
        smi = self._smi
        try:
            own = smi.amdsmi_get_gpu_device_bdf(self._handle)
            told = smi.amdsmi_get_processor_handles()
            return [Amd(smi, one, self._wait) for one in told if smi.amdsmi_get_gpu_device_bdf(one) != own]
        except (smi.AmdSmiException, AttributeError, LookupError, TypeError):
            return []

    def close(self) -> None:
        """Closes the library, for the whole process."""
        with contextlib.suppress(self._smi.AmdSmiException, AttributeError):
            self._smi.amdsmi_shut_down()

    def _ask(self, call: str, *arguments: object) -> Any:
        """What a call answers. Raises Withheld; Lost where a board that was there is found no more."""
        key = (call, *arguments)
        if key not in self._answers:
            try:
                self._answers[key] = getattr(self._smi, call)(self._handle, *arguments)
            except self._smi.AmdSmiException as error:
                gone = bool(self.readings) and getattr(error, "err_code", None) in _GONE
                raise (Lost if gone else Withheld)(f"{call}: {error}") from error
        return self._answers[key]

    def _tell(self, call: str, *path: str, of: object = None, zero: bool = True) -> float:
        answer = self._ask(call) if of is None else self._ask(call, of)
        for key in path:
            answer = answer[key]
        return _number(answer, zero=zero)

    def _temperature(self, sensor: object) -> float:
        """Degrees: documented as thousandths of them, but the library has divided by 1000 already."""
        return _number(self._ask("amdsmi_get_temp_metric", sensor, self._smi.AmdSmiTemperatureMetric.CURRENT))

    def _throttle(self, state: "_Throttled") -> float:
        return state.seconds(self._ask("amdsmi_get_violation_status"))  # it takes 0.1 s

    def _energy(self) -> float:
        """The counter, once it has risen as power says: some boards have one that stands still, or counts otherwise."""
        if not self._agrees:
            before_j, power_w = self._counter_j(), _power(self._ask("amdsmi_get_power_info"))
            self._answers.clear()
            self._wait(_APART_S)
            rise_j = self._counter_j() - before_j
            if not 0.1 < rise_j / (power_w * _APART_S) < 10:
                raise Withheld(f"the counter rose by {rise_j:.3g} J in {_APART_S} s, at a power of {power_w:.0f} W")
            self._agrees = True
        return self._counter_j()

    def _counter_j(self) -> float:
        call = "amdsmi_get_energy_count"
        return self._tell(call, "energy_accumulator") * self._tell(call, "counter_resolution") / 1e6  # microjoules

    def _processes(self) -> float:
        """Those that hold memory here: the list has every process that has opened the driver."""
        told = self._ask("amdsmi_get_gpu_process_list")
        return sum(_number(process["memory_usage"]["vram_mem"]) > 0 for process in told)

    def _speaks_for_another(self) -> bool:
        """Whether a die of this model tells no power: then the other one of its board (MI250) tells for both."""
        smi = self._smi
        try:
            model = smi.amdsmi_get_gpu_asic_info(self._handle)["market_name"]
            for handle in smi.amdsmi_get_processor_handles():
                if smi.amdsmi_get_gpu_asic_info(handle)["market_name"] == model:
                    _power(smi.amdsmi_get_power_info(handle))
        except Withheld:
            return True
        except (smi.AmdSmiException, AttributeError, LookupError, TypeError):
            pass
        return False


class _Throttled:
    """Seconds in a throttled state. The firmware counts its cycles, and those in that state, and not time: the share
    between two asks is taken of the time between them.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys
        self._total_s = 0.0  # since the first ask
        self._last: tuple[float, float, dict[str, float]] | None = None

    def seconds(self, told: dict[str, Any]) -> float:
        """Where it has more than one cause, of the longest: they may have been one time."""
        counts = {}
        for key in self._keys:
            with contextlib.suppress(Withheld):
                counts[key] = _number(told.get(key))
        if not counts:
            raise Withheld(f"the driver tells no {' or '.join(self._keys)}")
        at_s, cycles = _number(told["reference_timestamp"]) / 1e6, _number(told["acc_counter"])  # microseconds
        last, self._last = self._last, (at_s, cycles, counts)
        if last is None:
            return 0.0
        rises = [count - last[2].get(key, count) for key, count in counts.items()]
        if cycles < last[1] or min(rises) < 0:
            raise Withheld("the firmware's counters went back")
        if cycles > last[1]:
            self._total_s += (at_s - last[0]) * max(rises) / (cycles - last[1])
        else:
            self._last = last  # not counted anew yet
        return self._total_s


def open_board(board: str | None, wait: Callable[[float], object] = time.sleep) -> Sensors:
    """The sensors of the HIP device `uuid:<hex>`, `hip:<index>` or `pci:<domain>:<bus>:<device>.<function>`. Raises
    Withheld, and that too where not exactly one board answers to it.
    """
    if not board:
        raise Withheld("this torch does not tell which board its device is")
    if board.startswith("hip:") and (masks := [name for name in _MASKS if name in os.environ]):
        raise Withheld(f"{board} is not the driver's index under {masks[0]}")
    smi = _amdsmi()
    try:
        found = [handle for handle in smi.amdsmi_get_processor_handles() if _is(smi, handle, board)]
    except (smi.AmdSmiException, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        raise Withheld(f"amdsmi does not name its boards: {type(error).__name__}: {error}") from error
    if len(found) != 1:
        raise Withheld(f"amdsmi finds {len(found)} boards for {board}")
    return Amd(smi, found[0], wait)


def _amdsmi() -> ModuleType:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot find
            smi = importlib.import_module("amdsmi")
            smi.amdsmi_init()
    except ModuleNotFoundError as error:
        raise Withheld(f"the package amdsmi, which comes with ROCm, is not installed: {error}") from error
    # Around a vendor's detection: OSError without its library; AttributeError, KeyError where the two differ in
    # version; its own errors without a driver.
    except Exception as error:
        raise Withheld(f"amdsmi: {type(error).__name__}: {error}") from error
    return smi


def _is(smi: ModuleType, handle: Any, board: str) -> bool:
    how, _, wanted = board.partition(":")
    try:
        if how == "pci":
            return bool(smi.amdsmi_get_gpu_device_bdf(handle).lower() == wanted.lower())
        told = smi.amdsmi_get_gpu_enumeration_info(handle)
    except smi.AmdSmiException:  # another board may be in trouble
        return False
    if how == "hip":
        return str(told["hip_id"]) == wanted
    return how == "uuid" and bool(_hexadecimal(wanted) & _hexadecimal(told["hip_uuid"]))


def _hexadecimal(uuid: str) -> set[str]:
    """What an identity may read. HIP's 16 bytes, which torch prints as a UUID, are the 16 letters of the driver's
    `GPU-<hex>`; boards without one have `GPU-XX`, which is none.
    """
    plain = re.sub(r"[^0-9a-z]", "", uuid.lower().removeprefix("gpu-"))
    forms = [plain]
    with contextlib.suppress(ValueError):
        forms.append(bytes.fromhex(plain).decode("ascii").lower())
    return {form for form in forms if re.fullmatch(r"[0-9a-f]{8,}", form) and form.strip("0")}


def _number(value: Any, *, zero: bool = True) -> float:
    """A number that is one; 0 only where that can be."""
    if not isinstance(value, int | float) or not math.isfinite(value) or value in _NOTHING or not (value or zero):
        raise Withheld(f"the driver says {value!r}")
    return float(value)


def _power(told: dict[str, Any]) -> float:
    """Watts: of the moment, or else the mean."""
    for key in _POWERS:
        with contextlib.suppress(Withheld):
            return _number(told.get(key), zero=False)
    raise Withheld("the driver tells no power of this die")


def _generation(speed: float) -> float:
    """By the speed of a lane: documented as GT/s, it comes as MT/s."""
    if (rate := speed if speed >= 1e3 else speed * 1e3) not in _PCIE_GENERATIONS:
        raise Withheld(f"no PCIe has {rate:g} MT/s")
    return _PCIE_GENERATIONS[rate]

"""Huawei Ascend: the driver's library DCMI, or where it cannot be used the text that `npu-smi` prints.

DCMI comes first because the text differs from version to version, and a process started for each reading disturbs what
is measured. It has not run on hardware yet: functions, units and texts are those of Huawei's documentation.
"""

import ctypes
import re
import subprocess
from collections.abc import Callable
from typing import Any

from bench.sensors.base import Lost, Sensors, Withheld

_LIBRARIES = ("libdcmi.so", "/usr/local/dcmi/libdcmi.so", "/usr/local/Ascend/driver/lib64/driver/libdcmi.so")
_NOT_EXIST = -8008
# What the codes mean that a user can do something about; the others are told by number.
_CODES = {
    -8002: "not permitted: wants root, or the group that runs the driver",
    -8006: "no answer in time",
    -8007: "no such device",
    _NOT_EXIST: "the device does not exist",
    -8012: "not ready",
    -8013: "not supported in a container",
    -8020: "occupied by another process",
    -8255: "not supported by this device",
}
# Arguments `input_type` of dcmi_get_device_frequency and of dcmi_get_device_utilization_rate.
_CLOCK_MEMORY, _CLOCK_CORE, _CLOCK_CORE_RATED = 6, 7, 9
_RATE_CORE = 2
_TIMEOUT_S = 5.0
# Their labels without blanks, in lower case. `Power Dissipation(W)` is not among them: it is the whole card's, and
# `Rated Power Dissipation(W)` is a constant.
_LABELS = {
    "power": {"npureal-timepower(w)"},
    "temp": {"nputemperature(c)", "temperature(c)"},
    "usages": {"aicoreusagerate(%)"},
}


class _Hbm(ctypes.Structure):
    """DCMI's `dcmi_hbm_info`: sizes in units of 2^20 bytes, MHz, degrees Celsius, percent."""

    _fields_ = (
        ("memory_size", ctypes.c_ulonglong),
        ("freq", ctypes.c_uint),
        ("memory_usage", ctypes.c_ulonglong),
        ("temp", ctypes.c_int),
        ("bandwith_util_rate", ctypes.c_uint),
    )


class Dcmi(Sensors):
    """One chip through DCMI, which names it by a card and its place on that card."""

    boundary = "npu_chip"

    def __init__(self, library: Any, index: int) -> None:
        super().__init__()
        self._library = library
        self._call("dcmi_init")
        card, chip = ctypes.c_int(), ctypes.c_int()
        self._call("dcmi_get_card_id_device_id_from_logicid", ctypes.byref(card), ctypes.byref(chip), index)
        self._place = card.value, chip.value

    def asks(self) -> dict[str, Callable[[], float]]:
        """`kernel_active` is DCMI's rate of the AI cores, over a period that Huawei does not tell."""
        return {
            "power_w": lambda: self._number("dcmi_get_device_power_info") / 10,  # in units of 0.1 W
            "energy_j": _no_counter,
            "clock_hz": lambda: self._number("dcmi_get_device_frequency", _CLOCK_CORE) * 1e6,
            # The highest that is sustained at the rated power.
            "clock_max_hz": lambda: self._number("dcmi_get_device_frequency", _CLOCK_CORE_RATED) * 1e6,
            "memory_clock_hz": lambda: self._number("dcmi_get_device_frequency", _CLOCK_MEMORY) * 1e6,
            "temperature_c": lambda: self._number("dcmi_get_device_temperature"),
            "memory_temperature_c": lambda: self._hbm().temp,
            "kernel_active": lambda: self._number("dcmi_get_device_utilization_rate", _RATE_CORE) / 100,
            "memory_used_bytes": lambda: self._hbm().memory_usage * 2**20,
        }

    def _number(self, function: str, *arguments: int) -> int:
        found = ctypes.c_int()  # or unsigned, which reads the same for all that is asked
        self._call(function, *self._place, *arguments, ctypes.byref(found))
        return found.value

    def _hbm(self) -> Any:
        found = _Hbm()
        self._call("dcmi_get_device_hbm_info", *self._place, ctypes.byref(found))
        return found

    def _call(self, function: str, *arguments: Any) -> None:
        """Raises Withheld; Lost once the chip has been there and is no more."""
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError as error:
            raise Withheld(f"this libdcmi.so has no {function}") from error
        if code:
            reason = f"{function}: {_CODES.get(code, f'code {code}')}"
            raise Lost(reason) if code == _NOT_EXIST and hasattr(self, "_place") else Withheld(reason)


class NpuSmi(Sensors):
    """One chip through the text of `npu-smi`."""

    boundary = "npu_chip"

    def __init__(self, index: int) -> None:
        super().__init__()
        self._card, self._chip = _place(_npu_smi("-m"), str(index))

    def asks(self) -> dict[str, Callable[[], float]]:
        """What its text tells. Memory is left out: it tells whole percents of it."""
        return {
            "power_w": lambda: self._number("power"),
            "energy_j": _no_counter,
            "temperature_c": lambda: self._number("temp"),
            "kernel_active": lambda: self._number("usages") / 100,
        }

    def _number(self, topic: str) -> float:
        text = _npu_smi("-t", topic, "-i", self._card, "-c", self._chip)
        return _labelled(text, self._chip, _LABELS[topic])


def open_board(board: str | None) -> Sensors:
    """The chip that torch and the driver know by this index (its logic ID). Raises Withheld."""
    if board is None or not board.isdecimal():
        raise Withheld(f"an NPU is found by its index, not by {board!r}")
    try:
        return Dcmi(_library(), int(board))
    except Withheld as error:
        reason = str(error)
    try:
        return NpuSmi(int(board))
    except Withheld as error:
        raise Withheld(f"{reason}; {error}") from error


def _no_counter() -> float:
    raise Withheld("no counter of energy is documented for Ascend: power is to be integrated")


def _library() -> Any:
    reason = ""
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reason = reason or str(error)
    raise Withheld(f"DCMI: {reason}")


def _npu_smi(*arguments: str) -> str:
    """What `npu-smi info` prints. With a driver in trouble it hangs."""
    command = ["npu-smi", "info", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise Withheld(f"{' '.join(command)} gave no answer in {_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise Withheld(f"npu-smi: {error.strerror or error}") from error
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise Withheld(f"{' '.join(command)}: {said}")
    return done.stdout


def _place(text: str, index: str) -> tuple[str, str]:
    """Card and chip of a logic ID in the table of `npu-smi info -m`, whose columns are found by their heads."""
    heads: list[str] = []
    for line in text.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if {"NPU ID", "Chip ID", "Chip Logic ID"} <= set(cells):
            heads = cells
        row = dict(zip(heads, cells, strict=False))
        if row.get("Chip Logic ID") == index:
            return row["NPU ID"], row["Chip ID"]
    raise Withheld(f"npu-smi info -m lists no chip with the logic ID {index}")


def _labelled(text: str, chip: str, labels: set[str]) -> float:
    """The number after one of these labels. A blank line ends what belongs to one chip; the card's own controller
    (`MCU`) and other chips are passed over, and a number is not guessed from two.
    """
    told: set[str] = set()
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in block.splitlines())
        rows = {"".join(label.split()).lower(): value.strip() for label, _, value in pairs}
        if rows.get("chipname", "").lower() != "mcu" and rows.get("chipid", chip) == chip:
            told |= {rows[label] for label in labels if label in rows}
    if len(told) != 1:
        raise Withheld(f"npu-smi prints {len(told)} values for {' or '.join(sorted(labels))}")
    value = told.pop()
    if not re.fullmatch(r"-?\d+(\.\d+)?", value):
        raise Withheld(f"npu-smi says {value!r}")
    return float(value)

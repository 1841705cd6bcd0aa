"""Chip: what a datasheet says of an accelerator, to set a measurement against. One TOML file each, in bench/chips/.

A chip is found by the exact name that its driver reports. Never by a part of it: an L40S is no L4, and the H100 on a
PCIe card has three quarters of the H100's rate. An unknown chip is measured all the same; only its share of the
datasheet stays empty.

What the figures are, in every file:

- `flops_per_s`: for each type, the fastest product of dense matrices whose inputs have that type, summed in FP32 or
  wider (INT32 for int8). Sheets headline 2:4 sparsity, which is twice that, and GeForce sheets sums in FP16, which is
  twice again. fp32 is true FP32, not TF32.
- `memory_bytes`: the nominal capacity. What sheets print as GB of capacity are GiB: an H200 of "141 GB" reports 143,771
  MiB. Bandwidths are decimal. ECC and the driver take their part of both.
- `link_bytes_per_s`: to other chips of the node, all links together, in one direction. Sheets give both directions
  added up. Left out where links are an optional bridge.
- `power_w`: the default limit of the board.

Most sheets were read in public transcriptions of them. Where two sheets contradict each other, `notes` says so.
"""

import dataclasses
import functools
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bench.errors import UserError

DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8")

# What torch calls them. torch.float32 is fp32: TF32 is a mode of the matrix product, not a type of its inputs.
_TORCH_DTYPES = {
    "float64": "fp64",
    "float32": "fp32",
    "tf32": "tf32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "float4_e2m1fn_x2": "fp4",
    "int8": "int8",
}

_FOLDER = Path(__file__).parent / "chips"

_RATES = ("memory_bytes_per_s", "power_w", "link_bytes_per_s", "price_per_hour")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator's datasheet. What the datasheet does not say is None, or not among `flops_per_s`.

    `sources` names, for each figure, the sheet that gives it: a key is a field or a type; "flops_per_s" stands for
    every type that has no source of its own.
    """

    name: str
    driver_names: tuple[str, ...]  # exactly as reported; one chip may be known by several
    vendor: str
    architecture: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: dict[str, float] = field(hash=False)
    power_w: float | None = None
    link_bytes_per_s: float | None = None
    price_per_hour: float | None = None
    notes: str = ""
    sources: dict[str, str] = field(hash=False)

    def __post_init__(self) -> None:
        for key in ("name", "vendor", "architecture"):
            self._check(key, _is_text, "a text that is not empty")
        self._check("driver_names", _are_names, "a list of the different names that a driver reports")
        self._check("memory_bytes", lambda value: type(value) is int and value >= 1, "a whole number of at least 1")
        self._check("memory_bytes_per_s", _is_positive, "a number above 0")
        for key in ("power_w", "link_bytes_per_s", "price_per_hour"):
            self._check(key, lambda value: value is None or _is_positive(value), "a number above 0, or left out")
        self._check("flops_per_s", _are_rates, f"a table of numbers above 0 with keys among {', '.join(DTYPES)}")
        self._check("notes", lambda value: isinstance(value, str), "a text")
        self._check("sources", _are_texts, "a table of texts that are not empty")
        figures = self._figures()
        for key in figures:
            if key not in self.sources and not (key in DTYPES and "flops_per_s" in self.sources):
                raise UserError(f"sources has no key '{key}', it must say where that figure is from")
        for key in self.sources:
            if key not in (*figures, "flops_per_s"):
                raise UserError(f"sources has the key '{key:.80}', it must name one of {', '.join(figures)}")

    def _figures(self) -> tuple[str, ...]:
        rates = [key for key in _RATES if getattr(self, key) is not None]
        return ("driver_names", "memory_bytes", *rates, *self.flops_per_s)

    def _check(self, key: str, is_right: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, key)
        if not is_right(value):
            raise UserError(f"{key} is {value!r:.80}, it must be {allowed}")

    def peak_flops_per_s(self, dtype: str) -> float | None:
        """The dense peak for a type by torch's name ("bfloat16") or ours ("bf16"); None where no sheet gives one."""
        return self.flops_per_s.get(_TORCH_DTYPES.get(dtype, dtype))


def names() -> list[str]:
    """Every chip there is, by file name."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find(name: str) -> Chip:
    """The chip of that name, or the one in that .toml file. Raises UserError."""
    if name.endswith(".toml"):
        return load(Path(name))
    if name in names():
        return _load_once(_FOLDER / f"{name}.toml")
    raise UserError(
        f"no chip is named '{name:.80}'{_near(name, names())}: "
        "`accelmark list chips` shows all, and a .toml file will do as well"
    )


def match(driver_name: str) -> Chip | None:
    """The chip whose driver reports exactly this name; None when it is not known here."""
    return _by_driver_name().get(driver_name)


@functools.cache
def _load_once(path: Path) -> Chip:
    """Of a chip of the catalog: each row of a table asks for it."""
    return load(path)


@functools.cache
def _by_driver_name() -> dict[str, Chip]:
    return {driver_name: chip for chip in map(find, names()) for driver_name in chip.driver_names}


def load(path: Path) -> Chip:
    """The chip in a TOML file, named after the file. Raises UserError for a key too many, too few or wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a chip is a name or a .toml file") from None
    except (ValueError, RecursionError) as error:  # the errors of the decoder and of UTF-8 are ValueErrors
        raise UserError(f"{path}: is not valid TOML: {error}") from None
    fields = [field for field in dataclasses.fields(Chip) if field.name != "name"]
    known = [field.name for field in fields]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: a chip has no key '{key:.80}'{_near(key, known)}: it has {', '.join(known)}")
    for key in required:
        if key not in values:
            raise UserError(f"{path}: the key '{key}' is missing, a chip needs {', '.join(required)}")
    if isinstance(values["driver_names"], list):
        values["driver_names"] = tuple(values["driver_names"])
    try:
        return Chip(name=path.stem, **values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _near(name: str, known: list[str]) -> str:
    """What could have been meant, as part of a sentence: names that begin so, else names that look alike."""
    near = [other for other in known if other.startswith(name.lower())] or get_close_matches(name.lower(), known)
    return f" (did you mean {' or '.join(near)}?)" if name and near else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _are_names(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_text, value)) and len(set(value)) == len(value)


def _are_rates(value: object) -> bool:
    return isinstance(value, dict) and all(key in DTYPES and _is_positive(rate) for key, rate in value.items())


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))

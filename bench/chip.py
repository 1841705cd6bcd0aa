"""Chip: what a datasheet says of an accelerator, to set a measurement against. One TOML file each, in bench/chips/.

A device that is being measured is found by the exact name that its driver reports (`match`). Never by a part of it: an
L40S is no L4, and the H100 on a PCIe card has three quarters of the H100's rate. An unknown chip is measured all the
same; only its share of the datasheet stays empty. A chip that somebody writes about is found by what people call it
(`resolve`), where "A100" must mean one of several parts.

One chip is one device as tables count: a GPU of the two in a GB200 superchip, a TPU or Trainium chip with all of its
cores. Where software and tables count differently (the two dies of an MI250), `notes` says what is meant, or each has a
file.

What the figures are, in every file:

- `flops_per_s`: for each type, the fastest product of dense matrices whose inputs have that type, summed in FP32 or
  wider (INT32 for int8). Sheets headline 2:4 sparsity, which is twice that, and GeForce sheets sums in FP16, which is
  twice again. fp32 is true FP32, not TF32.
- `memory_bytes`: the nominal capacity, and where a buyer chooses it, the largest one. What sheets print as GB of
  capacity are GiB: an H200 of "141 GB" reports 143,771 MiB. Bandwidths are decimal. ECC and the driver take their part
  of both.
- `link_bytes_per_s`: to other chips of the node, all links together, in one direction. Sheets give both directions
  added up. Left out where links are an optional bridge.
- `power_w`: the default limit of the board.
- `num_sms`: what the blocks of a kernel are spread over: streaming multiprocessors, compute units, or a vendor's word
  for them. Left out where the whole chip is one or two large arrays.
- `launched`: the year in which it was announced for sale.

Most sheets were read in public transcriptions of them. Where two sheets contradict each other, `notes` says so.
"""

import dataclasses
import functools
import math
import re
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
_FACTS = ("num_sms", "memory_kind", "launched")

# What tables put before, after or into a chip's name and what tells no two chips apart.
_DECORATION = {"nvidia", "amd", "intel", "google", "aws", "habana", "gpu", "tesla", "quadro", "geforce", "instinct"}


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator's datasheet. What the datasheet does not say is None, or not among `flops_per_s`.

    `sources` names, for each figure, the sheet that gives it: a key is a field or a type; "flops_per_s" stands for
    every type that has no source of its own.
    """

    name: str
    driver_names: tuple[str, ...]  # exactly as reported; one chip may be known by several, or by none that we know
    vendor: str
    architecture: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: dict[str, float] = field(hash=False)
    power_w: float | None = None
    link_bytes_per_s: float | None = None
    price_per_hour: float | None = None
    num_sms: int | None = None
    memory_kind: str | None = None  # HBM3, GDDR6X, LPDDR5: its share of the peak that kernels reach differs
    launched: int | None = None
    aliases: tuple[str, ...] = ()  # what people and tables call it, the bare kind at its commonest part
    notes: str = ""
    sources: dict[str, str] = field(hash=False)

    def __post_init__(self) -> None:
        for key in ("name", "vendor", "architecture"):
            self._check(key, _is_text, "a text that is not empty")
        self._check("driver_names", _are_names, "a list of the different names that a driver reports")
        self._check("aliases", _are_names, "a list of different names")
        self._check("num_sms", lambda value: value is None or _is_count(value), "a whole number of at least 1")
        self._check("launched", lambda value: value is None or _is_count(value), "a year")
        self._check("memory_kind", lambda value: value is None or _is_text(value), "a text that is not empty")
        self._check("memory_bytes", _is_count, "a whole number of at least 1")
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
        given = [key for key in (*_RATES, *_FACTS) if getattr(self, key) is not None]
        return (*(["driver_names"] if self.driver_names else []), "memory_bytes", *given, *self.flops_per_s)

    def _check(self, key: str, is_right: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, key)
        if not is_right(value):
            raise UserError(f"{key} is {value!r:.80}, it must be {allowed}")

    @property
    def generation(self) -> str:
        """The architecture without the code of the processor, which near relatives share: Hopper of "Hopper GH100"."""
        return re.sub(r" [A-Z]{2}\d{2,}$", "", self.architecture)

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
    if known := _of_catalog(name):
        return known
    raise UserError(
        f"no chip is named '{name:.80}'{_near(name, names())}: "
        "`accelmark list chips` shows all, and a .toml file will do as well"
    )


@functools.cache
def _of_catalog(name: str) -> Chip | None:
    """Each row of a table asks for its chip: the file is read once."""
    return load(_FOLDER / f"{name}.toml") if name in names() else None


def match(driver_name: str) -> Chip | None:
    """The chip whose driver reports exactly this name; None when it is not known here."""
    return _by_driver_name().get(driver_name)


def resolve(name: str, memory_gb: float | None = None) -> Chip:
    """The chip that people call so: by file name, driver name or alias, whatever the case and punctuation.

    A kind that is sold with several memories ("A100") is decided by `memory_gb`, as printed or as reported, or by a
    size within the name; without either, and where no part has that much, by the commonest part. Raises UserError.
    """
    found = _called(name, memory_gb)
    if found is None and (size := re.search(r"(\d+) ?GB\b", name, re.IGNORECASE)):
        found = _called(name.replace(size[0], " "), float(size[1]))
        if found is not None and not _is_about(found.memory_bytes // 2**30, float(size[1])):
            found = None
    if found is None:
        known, key = _by_any_name(), _plain(name)
        near = [other for other in known if other.startswith(key)] or get_close_matches(key, known)
        meant = " or ".join(sorted({known[other].name for other in near})) if key else ""
        raise UserError(
            f"no chip is called '{name:.80}'{f' (did you mean {meant}?)' * bool(meant)}: "
            "`accelmark list chips` shows all, --json their other names, and a .toml file like those describes another"
        )
    return found


def _called(name: str, memory_gb: float | None) -> Chip | None:
    known = _by_any_name()
    key = _plain(name)
    if memory_gb is not None:
        sizes = {chip.memory_bytes // 2**30 for chip in known.values()}
        for size in sorted(sizes, key=lambda size: abs(size - memory_gb)):
            if _is_about(size, memory_gb) and f"{key}{size}" in known:
                return known[f"{key}{size}"]
    return known.get(key)


def _is_about(size: int, memory_gb: float) -> bool:
    """Whether a nominal size may be printed so: GB for GiB is 7 %, and a driver keeps some of it."""
    return abs(size - memory_gb) <= 0.08 * size


@functools.cache
def _by_any_name() -> dict[str, Chip]:
    return {_plain(name): one for one in _catalog() for name in (one.name, *one.driver_names, *one.aliases)}


def _plain(name: str) -> str:
    """A name without what differs from table to table: "NVIDIA A100-SXM4-80GB" is "a100sxm480"."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(\d) ?gi?b\b", r"\1", name.lower()))
    return "".join(word for word in words if word not in _DECORATION)


@functools.cache
def _by_driver_name() -> dict[str, Chip]:
    return {driver_name: chip for chip in _catalog() for driver_name in chip.driver_names}


@functools.cache
def _catalog() -> tuple[Chip, ...]:
    return tuple(map(load, sorted(_FOLDER.glob("*.toml"))))


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
    for key in ("driver_names", "aliases"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
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


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _are_names(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _are_rates(value: object) -> bool:
    return isinstance(value, dict) and all(key in DTYPES and _is_positive(rate) for key, rate in value.items())


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))

"""Workload: what there is to measure. Finds the files in workloads/ by their names; nothing is registered.

A workload's file holds one frozen dataclass that derives from `Workload`. Its fields are the parameters of a case and
an instance is a case. `cost` and `memory_bytes` are pure arithmetic, need no torch and are asked before anything runs;
`prepare` allocates on a device and returns the Step to time.
"""

import dataclasses
import importlib.util
import os
import re
import sys
import types
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench import units
from bench.cost import Cost
from bench.device import Device, Facts, Step
from bench.errors import UserError

__all__ = ["FLOATS", "Facts", "Scalar", "Step", "Workload", "case", "find", "label", "names", "parameters", "parse"]

Scalar = bool | int | float | str

# Bytes of one element, for the arithmetic that must work without torch. Names are torch's, but for tf32: float32 in
# memory, of which the matrix product takes 10 bits of mantissa.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "tf32": 4, "float8_e4m3fn": 1, "int8": 1}
# What every device that calls itself one computes with; a workload that knows more says so in its `dtypes`.
FLOATS = ("float32", "bfloat16", "float16")

# Largest ||out - reference|| / ||reference|| of one matmul-like step. The operands are rounded before both the step and
# its reference see them, so only the accumulation and the rounding of the output count: 2**-8 for bfloat16's output,
# which products of float8 have too, besides sums of some 14 bits. TF32 rounds its operands inside the product, to
# 2**-11; int8 sums are exact.
TOLERANCES = {
    "float32": 1e-3, "bfloat16": 1e-2, "float16": 2e-3, "tf32": 2e-3, "float8_e4m3fn": 3e-2, "int8": 0.0,
}  # fmt: skip

# Before the name of a loop that is nobody's workload of ours but was measured all the same: see bench/measure/user.py.
USERS_OWN = "user:"

# The largest number that every reader of JSON takes exactly; a result file holds none above.
LARGEST = 2**53
LARGEST_FLOPS = 2**63 - 1

_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}

_FOLDER = Path(__file__).resolve().parent.parent / "workloads"


@dataclass(frozen=True, kw_only=True)
class Workload(ABC):
    """A kind of work. Sub-classes add their parameters as fields; the docstring's first line is shown by `list`."""

    # Raised when the same parameters come to mean other work: results of two versions are never compared.
    version: ClassVar[int] = 1
    # micro: one operation, timed by device events; macro: a whole step, timed by the host clock round blocks.
    scale: ClassVar[Literal["micro", "macro"]]
    # Whether steps rotate through independent buffers, so that none finds its inputs in a cache.
    rotate: ClassVar[bool] = True
    # Whether a step can be recorded as a graph: nothing in it waits for the device or decides by its numbers.
    capturable: ClassVar[bool] = True
    data: ClassVar[str] = "normal"
    starts: ClassVar[int] = 0  # processes of its own that preparing a case starts, about
    dtypes: ClassVar[tuple[str, ...]] = FLOATS
    # A case so small that it runs anywhere in well under a second; the contract tests run it.
    smoke: ClassVar[dict[str, Scalar]]

    if TYPE_CHECKING:
        dtype: str  # every workload has it; declared there, so that it stands where its file puts it

    @abstractmethod
    def cost(self) -> Cost:
        """The least that one step must do."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """About what one prepared step keeps allocated at its peak; decides whether a case is offered to a device."""

    @abstractmethod
    def prepare(self, device: Device) -> Step:
        """Inputs from the device's seeded data, outputs, and the step. Raises Unsupported where the device cannot."""

    def tolerance(self) -> float:
        """The largest error of the output that is not a fault."""
        return TOLERANCES[self.dtype]

    def extras(self) -> Facts:
        """Facts worth storing with the record that do not tell cases apart."""
        return {}

    def work(self, facts: Facts) -> Cost:
        """The work of the step that was timed, where what it tells of itself changes it: from `Step.facts`."""
        return self.cost()

    @property
    def duty(self) -> Literal["sustained", "burst", "held"]:
        """How the load is kept up: without pause; after a rest before each sample; or held for a while beforehand."""
        return "sustained"

    @property
    def waits(self) -> bool:
        """Whether a call returns only when its work is done, on every device: launch and execution are one time."""
        return False

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.dtype not in self.dtypes:
            raise UserError(f"dtype={self.dtype!r:.80}: {name} knows {', '.join(self.dtypes)}")
        for field, kind in kinds(type(self)).items():
            value, choices = getattr(self, field), typing.get_args(kind)
            if choices and value not in choices:
                raise UserError(f"{field}={value!r:.80}: {name} knows {', '.join(map(str, choices))}")
            if not choices and type(value) is not kind:  # a stranger's file may hold anything, and True is an int
                raise UserError(f"{field}={value!r:.80}: {name} needs {_KINDS[kind]} there")
            if kind is int and not self._least(field) <= value <= LARGEST:
                raise UserError(f"{field}={value}: must be from {self._least(field)} to 2**53")

    @classmethod
    def _least(cls, field: str) -> int:
        """1, but for counts whose default of 0 stands for none, or for all."""
        return 0 if getattr(cls, field, 1) == 0 else 1

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def stored_dtype(self) -> str:
        """Torch's name of the type that tensors have in memory."""
        return "float32" if self.dtype == "tf32" else self.dtype

    @property
    def name(self) -> str:
        """The workload's name: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    def params(self) -> dict[str, Scalar]:
        """The parameters of this case, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def label(self) -> str:
        """The case as people read it: `matmul m=1024 n=1024 k=1024 dtype=bfloat16`."""
        return label(self.name, self.params())


def label(name: str, params: dict[str, Any]) -> str:
    """A case as people read it: the workload and its parameters, without those that are as they mostly are."""
    kinds = tuple(map(type, params.values()))  # 1, 1.0 and True are equal, and read differently
    return _label(name, tuple(params.items()), kinds, os.environ.get("ACCELMARK_WORKLOADS", ""))


@lru_cache(maxsize=10_000)
def _label(name: str, params: tuple[tuple[str, Any], ...], kinds: tuple[type, ...], own_folders: str) -> str:
    usual = _defaults(name, own_folders)
    shown = (f"{key}={value}" for key, value in params if key == "dtype" or usual.get(key, ...) != value)
    return " ".join([name, *shown])


def names() -> list[str]:
    """Every workload there is, by file name."""
    return sorted(stem for folder in _folders() for stem in _stems(folder))


def find(name: str) -> type[Workload]:
    """The workload of that name. Raises UserError with the near misses when there is none."""
    for folder in _folders():
        path = folder / f"{name}.py"
        if name in _stems(folder) and path.is_file():
            return _load(name, path)
    near = get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
    raise UserError(f"no workload is named '{name}': {hint}")


def parameters(kind: type[Workload]) -> list[str]:
    """The names of a workload's parameters, in the order of its file."""
    return [field.name for field in dataclasses.fields(kind)]


def required(kind: type[Workload]) -> list[str]:
    """The names of the parameters that have no default."""
    return [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]


def case(name: str, params: dict[str, Scalar]) -> Workload:
    """The case of workload `name` with these parameters. Raises UserError for one that is missing or unknown."""
    kind = find(name)
    known = parameters(kind)
    unknown = [key for key in params if key not in known]
    missing = [key for key in required(kind) if key not in params]
    if unknown or missing:
        wrong = f"has no parameter '{unknown[0]}'" if unknown else f"needs a value for '{missing[0]}'"
        raise UserError(f"{name} {wrong}: its parameters are {', '.join(known)}")
    made = kind(**params)  # type: ignore[arg-type]
    if made.cost().flops > LARGEST_FLOPS or made.cost().bytes > LARGEST:
        raise UserError(f"{made.label()}: more FLOP or bytes in a step than a result file can hold")
    return made


def parse(name: str, key: str, text: str) -> Scalar:
    """The value of parameter `key` of workload `name` written as `text` on the command line."""
    known = kinds(find(name))
    if key not in known:
        raise UserError(f"{name} has no parameter '{key}': its parameters are {', '.join(known)}")
    kind = known[key]
    if choices := typing.get_args(kind):
        if text not in choices:
            raise UserError(f"{key}={text}: {name} knows {', '.join(choices)}")
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            return units.parse_count(text)
        return kind(text)  # type: ignore[no-any-return]
    except (ValueError, KeyError, UserError):
        if kind is int and re.fullmatch(r"\s*-?\d+\s*", text):
            raise UserError(f"{key}={text:.80}: must be from {find(name)._least(key)} to 2**53") from None
        raise UserError(f"{key}={text:.80}: {name} needs {_KINDS[kind]} there") from None


@cache
def kinds(kind: type[Workload]) -> dict[str, Any]:
    """The type of each parameter; one that has choices is a Literal of words."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@cache
def _defaults(name: str, own_folders: str) -> dict[str, Any]:
    """What a workload's optional parameters mostly are; nothing for one that is not known here.

    Kept, because a table labels every row: looking through the folders each time took nine tenths of its time.
    """
    try:
        fields = dataclasses.fields(find(name))
    except UserError:
        return {}
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _stems(folder: Path) -> frozenset[str]:
    """The names of a folder's workloads. It is listed anew only when it has changed: a check asks for every record."""
    try:
        return _listed(folder, folder.stat().st_mtime_ns)
    except OSError:
        return frozenset()


@cache
def _listed(folder: Path, changed_ns: int) -> frozenset[str]:
    return frozenset(path.stem for path in folder.glob("*.py") if not path.stem.startswith(("_", "test_")))


def _folders() -> list[Path]:
    """The shipped workloads, then the folders that a lab keeps its own in."""
    own = [Path(part) for part in os.environ.get("ACCELMARK_WORKLOADS", "").split(os.pathsep) if part]
    return [_FOLDER, *own]


def _load(name: str, path: Path) -> type[Workload]:
    module = sys.modules.get(f"workloads.{name}") or _import(f"workloads.{name}", path)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Workload) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"{path.name} must define one class that derives from Workload, it defines {len(found)}")
    return found[0]


def _import(module_name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module

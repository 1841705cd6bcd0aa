"""Workload: what there is to measure. Finds the files in workloads/ by their names; nothing is registered.

A workload's file holds one frozen dataclass that derives from `Workload`. Its fields are the parameters of a case and
an instance is a case. `cost` and `memory_bytes` are pure arithmetic, need no torch and are asked before anything runs;
`prepare` allocates on a device and returns the Step to time.
"""

import dataclasses
import importlib.util
import os
import sys
import types
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench import units
from bench.cost import Cost
from bench.device import Device, Step
from bench.errors import UserError

__all__ = ["Scalar", "Step", "Workload", "case", "find", "label", "names", "parameters", "parse"]

Scalar = bool | int | float | str

# Bytes of one element, for the arithmetic that must work without torch. Names are torch's.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Largest ||out - reference|| / ||reference|| of one matmul-like step. The operands are rounded before both the step and
# its reference see them, so only the accumulation and the rounding of the output count: 2**-8 for bfloat16's output.
TOLERANCES = {"float32": 1e-3, "bfloat16": 1e-2, "float16": 2e-3}

# The largest number that every reader of JSON takes exactly; a result file holds none above.
LARGEST = 2**53
LARGEST_FLOPS = 2**63 - 1

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}

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

    def extras(self) -> dict[str, float | str]:
        """Facts worth storing with the record that do not tell cases apart."""
        return {}

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise UserError(f"dtype {self.dtype}: {type(self).__name__} knows {', '.join(DTYPE_BYTES)}")
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), kinds[field.name]
            if type(value) is not kind:  # a suite or a stranger's file may hold anything there, and True is an int
                raise UserError(f"{field.name}={value!r:.80}: {type(self).__name__} needs {kind.__name__} there")
            if kind is int and not 1 <= value <= LARGEST:
                raise UserError(f"{field.name}={value}: must be from 1 to 2**53")

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element."""
        return DTYPE_BYTES[self.dtype]

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
    """A case as people read it: the workload and its parameters."""
    return " ".join([name, *(f"{key}={value}" for key, value in params.items())])


def names() -> list[str]:
    """Every workload there is, by file name."""
    return sorted(
        path.stem for folder in _folders() for path in folder.glob("*.py") if not path.stem.startswith(("_", "test_"))
    )


def find(name: str) -> type[Workload]:
    """The workload of that name. Raises UserError with the near misses when there is none."""
    for folder in _folders():
        path = folder / f"{name}.py"
        if name in names() and path.is_file():
            return _load(name, path)
    near = get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
    raise UserError(f"no workload is named '{name}': {hint}")


def parameters(kind: type[Workload]) -> list[str]:
    """The names of a workload's parameters, in the order of its file."""
    return [field.name for field in dataclasses.fields(kind)]


def case(name: str, params: dict[str, Scalar]) -> Workload:
    """The case of workload `name` with these parameters. Raises UserError for one that is missing or unknown."""
    kind = find(name)
    known = parameters(kind)
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    unknown = [key for key in params if key not in known]
    missing = [key for key in required if key not in params]
    if unknown or missing:
        wrong = f"has no parameter '{unknown[0]}'" if unknown else f"needs a value for '{missing[0]}'"
        raise UserError(f"{name} {wrong}: its parameters are {', '.join(known)}")
    made = kind(**params)  # type: ignore[arg-type]
    if made.cost().flops > LARGEST_FLOPS or made.cost().bytes > LARGEST:
        raise UserError(f"{made.label()}: more FLOP or bytes in a step than a result file can hold")
    return made


def parse(name: str, key: str, text: str) -> Scalar:
    """The value of parameter `key` of workload `name` written as `text` on the command line."""
    kind = find(name)
    hints = typing.get_type_hints(kind)
    known = parameters(kind)
    if key not in known:
        raise UserError(f"{name} has no parameter '{key}': its parameters are {', '.join(known)}")
    try:
        if hints[key] is bool:
            return {"true": True, "false": False}[text.lower()]
        if hints[key] is int:
            return units.parse_count(text)
        return hints[key](text)  # type: ignore[no-any-return]
    except (ValueError, KeyError, UserError):
        raise UserError(f"{key}={text}: {name} needs {_KINDS[hints[key]]} there") from None


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

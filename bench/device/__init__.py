"""What runs the work: one file for each vendor, with `detect() -> list[Device]` and `why_not() -> Absence`.

Detection needs torch, so it happens in a worker process and never in the process that plans, prints and writes.
"""

import importlib
from pathlib import Path

from bench.device.base import Absence, Case, Device, Facts, Step
from bench.errors import UserError, describe
from bench.sensors import Reading

__all__ = ["Absence", "Case", "Device", "Facts", "Reading", "Step", "absences", "accelerators", "find", "vendors"]

# Asked for by name only: the CPU stands in where there is no accelerator, the virtual one is a simulation.
_NEVER_BY_DEFAULT = frozenset({"cpu", "virtual"})


def vendors() -> list[str]:
    """Every vendor there is a file for."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in files if path.stem not in {"__init__", "base"})


def find(spec: str) -> list[Device]:
    """The devices that `spec` names: `nvidia`, `nvidia:0,1`, `cpu`, `all`, or `default` (accelerators, else the CPU);
    several with spaces between them.

    Raises UserError when there is no such device, with what there is.
    """
    if len(parts := spec.split()) > 1:
        return [device for part in parts for device in find(part)]
    if spec in {"default", "all"}:
        found = accelerators()
        return found + _detect("cpu") if spec == "all" or not found else found
    vendor, _, indices = spec.partition(":")
    if vendor not in vendors():
        raise UserError(f"no device is named '{vendor}': there are {', '.join(vendors())}, and 'all'")
    found = _detect(vendor)
    if not found:
        here = ", ".join(sorted({device.vendor for device in accelerators()} | {"cpu"}))
        raise UserError(f"no {vendor} device is here: there is {here}; `accelmark devices` says why")
    return [_pick(found, vendor, part) for part in indices.split(",")] if indices else found


def accelerators() -> list[Device]:
    """Every accelerator that the installed torch can use."""
    return [device for vendor in vendors() if vendor not in _NEVER_BY_DEFAULT for device in _detect(vendor)]


def absences() -> dict[str, Absence]:
    """Why there is no device of a vendor, for each that has none."""
    found = {vendor: _look(vendor) for vendor in vendors()}
    return {vendor: absence for vendor, absence in found.items() if isinstance(absence, Absence)}


def _detect(vendor: str) -> list[Device]:
    found = _look(vendor)
    return [] if isinstance(found, Absence) else found


def _look(vendor: str) -> list[Device] | Absence:
    """The devices of a vendor, or why there are none."""
    module = importlib.import_module(f"bench.device.{vendor}")
    try:
        found: list[Device] = module.detect()
        return found or module.why_not()
    # One of the two places with a broad except: what one vendor's package breaks must not hide the others' devices.
    except Exception as error:
        return Absence(f"looking for one failed: {describe(error)}", hardware=True)


def _pick(found: list[Device], vendor: str, part: str) -> Device:
    for device in found:
        if part == str(device.index):
            return device
    raise UserError(f"no device {vendor}:{part}: there is {', '.join(f'{vendor}:{device.index}' for device in found)}")

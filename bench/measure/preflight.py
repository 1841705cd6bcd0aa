"""Preflight: what will disturb a measurement on this machine, said before anything is measured and kept in the file."""

import os
from collections.abc import Iterator

import psutil

from bench import units
from bench.device import Absence
from bench.measure import attribution
from bench.record import DeviceFacts, Finding, Host

# A board that nobody uses holds some hundred megabytes for its driver.
IDLE_MEMORY_BYTES = 1 << 30


def findings(host: Host, devices: list[DeviceFacts], absences: dict[str, Absence]) -> list[Finding]:
    """Everything found: the host, each device, and hardware that torch cannot use."""
    found = [*_host(host)]
    for facts in devices:
        if facts.vendor not in {"cpu", "virtual"}:
            found += _device(facts)
    for vendor, absence in absences.items():
        if absence.hardware:
            say = f"this machine has a device of {vendor} that is not measured: {absence.reason}"
            found.append(Finding(code="unused_hardware", message=say))
    return found


def _host(host: Host) -> Iterator[Finding]:
    if host.governor not in (None, "performance"):
        say = f"CPU frequency governor is {host.governor}: clocks follow the load; an administrator can set performance"
        yield Finding(code="governor", message=say)
    if host.virtualisation:
        say = "this is a virtual machine: neighbours that nobody here sees can slow it down; repeat at another hour"
        yield Finding(code="virtual_machine", message=say)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.2 * cores:
        say = f"load average is {load:.1f} on {cores} CPUs: other programs take time from the measurement; stop them"
        yield Finding(code="busy_host", message=say)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    if memory.available < 0.2 * memory.total:
        free, total = units.gibibytes(memory.available), units.gibibytes(memory.total)
        yield Finding(code="little_memory", message=f"{free} of {total} memory is free: cases will be smaller")
    if swap.used > 0.1 * memory.total:
        yield Finding(code="swapping", message=f"{units.gibibytes(swap.used)} is swapped out: memory is short")
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is not None and battery.power_plugged is False:  # None: it cannot tell
        yield Finding(code="battery", message="running on battery: clocks are held down; plug it in")


def shared(facts: DeviceFacts) -> Iterator[str]:
    """What shows that others are on this board. In containers the list of processes is not to be relied on, so memory
    and activity tell as well.
    """
    name, read = facts.name, facts.readings
    used = read.get("memory_used_bytes", 0.0)
    if used > IDLE_MEMORY_BYTES:
        yield f"{name}: {units.gibibytes(used)} of its memory is in use before we start: somebody else computes on it"
    active = read.get("kernel_active", 0.0)
    if active > 0.05:
        yield f"{name}: kernels ran {units.percent(active, 0)} of the last second: somebody else computes on it"
    if read.get("compute_processes", 0.0) > 1:  # one may be ourselves
        yield f"{name}: {read['compute_processes']:.0f} programs have it open for computing"


def _device(facts: DeviceFacts) -> Iterator[Finding]:
    name, read = facts.name, facts.readings
    if (said := facts.capabilities.get("power_w", "")).startswith(attribution.MISTAKEN):
        yield Finding(code="other_board", message=f"{name}: {said}; nothing is read of it")
    limit, default = read.get("power_limit_w"), read.get("power_limit_default_w")
    if limit and default and limit < 0.99 * default:
        share = units.percent(limit / default, 0)
        say = f"{name}: power limit {limit:.0f} W of {default:.0f} W default ({share}): results are capped"
        yield Finding(code="power_capped", message=say)
    for say in shared(facts):
        yield Finding(code="shared_device", message=say)
    if read.get("remapped_rows_pending") or read.get("remapped_rows_failed") or read.get("recovery_action"):
        say = f"{name}: asks for service (memory rows to be remapped, or a reset): tell an administrator"
        yield Finding(code="needs_service", message=say)
    if read.get("persistence") == 0.0:
        say = f"{name}: persistence mode is off: between programs the driver unloads, and each start takes longer"
        yield Finding(code="persistence", message=say)
    if read.get("mig") == 1.0:
        yield Finding(code="mig", message=f"{name}: MIG is on; power and utilization belong to the whole board")
    if facts.chip is None:
        say = f"{name}: not in the catalog, so shares of the datasheet stay empty; add bench/chips/<name>.toml"
        yield Finding(code="unknown_chip", message=say)

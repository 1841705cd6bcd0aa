"""Telemetry: from what the sampler saw in a window to what a record keeps of it, and the flags that it raises."""

from dataclasses import dataclass, field

from bench import energy
from bench.energy import Board, Trace
from bench.record import Energy, Flag, Series, Telemetry
from bench.sensors import COUNTERS, HOST_COUNTERS

# Shares of the window from which on a limit counts as what set the pace, and a slow-down as a fault.
LIMITED, SLOWED = 0.01, 0.001
# Share of the window that asking may take before it may have cost time itself.
HEAVY = 0.01
# Bits of NVML's reasons for a lower clock (nvml.h): they stand in for counters of throttled time where those are not.
_REASONS = {
    "throttle_power_cap_s": 0x4,
    "throttle_sync_boost_s": 0x10,
    "throttle_thermal_s": 0x20,
    "throttle_hw_thermal_s": 0x40,
    "throttle_power_brake_s": 0x80,
}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a record takes over. Each of energy and telemetry may be missing, and then has its reason."""

    energy: Energy | None = None
    telemetry: Telemetry | None = None
    flags: list[Flag] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def told(trace: Trace | None, board: Board, *, reason: str, step_s: float, why_no_energy: str = "") -> Told:
    """Of one window. `reason`: why there is no trace. `why_no_energy`: not all of the window is steps of the case."""
    if trace is None:
        said = reason or "no sensors are read on this device"
        return Told(reasons={"energy": said, "telemetry": said})
    if not trace.names() and not trace.last:
        said = trace.lost or "the board tells nothing while it works"
        flags: list[Flag] = ["gpu_lost"] if trace.lost else []
        return Told(flags=flags, reasons={"energy": said, "telemetry": said})
    gated = energy.gate(trace, board)
    trace, reasons = gated.trace, {f"telemetry.{name}": reason for name, reason in gated.reasons.items()}
    found = energy.Found(reason=why_no_energy) if why_no_energy else energy.energy(trace, board)
    if found.joules is None:
        reasons["energy"] = found.reason
    elif found.disagrees:
        reasons["energy_disagree"] = f"counter {found.joules:.4g} J, power over as long {found.integral_j:.4g} J"
    changes, looked_at = _changes(trace)
    if looked_at:
        reasons |= dict.fromkeys((f"telemetry.{name}" for name in looked_at), "not counted: by looks at the reasons")
    if "xid" in trace.last:
        reasons["xid"] = f"the driver reported XID {trace.last['xid']:.0f} of this board within the window"
    for name in (*COUNTERS, *HOST_COUNTERS):
        if name in trace.first and name in trace.last and trace.last[name] < trace.first[name]:
            reasons[f"telemetry.{name}"] = "the counter fell within the window"
    return Told(
        energy=_energy(found, board),
        telemetry=Telemetry(
            window_s=trace.window_s,
            period_s=trace.period_s,
            busy=trace.busy,
            series={name: _series(trace, name) for name in trace.names() if trace.series(name)},
            changes=changes,
            state={name: value for name, value in trace.last.items() if name not in {*COUNTERS, *HOST_COUNTERS}},
        ),
        flags=_flags(trace, board, found, changes, step_s),
        reasons=reasons,
    )


def _energy(found: energy.Found, board: Board) -> Energy | None:
    if found.joules is None:
        return None
    return Energy(
        joules=found.joules,
        window_s=found.window_s,
        method=found.method,  # type: ignore[arg-type]  # one of four, as the names there are
        boundary=board.boundary or "",
        uncertainty=found.uncertainty,
        uncertainty_same_board=found.uncertainty_same_board,
        integral_j=found.integral_j,
    )


def _series(trace: Trace, name: str) -> Series:
    """Seconds to the tenth of a millisecond and values to six digits: more is not in them."""
    points = trace.series(name)
    return Series(
        t_s=[round(max(0.0, t_s - trace.begin_s), 4) for t_s, _ in points],
        values=[float(f"{value:.6g}") if name != "energy_j" else round(value, 3) for _, value in points],
    )


def _changes(trace: Trace) -> tuple[dict[str, float], list[str]]:
    """What counters rose by; where a board counts no throttled time, the share of looks with that reason for it, and
    which these are.
    """
    changes = {name: change for name in (*COUNTERS, *HOST_COUNTERS) if (change := trace.change(name)) is not None}
    reasons = [int(value) for _, value in trace.series("throttle_reasons")]
    looked_at = [name for name in _REASONS if reasons and name not in changes]
    for name in looked_at:
        changes[name] = trace.window_s * sum(bool(value & _REASONS[name]) for value in reasons) / len(reasons)
    return changes, looked_at


def _flags(trace: Trace, board: Board, found: energy.Found, changes: dict[str, float], step_s: float) -> list[Flag]:
    def share(name: str) -> float:
        return changes.get(name, 0.0) / trace.window_s if trace.window_s > 0 else 0.0

    last = trace.last
    powered = board.boundary is not None and bool(trace.series("power_w") or trace.series("energy_j"))
    raised: dict[Flag, bool] = {
        "alias_risk": found.joules is not None and powered and energy.beats(step_s, board.power_period_s),
        "ecc_uncorrectable": changes.get("ecc_uncorrected", 0) > 0,
        "energy_disagree": found.disagrees,
        "gpu_lost": bool(trace.lost),
        "hw_slowdown": max(share("throttle_hw_thermal_s"), share("throttle_power_brake_s")) > SLOWED,
        "needs_service": any(
            last.get(name, 0) > 0 for name in ("remapped_rows_pending", "remapped_rows_failed", "recovery_action")
        ),
        "pcie_degraded": changes.get("pcie_replays", 0) > 0 or _narrowed(board, last),
        "power_limited": share("throttle_power_cap_s") > LIMITED,
        "sampler_heavy": trace.busy > HEAVY,
        "shared_device": last.get("compute_processes", 0) > 1,
        "thermal_limited": share("throttle_thermal_s") > LIMITED,
        "xid": "xid" in last,
    }
    return [flag for flag, found_so in raised.items() if found_so]


def _narrowed(board: Board, last: dict[str, float]) -> bool:
    """Whether the link runs below what board and slot allow, under load."""
    pairs = (("pcie_generation", board.pcie_generation_max), ("pcie_width", board.pcie_width_max))
    return any(best is not None and last.get(name, best) < best for name, best in pairs)

"""Energy of a window from what sensors told of it: which joules, by which method, how uncertain. Pure arithmetic.

A board publishes power now and then, as a mean over a time that may be shorter or longer, and an energy counter that
stands still between its ticks. So a counter is read at its own ticks while the load goes on, power is integrated only
as a check or where there is no counter, and a window too short for either gives no energy instead of a wrong one.

Published for boards up to Hopper: a gain error of up to 5 % that is a board's own and never averages away, and means
over 10 to 100 ms, or 1 s (Yang, Adamek & Armour, SC24, "Accurate and convenient energy measurements for GPUs").
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from bench import stats

# Gain of a board's own sensor, relative.
GAIN = 0.05
# Below these no energy is claimed: the edges would be most of it.
SHORTEST_S, FEWEST_TICKS = 5.0, 50
# How often boards publish where it was not measured.
ASSUMED_PERIOD_S = 0.1
# A value that is a mean over the second before it says nothing of this window until then.
AVERAGE_SETTLED_S = 1.1
# Counter and integrated power differ by more than this: one of them is wrong, and we cannot tell which.
DISAGREE = 0.05
# A period of the load so near to the sensor's, or to a half, third or quarter of it, beats with it.
ALIAS = 0.05
# Bounds of what is believed. No sensor may make a board draw more than half as much again as it may draw at all.
ABOVE_LIMIT = 1.5
UNLIMITED_W = 5000.0
TEMPERATURE_C = (-20.0, 130.0)
STALE_S = 3.0
CLOCK_HZ = (1e6, 1e11)
# Of what is asked at the ends of a window. A share of the GPU's own counters may be a rounding above the whole.
SHARE, SIZE_BYTES, CODE = (0.0, 1.01), (0.0, 1e15), (0.0, 255.0)
AT_ENDS = {
    "memory_clock_hz": CLOCK_HZ,
    "host_clock_hz": CLOCK_HZ,
    "host_temperature_c": TEMPERATURE_C,
    "temperature_margin_c": (-130.0, 150.0),
    **dict.fromkeys(("memory_active", "host_cpu_share"), SHARE),
    **dict.fromkeys(("sm_active", "sm_occupancy", "tensor_active", "dram_active"), SHARE),
    **dict.fromkeys(("memory_used_bytes", "host_memory_used_bytes"), SIZE_BYTES),
    **dict.fromkeys(("pcie_generation", "pcie_width"), (1.0, 64.0)),
    **dict.fromkeys(("performance_state", "recovery_action"), CODE),
}


class Tick(msgspec.Struct, frozen=True):
    """One look at the sensors: the middle of the call on the monotonic clock, what it took, what it gave."""

    t_s: float
    cost_s: float
    values: dict[str, float]


class Edge(msgspec.Struct, frozen=True):
    """A tick of the energy counter, caught while the load ran: it changed at most `late_s` before `t_s`."""

    t_s: float
    late_s: float
    energy_j: float


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What sensors told from the begin to the end of one window, the load running all the time."""

    begin_s: float
    end_s: float
    period_s: float  # between two looks
    ticks: list[Tick]
    start: Edge | None = None
    stop: Edge | None = None
    first: dict[str, float] = {}  # asked once at either end: counters, limits, links, processes
    last: dict[str, float] = {}
    lost: str = ""  # the board went away, and how that was said

    @property
    def window_s(self) -> float:
        """How long was watched."""
        return self.end_s - self.begin_s

    @property
    def busy(self) -> float:
        """Share of the window that the sensors took to answer."""
        return math.fsum(tick.cost_s for tick in self.ticks) / self.window_s if self.window_s > 0 else 0.0

    def series(self, name: str) -> list[tuple[float, float]]:
        """Moments and values of one quantity."""
        return [(tick.t_s, tick.values[name]) for tick in self.ticks if name in tick.values]

    def names(self) -> list[str]:
        """Every quantity that was told at least once, in order of appearance."""
        return list(dict.fromkeys(name for tick in self.ticks for name in tick.values))

    def change(self, name: str) -> float | None:
        """By how much a counter rose; None where it is not told, or fell: a counter that falls was reset."""
        if name not in self.first or name not in self.last or self.last[name] < self.first[name]:
            return None
        return self.last[name] - self.first[name]


@dataclass(frozen=True, kw_only=True)
class Board:
    """What must be known of a board to judge its numbers."""

    boundary: str | None
    power_limit_w: float | None = None
    power_period_s: float | None = None
    energy_period_s: float | None = None
    pcie_generation_max: float | None = None  # of board and slot together
    pcie_width_max: float | None = None
    modelled: bool = False  # computed by the vendor from activity: no gain error is known

    averaged: bool = False  # only power that is a mean of the last second is told
    why: str = ""  # it tells no power, where it does not

    def held_s(self, wanted_s: float) -> float:
        """How long a window must be held for an energy to be claimed of it, if one of `wanted_s` is; 0 if of 0."""
        if not wanted_s:
            return 0.0
        period_s = max(self.power_period_s or ASSUMED_PERIOD_S, self.energy_period_s or ASSUMED_PERIOD_S)
        # Two periods or looks more, for the ends of a window that no counter aligns.
        least_s = max(SHORTEST_S, FEWEST_TICKS * period_s) + 2 * max(period_s, ASSUMED_PERIOD_S)
        return max(wanted_s, least_s + (AVERAGE_SETTLED_S if self.averaged else 0.0))

    def publishing(self, periods_s: dict[str, float]) -> "Board":
        """The same, with how often it was seen to publish."""
        return replace(
            self,
            power_period_s=periods_s.get("power_period_s"),
            energy_period_s=periods_s.get("energy_period_s"),
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """The energy of a window, or why there is none."""

    joules: float | None = None
    window_s: float = 0.0
    method: str = ""
    uncertainty: float | None = None  # half width at 95 %, relative, of the absolute value
    uncertainty_same_board: float | None = None  # of a ratio of two energies of one board
    integral_j: float | None = None  # by power, over the same window, where the counter gave the joules
    reason: str = ""

    @property
    def disagrees(self) -> bool:
        """Counter and power contradict each other."""
        if self.joules is None or self.integral_j is None:
            return False
        return abs(self.integral_j - self.joules) > DISAGREE * self.joules


@dataclass(frozen=True)
class Gated:
    """A trace without what cannot be true, and what was left out of it."""

    trace: Trace
    reasons: dict[str, str] = field(default_factory=dict)


def gate(trace: Trace, board: Board) -> Gated:
    """Leaves out values that no board can have: a wrong number is worse than none."""
    limit_w = min(ABOVE_LIMIT * (board.power_limit_w or math.inf), UNLIMITED_W)  # a limit may be absurd too
    bounds = {
        "power_w": (1e-3, limit_w),
        "power_average_w": (1e-3, limit_w),
        "clock_hz": CLOCK_HZ,
        "temperature_c": TEMPERATURE_C,
        "memory_temperature_c": TEMPERATURE_C,
        "kernel_active": (0.0, 1.0),
    }
    reasons: dict[str, str] = {}
    ticks = trace.ticks
    for name, (low, high) in bounds.items():
        values = [value for _, value in trace.series(name)]
        if wrong := sum(not low <= value <= high for value in values):
            reasons[name] = f"{wrong} of {len(values)} readings outside of {low:g} to {high:g} left out"
            ticks = [_without(tick, name) if not low <= tick.values.get(name, low) <= high else tick for tick in ticks]
    wrong_ends = _ends_wrong(trace)
    reasons |= wrong_ends
    trace = msgspec.structs.replace(
        trace, first=_left_of(trace.first, wrong_ends), last=_left_of(trace.last, wrong_ends)
    )
    if reason := _counter_wrong(trace, limit_w):
        reasons["energy_j"] = reason
        ticks = [_without(tick, "energy_j") for tick in ticks]
        return Gated(msgspec.structs.replace(trace, ticks=ticks, start=None, stop=None), reasons)
    return Gated(msgspec.structs.replace(trace, ticks=ticks), reasons)


def _ends_wrong(trace: Trace) -> dict[str, str]:
    """What was told at the ends of a window and cannot be true: values, and more throttled time than there was time."""
    reasons = {
        name: f"{trace.last[name]:g} is outside of {low:g} to {high:g}"
        for name, (low, high) in AT_ENDS.items()
        if name in trace.last and not low <= trace.last[name] <= high
    }
    for name in trace.last:
        change_s = trace.change(name) if name.startswith("throttle_") else None
        # Each end is read within a second of the window's.
        if change_s is not None and change_s > trace.window_s + 1.0:
            reasons[name] = f"{change_s:.4g} s of throttling counted in {trace.window_s:.4g} s"
    return reasons


def _counter_wrong(trace: Trace, limit_w: float) -> str:
    """Why the energy counter of this window is not to be believed, or nothing."""
    points = trace.series("energy_j")
    points = [(edge.t_s, edge.energy_j) for edge in (trace.start,) if edge] + points
    points += [(edge.t_s, edge.energy_j) for edge in (trace.stop,) if edge]
    for (_, e0_j), (_, e1_j) in itertools.pairwise(points):
        if e1_j < e0_j:
            return f"the counter fell from {e0_j:g} to {e1_j:g} J"
    if len(points) < 2:
        return ""
    (t0_s, e0_j), (t1_s, e1_j) = points[0], points[-1]
    rises_s = [t0_s, *(b[0] for a, b in itertools.pairwise(points) if b[1] > a[1]), t1_s]
    if (still_s := max(b - a for a, b in itertools.pairwise(rises_s))) > STALE_S:
        return f"the counter stood still for {still_s:.1f} s under load"
    # It may have been up to a period behind when the window began.
    most_j = limit_w * (t1_s - t0_s + 1.0)
    if e1_j - e0_j > most_j:
        return f"the counter rose by {e1_j - e0_j:.4g} J where the board can draw {most_j:.4g} J"
    return ""


def energy(trace: Trace, board: Board) -> Found:
    """The energy between the two ends of the window, by the best method that it bears.

    In this order: the counter at its own ticks; the counter as it was at the ends; instant power integrated; power that
    is a mean of the last second, without the first. The load must have run all the time, and before and after.
    """
    if board.boundary is None:
        return Found(reason=f"the board tells neither power nor energy{board.why and f' ({board.why})'}")
    found = _tick_to_tick(trace, board) or _end_to_end(trace, board) or _integrated(trace, board)
    found = found or _averaged(trace, board)
    if found is None:
        return Found(reason="the sensors told too little of this window")
    return found


def _claimed(joules: float, window_s: float, period_s: float, method: str, edges: float, board: Board) -> Found:
    """An energy with its uncertainty, or why the window does not bear one. `edges`: relative, of both ends together."""
    if window_s < SHORTEST_S or window_s / period_s < FEWEST_TICKS:
        needed_s = max(SHORTEST_S, FEWEST_TICKS * period_s)
        return Found(reason=f"window too short: {window_s:.2g} s, and an energy needs {needed_s:.2g} s")
    if joules <= 0:
        return Found(reason="the counter did not rise")
    absolute = None if board.modelled else math.hypot(GAIN, edges)
    same_board = None if board.modelled else edges
    return Found(
        joules=joules, window_s=window_s, method=method, uncertainty=absolute, uncertainty_same_board=same_board
    )


def _tick_to_tick(trace: Trace, board: Board) -> Found | None:
    if trace.start is None or trace.stop is None:
        return None
    window_s = trace.stop.t_s - trace.start.t_s
    if window_s <= 0:
        return None
    edges = (trace.start.late_s + trace.stop.late_s) / window_s
    joules, period_s = trace.stop.energy_j - trace.start.energy_j, board.energy_period_s or ASSUMED_PERIOD_S
    return _checked(_claimed(joules, window_s, period_s, "counter_tick", edges, board), trace)


def _end_to_end(trace: Trace, board: Board) -> Found | None:
    points, period_s = trace.series("energy_j"), board.energy_period_s or ASSUMED_PERIOD_S
    if len(points) < 2:
        return None
    (t0_s, e0_j), (t1_s, e1_j) = points[0], points[-1]
    window_s = t1_s - t0_s
    if window_s <= 0:
        return None
    # At either end the counter may be a period behind; the load drew about the mean power then.
    return _checked(_claimed(e1_j - e0_j, window_s, period_s, "counter_window", 2 * period_s / window_s, board), trace)


def _integrated(trace: Trace, board: Board) -> Found | None:
    points, period_s = trace.series("power_w"), board.power_period_s or ASSUMED_PERIOD_S
    if len(points) < 2:
        return None
    window_s = points[-1][0] - points[0][0]
    watts = [value for _, value in points]
    if gap := _gap(points, period_s, trace):
        return gap
    # A value is up to a period old, so the ends are; and each is a sample of a power that varies.
    spread = (max(watts) - min(watts)) / stats.median(watts) / math.sqrt(len(watts))
    edges = math.hypot(2 * period_s / window_s, spread)
    return _claimed(_trapezoid(points), window_s, period_s, "power_integral", edges, board)


def _averaged(trace: Trace, board: Board) -> Found | None:
    points = _settled_averages(trace)
    if len(points) < 2:
        return None
    window_s, period_s = points[-1][0] - points[0][0], board.power_period_s or ASSUMED_PERIOD_S
    if gap := _gap(points, period_s, trace):
        return gap
    return _claimed(_trapezoid(points), window_s, period_s, "power_average", 2 * period_s / window_s, board)


def _settled_averages(trace: Trace) -> list[tuple[float, float]]:
    """Means of the last second, from when on that second lies in the window."""
    return [(t_s, value) for t_s, value in trace.series("power_average_w") if t_s - trace.begin_s > AVERAGE_SETTLED_S]


def _gap(points: Sequence[tuple[float, float]], period_s: float, trace: Trace) -> Found | None:
    """Why power with a hole in it gives no energy."""
    longest_s = max(b - a for (a, _), (b, _) in itertools.pairwise(points))
    if longest_s <= 3 * max(period_s, trace.period_s):
        return None
    return Found(reason=f"power was not told for {longest_s:.2g} s within the window")


def _checked(found: Found, trace: Trace) -> Found:
    """With the integral of instant power over as long a time beside it, to see whether the two agree."""
    points = trace.series("power_w")
    if found.joules is None or len(points) < 2 or points[-1][0] - points[0][0] < SHORTEST_S / 2:
        return found
    mean_w = _trapezoid(points) / (points[-1][0] - points[0][0])
    return Found(**{**found.__dict__, "integral_j": mean_w * found.window_s})


def mean_power(trace: Trace) -> float | None:
    """Mean power in watts: of instant readings, each weighing as much as the time round it; where there are none, of
    readings that are means of the last second, without the first; or by the counter. None with nothing of it.
    """
    counted = trace.series("energy_j")
    points = trace.series("power_w") or _settled_averages(trace)
    if not points and len(counted) > 1 and counted[-1][0] > counted[0][0]:
        return (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
    if not points:
        return None
    if len(points) == 1 or points[-1][0] == points[0][0]:
        return points[0][1]
    return _trapezoid(points) / (points[-1][0] - points[0][0])


def beats(step_s: float, period_s: float | None) -> bool:
    """Whether a load of this period may beat with a sensor of that one."""
    period_s = period_s or ASSUMED_PERIOD_S
    return any(abs(step_s * part / period_s - 1) < ALIAS for part in (1, 2, 3, 4))


def _trapezoid(points: Sequence[tuple[float, float]]) -> float:
    return math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def _without(tick: Tick, name: str) -> Tick:
    return msgspec.structs.replace(tick, values={key: value for key, value in tick.values.items() if key != name})


def _left_of(told: dict[str, float], wrong: dict[str, str]) -> dict[str, float]:
    return {name: value for name, value in told.items() if name not in wrong}

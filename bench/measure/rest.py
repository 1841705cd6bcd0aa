"""Rest: the power of a board on which nothing runs: what a job pays for besides its own work.

Two rests are told apart. With a program's context on it a board holds memory and clocks and draws more than when nobody
has it open. Gross energy stays the headline; nothing is ever taken off in a result file.
"""

from collections.abc import Callable

from bench import energy
from bench.device import Device
from bench.energy import Trace
from bench.measure.meter import Meter
from bench.measure.plan import REST_QUIET_S
from bench.record import Idle


def measure(device: Device, meter: Meter, seconds: float, open_context: Callable[[], None]) -> tuple[Idle, str]:
    """Both rests of `seconds`, the first before `open_context` is called; and why where they are not known.

    Quiet comes before each, so that neither the program's start nor the first allocation is in it.
    """
    device.wait(REST_QUIET_S)
    before = meter.idle(seconds)
    open_context()
    device.filler(1 << 20)()
    device.rest(REST_QUIET_S)
    after = meter.idle(seconds)
    without_w, with_w = (_mean_power(trace, meter) for trace in (before, after))
    known = without_w is not None and with_w is not None
    idle = Idle(without_context_w=without_w, with_context_w=with_w, temperature_c=_temperature_c(after))
    return idle, "" if known else meter.reason or "the board tells no power"


def _mean_power(trace: Trace | None, meter: Meter) -> float | None:
    return None if trace is None else energy.mean_power(energy.gate(trace, meter.board).trace)


def _temperature_c(trace: Trace | None) -> float | None:
    points = trace.series("temperature_c") if trace else []
    return points[-1][1] if points else None

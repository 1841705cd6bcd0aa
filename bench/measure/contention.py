"""What else the host did while we measured: the evidence that a slow sample was not the work's own."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench import stats
from bench.measure.timer import Observer, Run
from bench.record import Contention

# A window is noisy when other work took this much of the CPU from it.
NOISY_PRESSURE = 0.10
NOISY_STOLEN = 0.02
NOISY_SPIN = 0.05
_SPINS, _SPIN_S = 20, 0.02


@dataclass(frozen=True)
class _Counters:
    """Counters that only grow, read at one moment."""

    wall_s: float
    own_s: float
    switches: int | None
    faults: int | None
    pressure_s: float | None
    stolen_s: float | None

    @classmethod
    def read(cls) -> "_Counters":
        switches, faults = _usage()
        return cls(time.perf_counter(), time.process_time(), switches, faults, _pressure_s(), _stolen_s())


class HostWatch(Observer):
    """Reads the counters round the window; costs some tens of microseconds at each end and nothing inside."""

    def __init__(self, threads: int, spin_slowdown: float) -> None:
        """`threads` that compute; `spin_slowdown` of this round, from `spin`."""
        self._threads = threads
        self._spin = spin_slowdown
        self._begin = self._end = _Counters.read()

    def begin(self, hold: Run) -> None:
        """Start of the window."""
        self._begin = _Counters.read()

    def end(self, hold: Run) -> None:
        """End of the window."""
        self._end = _Counters.read()

    @property
    def begun_s(self) -> float:
        """When the window began, on the clock of `time.perf_counter`."""
        return self._begin.wall_s

    def contention(self, steps: int) -> Contention:
        """What the counters say of a window of `steps` steps."""
        begin, end = self._begin, self._end
        wall_s = max(end.wall_s - begin.wall_s, 1e-9)

        def growth(before: float | None, after: float | None, per: float) -> float | None:
            return None if before is None or after is None else max(0.0, after - before) / per

        return Contention(
            cpu_share=(end.own_s - begin.own_s) / (wall_s * self._threads),
            involuntary_switches_per_s=growth(begin.switches, end.switches, wall_s),
            pressure=growth(begin.pressure_s, end.pressure_s, wall_s),
            stolen=growth(begin.stolen_s, end.stolen_s, wall_s * (os.cpu_count() or 1)),
            page_faults_per_step=growth(begin.faults, end.faults, max(steps, 1)),
            spin_slowdown=self._spin,
        )


def noisy(contention: Contention) -> bool:
    """Whether the window was disturbed enough to say so beside the number."""
    return (
        (contention.pressure or 0) > NOISY_PRESSURE
        or (contention.stolen or 0) > NOISY_STOLEN
        or (contention.spin_slowdown or 0) > NOISY_SPIN
    )


def spin() -> float:
    """How unevenly a fixed piece of pure CPU work runs: third quartile of 20 spins over the fastest, minus one."""
    count = _calibrated_spin()
    times = [_spin(count) for _ in range(_SPINS)]
    return stats.quantile(times, 0.75) / min(times) - 1


def _calibrated_spin() -> int:
    count = 10_000
    while (seconds := _spin(count)) < _SPIN_S / 4:
        count *= 2
    return max(count, int(count * _SPIN_S / seconds))


def _spin(count: int) -> float:
    start = time.perf_counter()
    number = 0
    while number < count:
        number += 1
    return time.perf_counter() - start


def _usage() -> tuple[int, int] | tuple[None, None]:
    """Involuntary context switches and minor page faults of this process."""
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nivcsw, usage.ru_minflt


def _pressure_s() -> float | None:
    """Seconds in which some task of the machine, waited for a CPU."""
    try:
        line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
        return int(line.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _stolen_s() -> float | None:
    """Seconds of CPU time that the hypervisor gave to others, all cores together."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None

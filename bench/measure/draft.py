"""The record of one case, from what was measured, seen and read; and that of a case of which nothing was measured."""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from bench import record, stats, workload
from bench.cost import Cost
from bench.device import Device
from bench.errors import describe, is_out_of_memory
from bench.measure import contention, telemetry, timer
from bench.measure.messages import Job
from bench.measure.meter import Meter
from bench.record import Check, Contention, Flag, Identity, Record, Timing, Work
from bench.workload import Facts, Step, Workload

# A page fault costs about this much; a step that spends more than this share on them says so.
FAULT_S = 1e-6
FAULT_SHARE = 0.01
SHORTEST_SAMPLE_S = 20e-6
# Single steps whose times a record keeps; a result file may hold twice as many.
MOST_STEPS = 50_000


@dataclass(frozen=True)
class Witnesses:
    """Who looks on while samples are taken: at the host, and at the board."""

    host: contention.HostWatch
    meter: Meter

    def observer(self) -> timer.Observer:
        """Both; the board's longer window lies round the host's."""
        return timer.Observers(self.meter, self.host)


class Draft:
    """The record of one case, filled in as it goes."""

    def __init__(self, case: Workload, job: Job) -> None:
        self.case = case
        self.launch: Any = "eager"
        self.why_no_energy = ""
        self._found: Facts | None = None
        self._job = job
        self._started, self._anchor = now(), (time.time(), time.perf_counter())

    def failed(self, status: Any, reason: str) -> Record:
        """The record of a case that gave no samples."""
        return empty_record(self.case, self._job, status, reason, self._started, launch=self.launch)

    def measured(
        self,
        device: Device,
        steps: list[Step],
        measured: timer.Measurement,
        cache: Any,
        seen: Witnesses,
        wrong: float = 0.0,
    ) -> Record:
        """The record of one measurement. Its output is checked now, after the load, on the buffers that were timed;
        `wrong` is what is known of its error already.
        """
        evidence = seen.host.contention(measured.steps)
        peak = device.peak_memory()
        check, unchecked = _checked(device, steps[0], self.case.tolerance(), wrong)
        facts = self._facts(device, steps[0])
        told = telemetry.told(
            seen.meter.trace,
            seen.meter.board,
            reason=seen.meter.reason,
            step_s=measured.median_s,
            why_no_energy=self.why_no_energy,
        )
        reasons = dict(told.reasons)
        if peak.value is None:
            reasons["peak_memory_bytes"] = peak.reason
        if check is None:
            reasons["check"] = unchecked
        if measured.enqueue_s is None:
            reasons["timing.enqueue_s"] = "a call returns when its work is done"
        return msgspec.structs.replace(
            empty_record(self.case, self._job, "ok", None, self._started),
            identity=_identity(self.case, cache, self.launch),
            work=Work.of(self.case.work(facts)),
            extras=self.case.extras() | facts,
            samples_s=_rounded(measured.samples_s),
            unsteady_s=_rounded(measured.unsteady_s),
            step_samples_s=_rounded(thinned(measured.step_samples_s)),
            timing=Timing(
                clock=device.clock,
                repeats=measured.repeats,
                input_sets=len(steps),
                cold_start_s=measured.cold_start_s,
                settle_s=measured.settle_s,
                window_s=measured.window_s,
                event_floor_s=measured.event_floor_s,
                enqueue_s=measured.enqueue_s,
                stop=measured.stop,
                begins_s=msgspec.UNSET if device.clock == "virtual" else seen.host.begun_s - self._anchor[1],
            ),
            check=check,
            contention=evidence,
            peak_memory_bytes=None if peak.value is None else int(peak.value),
            energy=told.energy,
            telemetry=told.telemetry,
            flags=sorted({*self._flags(device, measured, check, evidence), *told.flags}),
            reasons=reasons,
            ended=now(),
        )

    def _facts(self, device: Device, step: Step) -> Facts:
        """What the step tells of itself, asked once: a graph of it is the same work."""
        if self._found is None:
            shares = step.shares() if self._job.round == 0 else {}
            device.spoilt = device.spoilt or (bool(shares) and device.asynchronous)
            self._found = step.facts() | shares
        return self._found

    def _flags(
        self, device: Device, measured: timer.Measurement, check: Check | None, evidence: Contention
    ) -> list[Flag]:
        wall, monotonic = time.time() - self._anchor[0], time.perf_counter() - self._anchor[1]
        found: dict[Flag, bool] = {
            "bad_output": check is not None and not check.error <= check.tolerance,
            "below_timer_floor": measured.median_s * measured.repeats < SHORTEST_SAMPLE_S,
            "ci_not_reached": measured.stop != "precise",
            "host_noisy": device.clock != "virtual" and contention.noisy(evidence),
            "launch_bound": measured.launch_bound,
            "page_faults": not device.asynchronous
            and (evidence.page_faults_per_step or 0) * FAULT_S > FAULT_SHARE * measured.median_s,
            "wallclock_stepped": abs(wall - monotonic) > 0.005,
        }
        return [*unrest(measured.samples_s), *(flag for flag, raised in found.items() if raised)]


def unrest(samples_s: list[float]) -> list[Flag]:
    """What samples say of themselves: that they drift or step, that each is like the one before."""
    found: dict[Flag, bool] = {
        "not_steady": stats.steadiness(samples_s).steady is False,
        "strong_autocorrelation": (stats.location(samples_s).rho1 or 0) > 0.9,
    }
    return [flag for flag, raised in found.items() if raised]


def _checked(device: Device, step: Step, tolerance: float, wrong: float) -> tuple[Check | None, str]:
    """The check, or why there is none: what was measured is not lost because its reference did not fit in memory."""
    device.release()
    try:
        error = step.error()
    except Exception as problem:
        if is_out_of_memory(problem):
            return None, describe(problem)
        raise
    worst = max(error, wrong) if math.isfinite(error) and math.isfinite(wrong) else math.inf
    return Check(error=_finite(worst), tolerance=tolerance), ""


def empty_record(
    case: Workload, job: Job, status: Any, reason: str | None, started: str, *, launch: Any = "eager"
) -> Record:
    """A record with nothing measured in it; also what the parent writes when a worker dies."""
    return msgspec.structs.replace(
        refused_record(case.name, job.params, reason or "", started),
        version=case.version,
        identity=_identity(case, "cold_rotate" if case.rotate else "warm", launch),
        device=job.device,
        round=job.round,
        status=status,
        reason=reason,
        work=Work.of(case.cost()),
        extras=case.extras(),
    )


def refused_record(name: str, params: dict[str, Any], reason: str, started: str) -> Record:
    """The record of parameters that make no case of their workload."""
    return record.unmeasured(
        reason,
        workload=name,
        version=workload.find(name).version,
        params=params,
        identity=Identity(
            dtype=str(params.get("dtype", "")), data="normal", cache="warm", duty="sustained", launch="eager"
        ),
        status="unsupported",
        reason=reason,
        work=Work.of(Cost()),
        started=started,
        ended=now(),
    )


def _identity(case: Workload, cache: Any, launch: Any) -> Identity:
    return Identity(dtype=case.dtype, data=case.data, cache=cache, duty=case.duty, launch=launch)


def now() -> str:
    """This moment in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _finite(error: float) -> float:
    """JSON has no NaN and no infinity: an output that is not a number is as wrong as can be."""
    return error if math.isfinite(error) else 1e30


def thinned(samples: list[float]) -> list[float]:
    """Every second, third, ... of them where there are more than a record keeps: still spread over the whole window."""
    return samples[:: math.ceil(len(samples) / MOST_STEPS) or 1]


def _rounded(samples: list[float]) -> list[float]:
    """Seven significant digits: 0.1 ns of a millisecond, and a file half the size."""
    return [float(f"{sample:.7g}") for sample in samples]

"""One case on one device, from parameters to records. Whatever goes wrong becomes a record with its reason."""

import math
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from bench import record, stats, workload
from bench.cost import Cost
from bench.device import Device
from bench.errors import Unsupported, UserError, describe, is_out_of_memory
from bench.measure import contention, telemetry, timer
from bench.measure.messages import Job
from bench.measure.meter import Meter
from bench.record import Check, Contention, Flag, Identity, Protocol, Record, Timing, Work
from bench.workload import Facts, Step, Workload

# Buffers that rotate hold this many times the last-level cache together, so that none finds itself in it.
COLD_FACTOR = 4
MAX_INPUT_SETS = 256
# Rotation may take this share of free memory; beyond it one set is used and the cache is flushed before each sample.
ROTATION_SHARE = 0.25
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


def measure(device: Device, job: Job, seed: int, seen: Witnesses) -> Iterator[Record]:
    """The records of one case, each as soon as it is there: one as eager code runs it, and where launches set the pace
    a second without them.
    """
    case = workload.case(job.workload, job.params)
    draft = _Draft(case, job)
    try:
        device.release()  # what the case before held: from here on its variables are gone
        if not device.supports(case.dtype):
            raise Unsupported(f"{device.name} does not multiply {case.dtype} matrices")
        device.use_precision(case.dtype)
        device.seed(seed)
        device.reset_peak_memory()
        steps, cache = _prepare(device, case)
        flush = _flush(device) if cache == "cold_flush" else None
        if flush and case.duty == "burst":
            raise Unsupported("a burst needs buffers that rotate, and there is too little memory for them")
        runs, blocks = [step.run for step in steps], case.scale == "macro"
        if flush:
            draft.why_no_energy = "the cache is emptied between the samples, and the board pays for that too"
        elif case.duty == "burst":
            draft.why_no_energy = "the device rests between the samples"
        # Once is enough: what a board's own sensor is wrong by does not change from round to round.
        wanted = job.round == 0 and seen.meter.board.boundary is not None and not draft.why_no_energy
        seen.meter.board = seen.meter.board.publishing(job.periods_s)
        seen.meter.energy_s = seen.meter.board.held_s(job.protocol.energy_s) if wanted else 0.0
        eager = timer.measure(
            device, runs, job.protocol, blocks=blocks, lead=flush, duty=case.duty, observer=seen.observer()
        )
        if case.waits:
            eager = replace(eager, enqueue_s=None)
        yield draft.measured(device, steps, eager, cache, seen)
        if eager.launch_bound:
            yield from _without_launches(device, steps, job.protocol, eager, cache, seen, draft)
    except (Unsupported, UserError) as error:
        yield draft.failed("unsupported", str(error))
    # One of the two places with a broad except: whatever a workload does wrong becomes its record, and the next runs.
    except Exception as error:
        if is_out_of_memory(error):
            yield draft.failed("oom", describe(error))
        else:
            traceback.print_exc()
            yield draft.failed("crash", describe(error))


def _prepare(device: Device, case: Workload) -> tuple[list[Step], str]:
    """As many independent steps as it takes for none to find its buffers in the cache, and what that came to."""
    first = device.prepare(case)
    if not case.rotate:
        return [first], "warm"
    working_set = case.memory_bytes()
    # Of a large table a step may touch little, and that is what a cache would hold.
    wanted = math.ceil(COLD_FACTOR * device.cache_bytes() / min(working_set, case.cost().bytes))
    room = ROTATION_SHARE * device.free_bytes()
    if wanted > MAX_INPUT_SETS or wanted * working_set > room:
        return [first], "cold_flush" if wanted > 1 else "cold_rotate"
    # A step so large that it evicts itself still rotates through two sets.
    count = max(wanted, 2 if 2 * working_set <= room else 1)
    return [first, *(device.prepare(case) for _ in range(count - 1))], "cold_rotate"


def _flush(device: Device) -> timer.Run:
    """Writes so much that nothing of before is left in the cache."""
    return device.filler(max(256 << 20, 2 * device.cache_bytes()))


def _without_launches(
    device: Device,
    steps: list[Step],
    protocol: Protocol,
    eager: timer.Measurement,
    cache: str,
    seen: Witnesses,
    draft: "_Draft",
) -> Iterator[Record]:
    """The device's own time of the same steps: replayed from a graph, or from a queue that was filled beforehand.

    Nothing where neither is possible: a step that overflows the queue would wait for it, and its time would be wrong.
    """
    outputs: list[Any] = []

    def run_all() -> None:
        outputs[:] = [step.run() for step in steps]

    device.reset_peak_memory()
    if draft.case.capturable:
        try:
            draft.launch = "graph"
            replay = device.capture(run_all)
        except Unsupported:
            pass
        else:
            replayed = timer.measure(device, [replay], protocol, observer=seen.observer())
            wrong = 0.0 if draft.checked else _replay_error(steps[0], replay, outputs[0])
            yield draft.measured(device, steps, replayed.shared_by(len(steps)), cache, seen, wrong)
            return
    # A mark on the host's clock waits for the queue, which would then be empty again.
    launches = len(steps) * max(1, draft.case.cost().launches)
    if draft.case.scale == "macro" or device.clock == "host" or launches > timer.QUEUE_DEPTH:
        return
    draft.launch, draft.why_no_energy = "queued", "other work fills the queue between the samples"
    seen.meter.energy_s = 0.0
    queued = _measure_queued(device, run_all, timer.QUEUE_DEPTH // launches, protocol, eager, seen)
    yield draft.measured(device, steps, queued.shared_by(len(steps)), cache, seen)


def _replay_error(step: Step, replay: timer.Run, output: Any) -> float:
    """How far the output of a replay is from that of the step itself; 0 for a step that gives no tensor back."""
    if not hasattr(output, "fill_"):
        return 0.0
    import torch

    expected = step.run().clone()  # type: ignore[attr-defined]
    with torch.inference_mode():  # what a step made within it may be written to in no other mode
        output.fill_(math.nan if output.is_floating_point() else 0)
    replay()
    return float((output.float() - expected.float()).norm() / expected.float().norm())


def _measure_queued(
    device: Device,
    run_all: timer.Run,
    rounds: int,
    protocol: Protocol,
    eager: timer.Measurement,
    seen: Witnesses,
) -> timer.Measurement:
    """Samples of as many steps as a queue holds, launched while a filler that lasts longer keeps the device busy."""
    assert eager.enqueue_s is not None
    fill = device.filler(256 << 20)
    fill()
    filler_s = timer.measure(device, [fill], msgspec.structs.replace(protocol, min_samples=6, min_time_s=0.0)).median_s
    fillers = math.ceil(1.5 * eager.enqueue_s * timer.QUEUE_DEPTH / filler_s)

    def lead() -> None:
        for _ in range(fillers):
            fill()

    def run_rounds() -> None:
        for _ in range(rounds):
            run_all()

    return timer.measure(device, [run_rounds], protocol, lead=lead, observer=seen.observer()).shared_by(rounds)


class _Draft:
    """The record of one case, filled in as it goes."""

    def __init__(self, case: Workload, job: Job) -> None:
        self.case = case
        self.launch: Any = "eager"
        self.why_no_energy = ""
        self.checked = job.checked
        self._found: Facts | None = None
        self._job = job
        self._started, self._anchor = now(), (time.time(), time.monotonic())

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
        """The record of one measurement. Its output is checked now, after the load, on the buffers that were timed,
        unless it was in an earlier round; `wrong` is what is known of its error already.
        """
        evidence = seen.host.contention(measured.steps)
        peak = device.peak_memory()
        check, unchecked = None, "the output of an earlier round, of the same data, was right"
        if not self.checked:
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
        location, steady = stats.location(measured.samples_s), stats.steadiness(measured.samples_s).steady
        wall, monotonic = time.time() - self._anchor[0], time.monotonic() - self._anchor[1]
        found: dict[Flag, bool] = {
            "bad_output": check is not None and not check.error <= check.tolerance,
            "below_timer_floor": measured.median_s * measured.repeats < SHORTEST_SAMPLE_S,
            "ci_not_reached": measured.stop != "precise",
            "host_noisy": device.clock != "virtual" and contention.noisy(evidence),
            "launch_bound": measured.launch_bound,
            "not_steady": steady is False,
            "page_faults": not device.asynchronous
            and (evidence.page_faults_per_step or 0) * FAULT_S > FAULT_SHARE * measured.median_s,
            "strong_autocorrelation": (location.rho1 or 0) > 0.9,
            "wallclock_stepped": abs(wall - monotonic) > 0.005,
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

"""One case on one device, from parameters to records. Whatever goes wrong becomes a record with its reason."""

import math
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from bench import workload
from bench.device import Device
from bench.errors import Unsupported, UserError, describe, is_out_of_memory
from bench.measure import timer
from bench.measure.draft import Draft, Witnesses
from bench.measure.messages import Job
from bench.record import Protocol, Record
from bench.workload import Step, Workload

# Buffers that rotate hold this many times the last-level cache together, so that none finds itself in it.
COLD_FACTOR = 4
MAX_INPUT_SETS = 256
# Rotation may take this share of free memory; beyond it one set is used and the cache is flushed before each sample.
ROTATION_SHARE = 0.25


def measure(device: Device, job: Job, seed: int, seen: Witnesses) -> Iterator[Record]:
    """The records of one case, each as soon as it is there: one as eager code runs it, and where launches set the pace
    a second without them.
    """
    case = workload.case(job.workload, job.params)
    draft = Draft(case, job)
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
    draft: Draft,
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
        except Unsupported as error:
            if device.spoilt:  # it has graphs, and this one could not be captured: the table should not just lack it
                yield draft.failed("unsupported", str(error))
        else:
            replayed = timer.measure(device, [replay], protocol, observer=seen.observer())
            wrong = _replay_error(steps[0], replay, outputs[0])
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

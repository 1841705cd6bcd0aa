"""Worker: the only process that touches the device. One lives for one round; it is told a case at a time.

Jobs arrive on standard input and replies leave on a descriptor of their own, one JSON line each. Whatever a library
prints goes to standard error. When the parent dies, standard input ends and so does the worker, even in mid-case.
"""

import argparse
import math
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from bench import device as devices
from bench import stats, workload
from bench.device import Device
from bench.errors import Unsupported, UserError, describe
from bench.measure import contention, environment, peers, timer
from bench.measure.peers import Agreement
from bench.record import Check, Contention, DeviceFacts, Flag, Identity, Protocol, Record, Speeds, Timing, Work
from bench.workload import Scalar, Step, Workload

# Two windows of allocator thresholds, fixed before the process starts. glibc gives a freed block of some megabytes back
# to the kernel at once, or does not, depending on what the process did before; fetching it anew costs a page fault for
# each 4 KiB, which can take ten times as long as the work. With these a freed block stays.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}

# Buffers that rotate hold this many times the last-level cache together, so that none finds itself in it.
COLD_FACTOR = 4
MAX_INPUT_SETS = 256
# Rotation may take this share of free memory; beyond it one set is used and the cache is flushed before each sample.
ROTATION_SHARE = 0.25
# Where torch does not tell how much memory is free: what the smallest accelerators can spare.
ASSUMED_FREE_BYTES = 4 << 30
FAULTS_WORTH_A_WORD = 1.0
SHORTEST_SAMPLE_S = 20e-6


class Describe(msgspec.Struct, tag="describe", frozen=True):
    """Asks what the devices are."""


class Probe(msgspec.Struct, tag="probe", frozen=True):
    """Asks for rough speeds of the worker's device, to choose sizes by."""


class Job(msgspec.Struct, tag="case", frozen=True, kw_only=True):
    """Asks for the records of one case."""

    workload: str
    params: dict[str, Scalar]
    device: int
    round: int
    protocol: Protocol


class CompareTimers(msgspec.Struct, tag="timers", frozen=True, kw_only=True):
    """Asks how other timers read the same call."""

    workload: str
    params: dict[str, Scalar]


class Described(msgspec.Struct, tag="described", frozen=True, kw_only=True):
    """The devices that the worker's `--device` names, and the software it runs on."""

    specs: list[str]
    facts: list[DeviceFacts]
    absences: dict[str, devices.Absence]
    software: dict[str, str]


class Probed(msgspec.Struct, tag="probed", frozen=True):
    """First, rough speeds."""

    speeds: Speeds


class Measured(msgspec.Struct, tag="measured", frozen=True):
    """One record; `last` ends the case."""

    record: Record
    last: bool


class TimersCompared(msgspec.Struct, tag="agreements", frozen=True):
    """How they read it."""

    agreements: list[Agreement]


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """The user can put it right: shown as it is."""

    message: str


Order = Describe | Probe | Job | CompareTimers
Reply = Described | Probed | Measured | TimersCompared | Refused


def main() -> None:
    """Serves orders until standard input ends."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", required=True)
    arguments.add_argument("--threads", type=int, required=True)
    arguments.add_argument("--seed", type=int, required=True)
    options = arguments.parse_args()
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a library's print must not look like a reply
    orders = _orders_until_the_parent_dies()

    def reply(answer: Reply) -> None:
        replies.write(msgspec.json.encode(answer) + b"\n")

    try:
        found = devices.find(options.device)
        server = _Server(found, options.threads, options.seed)
        while True:
            for answer in server.serve(orders.get()):
                reply(answer)
    except UserError as error:
        reply(Refused(str(error)))


def _orders_until_the_parent_dies() -> "queue.SimpleQueue[Order]":
    """Orders as they come. The thread that reads them sleeps in the kernel while a case is measured."""
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    decoder = msgspec.json.Decoder(Order)

    def read() -> None:
        # Unbuffered: the interpreter's own reader holds a lock that no exit of the main thread could take.
        with open(0, "rb", buffering=0, closefd=False) as stream:
            while line := stream.readline():
                orders.put(decoder.decode(line))
        os._exit(0)  # not sys.exit: the main thread may hang in a driver

    threading.Thread(target=read, daemon=True).start()
    return orders


class _Server:
    """Answers orders on one device, or describes several."""

    def __init__(self, found: list[Device], threads: int, seed: int) -> None:
        self._found = found
        self._device = found[0]
        self._threads = threads
        self._seed = seed
        self._spin: float | None = None
        self._ready = False

    def serve(self, order: Order) -> Iterator[Reply]:
        """The answers to one order."""
        if isinstance(order, Describe):
            facts = [environment.device_facts(device) for device in self._found]
            specs = [device.spec for device in self._found]
            absences = devices.absences()
            yield Described(specs=specs, facts=facts, absences=absences, software=environment.software())
            return
        self._get_ready()
        if isinstance(order, Probe):
            yield Probed(_speeds(self._device))
            return
        if isinstance(order, CompareTimers):
            yield TimersCompared(peers.timers(self._device, order.workload, order.params))
            return
        if self._spin is None:
            self._spin = contention.spin()
        watch = contention.HostWatch(self._threads, self._spin)
        *others, last = measure_case(self._device, order, self._seed, watch)
        for record in others:
            yield Measured(record, last=False)
        yield Measured(last, last=True)

    def _get_ready(self) -> None:
        if not self._ready and self._device.clock != "virtual":
            import torch

            torch.set_num_threads(self._threads)
            self._device.use()
        self._ready = True


def measure_case(device: Device, job: Job, seed: int, watch: contention.HostWatch) -> list[Record]:
    """The records of one case: one as eager code runs it, a second without launch costs where those set the pace."""
    case = workload.case(job.workload, job.params)
    draft = _Draft(case, job)
    try:
        if not device.supports(case.dtype):
            raise Unsupported(f"{device.name} does not multiply {case.dtype} matrices")
        return _measure(device, case, job, seed, watch, draft)
    except Unsupported as error:
        return [draft.failed("unsupported", str(error))]
    except UserError:
        raise
    # One of the two places with a broad except: whatever a workload does wrong becomes its record, and the next runs.
    except Exception as error:
        if _is_out_of_memory(error):
            return [draft.failed("oom", describe(error))]
        traceback.print_exc()
        return [draft.failed("crash", describe(error))]
    finally:
        device.release()


def _measure(
    device: Device, case: Workload, job: Job, seed: int, watch: contention.HostWatch, draft: "_Draft"
) -> list[Record]:
    device.seed(seed)
    device.reset_peak_memory()
    steps, cache = _prepare(device, case)
    flush = _flush(device) if cache == "cold_flush" else None
    runs = [step.run for step in steps]
    blocks = case.scale == "macro"
    measured = timer.measure(device, runs, job.protocol, blocks=blocks, lead=flush, observer=watch)
    records = [draft.measured(device, steps, measured, cache, "eager", watch)]
    if measured.launch_bound and flush is None:
        records += _without_launches(device, steps, job.protocol, measured, cache, watch, draft)
    return records


def _prepare(device: Device, case: Workload) -> tuple[list[Step], str]:
    """As many independent steps as it takes for none to find its buffers in the cache, and what that came to."""
    first = device.prepare(case)
    if not case.rotate:
        return [first], "warm"
    working_set = case.memory_bytes()
    wanted = math.ceil(COLD_FACTOR * device.cache_bytes() / working_set)
    room = ROTATION_SHARE * (device.free_bytes() or 0)
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
    watch: contention.HostWatch,
    draft: "_Draft",
) -> list[Record]:
    """The device's own time of the same steps: replayed from a graph, or from a queue that was filled beforehand.

    Nothing where neither is possible: a step that overflows the queue would wait for it, and its time would be wrong.
    """

    def run_all() -> None:
        for step in steps:
            step.run()

    if draft.case.capturable:
        try:
            replay = device.capture(run_all)
        except Unsupported:
            pass
        else:
            measured = timer.measure(device, [replay], protocol, observer=watch).shared_by(len(steps))
            return [draft.measured(device, steps, measured, cache, "graph", watch)]
    # A mark on the host's clock waits for the queue, which would then be empty again.
    launches = len(steps) * max(1, draft.case.cost().launches)
    if draft.case.scale == "macro" or device.clock == "host" or launches > timer.QUEUE_DEPTH:
        return []
    measured = _measure_queued(device, run_all, timer.QUEUE_DEPTH // launches, protocol, eager, watch)
    return [draft.measured(device, steps, measured.shared_by(len(steps)), cache, "queued", watch)]


def _measure_queued(
    device: Device,
    run_all: timer.Run,
    rounds: int,
    protocol: Protocol,
    eager: timer.Measurement,
    watch: contention.HostWatch,
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

    return timer.measure(device, [run_rounds], protocol, lead=lead, observer=watch).shared_by(rounds)


def _is_out_of_memory(error: Exception) -> bool:
    """Torch's own error on accelerators; the CPU allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("can't allocate memory", "not enough memory")  # on Linux and macOS; on Windows
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


class _Draft:
    """The record of one case, filled in as it goes."""

    def __init__(self, case: Workload, job: Job) -> None:
        self.case = case
        self._job = job
        self._started, self._anchor = _now(), (time.time(), time.monotonic())

    def failed(self, status: Any, reason: str) -> Record:
        """The record of a case that gave no samples."""
        return empty_record(self.case, self._job, status, reason, self._started)

    def measured(
        self,
        device: Device,
        steps: list[Step],
        measured: timer.Measurement,
        cache: Any,
        launch: Any,
        watch: contention.HostWatch,
    ) -> Record:
        """The record of one measurement, its output checked now: after the load, on the buffers that were timed."""
        evidence = watch.contention(measured.steps)
        peak = device.peak_memory()
        check = Check(error=_finite(steps[0].error()), tolerance=self.case.tolerance())
        reasons = {"energy": "not measured by this version", "telemetry": "not sampled by this version"}
        if peak.value is None:
            reasons["peak_memory_bytes"] = peak.reason
        if measured.enqueue_s is None:
            reasons["timing.enqueue_s"] = "a call returns when its work is done"
        return msgspec.structs.replace(
            empty_record(self.case, self._job, "ok", None, self._started),
            identity=_identity(self.case, cache, launch),
            samples_s=_rounded(measured.samples_s),
            unsteady_s=_rounded(measured.unsteady_s),
            step_samples_s=_rounded(measured.step_samples_s),
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
            flags=self._flags(device, measured, check, evidence),
            reasons=reasons,
            ended=_now(),
        )

    def _flags(self, device: Device, measured: timer.Measurement, check: Check, evidence: Contention) -> list[Flag]:
        location, steady = stats.location(measured.samples_s), stats.steadiness(measured.samples_s).steady
        wall, monotonic = time.time() - self._anchor[0], time.monotonic() - self._anchor[1]
        found: dict[Flag, bool] = {
            "bad_output": not check.error <= check.tolerance,
            "below_timer_floor": measured.median_s * measured.repeats < SHORTEST_SAMPLE_S,
            "ci_not_reached": measured.stop != "precise",
            "host_noisy": device.clock != "virtual" and contention.noisy(evidence),
            "launch_bound": measured.launch_bound,
            "not_steady": steady is False,
            "page_faults": not device.asynchronous and (evidence.page_faults_per_step or 0) >= FAULTS_WORTH_A_WORD,
            "strong_autocorrelation": (location.rho1 or 0) > 0.9,
            "wallclock_stepped": abs(wall - monotonic) > 0.005,
        }
        return [flag for flag, raised in found.items() if raised]


def empty_record(case: Workload, job: Job, status: Any, reason: str | None, started: str) -> Record:
    """A record with nothing measured in it; also what the parent writes when a worker dies."""
    unmeasured = dict.fromkeys(
        ("timing", "check", "contention", "peak_memory_bytes", "energy", "telemetry"), reason or ""
    )
    return Record(
        workload=case.name,
        version=case.version,
        params=job.params,
        identity=_identity(case, "cold_rotate" if case.rotate else "warm", "eager"),
        device=job.device,
        round=job.round,
        status=status,
        reason=reason,
        work=Work.of(case.cost()),
        extras=case.extras(),
        samples_s=[],
        unsteady_s=[],
        step_samples_s=[],
        timing=None,
        check=None,
        contention=None,
        peak_memory_bytes=None,
        energy=None,
        telemetry=None,
        flags=[],
        reasons=unmeasured,
        started=started,
        ended=_now(),
    )


def _identity(case: Workload, cache: Any, launch: Any) -> Identity:
    return Identity(dtype=case.dtype, data=case.data, cache=cache, duty="sustained", launch=launch)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _finite(error: float) -> float:
    """JSON has no NaN and no infinity: an output that is not a number is as wrong as can be."""
    return error if math.isfinite(error) else 1e30


def _rounded(samples: list[float]) -> list[float]:
    """Seven significant digits: 0.1 ns of a millisecond, and a file half the size."""
    return [float(f"{sample:.7g}") for sample in samples]


def _speeds(device: Device) -> Speeds:
    """Matrix products by type, a copy and a launch, each for about a tenth of a second."""
    protocol = Protocol(
        settle_s=0.02, min_samples=6, min_time_s=0.03, max_time_s=0.15, max_samples=100, half_width=0.05, sample_s=1e-3
    )

    def step_s(name: str, params: dict[str, Scalar]) -> float:
        device.seed(0)
        step = device.prepare(workload.case(name, params))
        # The fastest sample, for once: other programs can only slow it, and a size must not depend on them.
        return min(timer.measure(device, [step.run], protocol).samples_s)

    def matmul_s(dtype: str, size: int) -> float:
        return step_s("matmul", {"m": size, "n": size, "k": size, "dtype": dtype})

    flops_per_s = {}
    for dtype in workload.DTYPE_BYTES:
        if not device.supports(dtype):
            continue
        flops_per_s[dtype] = _matmul_rate(partial(matmul_s, dtype))
    free_bytes = device.free_bytes() or ASSUMED_FREE_BYTES
    num_bytes = int(min(256 << 20, free_bytes / 8)) // 4096 * 4096
    copy_s = step_s("memory_copy", {"num_bytes": num_bytes, "dtype": "float32"})
    launches = 50
    return Speeds(
        flops_per_s=flops_per_s,
        bytes_per_s=2 * num_bytes / copy_s,
        free_bytes=free_bytes,
        launch_s=step_s("launch_overhead", {"num_launches": launches, "dtype": "float32"}) / launches,
    )


def _matmul_rate(step_s: Callable[[int], float]) -> float:
    """FLOP/s of a square product that is large enough: doubling it takes most of eight times as long, and some time."""
    size, seconds = 128, step_s(128)
    while size < 8192 and seconds < 0.05:
        before_s, size = seconds, 2 * size
        seconds = step_s(size)
        if seconds > 4 * before_s and seconds > 2e-3:
            break
    return 2 * size**3 / seconds


if __name__ == "__main__":
    main()

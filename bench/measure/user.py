"""A lab's own training loop, measured into the same result file as a workload of ours.

    with bench.meter("my-train", tokens_per_step=8 * 2048, model="llama-3.2-1b", seq=2048) as meter:
        for batch in loader:
            train(batch)
            meter.step()

Steps are grouped in blocks: the first lasts a quarter of a second or more, and the others have as many steps as that.
At a block's end the device is synchronized and the host's clock read, so that work in flight is counted where it
belongs. The first steps settle and are not counted, nor are the last, where they fill no block. The record's workload
is `user:my-train`: comparable with itself, never with ours, because nobody has checked what a step of it does.
"""

import math
import re
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from bench import device as devices
from bench import model as models
from bench import record
from bench.arithmetic import Model
from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError, describe
from bench.measure import contention, environment, preflight, telemetry
from bench.measure import meter as meters
from bench.measure.draft import now, thinned, unrest
from bench.measure.journal import Journal, refuse_existing
from bench.record import Identity, Planned, Protocol, Record, Session, Speeds, Timing, Work
from bench.workload import USERS_OWN

BLOCK_S = 0.25  # as for whole steps of ours: a synchronization and a look at the clock are then far below a percent


class UserMeter:
    """Counts the steps of a loop that is not ours, into the file at `path`. Made by `bench.meter`."""

    def __init__(
        self,
        name: str,
        *,
        path: Path,
        tokens_per_step: int = 0,
        flops_per_step: int | None = None,
        model: str | None = None,
        seq: int | None = None,
        dtype: str = "mixed",
        device: str = "default",
        settle_steps: int = 10,
    ) -> None:
        """Raises UserError for a name, a model or a count that cannot be, before anything runs."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}", name):
            raise UserError(f"'{name:.80}' is no name: letters, digits, '-', '_' and '.', at most 60")
        if tokens_per_step < 0 or settle_steps < 1:
            raise UserError("tokens_per_step must be 0 or more, settle_steps 1 or more")
        if (flops_per_step or 0) < 0:
            raise UserError("flops_per_step must be 0 or more")
        if seq is not None and (seq < 1 or tokens_per_step % seq):
            raise UserError(f"seq {seq}: tokens_per_step ({tokens_per_step}) must be a multiple of it")
        refuse_existing(path)
        shape = models.find(models.adopt(model)) if model else None
        self._name, self.path, self._dtype, self._settle_steps = name, path, dtype, settle_steps
        self._params: dict[str, bool | int | float | str] = {"tokens_per_step": tokens_per_step, "dtype": dtype}
        self._params |= {"model": shape.name} if shape else {}
        self._params |= {"seq": seq} if seq else {}
        self._work = _work(shape, tokens_per_step, seq, flops_per_step)
        self._device = devices.find(device)[0]
        self._samples_s: list[float] = []
        self._steps = self._block_steps = 0
        self._repeats = 0  # steps of a block; 0 until the first has ended
        self._cold_start_s = self._settle_s = 0.0

    def __enter__(self) -> "UserMeter":
        self._journal = Journal(self.path)
        threads = environment.usable_threads()
        self._journal.append(_session(self._device, self._planned(), threads))
        self._meter = meters.of(self._device, seed=0)
        self._host = contention.HostWatch(threads, contention.spin())
        self._started, self._started_s = now(), time.perf_counter()
        self._device.reset_peak_memory()
        self._begin_s = self._block_s = self._device.now_s()
        return self

    def step(self) -> None:
        """One step of the loop has been issued; on an accelerator it need not be done."""
        self._steps += 1
        if self._steps <= self._settle_steps:
            self._settle()
            return
        self._block_steps += 1
        full = self._block_steps == self._repeats if self._repeats else self._device.now_s() - self._block_s >= BLOCK_S
        if full:
            self._end_block()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the record, whatever ended the loop; an error goes on to whoever called."""
        try:
            if self._block_steps and not self._repeats and error is None:  # the loop is shorter than a block
                self._end_block()
            self._journal.append(self._record(error))
        finally:
            self._meter.close()
            self._journal.close()

    def _settle(self) -> None:
        if self._steps == 1:
            self._device.synchronize()
            self._cold_start_s = self._device.now_s() - self._begin_s
        if self._steps == self._settle_steps:
            self._device.synchronize()
            self._settle_s = self._device.now_s() - self._begin_s
            self._meter.begin(_wait)
            self._host.begin(_wait)
            self._block_s = self._device.now_s()

    def _end_block(self) -> None:
        self._device.synchronize()
        end_s = self._device.now_s()
        self._samples_s.append((end_s - self._block_s) / self._block_steps)
        self._repeats = self._block_steps
        self._block_s, self._block_steps = end_s, 0

    def _record(self, error: BaseException | None) -> Record:
        base = _empty(self._name, self._params, self._dtype, Work.of(self._work), self._started)
        if not self._samples_s:
            why = describe(error) if error else f"the loop ended after {self._steps} steps, {self._settle_steps} settle"
            return record_of(base, status="crash" if error else "skipped", reason=why)
        window_s = math.fsum(self._samples_s) * self._repeats
        self._host.end(_wait)
        self._meter.end(_wait)
        evidence = self._host.contention(self._steps - self._settle_steps)
        step_s = window_s / (self._repeats * len(self._samples_s))
        told = telemetry.told(self._meter.trace, self._meter.board, reason=self._meter.reason, step_s=step_s)
        peak = self._device.peak_memory()
        reasons = {**told.reasons, "check": "the output of a loop that is not ours has no reference"}
        if peak.value is None:
            reasons["peak_memory_bytes"] = peak.reason
        if error:
            reasons["ended"] = describe(error)
        samples_s = [float(f"{one:.7g}") for one in thinned(self._samples_s)]
        noisy = ["host_noisy"] if contention.noisy(evidence) else []
        return record_of(
            base,
            status="ok",
            reason=None,
            samples_s=samples_s,
            timing=Timing(
                clock="host" if self._device.clock == "event" else self._device.clock,
                repeats=self._repeats, input_sets=1,
                cold_start_s=self._cold_start_s, settle_s=self._settle_s, window_s=window_s, event_floor_s=0.0,
                enqueue_s=None, stop="time", begins_s=self._host.begun_s - self._started_s,
            ),
            contention=evidence,
            peak_memory_bytes=None if peak.value is None else int(peak.value),
            energy=told.energy,
            telemetry=told.telemetry,
            flags=sorted({"ci_not_reached", *told.flags, *unrest(samples_s), *noisy}),
            reasons={**reasons, "timing.enqueue_s": "a loop that is not ours is timed in blocks"},
            ended=now(),
        )  # fmt: skip

    def _planned(self) -> Planned:
        return Planned(workload=USERS_OWN + self._name, params=self._params, device=0, protocol="user")


def record_of(base: Record, **changes: object) -> Record:
    """`base` with these fields."""
    import msgspec

    return msgspec.structs.replace(base, **changes)


def _work(shape: Model | None, tokens: int, seq: int | None, given: int | None) -> Cost:
    """Of a training step: forward and twice that backward; attention where the sequence is known; else 0."""
    if given is not None or shape is None:
        return Cost(gemm_flops=given or 0, tokens=tokens)
    attention = shape.attention_flops(tokens // seq, seq) if seq else 0
    return Cost(gemm_flops=3 * 2 * shape.matmul_parameters * tokens, attention_flops=3 * attention, tokens=tokens)


def _session(device: Device, planned: Planned, threads: int) -> Session:
    facts, host = environment.device_facts(device), environment.host(threads)
    harness = environment.harness()
    reasons = {
        "idle": "a loop that is not ours begins at once",
        "speeds": "not measured before a loop that is not ours",
    }
    if harness.commit is None:
        reasons |= dict.fromkeys(("harness.commit", "harness.dirty"), "not run from a git clone")
    return Session(
        schema=record.SCHEMA,
        id=secrets.token_hex(8),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        harness=harness,
        argv=["bench.meter"],
        seed=0,
        rounds=1,
        suite="user",
        protocols={
            "user": Protocol(
                settle_s=0.0, min_samples=1, min_time_s=0.0, max_time_s=1e6, max_samples=100_000, half_width=0.01,
                sample_s=BLOCK_S,
            )
        },
        plan=[planned],
        devices=[facts],
        speeds=[Speeds(flops_per_s={}, bytes_per_s=0.0, free_bytes=device.free_bytes(), launch_s=0.0)],
        host=host,
        software=environment.software(),
        preflight=preflight.findings(host, [facts], {}),
        reasons=reasons,
    )  # fmt: skip


def _empty(name: str, params: dict[str, bool | int | float | str], dtype: str, work: Work, started: str) -> Record:
    return record.unmeasured(
        "not measured",
        workload=USERS_OWN + name,
        version=1,
        params=dict(params),
        identity=Identity(dtype=dtype, data="user", cache="warm", duty="sustained", launch="eager"),
        status="skipped",
        reason="",
        work=work,
        started=started,
        ended=now(),
    )


def _wait() -> None:
    """A loop that is not ours cannot be held."""

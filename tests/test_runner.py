"""Runs that go wrong in every way there is: whatever happens becomes a record, and nothing measured is lost."""

import contextlib
import gc
import getpass
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bench import device as devices
from bench import record, workload
from bench.device.cpu import Cpu
from bench.energy import Board, Tick, Trace
from bench.errors import Unsupported, UserError
from bench.measure import case, choice, contention, draft, environment, messages, meter, plan, runner, timer
from bench.measure import worker as process_of_rounds
from bench.measure.journal import Journal
from bench.measure.laboratory import Laboratory, ask
from bench.measure.process import WorkerProcess
from bench.measure.progress import Terminal
from bench.record import Protocol, Record, Speeds

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
BRIEF = Protocol(
    settle_s=0.0, min_samples=3, min_time_s=0.0, max_time_s=0.05, max_samples=5, half_width=1.0, sample_s=1e-5,
    settle_steps=1,
)  # fmt: skip
# Generous: an answer takes milliseconds, but the machine may be busy and a worker imports torch first.
PATIENCE_S = 60.0
Case = tuple[str, dict[str, Any]]


class Recorder:
    """Progress as a list."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.shown: list[Record] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, case: str, round_index: int, rounds: int, left_s: float) -> None:
        self.begun.append(case)

    def done(self, measured: Record) -> None:
        self.shown.append(measured)


def laboratory(spec: str) -> Laboratory:
    """What `look` would find, without a worker that looks and probes."""
    found = devices.find(spec)
    return Laboratory(
        specs=[device.spec for device in found],
        devices=[environment.device_facts(device) for device in found],
        speeds=[Speeds(flops_per_s={"float32": 1e11}, bytes_per_s=1e10, free_bytes=1 << 33, launch_s=2e-6)],
        absences={},
        host=environment.host(1),
        software=environment.software(),
        findings=[],
        start_s=1.0,
    )


def planned(cases: Sequence[Case], rounds: int = 1, timeout_s: float = PATIENCE_S) -> plan.Plan:
    protocols = {"micro": BRIEF, "macro": BRIEF}
    speeds = Speeds(flops_per_s={"float32": 1e11}, bytes_per_s=1e10, free_bytes=1 << 33, launch_s=2e-6)
    return plan.Plan(
        suite="own",
        rounds=rounds,
        timeout_s=timeout_s,
        protocols=protocols,
        cases=[plan.planned_case(workload.case(name, params), 0, speeds, protocols) for name, params in cases],
        start_s=1.0,
    )


def carry_out(
    spec: str, the_plan: plan.Plan, path: Path, progress: runner.Progress | None = None, seed: int = 0
) -> runner.Outcome:
    lab = laboratory(spec)
    session = runner.new_session(lab, the_plan, seed=seed, argv=["a test"])
    return runner.carry_out(lab, the_plan, session, path, progress or Recorder())


def copies(count: int) -> list[Case]:
    """Cases that are over at once."""
    return [("memory_copy", {"num_bytes": 4096 * (i + 1), "dtype": "float32"}) for i in range(count)]


def place(one: Record) -> tuple[str, int, int, str]:
    return workload.label(one.workload, one.params), one.device, one.round, one.identity.launch


def places(path: Path) -> list[tuple[str, int, int, str]]:
    return [place(one) for one in record.read(path).records]


def workers(of: int) -> list[psutil.Process]:
    """Living worker processes of a process."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(of).children():
            with contextlib.suppress(psutil.Error):
                if "bench.measure.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
    return found


def assert_gone(processes: list[psutil.Process]) -> None:
    """They vanish within two seconds, or at worst, on a busy machine, within ten."""

    def lives(one: psutil.Process) -> bool:
        try:
            return bool(one.status() != psutil.STATUS_ZOMBIE)  # nobody may be there to reap it
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + 10
    while left := [one for one in processes if lives(one)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


# Workloads that misbehave

HOWS = [
    "not", "unsupported", "prints", "wrong", "nan", "infinite", "check raises", "check out of memory", "raises",
    "out of memory", "allocates", "loses the device", "spoils", "exits", "exits politely", "kills itself", "aborts",
    "segfaults", "hangs", "leaves a child",
]  # fmt: skip


@pytest.fixture(scope="module")
def misbehaved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[runner.Outcome, dict[str, Record]]]:
    """One round of everything that can go wrong."""
    path = tmp_path_factory.mktemp("misbehaved") / "run.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELMARK_WORKLOADS", str(HERE / "workloads"))
        cases: list[Case] = [("misbehave", {"how": how, "dtype": "float32"}) for how in HOWS]
        outcome = carry_out("cpu", planned(cases, timeout_s=10.0), path)
        yield outcome, {str(one.params["how"]): one for one in record.read(path).records}


@pytest.mark.slow
def test_every_case_has_its_record_whatever_the_others_did(misbehaved: Any) -> None:
    outcome, records = misbehaved
    assert sorted(records) == sorted(HOWS) and len(outcome.records) == len(HOWS)
    assert not outcome.interrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("unsupported", "unsupported", "refuses"),
        ("raises", "crash", r"^ValueError: cannot read weights.bin or anything else$"),
        ("check raises", "crash", r"^ArithmeticError: no reference$"),
        ("out of memory", "oom", r"^OutOfMemoryError: CUDA out of memory"),
        ("allocates", "oom", "allocate"),
        ("loses the device", "crash", r"an illegal memory access was encountered$"),
        ("exits", "crash", r"ended with exit status 3: fatal: driver.so is gone$"),
        ("exits politely", "crash", "ended with exit status 4"),
        ("kills itself", "crash", "ended with signal SIGKILL, as the kernel sends when memory is short"),
        ("aborts", "crash", "ended with signal SIGABRT"),
        ("segfaults", "crash", "ended with signal SIGSEGV"),
        ("hangs", "timeout", "no answer within 10 s"),
    ],
)
def test_what_went_wrong_is_named(misbehaved: Any, how: str, status: str, reason: str) -> None:
    _, records = misbehaved
    one = records[how]
    assert one.status == status
    assert one.reason and re.search(reason, one.reason) and "\n" not in one.reason
    assert not one.samples_s and one.timing is None and one.reasons["timing"] == one.reason


@pytest.mark.slow
@pytest.mark.parametrize("how", ["not", "prints", "leaves a child", "spoils"])
def test_what_only_looks_wrong_is_measured(misbehaved: Any, how: str) -> None:
    _, records = misbehaved
    assert records[how].status == "ok" and records[how].valid and records[how].samples_s


@pytest.mark.slow
def test_a_check_that_runs_out_of_memory_costs_the_check_and_not_the_samples(misbehaved: Any) -> None:
    outcome, records = misbehaved
    one = records["check out of memory"]
    assert one.status == "ok" and one.valid and one.samples_s and one.timing is not None
    assert one.check is None and one.reasons["check"].startswith("RuntimeError: NPU out of memory")
    assert "bad_output" not in one.flags and one not in outcome.failed


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wrong", "nan", "infinite"])
def test_a_wrong_output_is_flagged_and_counts_as_failed(misbehaved: Any, how: str) -> None:
    outcome, records = misbehaved
    assert records[how].status == "ok" and "bad_output" in records[how].flags and not records[how].valid
    assert how in {one.params["how"] for one in outcome.failed}


@pytest.mark.slow
def test_what_a_device_cannot_do_is_no_failure(misbehaved: Any) -> None:
    outcome, _ = misbehaved
    fine = {"not", "prints", "leaves a child", "spoils", "check out of memory", "unsupported"}
    assert {one.params["how"] for one in outcome.failed} == set(HOWS) - fine


@pytest.mark.slow
def test_no_process_is_left_behind(misbehaved: Any) -> None:
    assert not workers(os.getpid())
    left = [one for one in psutil.process_iter(["cmdline"]) if "98765.4321" in (one.info["cmdline"] or [])]
    assert not left


def test_a_device_that_tells_no_free_memory_is_probed_all_the_same() -> None:
    """As torch before 2.9 does on every accelerator, and MPS still."""
    from bench.measure import speeds as speeds_of

    class Silent(Cpu):
        told: int | None = None

        def _memory_info(self) -> tuple[int | None, int | None]:
            return self.told, self.told

        def supports(self, dtype: str) -> bool:
            return dtype == "float32"

    for Silent.told in (None, 8 * 1_000_003):  # the second is no whole number of elements
        speeds = speeds_of.measure(Silent(vendor="cpu", index=0, name="a CPU", backend="cpu"))
        assert speeds.free_bytes > 0 and speeds.bytes_per_s > 0 and speeds.flops_per_s["float32"] > 0


class Simple(Cpu):
    """A CPU of which a test changes something."""

    def __init__(self) -> None:
        super().__init__(vendor="cpu", index=0, name="a CPU", backend="cpu")


def records_of(
    device: devices.Device, name: str = "rms_norm", protocol: Protocol = BRIEF, watching: meter.Meter | None = None
) -> list[Record]:
    """What a worker would send of the smoke case of a workload."""
    job = messages.Job(
        workload=name, params=dict(workload.find(name).smoke), device=0, round=0, protocol=protocol
    )  # fmt: skip
    seen = draft.Witnesses(contention.HostWatch(1, 1e-3), watching or meter.Meter())
    return list(case.measure(device, job, 0, seen))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GiB)"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "oom"),
        (MemoryError(), "oom"),
        (RuntimeError("CUDA error: unspecified launch failure"), "crash"),
        (ValueError("out of memory of what was meant"), "crash"),
    ],
    ids=str,
)
def test_running_out_of_memory_is_known_by_what_each_library_says(error: Exception, status: str) -> None:
    class Full(Simple):
        def prepare(self, case: Any) -> Any:
            raise error

    (one,) = records_of(Full())
    assert one.status == status and one.reason and one.reason.startswith(type(error).__name__)


def test_a_lost_device_is_a_crash_and_not_a_type_that_it_lacks() -> None:
    class Lost(Simple):
        def supports(self, dtype: str) -> bool:
            raise RuntimeError("CUDA error: device lost")

    class Narrow(Simple):
        def supports(self, dtype: str) -> bool:
            return False

    assert [one.status for one in records_of(Lost())] == ["crash"]
    assert [(one.status, one.reason) for one in records_of(Narrow())] == [
        ("unsupported", "a CPU does not multiply float32 matrices")
    ]


@pytest.mark.parametrize(("replays", "wrong"), [(True, False), (False, True)], ids=["honest", "does nothing"])
def test_what_a_graph_puts_out_is_compared_with_the_step(
    replays: bool, wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Graphs(Simple):
        def capture(self, run: Any) -> Any:
            run()
            return run if replays else lambda: None

    monkeypatch.setattr(timer.Measurement, "launch_bound", True)
    eager, graph = records_of(Graphs(), "matmul")  # which writes to the same memory each time, as a graph does
    assert (eager.identity.launch, graph.identity.launch) == ("eager", "graph")
    assert eager.check is not None and eager.check.error <= eager.check.tolerance
    assert graph.samples_s and graph.check is not None
    assert ("bad_output" in graph.flags) == wrong
    assert (graph.check.error == 1e30) == wrong


def test_a_window_of_very_many_steps_is_a_record_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose record is refused looks as if it had died."""
    assert draft.thinned([]) == []
    monkeypatch.setattr(draft, "MOST_STEPS", 10)
    assert draft.thinned([1.0] * 10) == [1.0] * 10
    assert draft.thinned([float(place) for place in range(25)]) == [float(place) for place in range(0, 25, 3)]
    many = msgspec.structs.replace(BRIEF, sample_s=0.02, max_samples=2, max_time_s=1.0)
    (measured,) = records_of(devices.find("virtual")[0], "train_step", many)
    assert 1 < len(measured.step_samples_s) <= 10 < measured.timing.repeats  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "changed"), [*((name, {}) for name in workload.names()), ("matmul", {"dtype": "int8"})], ids=str
)
def test_every_output_can_be_compared_with_its_replay(name: str, changed: dict[str, Any]) -> None:
    """Also one made in inference mode, and one of whole numbers: neither may be filled with NaN just so."""
    import torch

    one = workload.case(name, {**workload.find(name).smoke, **changed})
    if not one.capturable:
        pytest.skip(f"{name} is never in a graph")
    device = Simple()
    device.seed(0)
    step = device.prepare(one)
    output = step.run()

    def replay() -> None:
        """As a graph does: into the memory of the output that was there when it was recorded."""
        fresh = step.run()
        if isinstance(output, torch.Tensor) and isinstance(fresh, torch.Tensor) and fresh is not output:
            with torch.inference_mode():
                output.copy_(fresh)

    assert case._replay_error(step, replay, output) <= one.tolerance()
    if isinstance(output, torch.Tensor):
        assert not case._replay_error(step, lambda: None, output) <= 0.1


def test_a_capture_that_runs_out_of_memory_is_the_second_record(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Simple):
        def capture(self, run: Any) -> Any:
            raise MemoryError("graph")

    monkeypatch.setattr(timer.Measurement, "launch_bound", True)
    eager, graph = records_of(Full())
    assert (eager.status, eager.identity.launch) == ("ok", "eager")
    assert (graph.status, graph.identity.launch) == ("oom", "graph")


def test_a_launch_that_breaks_the_context_while_captured_costs_what_comes_after_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device-side assertion: from then on every call of the process fails, and a crash asks for a fresh one."""
    said = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"

    class Broken(Simple):
        clock, asynchronous = "event", True

        def event(self) -> int:
            return time.perf_counter_ns()

        def seconds_between(self, start: int, end: int) -> float:
            return (end - start) / 1e9

        def capture(self, run: Any) -> Any:
            self.spoilt = True
            raise Unsupported(f"graph capture: {said}")

        def filler(self, num_bytes: int) -> Any:
            if self.spoilt:
                raise RuntimeError(said)
            return super().filler(num_bytes)

    monkeypatch.setattr(timer.Measurement, "launch_bound", True)
    eager, graph, queued = records_of(Broken())
    assert (eager.status, eager.identity.launch) == ("ok", "eager") and eager.samples_s
    assert (graph.status, graph.identity.launch) == ("unsupported", "graph") and graph.reason
    assert (queued.status, queued.identity.launch) == ("crash", "queued")
    assert queued.reason and "device-side assert triggered CUDA kernel" in queued.reason


# The worker as its parent sees it


@contextlib.contextmanager
def worker(spec: str) -> Iterator[WorkerProcess]:
    with contextlib.closing(WorkerProcess(spec, 1, 0)) as process:
        yield process


def test_a_batch_system_s_signal_ends_no_worker() -> None:
    """It goes to the whole job; the parent decides what becomes of the case at hand."""
    with worker("virtual") as process:
        ask(process, messages.Describe(), messages.Described)
        (one,) = workers(os.getpid())
        for number in (signal.SIGTERM, signal.SIGHUP):
            one.send_signal(number)
            assert ask(process, messages.Describe(), messages.Described).specs == ["virtual:0"]


def test_a_worker_describes_several_devices() -> None:
    with worker("virtual cpu") as process:
        described = ask(process, messages.Describe(), messages.Described)
    assert described.specs == ["virtual:0", "cpu:0"] == [facts.spec for facts in described.facts]


class Ring:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_outlives_cases_is_left_out_of_collections_and_what_a_case_leaves_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A collection before the samples walked over all of torch's modules, 0.15 s in each case of each round."""
    left: list[weakref.ref[Ring]] = []

    def leaves_a_ring(*_: Any) -> Iterator[Record]:
        left.append(weakref.ref(Ring()))
        yield from ()

    monkeypatch.setattr(case, "measure", leaves_a_ring)
    server = process_of_rounds._Server(devices.find("virtual"), threads=1, seed=0)
    job = messages.Job(workload="memory_copy", params={}, device=0, round=0, protocol=BRIEF)
    gc.disable()  # none but the worker's own
    try:
        for _ in range(2):
            list(server.serve(job))
        assert [one() is None for one in left] == [True, False]
        assert len(gc.get_objects()) < gc.get_freeze_count() / 10
    finally:
        gc.unfreeze()
        gc.enable()


def test_what_was_on_the_board_before_stands_beside_each_number_of_it(tmp_path: Path) -> None:
    """In a container the list of processes may be empty: memory that is in use tells."""
    lab = laboratory("virtual")
    (facts,) = lab.devices
    for used, flagged in ((20 << 30, True), (200 << 20, False)):
        readings = {"memory_used_bytes": float(used), "compute_processes": 0.0}
        lab = replace(lab, devices=[msgspec.structs.replace(facts, readings=readings)])
        the_plan, path = planned(copies(2)), tmp_path / f"{used}.jsonl"
        session = runner.new_session(lab, the_plan, seed=0, argv=[])
        outcome = runner.carry_out(lab, the_plan, session, path, Recorder())
        kept = record.read(path).records
        assert len(kept) == 2 and kept == outcome.records
        assert all(("shared_device" in one.flags) == flagged for one in kept)


def test_a_worker_without_its_device_refuses_and_a_case_then_has_a_record(tmp_path: Path) -> None:
    with worker("virtual:7") as process, pytest.raises(UserError, match=r"virtual:7.*virtual:0"):
        process.ask(messages.Describe())
    lab = replace(laboratory("virtual"), specs=["virtual:7"])  # gone since the run began
    the_plan = planned(copies(2))
    session = runner.new_session(lab, the_plan, seed=0, argv=[])
    runner.carry_out(lab, the_plan, session, tmp_path / "run.jsonl", Recorder())
    kept = record.read(tmp_path / "run.jsonl").records
    assert [one.status for one in kept] == ["crash"] * 2
    assert all("virtual:7" in str(one.reason) for one in kept)


@pytest.mark.slow
def test_the_time_of_a_case_counts_from_when_its_worker_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(6)")  # as a file system that is slow
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started_s = time.monotonic()
    outcome = carry_out("virtual", planned(copies(1), timeout_s=5.0), tmp_path / "run.jsonl")
    assert time.monotonic() - started_s > 6
    assert [one.status for one in outcome.records] == ["ok"]


# The order of cases


def test_the_order_differs_between_rounds_and_follows_the_seed(tmp_path: Path) -> None:
    the_plan = planned(copies(12), rounds=2)
    orders: dict[str, list[str]] = {}
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        progress = Recorder()
        carry_out("virtual", the_plan, tmp_path / f"{name}.jsonl", progress, seed=seed)
        orders[name] = progress.begun
    first, second = orders["one"][:12], orders["one"][12:]
    assert sorted(first) == sorted(second) and first != second
    assert orders["one"] == orders["again"] != orders["other"]


def test_cases_that_a_budget_left_out_have_records(tmp_path: Path) -> None:
    the_plan = plan.fit(planned(copies(20), rounds=2), 4.0)
    assert the_plan.skipped
    outcome = carry_out("virtual", the_plan, tmp_path / "run.jsonl")
    skipped = [one for one in record.read(outcome.path).records if one.status == "skipped"]
    assert len(skipped) == len(the_plan.skipped) and not outcome.failed
    assert {one.reason for one in skipped} == {"left out to fit into 4 s"}


@pytest.mark.parametrize("late_s", [-1.0, math.inf])
def test_no_case_begins_after_the_budget_but_the_first_and_resuming_takes_the_rest(
    late_s: float, tmp_path: Path
) -> None:
    lab, the_plan = laboratory("virtual"), planned(copies(4), rounds=2)
    session = runner.new_session(lab, the_plan, seed=0, argv=[])
    path, late = tmp_path / "run.jsonl", time.monotonic() + late_s
    outcome = runner.carry_out(lab, the_plan, session, path, Recorder(), deadline_s=late)
    measured = 1 if late_s < 0 else 8
    assert (len(outcome.records), outcome.over, outcome.interrupted) == (measured, 8 - measured, False)
    found = record.read(path)
    assert len(found.records) == measured
    assert len(runner.resume(lab, found, the_plan, path, Recorder()).records) == 8


def test_a_case_that_does_not_fit_into_memory_has_a_record_and_is_not_tried(tmp_path: Path) -> None:
    lab = laboratory("virtual")
    asked = choice.Request(
        workloads=("memory_copy",), settings={"num_bytes": ["4096", "1T"], "dtype": ["float32"]}, rounds=2
    )
    the_plan = plan.make(asked, lab.speeds, 1.0)
    session = runner.new_session(lab, the_plan, seed=0, argv=[])
    progress = Recorder()
    outcome = runner.carry_out(lab, the_plan, session, tmp_path / "run.jsonl", progress)
    found = record.read(outcome.path)
    assert [one.params["num_bytes"] for one in found.session.plan] == [4096]
    assert len(progress.begun) == 2 and not outcome.failed
    (skipped,) = [one for one in found.records if one.status == "skipped"]
    assert skipped.params["num_bytes"] == 10**12
    assert skipped.reason == "needs about 1,860 GiB, 8.00 GiB is free"
    before = outcome.path.read_bytes()
    again = Recorder()
    runner.resume(lab, found, runner.plan_of(found.session, lab, 60.0), outcome.path, again)
    assert outcome.path.read_bytes() == before
    assert again.notes == ["nothing was missing from run.jsonl"]


# The parent is killed


def measure_for_long(path: str, seed: int) -> None:
    """What the killed processes run: many brief cases, each shown when it is in the file."""
    cases = [*copies(8), ("launch_overhead", {"num_launches": 20, "dtype": "float32"})]
    carry_out("virtual", planned(cases, rounds=50), Path(path), Terminal(), seed=seed)


def started(path: Path, seed: int, errors: Any) -> "subprocess.Popen[bytes]":
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import test_runner; test_runner.measure_for_long(*sys.argv[3:4], 0)"
    )
    command = [sys.executable, "-P", "-c", program, str(ROOT), str(HERE), str(path)]
    return subprocess.Popen(command, stderr=errors)


def shown_as_done(errors: Path) -> set[tuple[str, int, int, str]]:
    """Places of the records that standard error tells of, whole lines only."""
    found = set()
    for line in errors.read_text().split("\n")[:-1]:
        if match := re.match(r"round (\d+)  (\S+(?: \w+=\S+)+)(?: \[(\w+)\])?  ", line):
            found.add((match[2], 0, int(match[1]) - 1, match[3] or "eager"))
    return found


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_nothing_shown_is_lost_when_the_parent_is_killed(tmp_path: Path) -> None:
    random_moments = random.Random(20)
    total = 0
    for number in range(10):
        path, errors = tmp_path / f"{number}.jsonl", tmp_path / f"{number}.txt"
        with errors.open("wb") as stream:
            process = started(path, number, stream)
            wait_until(lambda e=errors: len(shown_as_done(e)) >= 1)
            time.sleep(random_moments.uniform(0, 0.4))
            orphans = workers(process.pid)
            process.kill()
            process.wait()
        assert_gone(orphans)
        shown, kept = shown_as_done(errors), places(path)
        assert shown <= set(kept) and len(kept) == len(set(kept))
        total += len(shown)
    assert total >= 10


def test_a_resumed_run_measures_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    whole = planned([*copies(5), ("launch_overhead", {"num_launches": 20, "dtype": "float32"})], rounds=2)
    outcome = carry_out("virtual", whole, tmp_path / "whole.jsonl")
    everything = sorted(places(outcome.path))
    assert len(everything) == 2 * 7  # launches are measured twice, eager and as a graph
    lines = outcome.path.read_bytes().splitlines(keepends=True)
    lab = laboratory("virtual")
    # Cut after whole cases and in the middle of a line; between the two records of one case nothing tells them apart.
    cuts = [n for n in range(1, len(lines)) if b'"launch":"graph"' not in lines[n]]
    torn = b'{"kind":"record","workl'
    for number, rest in ((cuts[0], b""), (cuts[2], torn), (cuts[len(cuts) // 2], b""), (cuts[-1], torn)):
        path = tmp_path / f"cut-{number}.jsonl"
        path.write_bytes(b"".join(lines[:number]) + rest)
        found = record.read(path)
        assert found.torn == bool(rest)
        progress = Recorder()
        resumed = runner.resume(lab, found, runner.plan_of(found.session, lab, 60.0), path, progress)
        assert sorted(places(path)) == everything
        assert len(progress.shown) == len(everything) - len(found.records)
        assert len(resumed.records) == len(everything)
        assert path.read_bytes().startswith(b"".join(lines[:number]))


def test_a_finished_run_is_not_measured_again(tmp_path: Path) -> None:
    outcome = carry_out("virtual", planned(copies(2)), tmp_path / "run.jsonl")
    before, lab = outcome.path.read_bytes(), laboratory("virtual")
    found = record.read(outcome.path)
    runner.resume(lab, found, runner.plan_of(found.session, lab, 60.0), outcome.path, Recorder())
    assert outcome.path.read_bytes() == before


def test_a_run_is_continued_where_it_began(tmp_path: Path) -> None:
    outcome = carry_out("virtual", planned(copies(2)), tmp_path / "run.jsonl")
    found, lab = record.read(outcome.path), laboratory("virtual")
    (facts,) = found.session.devices
    elsewhere = msgspec.structs.replace(facts, name="Another GPU")
    another_board = msgspec.structs.replace(facts, uuid_hash="0123456789abcdef")
    for other in ([elsewhere], [another_board], [facts, facts]):
        session = msgspec.structs.replace(found.session, devices=other)
        stranger = msgspec.structs.replace(found, session=session)
        with pytest.raises(UserError, match=r"run\.jsonl was begun on .*: continue it there"):
            runner.resume(lab, stranger, runner.plan_of(found.session, lab, 60.0), outcome.path, Recorder())
    session = msgspec.structs.replace(found.session, software={**found.session.software, "torch": "1.0"})
    stranger = msgspec.structs.replace(found, session=session)
    with pytest.raises(UserError, match=r"begun with torch 1\.0"):
        runner.resume(lab, stranger, runner.plan_of(found.session, lab, 60.0), outcome.path, Recorder())


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    outcome = carry_out("virtual", planned(copies(1)), tmp_path / "run.jsonl")
    before = outcome.path.read_bytes()
    with pytest.raises(UserError, match="exists: choose another name"):
        carry_out("virtual", planned(copies(1)), outcome.path)
    assert outcome.path.read_bytes() == before


# The worker is killed


@pytest.mark.slow
def test_a_killed_worker_costs_the_case_it_was_in(tmp_path: Path) -> None:
    random_moments, over, kills = random.Random(10), threading.Event(), 0

    def kill_now_and_then() -> None:
        nonlocal kills
        killed: set[int] = set()
        while len(killed) < 6 and not over.is_set():
            if alive := [one for one in workers(os.getpid()) if one.pid not in killed]:
                over.wait(random_moments.uniform(0, 2.0))  # while it starts, imports torch, or measures
                with contextlib.suppress(psutil.NoSuchProcess):
                    alive[0].kill()
                killed.add(alive[0].pid)
                kills = len(killed)
            over.wait(0.01)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        progress = Recorder()
        cases: list[Case] = [("launch_overhead", {"num_launches": i + 1, "dtype": "float32"}) for i in range(30)]
        outcome = carry_out("cpu", planned(cases, rounds=2), tmp_path / "run.jsonl", progress)
    finally:
        over.set()
        killer.join()
    assert kills >= 4
    found = record.read(outcome.path)
    assert [place(one) for one in found.records] == [place(one) for one in progress.shown]
    assert len({place(one) for one in found.records}) == len(found.records) == 60
    crashed = [one.reason for one in found.records if one.status != "ok"]
    assert len(crashed) <= kills
    assert [reason for reason in crashed if "signal SIGKILL" not in str(reason)] == []
    assert crashed and not workers(os.getpid())


# The command


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    keep = {key: os.environ[key] for key in ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR") if key in os.environ}
    own = {"PYTHONPATH": str(ROOT), "ACCELMARK_RESULTS": str(folder / "results"), "HOME": str(folder)}
    return {**keep, **own, "ACCELMARK_WORKLOADS": str(HERE / "workloads"), **more}


def accelmark(folder: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    # -P, as the installed command has it: the working folder is not searched for modules.
    command = [sys.executable, "-P", "-m", "bench", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment_of(folder, **more),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_no_name_of_a_person_machine_or_folder_gets_into_a_file(tmp_path: Path) -> None:
    """And a torch.py in the working folder does not stand in for torch."""
    person = "qzxwvutsr"
    folder = tmp_path / person / "work"
    (folder / "out").mkdir(parents=True)
    for module in ("torch.py", "types.py", "bench.py", "random.py"):
        (folder / module).write_text("raise SystemExit('the wrong module')")
    ran = accelmark(
        folder, "run", "misbehave", "--set", "how=not,raises,exits", "--suite", "quick", "--rounds", "1",
        "--device", "cpu", "--out", f"{folder}/out/run.jsonl", "--json",
        USER=person, LOGNAME=person, HOSTNAME=person, CUBLAS_WORKSPACE_CONFIG=f"/home/{person}/x",
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert json.loads(ran.stdout)["failed"] == 2
    text = (folder / "out" / "run.jsonl").read_text()
    assert sorted(one.status for one in record.read(folder / "out" / "run.jsonl").records) == ["crash", "crash", "ok"]
    for name in (person, str(tmp_path), str(ROOT), str(Path.home()) + "/", sys.prefix):
        assert name not in text
    for name in (socket.gethostname(), getpass.getuser()):
        assert not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
    assert "/" not in "".join(record.read(folder / "out" / "run.jsonl").session.argv)


@pytest.mark.slow
def test_what_a_device_cannot_do_exits_with_zero(tmp_path: Path) -> None:
    ran = accelmark(
        tmp_path, "run", "misbehave", "--set", "how=unsupported", "--suite", "quick", "--rounds", "1",
        "--device", "cpu", "--out", "run.jsonl",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert [one.status for one in record.read(tmp_path / "run.jsonl").records] == ["unsupported"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_an_interrupted_run_keeps_everything_and_can_be_continued(tmp_path: Path, number: signal.Signals) -> None:
    path, errors = tmp_path / "run.jsonl", tmp_path / "errors.txt"
    command = [
        sys.executable, "-P", "-m", "bench", "run", "memory_copy", "launch_overhead", "rms_norm", "--device", "virtual",
        "--suite", "quick", "--rounds", "5", "--progress", "--out", str(path),
    ]  # fmt: skip
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment_of(tmp_path), stderr=stream, stdout=subprocess.DEVNULL
        )
        wait_until(lambda: len(shown_as_done(errors)) >= 3)
        children = workers(process.pid)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 130
    assert_gone(children)
    kept = places(path)
    assert shown_as_done(errors) == set(kept) and len(set(kept)) == len(kept) < 20
    assert f"--resume {path}" in errors.read_text().splitlines()[-1]
    if number != signal.SIGTERM:
        return
    resumed = accelmark(tmp_path, "run", "--resume", str(path))  # on the device that the file names
    assert resumed.returncode == 0, resumed.stderr
    assert len(set(places(path))) == len(places(path)) == 20  # three cases, one of them in two launch modes


def test_an_interruption_while_writing_writes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = carry_out("virtual", planned(copies(2)), tmp_path / "run.jsonl")
    found = record.read(outcome.path)
    honest = os.fsync

    def interrupted(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", honest)
        raise KeyboardInterrupt

    journal = Journal(tmp_path / "copy.jsonl")
    journal.append(found.session)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(found.records[0])
    journal.close()
    assert record.read(tmp_path / "copy.jsonl").records == found.records[:1]


def test_what_nobody_could_run_is_said_at_once(tmp_path: Path) -> None:
    for arguments, say in (
        (["run", "matmull"], "did you mean matmul"),
        (["run", "--suite", "huge"], "no suite is named"),
        (["run", "matmul", "--set", "m=0"], "m=0"),
    ):
        ran = accelmark(tmp_path, *arguments)
        assert ran.returncode == 2 and say in ran.stderr and ran.stderr.count("\n") == 1 and not ran.stdout
    assert not list(tmp_path.rglob("*.jsonl"))


class Told(meter.Meter):
    """A meter that saw what the test says."""

    def __init__(self, trace: Trace | None, reason: str = "") -> None:
        super().__init__()
        self.board, self._seen, self.reason = Board(boundary="gpu_board", power_limit_w=700.0), trace, reason

    def end(self, hold: Any) -> None:
        self.trace = self._seen


TICKS = [Tick(0.1 * place, 1e-4, {"power_w": 300.0, "energy_j": 30.0 * place}) for place in range(60)]
WATCHED = Trace(begin_s=0.0, end_s=6.0, period_s=0.1, ticks=TICKS)


@pytest.mark.parametrize(
    ("watching", "flags"),
    [
        (Told(None, "the sensors did not answer within 5 s"), set()),
        (Told(None), set()),
        (Told(msgspec.structs.replace(WATCHED, lost="fallen off the bus")), {"gpu_lost"}),
        (Told(msgspec.structs.replace(WATCHED, ticks=[], lost="fallen off the bus")), {"gpu_lost"}),
        (Told(msgspec.structs.replace(WATCHED, ticks=[])), set()),
        (Told(msgspec.structs.replace(WATCHED, ticks=[Tick(0.0, 0.0, {"power_w": 1e12})])), set()),
    ],
)
def test_whatever_becomes_of_the_sensors_the_timing_is_kept(watching: meter.Meter, flags: set[str]) -> None:
    for one in records_of(Simple(), watching=watching):
        assert one.status == "ok" and one.samples_s and one.timing is not None
        assert flags <= set(one.flags)
        assert one.energy is not None or one.reasons["energy"]
        assert one.telemetry is not None or one.reasons["telemetry"]


def test_what_the_sensors_told_is_in_the_record() -> None:
    (only,) = records_of(Simple(), "launch_overhead", watching=Told(WATCHED))
    assert only.energy is not None and only.energy.joules == pytest.approx(30 * 59)
    assert (only.energy.method, only.energy.boundary) == ("counter_window", "gpu_board")
    assert only.telemetry is not None and set(only.telemetry.series) == {"power_w", "energy_j"}

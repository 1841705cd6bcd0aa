"""Runner: carries a plan out. One fresh worker for each round and device, a record for each case, whatever happens.

A round is the unit of evidence, because identical programs differ from one start to the next by more than from one call
to the next. Within a round the cases come in an order shuffled by the seed, so that none always follows the same one.
"""

import contextlib
import math
import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench import record, workload
from bench.errors import UserError, private
from bench.measure import environment, messages, plan, preflight
from bench.measure.draft import empty_record, now, refused_record
from bench.measure.journal import Journal
from bench.measure.laboratory import Laboratory, same_device
from bench.measure.process import WorkerDied, WorkerHung, WorkerProcess
from bench.record import Planned, Record, ResultFile, Session


class Progress(Protocol):
    """Told what happens, between measurements and never during one."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def begin(self, case: str, round_index: int, rounds: int, left_s: float) -> None:
        """A case is about to be measured."""

    def done(self, measured: Record) -> None:
        """A record is in the file."""


@dataclass(kw_only=True)
class Outcome:
    """What a run left behind."""

    path: Path
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    over: int = 0  # cases of a round that the budget had no time for any more
    unwritten: int = 0  # lines that the disk did not take

    @property
    def failed(self) -> list[Record]:
        """Cases that went wrong; one that this device cannot do or that the budget left out did not."""
        return [one for one in self.records if one.status in {"oom", "timeout", "crash"} or "bad_output" in one.flags]


def new_session(laboratory: Laboratory, planned: plan.Plan, *, seed: int, argv: list[str]) -> Session:
    """The first line of a new file."""
    return Session(
        schema=record.SCHEMA,
        id=secrets.token_hex(8),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        harness=environment.harness(),
        argv=[private(argument) for argument in argv],
        seed=seed,
        rounds=planned.rounds,
        suite=planned.suite,
        protocols=planned.protocols,
        plan=[
            Planned(workload=one.case.name, params=one.case.params(), device=one.device, protocol=one.protocol)
            for one in planned.cases
        ],
        devices=laboratory.devices,
        speeds=laboratory.speeds,
        host=laboratory.host,
        software=laboratory.software,
        preflight=laboratory.findings,
        idle=laboratory.idle,
        reasons=_unknown(laboratory),
    )


def _unknown(laboratory: Laboratory) -> dict[str, str]:
    """Why a field of the session is null."""
    reasons = {"idle": laboratory.why_no_idle} if laboratory.why_no_idle else {}
    found = environment.harness()
    if found.commit is None:
        reasons |= dict.fromkeys(("harness.commit", "harness.dirty"), "not run from a git clone")
    if laboratory.host.governor is None:
        reasons["host.governor"] = "the system does not tell"
    if laboratory.host.virtualisation is None:
        reasons["host.virtualisation"] = "the processor names no hypervisor"
    for number, facts in enumerate(laboratory.devices):
        if facts.chip is None:
            reasons[f"devices.{number}.chip"] = "no chip of the catalog has this name"
        for name in ("uuid_hash", "driver", "memory_bytes"):
            if getattr(facts, name) is None:
                reasons[f"devices.{number}.{name}"] = f"not told by {facts.vendor}"
    return reasons


def carry_out(
    laboratory: Laboratory,
    planned: plan.Plan,
    session: Session,
    path: Path,
    progress: Progress,
    deadline_s: float = math.inf,
) -> Outcome:
    """Measures a plan into a new file at `path`. No case begins after `deadline_s` of the monotonic clock, but for the
    first of all.
    """
    journal = Journal(path)
    journal.append(session)
    for left_out, reason in planned.skipped:
        job = _job(left_out.case, left_out.device, 0, planned.protocols[left_out.protocol])
        journal.append(empty_record(left_out.case, job, "skipped", reason, now()))
    for refused in planned.refused:
        journal.append(refused_record(refused.workload, refused.params, refused.reason, now()))
    run = _Run(laboratory, planned, session, journal, progress, done={}, deadline_s=deadline_s)
    return run.all_rounds()


def resume(laboratory: Laboratory, found: ResultFile, planned: plan.Plan, path: Path, progress: Progress) -> Outcome:
    """Measures what is missing from a file that a run left unfinished. Raises UserError on another machine."""
    there, here = found.session.devices, laboratory.devices
    if [same_device(facts) for facts in there] != [same_device(facts) for facts in here]:
        names = ", ".join(facts.name for facts in there)
        raise UserError(f"{path.name} was begun on {names}: continue it there, or start a new run here")
    torch_then, torch_now = found.session.software.get("torch"), laboratory.software.get("torch")
    if torch_then != torch_now:
        raise UserError(f"{path.name} was begun with torch {torch_then}, here is {torch_now}: start a new run")
    if found.session.harness.method != record.METHOD:
        raise UserError(f"{path.name} was measured by method {found.session.harness.method}, this is {record.METHOD}")
    journal = Journal(path, resume=True)
    run = _Run(laboratory, planned, found.session, journal, progress, done=_launches(found.records))
    outcome = run.all_rounds()
    if not outcome.records and not outcome.interrupted:
        progress.note(f"nothing was missing from {path.name}")
    outcome.records = [*found.records, *outcome.records]
    return outcome


def plan_of(session: Session, laboratory: Laboratory, timeout_s: float) -> plan.Plan:
    """The plan that a session set out with, for resuming it. Raises UserError for one that cannot be carried out."""
    cases = []
    for one in session.plan:
        case = workload.case(one.workload, dict(one.params))
        name = one.protocol or case.scale
        if name not in session.protocols or one.device >= len(session.speeds):
            raise UserError(f"{case.label()}: the file's plan names a protocol or a device that is not in the file")
        cases.append(plan.planned_case(case, one.device, session.speeds[one.device], session.protocols, name))
    return plan.Plan(
        suite=session.suite or "own",
        rounds=session.rounds,
        timeout_s=timeout_s,
        protocols=session.protocols,
        cases=cases,
        start_s=laboratory.start_s,
    )


class _Run:
    """One plan being carried out."""

    def __init__(
        self,
        laboratory: Laboratory,
        planned: plan.Plan,
        session: Session,
        journal: Journal,
        progress: Progress,
        done: "dict[_Place, list[Record]]",
        deadline_s: float = math.inf,
    ) -> None:
        self._laboratory = laboratory
        self._plan = planned
        self._session = session
        self._journal = journal
        self._progress = progress
        self._done = done
        self._deadline_s = deadline_s
        self._left_s = planned.estimate_s
        self._outcome = Outcome(path=journal.path)

    def all_rounds(self) -> Outcome:
        """Every round on every device; Ctrl-C ends it with everything measured so far in the file."""
        try:
            for round_index in range(self._plan.rounds):
                for device, spec in enumerate(self._laboratory.specs):
                    self._round(round_index, device, spec)
        except KeyboardInterrupt:
            self._outcome.interrupted = True
        finally:
            self._journal.close()
        self._outcome.unwritten = self._journal.unwritten
        return self._outcome

    def _round(self, round_index: int, device: int, spec: str) -> None:
        """All cases of one device, in a fresh worker, or in several where one dies."""
        cases = [
            one
            for one in self._plan.cases
            if one.device == device and not self._is_done(_place(one.case.name, one.case.params(), device, round_index))
        ]
        random.Random(f"{self._session.seed} {round_index} {device}").shuffle(cases)  # noqa: S311
        while cases and not self._is_over(cases):
            process = WorkerProcess(spec, self._laboratory.host.threads, self._session.seed)
            with contextlib.closing(process):
                self._left_s -= self._plan.worker_s
                alive = True
                while cases and alive and not self._is_over(cases):
                    alive = self._measure(process, cases.pop(0), round_index)

    def _is_over(self, cases: list[plan.PlannedCase]) -> bool:
        """Whether the budget has no time for these: a busy host makes a case last several times what was planned."""
        if time.monotonic() < self._deadline_s or not self._outcome.records:
            return False
        self._outcome.over += len(cases)
        cases.clear()
        return True

    def _measure(self, process: WorkerProcess, planned: plan.PlannedCase, round_index: int) -> bool:
        """One case; False when the worker did not survive it."""
        case, started = planned.case, now()
        job = msgspec.structs.replace(
            _job(case, planned.device, round_index, self._plan.protocols[planned.protocol]),
            periods_s=dict(enumerate(self._laboratory.periods_s)).get(planned.device, {}),
            mistaken=dict(enumerate(self._laboratory.mistaken)).get(planned.device, ""),
        )
        self._progress.begin(case.label(), round_index, self._plan.rounds, max(0.0, self._left_s))
        kept: list[Record] = []
        alive = True
        try:
            process.ask(job)
            for answered in _answers(process, self._plan.timeout_s):
                if isinstance(answered, messages.Finished):
                    # A fresh process after anything that may have left its mark: a lost context fails all that follows.
                    alive = not answered.spoilt and all(one.status != "crash" for one in kept)
                else:
                    self._keep(answered.record)
                    kept.append(answered.record)
        except (WorkerDied, WorkerHung, UserError) as error:  # UserError: the device is gone that was there a round ago
            # A case has a second record only where launches set the pace of the first.
            if not kept or (len(kept) == 1 and "launch_bound" in kept[0].flags):
                status, launch = "timeout" if isinstance(error, WorkerHung) else "crash", "graph" if kept else "eager"
                self._keep(empty_record(case, job, status, str(error), started, launch=launch))
            alive = False
        self._left_s -= planned.estimate_s
        return alive

    def _is_done(self, place: "_Place") -> bool:
        """A run that was stopped between the two records of a case has half of it, and is measured again."""
        records = self._done.get(place, [])
        return bool(records) and not (len(records) == 1 and "launch_bound" in records[0].flags)

    def _keep(self, measured: Record) -> None:
        place = _place(measured.workload, measured.params, measured.device, measured.round)
        if any(one.identity.launch == measured.identity.launch for one in self._done.get(place, [])):
            return
        if measured.status == "ok" and any(preflight.shared(self._laboratory.devices[measured.device])):
            flags = sorted({*measured.flags, "shared_device"})
            measured = msgspec.structs.replace(measured, flags=flags)
        self._journal.append(measured)
        self._outcome.records.append(measured)
        self._progress.done(measured)


def _answers(process: WorkerProcess, timeout_s: float) -> Iterator[messages.Measured | messages.Finished]:
    """The records of one case as they come, and its end."""
    deadline = time.monotonic() + timeout_s
    while True:
        reply = process.answer(max(0.1, deadline - time.monotonic()))
        assert isinstance(reply, messages.Measured | messages.Finished)
        yield reply
        if isinstance(reply, messages.Finished):
            return


def _job(
    case: workload.Workload,
    device: int,
    round_index: int,
    protocol: record.Protocol,
) -> messages.Job:
    return messages.Job(
        workload=case.name,
        params=case.params(),
        device=device,
        round=round_index,
        protocol=protocol,
    )


_Place = tuple[str, int, int]  # case, device, round


def _launches(records: list[Record]) -> dict[_Place, list[Record]]:
    """The records of each place in a run, one for each launch mode."""
    found: dict[_Place, list[Record]] = {}
    for one in records:
        found.setdefault(_place(one.workload, one.params, one.device, one.round), []).append(one)
    return found


def _place(name: str, params: dict[str, Any], device: int, round_index: int) -> _Place:
    """Where a record belongs in a run."""
    return workload.label(name, params), device, round_index

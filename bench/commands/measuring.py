"""The commands that need a device: `devices`, `run`, `selfcheck`, and the meter of one's own loop."""

import math
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.reading import Document, compare, results_folder, table

if TYPE_CHECKING:
    from bench.measure.choice import Request
    from bench.measure.laboratory import Laboratory
    from bench.measure.plan import Plan
    from bench.measure.runner import Outcome, Progress


def devices() -> Document:
    """What is here, what can be read from it, what is not here and why, and what will disturb a measurement."""
    import msgspec

    from bench.measure.laboratory import look

    laboratory = look("all", 0, measure_speeds=False)
    return {
        "devices": [
            {"spec": spec, **msgspec.to_builtins(facts)}
            for spec, facts in zip(laboratory.specs, laboratory.devices, strict=True)
        ],
        "absent": {vendor: absence.reason for vendor, absence in laboratory.absences.items()},
        "host": msgspec.to_builtins(laboratory.host),
        "software": laboratory.software,
        "findings": msgspec.to_builtins(laboratory.findings),
    }


def prepare_run(
    request: "Request", *, device: str = "default", seed: int = 0, out: Path | None = None
) -> "tuple[Laboratory, Plan]":
    """Looks at the machine and plans. Nothing is measured but the rough speeds that sizes are chosen by."""
    from bench.measure import journal, plan
    from bench.measure.laboratory import look, remember_speeds

    begun_s = time.monotonic()
    plan.validate(request)
    if out is not None:
        journal.refuse_existing(out)
    laboratory = look(device, seed)
    laboratory = remember_speeds(laboratory, [*([out.parent] if out else []), results_folder() / "local"])
    laboratory.look_s = time.monotonic() - begun_s
    made = plan.make(request, laboratory.speeds, laboratory.start_s, laboratory.metered, laboratory.look_s)
    return laboratory, made


def carry_out(
    laboratory: "Laboratory", planned: "Plan", *, seed: int, out: Path | None, argv: list[str], progress: "Progress"
) -> "Outcome":
    """Measures a plan into a new file."""
    from bench.measure import runner
    from bench.measure.laboratory import rested

    deadline_s = math.inf if planned.left_s is None else time.monotonic() + planned.left_s
    laboratory = rested(laboratory, planned, seed)
    session = runner.new_session(laboratory, planned, seed=seed, argv=argv)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = out or results_folder() / "local" / f"{stamp}-{session.id[:8]}.jsonl"
    return runner.carry_out(laboratory, planned, session, path, progress, deadline_s)


def resume(path: Path, *, model: str | None = None, timeout_s: float | None, progress: "Progress") -> "Outcome":
    """Measures what is missing from an unfinished file; `model` is the file of a model that the catalog lacks."""
    from bench import model as models
    from bench import record
    from bench.measure import choice, runner
    from bench.measure.laboratory import look

    if model:
        models.adopt(model)
    found = record.read(path)
    specs = " ".join(facts.spec for facts in found.session.devices)
    laboratory = look(specs, found.session.seed)
    limit_s = timeout_s or choice.load_suite(found.session.suite or "quick").timeout_s
    planned = runner.plan_of(found.session, laboratory, limit_s)
    return runner.resume(laboratory, found, planned, path, progress)


def run(
    *workloads: str,
    suite: str | None = None,
    device: str = "default",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Document:
    """Measures and gives the rows, the file's path and whether anything failed.

    `options`: settings={"m": ["4096"]}, parameters with their values as written behind `--set`; model, rounds,
    budget_s, timeout_s.
    """
    from bench.measure.choice import Request
    from bench.measure.progress import Silent

    known = ("settings", "model", "rounds", "budget_s", "timeout_s")
    if unknown := [name for name in options if name not in known]:
        say = "parameters of a workload go into settings, as in settings={'m': ['4096']}"
        raise TypeError(f"bench.run has no option '{unknown[0]}': there are {', '.join(known)}; {say}")
    if any(isinstance(values, str | int | float) for values in options.get("settings", {}).values()):
        raise TypeError("settings has a list of words for each parameter, as in settings={'m': ['4096']}")
    request = Request(workloads=workloads, suite=suite, **options)
    target = Path(out) if out is not None else None
    laboratory, planned = prepare_run(request, device=device, seed=seed, out=target)
    outcome = carry_out(laboratory, planned, seed=seed, out=target, argv=["bench.run"], progress=Silent())
    return run_document(outcome)


def meter(name: str, *, out: str | os.PathLike[str] | None = None, **options: Any) -> Any:
    """A context that measures a loop of one's own, by `meter.step()` after each step, into a result file.

    `options`: tokens_per_step, flops_per_step, model, seq, dtype, device, settle_steps; see bench/measure/user.py.
    """
    from bench.measure.user import UserMeter

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return UserMeter(name, path=Path(out) if out else results_folder() / "local" / f"{stamp}-{name}.jsonl", **options)


def plan_document(laboratory: "Laboratory", planned: "Plan") -> Document:
    """A plan, as `run --dry-run --json` prints it."""
    import msgspec

    from bench import workload

    return {
        "suite": planned.suite,
        "rounds": planned.rounds,
        "estimate_s": planned.estimate_s,
        "devices": [f"{spec} ({facts.name})" for spec, facts in zip(laboratory.specs, laboratory.devices, strict=True)],
        "cases": [
            {
                "case": one.case.label(),
                "workload": one.case.name,
                "params": one.case.params(),
                "device": laboratory.specs[one.device],
                "estimate_s": planned.rounds * one.estimate_s + one.compile_s + one.energy_s,
            }
            for one in planned.cases
        ],
        "skipped": [
            *({"case": one.case.label(), "reason": reason} for one, reason in planned.skipped),
            *({"case": workload.label(one.workload, one.params), "reason": one.reason} for one in planned.refused),
        ],
        "findings": msgspec.to_builtins(laboratory.findings),
    }


def run_document(outcome: "Outcome") -> Document:
    """What a run left behind, as `run --json` prints it."""
    return {
        "file": str(outcome.path),
        "interrupted": outcome.interrupted,
        "failed": len(outcome.failed),
        "rows": table([outcome.path]) if outcome.path.exists() else [],
    }


def selfcheck_timer(*, device: str = "default", seed: int = 0, progress: "Progress | None" = None) -> list[Document]:
    """How other timers read the same call as ours; `passed` is None where there is nothing to compare."""
    import msgspec

    from bench.measure import selfcheck
    from bench.measure.progress import Silent

    found = selfcheck.timers(device, seed, progress or Silent())
    return [{**msgspec.to_builtins(one), "passed": one.passed} for one in found]


def selfcheck_energy(*, device: str = "default", seed: int = 0, progress: "Progress | None" = None) -> list[Document]:
    """Whether this board's power and energy are what they are taken for, one verdict a line."""
    import msgspec

    from bench.measure import selfcheck
    from bench.measure.progress import Silent

    return [msgspec.to_builtins(one) for one in selfcheck.power(device, seed, progress or Silent())]


def selfcheck_aa(
    workloads: Sequence[str],
    *,
    device: str = "default",
    seed: int = 0,
    turns: int = 5,
    progress: "Progress | None" = None,
) -> Document:
    """The same thing measured as two sides, in turns: a comparison that must find no difference."""
    from bench.measure import selfcheck
    from bench.measure.choice import Request
    from bench.measure.progress import Silent

    request = Request(workloads=tuple(workloads), suite="quick", rounds=1)
    laboratory, planned = prepare_run(request, device=device, seed=seed)
    with tempfile.TemporaryDirectory() as folder:  # what is compared with itself is no result
        before, after = selfcheck.identical(
            laboratory, planned, Path(folder), seed=seed, turns=turns, progress=progress or Silent()
        )
        return compare(before, after)

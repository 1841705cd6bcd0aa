"""The commands as functions: `bench.table(...)` gives the very objects that `accelmark table --json` prints.

Everything is imported where it is used: reading results needs no torch, and help needs nothing.
"""

import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.measure.plan import Plan, Request
    from bench.measure.runner import Laboratory, Outcome, Progress

Document = dict[str, Any]
Paths = Sequence[str | os.PathLike[str]]


def devices() -> Document:
    """What is here, what can be read from it, what is not here and why, and what will disturb a measurement."""
    import msgspec

    from bench.measure import runner

    laboratory = runner.look("all", 0, measure_speeds=False)
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


def listing(what: str) -> list[Document] | Document:
    """The workloads, suites, models or chips there are, or the schema of a result file."""
    from bench import chip, model, record, workload
    from bench.measure import plan

    if what == "schema":
        return record.json_schema()
    if what == "suites":
        return [{"name": name, "summary": summary} for name, summary in plan.suites().items()]
    if what == "models":
        return [_model_row(model.find(name)) for name in model.names()]
    if what == "chips":
        return [_chip_row(chip.find(name)) for name in chip.names()]
    found = ((name, workload.find(name)) for name in workload.names())
    return [
        {
            "name": name,
            "version": kind.version,
            "scale": kind.scale,
            "parameters": ", ".join(workload.parameters(kind)),
            "summary": (kind.__doc__ or "").partition("\n")[0],
        }
        for name, kind in found
    ]


def prepare_run(
    request: "Request", *, device: str = "default", seed: int = 0, out: Path | None = None
) -> "tuple[Laboratory, Plan]":
    """Looks at the machine and plans. Nothing is measured but the rough speeds that sizes are chosen by."""
    from bench.measure import journal, plan, runner

    plan.validate(request)
    if out is not None:
        journal.refuse_existing(out)
    laboratory = runner.look(device, seed)
    laboratory = runner.remember_speeds(laboratory, [*([out.parent] if out else []), results_folder() / "local"])
    return laboratory, plan.make(request, laboratory.speeds, laboratory.start_s, laboratory.metered)


def carry_out(
    laboratory: "Laboratory", planned: "Plan", *, seed: int, out: Path | None, argv: list[str], progress: "Progress"
) -> "Outcome":
    """Measures a plan into a new file."""
    from bench.measure import runner

    laboratory = runner.rested(laboratory, planned, seed)
    session = runner.new_session(laboratory, planned, seed=seed, argv=argv)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = out or results_folder() / "local" / f"{stamp}-{session.id[:8]}.jsonl"
    return runner.carry_out(laboratory, planned, session, path, progress)


def resume(path: Path, *, model: str | None = None, timeout_s: float | None, progress: "Progress") -> "Outcome":
    """Measures what is missing from an unfinished file; `model` is the file of a model that the catalog lacks."""
    from bench import model as models
    from bench import record
    from bench.measure import plan, runner

    if model:
        models.adopt(model)
    found = record.read(path)
    specs = " ".join(facts.spec for facts in found.session.devices)
    laboratory = runner.look(specs, found.session.seed, measure_speeds=False)
    limit_s = timeout_s or plan.load_suite(found.session.suite or "quick").timeout_s
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
    """Measures and gives the rows, the file's path and whether anything failed. `options` are those of `Request`."""
    from bench.measure.plan import Request
    from bench.measure.progress import Silent

    request = Request(workloads=workloads, suite=suite, **options)
    target = Path(out) if out is not None else None
    laboratory, planned = prepare_run(request, device=device, seed=seed, out=target)
    outcome = carry_out(laboratory, planned, seed=seed, out=target, argv=["bench.run"], progress=Silent())
    return run_document(outcome)


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
                "estimate_s": one.estimate_s,
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


def show(path: str | os.PathLike[str]) -> Document:
    """One file: its session and its rows."""
    import msgspec

    from bench import record
    from bench.analyze import table as tables

    file = record.read(path)
    return {"session": msgspec.to_builtins(file.session), "torn": file.torn, "rows": tables.rows([file])}


def table(paths: Paths = (), *, where: str = "") -> list[Document]:
    """Rows of result files and folders; without any, of the results folder."""
    from bench.analyze import table as tables

    return tables.rows(tables.files(paths or [results_folder()]), where)


def frame(paths: Paths = (), *, where: str = "") -> Any:
    """The rows of `table` as a pandas DataFrame."""
    from bench.analyze import table as tables

    return tables.frame(paths or [results_folder()], where)


def check(paths: Paths) -> list[Document]:
    """Every finding in these files; none with level `error` means that all are accepted."""
    from dataclasses import asdict

    from bench.analyze import check as checks
    from bench.analyze import table as tables

    return [asdict(finding) for path in tables.expand(paths) for finding in checks.check(path)]


def compare(before: Paths, after: Paths, *, threshold: float | None = None) -> Document:
    """Both sides' common cases with verdicts."""
    import msgspec

    from bench.analyze import compare as compares
    from bench.analyze import table as tables

    limit = compares.THRESHOLD if threshold is None else threshold
    found = compares.compare(tables.files(before), tables.files(after), threshold=limit)
    return msgspec.json.decode(msgspec.json.encode(found), type=dict)  # lists for tuples, as JSON has it


def slower(document: Document, limit: float) -> list[Document]:
    """The rows of a comparison that are slower by more than `limit`, or that gave nothing any more."""
    return [row for row in document["rows"] if row["lost"] or (row["verdict"] == "slower" and row["ratio"] > 1 + limit)]


def selfcheck_timer(*, device: str = "default", seed: int = 0) -> list[Document]:
    """How other timers read the same call as ours."""
    import msgspec

    from bench.measure import selfcheck

    return [{**msgspec.to_builtins(one), "passed": one.passed} for one in selfcheck.timers(device, seed)]


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
    from bench.measure.plan import Request
    from bench.measure.progress import Silent

    request = Request(workloads=tuple(workloads), suite="quick", rounds=1)
    laboratory, planned = prepare_run(request, device=device, seed=seed)
    with tempfile.TemporaryDirectory() as folder:  # what is compared with itself is no result
        before, after = selfcheck.identical(
            laboratory, planned, Path(folder), seed=seed, turns=turns, progress=progress or Silent()
        )
        return compare(before, after)


def results_folder() -> Path:
    """Where results lie: ACCELMARK_RESULTS, else the clone's own results/, else results/ in the working folder."""
    if own := os.environ.get("ACCELMARK_RESULTS"):
        return Path(own)
    clone = Path(__file__).resolve().parent.parent / "results"
    return clone if clone.is_dir() and os.access(clone, os.W_OK) else Path.cwd() / "results"


def _model_row(found: Any) -> Document:
    return {
        "name": found.name,
        "parameters": found.total_parameters,
        "active_parameters": found.active_parameters,
        "layers": found.num_hidden_layers,
        "hidden_size": found.hidden_size,
        "heads": found.num_attention_heads,
        "kv_heads": found.num_key_value_heads,
        "context": found.max_position_embeddings,
        "vocab_size": found.vocab_size,
        "source": found.source,
    }


def _chip_row(found: Any) -> Document:
    return {
        "name": found.name,
        "vendor": found.vendor,
        "bf16_flops_per_s": found.peak_flops_per_s("bfloat16"),
        "memory_bytes": found.memory_bytes,
        "memory_bytes_per_s": found.memory_bytes_per_s,
        "power_w": found.power_w,
        "driver_names": list(found.driver_names),
        "aliases": list(found.aliases),
    }

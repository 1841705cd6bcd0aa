"""The commands as functions: `bench.table(...)` gives the very objects that `accelmark table --json` prints.

Everything is imported where it is used: reading results needs no torch, and help needs nothing.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from bench.analyze.source import Source
    from bench.estimate.answer.ask import Where
    from bench.measure.choice import Request
    from bench.measure.plan import Plan
    from bench.measure.runner import Laboratory, Outcome, Progress
    from bench.record import Key, ResultFile

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
    from bench.measure import choice

    if what == "schema":
        return record.json_schema()
    if what == "suites":
        return [{"name": name, "summary": summary} for name, summary in choice.suites().items()]
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
    from bench.measure import choice, runner

    if model:
        models.adopt(model)
    found = record.read(path)
    specs = " ".join(facts.spec for facts in found.session.devices)
    laboratory = runner.look(specs, found.session.seed)
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


def show(path: str | os.PathLike[str], *, wall: str | os.PathLike[str] | None = None) -> Document:
    """One file: its session and its rows; and with the log of a meter at the socket, `wall`, what that saw of it."""
    from dataclasses import asdict

    import msgspec

    from bench import record
    from bench.analyze import table as tables
    from bench.analyze import wall as walls

    file = record.read(path)
    found = {"session": msgspec.to_builtins(file.session), "torn": file.torn, "rows": tables.rows([file])}
    return found | ({"wall": asdict(walls.beside(file, Path(wall)))} if wall else {})


def pytest_benchmark(path: str | os.PathLike[str]) -> Document:
    """One file in the format of pytest-benchmark."""
    from bench import record
    from bench.analyze import pytest_export

    return pytest_export.document(record.read(path))


def table(paths: Paths = (), *, where: str = "", cache: Path | None = None) -> list[Document]:
    """Rows of result files and folders; without any, of the results folder."""
    return source(paths, cache=cache).rows(where)


def frame(paths: Paths = (), *, where: str = "", cache: Path | None = None) -> Any:
    """The rows of `table` as a pandas DataFrame."""
    return source(paths, cache=cache).frame(where)


def source(paths: Paths = (), *, cache: Path | None = None, note: "Callable[[str], None] | None" = None) -> "Source":
    """Where rows come from: files as they are read, or the store of a large folder, brought up to date."""
    from bench.analyze.source import open_source

    return open_source(paths or [results_folder()], cache=cache, note=note)


def grouped(
    rows: "Paths | Source" = (), *, by: str | None = None, where: str = "", price_per_hour: float | None = None
) -> list[Document]:
    """One row for each case, device and value of `by`: medians over machines, how they spread, how many they are."""
    from bench.analyze import grouped as groups

    return groups.groups(_opened(rows).typical(where, by), by, price_per_hour=price_per_hour)


def standing(file: str | os.PathLike[str], rows: "Paths | Source" = (), *, where: str = "") -> list[Document]:
    """Where the machine of one file stands among others with its chip: a row for each case that was measured."""
    from bench import record
    from bench.analyze import standing as standings
    from bench.analyze import table as tables

    own = tables.rows([record.read(file)], where)
    return standings.standing(own, _opened(rows).typical(standings.near(own, where)))


def parquet(rows: "Paths | Source", path: Path, *, where: str = "") -> list[Document]:
    """Writes the rows as a Parquet file."""
    from bench.analyze import table as tables

    return [{"file": str(path), "rows": tables.write_parquet(_opened(rows), where, path)}]


def left_out(rows: "Paths | Source" = ()) -> list[Document]:
    """Files of which no row is in the table: those that cannot be read, and copies of a run."""
    found = _opened(rows)
    bad = [{"file": path, "reason": reason, "same_run_as": None} for path, reason in found.errors]
    return bad + [{"file": path, "reason": None, "same_run_as": first} for path, first in found.copies]


def too_long(found: "Source", where: str) -> bool:
    """Whether so many rows are asked for that people read medians over machines instead."""
    return found.count(where) > 1000


def _opened(rows: "Paths | Source") -> "Source":
    return source(rows) if isinstance(rows, Sequence) else rows


def check(paths: Paths, *, table: str | os.PathLike[str] | None = None) -> list[Document]:
    """Every finding in these files; none with level `error` means that all are accepted.

    `table`: the shared table whose other machines they are set beside; without it, the results folder.
    """
    from dataclasses import asdict

    from bench.analyze import check as checks
    from bench.analyze import table as tables
    from bench.analyze.shared import history

    beside = history.beside(Path(table or results_folder()))
    return [asdict(finding) for path in tables.expand(paths) for finding in checks.check(path, beside)]


def submit(
    path: str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str] | None = None,
    supersede: str | None = None,
    retract: str | None = None,
    reason: str = "",
    hide: Sequence[str] = (),
    branch: bool = False,
    dry_run: bool = False,
) -> Document:
    """Puts a checked, redacted copy of a run into the shared table at `to`, or withdraws one; see `submit --help`."""
    from dataclasses import asdict

    from bench.analyze.shared import submit as submits

    root = Path(to or results_folder())
    prepared = submits.asked(
        Path(path) if path else None, root, supersede=supersede, retract=retract, reason=reason, hide=hide
    )
    pieces = [{"file": str(piece.path), "content": piece.content.decode()} for piece in prepared.pieces]
    old = [piece.path.exists() for piece in prepared.pieces]
    new = [False] * len(pieces) if dry_run else submits.put(prepared)
    return {
        "id": prepared.id,
        "refused": prepared.refused,
        "files": [{**piece, "old": o, "new": n} for piece, o, n in zip(pieces, old, new, strict=True)],
        "findings": [asdict(finding) for finding in prepared.findings],
        "removed": prepared.removed,
        "proven": prepared.proven,
        "commit": submits.commit(prepared) if branch and not dry_run and not prepared.refused else None,
        "git": submits.commands(prepared),
    }


def compare(before: Paths, after: Paths, *, where: str = "", threshold: float | None = None) -> Document:
    """Both sides' common cases with verdicts."""
    import msgspec

    from bench.analyze import compare as compares
    from bench.analyze import table as tables

    limit = compares.THRESHOLD if threshold is None else threshold
    found = compares.compare(tables.files(before), tables.files(after), threshold=limit, where=where)
    return msgspec.json.decode(msgspec.json.encode(found), type=dict)  # lists for tuples, as JSON has it


def slower(document: Document, limit: float) -> list[Document]:
    """The rows of a comparison that are slower by more than `limit`, or that gave nothing any more."""
    return [row for row in document["rows"] if row["lost"] or (row["verdict"] == "slower" and row["ratio"] > 1 + limit)]


def estimate_training(*, method: str = "pretrain", tokens: str | int, **options: Any) -> Document:
    """What a training run takes: `estimate train` and `estimate finetune`. `options` are the command's own."""
    from bench import units
    from bench.estimate.answer import ask
    from bench.estimate.answer.layouts import Fixed

    where, rest = _where(options)
    free = ("dp", "tp", "pp", "cp", "ep", "sharding", "recompute", "micro_batch")
    fixed = Fixed(**{name: rest.pop(name, None) for name in free})
    count = units.parse_count(tokens) if isinstance(tokens, str) else tokens
    return ask.training(ask.Training(tokens=count, method=cast(Any, method), fixed=fixed, **rest), where)


def estimate_serving(*, model: str, **options: Any) -> Document:
    """What serving a model takes: `estimate serve`. `options` are the command's own."""
    from bench.estimate.answer import ask

    where, rest = _where(options)
    defaults: Document = {
        "batch": 1, "prompt": 512, "output": 256, "tp": None, "precision": None, "weights": "full", "users": None,
        "requests_per_hour": 20.0,
    }  # fmt: skip
    return ask.serving(model, where, **{**defaults, **rest})


def estimate_rows(source: str | os.PathLike[str], target: str | os.PathLike[str], local: Any = None) -> Document:
    """One estimate for each row of a CSV, into another: how many have a number, how many a reason."""
    from bench.estimate.answer import ask

    return ask.rows(Path(source), Path(target), Path(local) if local else None)


def plan(
    *, days: float | None = None, budget_money: float | None = None, kwh: float | None = None, seq: int = 2048,
    precision: str | None = None, purchase_price: str | float | None = None, **options: Any,
) -> Document:  # fmt: skip
    """What can be trained on these machines within a limit: `plan`. `options` are the command's own."""
    from bench.estimate.answer import ask
    from bench.estimate.answer.plan import Limit

    where, rest = _where({**options, "seq": seq})
    if unknown := rest.keys() - {"seq"}:
        raise TypeError(f"plan() has no {', '.join(sorted(unknown))}")
    limit = Limit(days=days, money=budget_money, kwh=kwh)
    return ask.planned(where, limit, seq=seq, precision=cast(Any, precision), purchase=purchase_price)


def _where(options: Document) -> "tuple[Where, Document]":
    """The machines and what is supposed of them, and the options that are left."""
    from bench.estimate.answer.ask import Where

    _refuse_impossible(options)
    rest = dict(options)
    paths = rest.pop("local", ())
    own, in_quarantine = _evidence(paths) if paths else ((), ())
    supposed = {
        name: rest.pop(name, None)
        for name in ("price_per_hour", "electricity_price", "pue", "carbon_intensity", "goodput")
    }
    where = Where(
        device=rest.pop("device"), count=rest.pop("count", 1), per_node=rest.pop("per_node", 8),
        link_bytes_per_s=rest.pop("link", None), network_bytes_per_s=rest.pop("network", None),
        stack=rest.pop("stack", ""), local=own, in_quarantine=in_quarantine, supposed=supposed,
    )  # fmt: skip
    return where, rest


def _evidence(paths: Paths) -> "tuple[Sequence[ResultFile], Container[Key]]":
    """The files at `paths`, and their cases that nothing may be calibrated by."""
    from bench.analyze import table as tables
    from bench.analyze.check import quarantined
    from bench.analyze.shared import history

    files = tables.files(paths)
    looked_at = {one for path in map(Path, paths) if path.is_dir() for one in history.accepted(path)}
    return files, quarantined(files, accepted=looked_at)


_FLAGS = {"lora_rank": "rank", "prompt": "input"}  # where the option is called otherwise
_COUNTS = (
    "count", "per_node", "dp", "tp", "pp", "cp", "ep", "micro_batch", "global_batch", "virtual_stages", "lora_rank",
    "seq", "batch", "prompt", "output", "users",
)  # fmt: skip
_AMOUNTS = ("link", "network", "requests_per_hour")


def _refuse_impossible(options: Document) -> None:
    """Raises UserError for a count below 1, and for an amount that is no finite number above 0."""
    from bench.errors import UserError

    for name in (*_COUNTS, *_AMOUNTS):
        value = options.get(name)
        if value is not None and not (value >= 1 if name in _COUNTS else 0 < value < math.inf):
            flag = _FLAGS.get(name, name).replace("_", "-")
            raise UserError(f"--{flag} {value}: it is {'1 or more' if name in _COUNTS else 'a number above 0'}")


def calibrate(paths: Paths = ()) -> list[Document]:
    """What single operations and whole steps take on each machine in these files, the best measured first."""
    from bench.estimate.own import calibration

    made = calibration.calibrations(*_evidence(paths or [results_folder()]))
    return [calibration.document(one) for one in made]


def report(
    paths: Paths = (),
    *,
    out: str | os.PathLike[str] = "report.html",
    figures: str | os.PathLike[str] | None = None,
    png: bool = False,
) -> Document:
    """Writes the page of these files, or of the results folder, and says what is on it; `figures` is a folder for the
    pictures by themselves.
    """
    from bench.analyze import report as reports
    from bench.errors import UserError

    page = Path(out)
    if page.suffix.lower() not in {".html", ".htm"}:
        raise UserError(f"{page}: the report is an HTML page, name it for example report.html")
    if png and figures is None:
        raise UserError("PNG files need a folder: give one with --figures DIR")
    made = reports.report(paths or [results_folder()])
    pictures = reports.write_pictures(made.figures, Path(figures), png=png) if figures is not None else []
    html = made.html().encode()
    beside = page.with_name(f".{page.name}.{os.getpid()}")  # a full disk leaves the page as it was, not half a page
    try:
        beside.write_bytes(html)
        beside.replace(page)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise UserError(f"{page}: {error.strerror}") from None
    return {
        "page": str(page),
        "bytes": len(html),
        "files": made.evidence.num_files,
        "refused": made.evidence.refused,
        "machines": len(made.evidence.machines),
        "figures": {one.name: len(one.panels) for one in made.figures},
        "pictures": [str(path) for path in pictures],
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

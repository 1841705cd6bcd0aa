"""The command line: one short function for each command, which parses, calls bench/commands.py and prints."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench import __version__

Command = Callable[..., Any]


class _Group(click.Group):
    """Commands in the order of a day's work; one-sentence errors; exit statuses as the README promises."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [
            "devices", "list", "run", "show", "check", "submit", "table", "compare", "report", "calibrate", "estimate",
            "plan", "selfcheck",
        ]  # fmt: skip

    def main(self, *args: Any, **kwargs: Any) -> Any:
        from bench.errors import UserError
        from bench.text import plain

        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except UserError as error:
            print(f"accelmark: {plain(str(error), 1000)}", file=sys.stderr)
            sys.exit(2)
        except click.ClickException as error:
            say = " ".join(error.format_message().split())
            if say.startswith("No such command"):
                say += f" There are {', '.join(self.list_commands(click.Context(self)))}."
            print(f"accelmark: {plain(say, 1000)}", file=sys.stderr)
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(130)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough; what is still buffered goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        return result


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="accelmark")
def main() -> None:
    """Measure what accelerators really deliver on LLM workloads.

    Results are JSON Lines files that can be read, checked, shared and compared on any machine.
    """


def as_json(command: Command) -> Command:
    """Adds --json: one JSON document on standard output and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(command)


def as_table(command: Command) -> Command:
    """Adds --csv and --markdown to --json."""
    command = click.option("--csv", "as_csv", is_flag=True, help="Print CSV in SI units.")(command)
    command = click.option("--markdown", "as_markdown", is_flag=True, help="Print a table to paste.")(command)
    return as_json(command)


def paths(name: str, **options: Any) -> Callable[[Command], Command]:
    """An argument of files and folders."""
    return click.argument(name, type=click.Path(path_type=Path), **options)


@main.command(short_help="Show what is here and what will disturb a measurement.")
@as_json
def devices(as_json: bool) -> None:
    """Show what is here, what can be read from it, and what will disturb a measurement."""
    from bench import commands
    from bench.analyze import show

    document = commands.devices()
    _print_json(document) if as_json else _print_lines(show.devices(document))


@main.command("list", short_help="List workloads, suites, models, chips, or the schema.")
@click.argument("what", type=click.Choice(["workloads", "suites", "models", "chips", "schema"]), default="workloads")
@as_json
def list_(what: str, as_json: bool) -> None:
    """List the workloads, suites, models or chips there are, or print the schema of a result file."""
    from bench import commands
    from bench.analyze import show

    document = commands.listing(what)
    _print_json(document) if as_json or isinstance(document, dict) else print(show.listing(document))


@main.command()
@click.argument("workloads", nargs=-1)
@click.option(
    "--suite", metavar="NAME", help="quick, standard or full.  [default: quick; standard for named workloads]"
)
@click.option("--budget", metavar="TIME", help="Fit the plan into 90s, 10m or 2h.")
@click.option("--dry-run", is_flag=True, help="Print the plan and how long it will take; measure nothing.")
@click.option(
    "--device",
    metavar="SPEC",
    default="default",
    help="cpu, nvidia, nvidia:0,1, amd, ..., virtual or all.  [default: every accelerator, else the CPU]",
)
@click.option(
    "--set", "settings", metavar="NAME=V1,V2", multiple=True, help="Set a parameter; several values are crossed."
)
@click.option("--model", metavar="NAME|FILE", help="A model of the catalog, a .toml file or a config.json.")
@click.option(
    "--rounds", type=click.IntRange(1, 1000), metavar="N", help="Fresh processes for each case.  [default: the suite's]"
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, metavar="N", help="Of data and order.  [default: 0]")
@click.option("--out", type=click.Path(path_type=Path), help="Result file.  [default: results/local/...]")
@click.option("--resume", type=click.Path(path_type=Path), help="Measure what is missing from this file.")
@click.option("--timeout", metavar="TIME", help="Longest time for one case.  [default: the suite's]")
@click.option("--progress/--quiet", default=None, help="Progress on standard error.  [default: on a terminal]")
@as_table
def run(
    workloads: tuple[str, ...],
    suite: str | None,
    budget: str | None,
    dry_run: bool,
    device: str,
    settings: tuple[str, ...],
    model: str | None,
    rounds: int | None,
    seed: int,
    out: Path | None,
    resume: Path | None,
    timeout: str | None,
    progress: bool | None,
    as_json: bool,
    as_csv: bool,
    as_markdown: bool,
) -> None:
    """Measure WORKLOADS, or a whole suite; write a result file and print a table."""
    from bench import commands, units
    from bench.analyze import show
    from bench.measure.plan import Request

    for number in (signal.SIGTERM, signal.SIGHUP):  # a batch system's end is an interruption: everything is kept
        signal.signal(number, _interrupt)
    style = show.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
    told = _progress(progress)
    timeout_s = units.parse_duration(timeout) if timeout else None
    if resume:
        _only_resume(workloads, suite, budget, settings, rounds, out, dry_run, seed, device != "default")
        outcome = commands.resume(resume, model=model, timeout_s=timeout_s, progress=told)
    else:
        request = Request(
            workloads=workloads, suite=suite, settings=_parsed(settings), model=model, rounds=rounds,
            budget_s=units.parse_duration(budget) if budget else None, timeout_s=timeout_s,
        )  # fmt: skip
        told.note("looking at this machine, some seconds ...")
        laboratory, planned = commands.prepare_run(request, device=device, seed=seed, out=None if dry_run else out)
        intended = commands.plan_document(laboratory, planned)
        if dry_run:
            _print_json(intended) if as_json else _print_lines(show.plan(intended))
            return
        for line in show.plan(intended):
            told.note(line)
        outcome = commands.carry_out(
            laboratory, planned, seed=seed, out=out, argv=["accelmark", *sys.argv[1:]], progress=told
        )
    document = commands.run_document(outcome)
    if style == "json":
        _print_json(document)
    elif style == "csv":
        print(show.csv_text(document["rows"]), end="")
    else:
        print(show.table(document["rows"], "github" if style == "markdown" else "simple"))
        print(f"\n{outcome.path}")
    if outcome.interrupted:
        again = f"accelmark run --resume {outcome.path}" + (f" --model {model}" if model else "")
        print(f"accelmark: interrupted; continue with: {again}", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if outcome.failed else 0)


@main.command()
@paths("file")
@click.option("--pytest-benchmark", is_flag=True, help="Print it as pytest-benchmark's JSON, for its `compare`.")
@as_table
def show(file: Path, pytest_benchmark: bool, as_json: bool, as_csv: bool, as_markdown: bool) -> None:
    """Show a result file: what was measured on what, and what came out."""
    from bench import commands, record
    from bench.analyze import show as shows

    style = shows.one_style(json=as_json, csv=as_csv, markdown=as_markdown, pytest_benchmark=pytest_benchmark)
    if pytest_benchmark:
        _print_json(commands.pytest_benchmark(file))
        return
    document = commands.show(file)
    if style == "json":
        _print_json(document)
    elif style == "csv":
        print(shows.csv_text(document["rows"]), end="")
    else:
        drawn = "github" if style == "markdown" else "simple"
        _print_lines(shows.headline(record.read(file).session, drawn))
        print("\n" + shows.table(document["rows"], drawn))
        for more in (shows.distributions(document["rows"], drawn), shows.power(document["rows"], drawn)):
            if more:
                print("\n" + more)
        if told := shows.facts(document["rows"], drawn):
            _print_lines(["", *told])


@main.command()
@paths("files", nargs=-1, required=True)
@click.option(
    "--table", type=click.Path(path_type=Path), help="Other machines' results.  [default: the results folder]"
)
@as_json
def check(files: tuple[Path, ...], table: Path | None, as_json: bool) -> None:
    """Check result files: every finding with its reason. Exit status 1 when a file is refused."""
    from bench import commands
    from bench.analyze import show
    from bench.analyze.table import expand

    found = commands.check(files, table=table)
    _print_json(found) if as_json else _print_lines(show.findings(found, [str(file) for file in expand(files)]))
    sys.exit(1 if any(finding["level"] == "error" for finding in found) else 0)


@main.command(short_help="Put a checked, redacted copy of a run into the shared table.")
@paths("file", required=False)
@click.option("--to", type=click.Path(path_type=Path), help="The table's folder.  [default: the results folder]")
@click.option("--dry-run", is_flag=True, help="Print the exact bytes that would be written; write nothing.")
@click.option("--supersede", metavar="ID", help="The run that this one replaces; both are kept.")
@click.option("--retract", metavar="ID", help="Take a run of yours out of tables; it is kept.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for --supersede and --retract.")
@click.option(
    "--hide", multiple=True, metavar="WORD", help="A name to take out wherever it stands, beside this machine's."
)
@click.option("--branch", is_flag=True, help="Also commit it on a git branch of its own; your checkout stays as it is.")
@as_json
def submit(
    file: Path | None,
    to: Path | None,
    dry_run: bool,
    supersede: str | None,
    retract: str | None,
    reason: str,
    hide: tuple[str, ...],
    branch: bool,
    as_json: bool,
) -> None:
    """Put a copy of FILE into the shared table: without anything that identifies a person or a machine, and checked as
    the table itself is. Needs no network. An ID is the digits before .jsonl in a file's name. Exit status 1 when the
    file is refused.
    """
    from bench import commands
    from bench.analyze import show

    document = commands.submit(
        file, to=to, supersede=supersede, retract=retract, reason=reason, hide=hide, branch=branch, dry_run=dry_run
    )
    for line in show.submission(document):
        print(line, file=sys.stderr)
    if as_json:
        _print_json(document)
    elif dry_run:
        sys.stdout.buffer.write("".join(one["content"] for one in document["files"]).encode())
    elif not document["refused"]:
        _print_lines([*(one["file"] for one in document["files"]), *([] if branch else document["git"])])
    sys.exit(1 if document["refused"] else 0)


@main.command()
@paths("sources", nargs=-1)
@click.option("--by", metavar="FIELD", help="Medians over machines for each value: chip, machine, model, date, ...")
@click.option("--where", metavar="EXPR", default="", help="For example workload=matmul,step_s<0.01,device~H100.")
@click.option("--standing", type=click.Path(path_type=Path), metavar="FILE", help="Where FILE's machine stands.")
@click.option("--price-per-hour", type=click.FloatRange(min=0, min_open=True), help="Of one device, in your money.")
@click.option("--parquet", type=click.Path(path_type=Path), metavar="PATH", help="Write the rows as a Parquet file.")
@click.option("--errors", is_flag=True, help="Show which files were left out, and why.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="For large folders.  [default: ~/.cache]")
@as_table
def table(
    sources: tuple[Path, ...],
    by: str | None,
    where: str,
    standing: Path | None,
    price_per_hour: float | None,
    parquet: Path | None,
    errors: bool,
    cache: Path | None,
    as_json: bool,
    as_csv: bool,
    as_markdown: bool,
) -> None:
    """Print the results in files and folders as one table.  [default: the results folder]"""
    from bench import commands
    from bench.analyze import show, show_groups
    from bench.errors import UserError

    style = show.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
    if sum(map(bool, (by or price_per_hour, standing, parquet, errors))) > 1:
        raise UserError(
            "--by (or --price-per-hour), --standing, --parquet and --errors are views of their own: take one"
        )
    source = commands.source(sources, cache=cache, note=_progress(None).note)
    drawn = "github" if style == "markdown" else "simple"
    if errors:
        document = commands.left_out(source)
        lines = show_groups.left_out(source.errors, source.copies)
    elif parquet:
        document = commands.parquet(source, parquet, where=where)
        lines = [f"{document[0]['rows']} rows in {parquet}"]
    elif standing:
        document = commands.standing(standing, source, where=where)
        lines = show_groups.standing(document, drawn)
    elif by or price_per_hour or (style not in {"json", "csv"} and commands.too_long(source, where)):
        document = commands.grouped(source, by=by, where=where, price_per_hour=price_per_hour)
        lines = show_groups.grouped(document, by, drawn)
    else:
        document = source.rows(where)
        lines = [show.table(document, drawn, devices=True)]
    if style == "json":
        _print_json(document)
    elif style == "csv":
        print(show.csv_text(document), end="")
    else:
        left = [f"{len(source.errors)} files were left out: --errors says why"] if source.errors and not errors else []
        _print_lines([*lines, *left])
    sys.exit(1 if errors and source.errors else 0)


class _ManyValues(click.Command):
    """A command whose options take every word up to the next option: --before a.jsonl b.jsonl --after c.jsonl."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        option = ""
        for word in args:
            if word in {"--before", "--after"}:
                option = word
            elif word.startswith("-"):
                option = ""
                spread.append(word)
            else:
                spread += [option, word] if option else [word]
        return super().parse_args(ctx, spread)


@main.command(cls=_ManyValues, short_help="Compare two sides: equivalent, faster, slower, inconclusive.")
@click.option(
    "--before",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH ...",
    help="Result files of one side.",
)
@click.option(
    "--after",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH ...",
    help="Result files of the other side.",
)
@click.option(
    "--where", metavar="EXPR", default="", help="Of both sides, as for table: power_limit_w=700,workload=matmul."
)
@click.option(
    "--fail-if-slower", metavar="PCT", type=float, help="Exit status 1 when a case is slower by more than this."
)
@as_table
def compare(
    before: tuple[Path, ...],
    after: tuple[Path, ...],
    where: str,
    fail_if_slower: float | None,
    as_json: bool,
    as_csv: bool,
    as_markdown: bool,
) -> None:
    """Compare two sides, each of one or more result files: equivalent, faster, slower or inconclusive."""
    from bench import commands
    from bench.analyze import show

    style = show.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
    # A limit below the usual threshold asks for a finer judgement.
    threshold = None if fail_if_slower is None else min(0.02, max(fail_if_slower / 100, 0.001))
    document = commands.compare(before, after, where=where, threshold=threshold)
    if style == "json":
        _print_json(document)
    elif style == "csv":
        print(show.csv_text(document["rows"]), end="")
    else:
        _print_lines(show.comparison(document, "github" if style == "markdown" else "simple"))
    sys.exit(1 if fail_if_slower is not None and commands.slower(document, fail_if_slower / 100) else 0)


def _supposed(command: Command) -> Command:
    """Adds prices, overheads and what is known of the machine."""
    options: list[Callable[[Command], Command]] = [
        click.option("--local", metavar="FILE", multiple=True, help="Result files of this very machine."),
        click.option(
            "--stack", default="", metavar="NAME", help="Framework: megatron, torch-fsdp, vllm, llama.cpp, ..."
        ),
        click.option("--per-node", default=8, metavar="N", help="Devices in a node.  [default: 8]"),
        click.option("--link", metavar="BYTES/S", type=float, help="Within a node, one way.  [default: the chip's]"),
        click.option("--network", metavar="BYTES/S", type=float, help="Between nodes, each device, one way."),
        click.option("--price-per-hour", metavar="X|X..Y", help="Rent of one device.  [default: the chip's, if known]"),
        click.option("--electricity-price", metavar="X|X..Y", help="A kWh.  [default: 0.10..0.30]"),
        click.option("--pue", metavar="X|X..Y", help="Facility by machines.  [default: 1.2..1.6]"),
        click.option("--carbon-intensity", metavar="X|X..Y", help="kg CO2e a kWh.  [default: 0.38..0.58]"),
        click.option("--goodput", metavar="X|X..Y", help="Share of time in steps that count.  [default: 0.90..0.98]"),
        as_json,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _job(command: Command) -> Command:
    """Adds what decides the time of a training step."""
    options: list[Callable[[Command], Command]] = [
        click.option("--model", required=True, metavar="NAME|FILE|SIZE", help="Of the catalog, a file, 7b, layers=..."),
        click.option("--tokens", required=True, metavar="N", help="For example 1T."),
        click.option("--device", required=True, metavar="CHIP", help="A chip of the catalog, or a .toml file."),
        click.option("--count", default=1, metavar="N", help="Devices.  [default: 1]"),
        click.option("--seq", type=int, metavar="N", help="Tokens of a sequence.  [default: 2048]"),
        click.option("--micro-batch", type=int, metavar="N", help="Sequences at a time.  [default: the fastest]"),
        click.option("--global-batch", type=int, metavar="N", help="Sequences of a step.  [default: by size]"),
        click.option("--precision", type=click.Choice(_PRECISIONS), help="[default: bf16 where there is it]"),
        *(
            click.option(f"--{name}", type=int, metavar="N", help=f"{what} parallelism.  [default: the fastest]")
            for name, what in _PARALLEL
        ),
        click.option(
            "--virtual-stages", type=int, default=1, metavar="N", help="Of each pipeline stage.  [default: 1]"
        ),
        click.option("--sharding", type=click.Choice(["none", "zero1", "zero2", "zero3"]), help="zero3 is FSDP."),
        click.option("--recompute", type=click.Choice(["none", "selective", "full"]), help="[default: the least]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_PRECISIONS = ["fp32", "tf32", "bf16", "fp16", "fp8", "fp4"]
_PARALLEL = [("dp", "Data"), ("tp", "Tensor"), ("pp", "Pipeline"), ("cp", "Context"), ("ep", "Expert")]


@main.group(invoke_without_command=True, short_help="Estimate time, energy and money of a job.")
@click.option("--rows", type=click.Path(path_type=Path), metavar="FILE.csv", help="One estimate for each row.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.csv", help="Where the rows go, with --rows.")
@click.option("--local", type=click.Path(path_type=Path), metavar="FILE.csv", help="Measured rows, with --rows.")
@click.pass_context
def estimate(ctx: click.Context, rows: Path | None, out: Path | None, local: Path | None) -> None:
    """Estimate what a job takes, with an interval, the evidence behind it, and a command that verifies it."""
    from bench import commands
    from bench.errors import UserError

    if ctx.invoked_subcommand is not None:
        if rows or out or local:
            raise UserError("--rows, --out and --local before a command are for `accelmark estimate --rows` alone")
        return
    if rows is None or out is None:
        raise UserError("write estimate train, finetune or serve, or estimate --rows FILE.csv --out FILE.csv")
    _print_json(commands.estimate_rows(rows, out, local))


@estimate.command("train")
@_job
@_supposed
def estimate_train(as_json: bool, **options: Any) -> None:
    """Estimate a pretraining run: does it fit, how long, how many kWh, how much money."""
    _estimate_training(as_json, "pretrain", 16, options)


@estimate.command("finetune")
@click.option("--method", type=click.Choice(["full", "lora", "qlora"]), required=True)
@click.option("--rank", default=16, metavar="N", help="Of LoRA's matrices.  [default: 16]")
@_job
@_supposed
def estimate_finetune(as_json: bool, method: str, rank: int, **options: Any) -> None:
    """Estimate a fine-tuning run: full, LoRA or QLoRA."""
    _estimate_training(as_json, method, rank, options)


def _estimate_training(as_json: bool, method: str, rank: int, options: dict[str, Any]) -> None:
    from bench import commands
    from bench.analyze import answers

    document = commands.estimate_training(method=method, lora_rank=rank, **options)
    _print_json(document) if as_json else _print_lines(answers.training(document))


@estimate.command("serve")
@click.option("--model", required=True, metavar="NAME|FILE|SIZE", help="Of the catalog, a file, 7b, layers=...")
@click.option("--device", required=True, metavar="CHIP", help="A chip of the catalog, or a .toml file.")
@click.option("--count", default=1, metavar="N", help="Devices.  [default: 1]")
@click.option("--batch", default=1, metavar="N", help="Requests at a time.  [default: 1]")
@click.option("--input", "prompt", default=512, metavar="N", help="Tokens of a prompt.  [default: 512]")
@click.option("--output", default=256, metavar="N", help="Tokens of an answer.  [default: 256]")
@click.option("--tp", type=int, metavar="N", help="Devices of one replica.  [default: all]")
@click.option("--precision", type=click.Choice(_PRECISIONS), help="[default: bf16 where there is it]")
@click.option("--weights", default="full", metavar="FORMAT", help="full, int8, int4, Q4_K_M, ...  [default: full]")
@click.option("--users", type=int, metavar="N", help="How many replicas so many people need.")
@click.option("--requests-per-hour", default=20.0, metavar="X", help="Of each user.  [default: 20]")
@_supposed
def estimate_serve(as_json: bool, **options: Any) -> None:
    """Estimate serving: does it fit, time to the first and the next token, tokens/s, energy and money a token."""
    from bench import commands
    from bench.analyze import answers

    document = commands.estimate_serving(**options)
    _print_json(document) if as_json else _print_lines(answers.serving(document))


@main.command(short_help="What can be trained with these machines within days, money or energy.")
@click.option("--device", required=True, metavar="CHIP", help="A chip of the catalog, or a .toml file.")
@click.option("--count", default=1, metavar="N", help="Devices.  [default: 1]")
@click.option("--days", type=float, metavar="T", help="Until when.")
@click.option("--budget-money", type=float, metavar="X", help="For rent.")
@click.option("--kwh", type=float, metavar="E", help="At the wall of the facility.")
@click.option("--seq", type=int, default=2048, metavar="N", help="Tokens of a sequence.  [default: 2048]")
@click.option("--precision", type=click.Choice(_PRECISIONS), help="[default: bf16 where there is it]")
@click.option("--purchase-price", type=float, metavar="X", help="Of one device, to weigh renting against buying.")
@_supposed
def plan(as_json: bool, **options: Any) -> None:
    """Plan: the best model that these machines can train within a limit, and what would change it."""
    from bench import commands
    from bench.analyze import answers

    document = commands.plan(**options)
    _print_json(document) if as_json else _print_lines(answers.plan(document))


@main.command(short_help="Fit what a machine's operations and steps take, for estimates.")
@paths("sources", nargs=-1)
@as_json
def calibrate(sources: tuple[Path, ...], as_json: bool) -> None:
    """Fit what operations and whole steps take on the machines in files and folders.  [default: the results folder]

    A quick run is enough, more runs make it better. Estimates for these machines rest on it.
    """
    from bench import commands
    from bench.analyze import calibrated

    documents = commands.calibrate(sources)
    if as_json:
        _print_json(documents)
    else:
        _print_lines(
            [line for number, one in enumerate(documents) for line in [*[""] * (number > 0), *calibrated.lines(one)]]
        )


@main.command()
@paths("sources", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), default="report.html", help="The page.  [default: report.html]")
@click.option(
    "--figures", type=click.Path(path_type=Path), metavar="DIR", help="Write each figure as an SVG file, too."
)
@click.option("--png", is_flag=True, help="And as PNG beside it; needs the extra `plots`.")
@as_json
def report(sources: tuple[Path, ...], out: Path, figures: Path | None, png: bool, as_json: bool) -> None:
    """Make one page of the results in files and folders.  [default: the results folder]"""
    from bench import commands
    from bench.text import plain

    document = commands.report(sources, out=out, figures=figures, png=png)
    for name in document["refused"]:
        print(f"accelmark: {plain(name)} is refused and left out: see accelmark check", file=sys.stderr)
    _print_json(document) if as_json else _print_lines([document["page"], *document["pictures"]])


@main.command()
@click.argument("what", type=click.Choice(["timer", "energy", "aa"]))
@click.argument("workloads", nargs=-1)
@click.option("--device", metavar="SPEC", default="default", help="As for run.")
@click.option("--turns", type=click.IntRange(2, 100), metavar="N", help="Of each side, for aa.  [default: 5]")
@click.option("--progress/--quiet", default=None, help="Progress on standard error.  [default: on a terminal]")
@as_json
def selfcheck(
    what: str, workloads: tuple[str, ...], device: str, turns: int | None, progress: bool | None, as_json: bool
) -> None:
    """Check that this machine measures well.

    `timer` reads one call by our timer and by others. `energy` looks at what the board tells of its power while known
    loads run on it, for some minutes. `aa` measures the same thing as two sides, in turns, and must find no difference.
    Exit status 1 when it does not pass.
    """
    from bench import commands
    from bench.analyze import show
    from bench.errors import UserError

    if what != "aa" and (workloads or turns is not None):
        raise UserError(f"selfcheck {what} runs loads of its own: workloads and --turns are for selfcheck aa")
    if what == "energy":
        verdicts = commands.selfcheck_energy(device=device, progress=_progress(progress))
        _print_json(verdicts) if as_json else print(show.verdicts(verdicts))
        sys.exit(1 if any(one["verdict"] == "fail" for one in verdicts) else 0)
    if what == "timer":
        readings = commands.selfcheck_timer(device=device)
        _print_json(readings) if as_json else print(show.timers(readings))
        sys.exit(0 if all(reading["passed"] for reading in readings) else 1)
    document = commands.selfcheck_aa(workloads, device=device, turns=turns or 5, progress=_progress(progress))
    _print_json(document) if as_json else _print_lines(show.comparison(document))
    sys.exit(1 if any(row["verdict"] in {"faster", "slower"} for row in document["rows"]) else 0)


def _progress(wanted: bool | None) -> Any:
    """Whom to tell what happens: a terminal, unless it was asked for or forbidden."""
    from bench.measure.progress import Silent, Terminal

    return Terminal() if wanted or (wanted is None and sys.stderr.isatty()) else Silent()


def _parsed(settings: tuple[str, ...]) -> dict[str, list[str]]:
    """`NAME=V1,V2` as name and values."""
    from bench.errors import UserError

    found: dict[str, list[str]] = {}
    for text in settings:
        name, sign, values = text.partition("=")
        if not sign or not name or not all(values.split(",")):
            raise UserError(f"--set {text}: write NAME=VALUE or NAME=V1,V2, for example --set dtype=float32,bfloat16")
        found.setdefault(name, []).extend(values.split(","))
    return found


def _only_resume(*others: Any) -> None:
    from bench.errors import UserError

    if any(others):
        raise UserError(
            "--resume takes its plan from the file: leave everything else away but --model, --timeout and --progress"
        )


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=True, allow_nan=False))


def _print_lines(lines: list[str]) -> None:
    print("\n".join(lines))


if __name__ == "__main__":
    main()

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
        return ["devices", "list", "run", "show", "check", "table", "compare", "report", "selfcheck"]

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
@as_table
def show(file: Path, as_json: bool, as_csv: bool, as_markdown: bool) -> None:
    """Show a result file: what was measured on what, and what came out."""
    from bench import commands, record
    from bench.analyze import show as shows

    style = shows.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
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
@as_json
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check result files: every finding with its reason. Exit status 1 when a file is refused."""
    from bench import commands
    from bench.analyze import show
    from bench.analyze.table import expand

    found = commands.check(files)
    _print_json(found) if as_json else _print_lines(show.findings(found, [str(file) for file in expand(files)]))
    sys.exit(1 if any(finding["level"] == "error" for finding in found) else 0)


@main.command()
@paths("sources", nargs=-1)
@click.option("--by", metavar="FIELD", help="One column for each value of FIELD: device, dtype, model, session, ...")
@click.option("--where", metavar="EXPR", default="", help="For example workload=matmul,step_s<0.01,device~H100.")
@as_table
def table(
    sources: tuple[Path, ...], by: str | None, where: str, as_json: bool, as_csv: bool, as_markdown: bool
) -> None:
    """Print the results in files and folders as one table.  [default: the results folder]"""
    from bench import commands
    from bench.analyze import show
    from bench.errors import UserError

    style = show.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
    if by and style in {"json", "csv"}:
        raise UserError("--by arranges a table for people: --json and --csv have the plain rows")
    rows = commands.table(sources, where=where)
    if style == "json":
        _print_json(rows)
    elif style == "csv":
        print(show.csv_text(rows), end="")
    else:
        print(show.table(rows, "github" if style == "markdown" else "simple", by=by, devices=True))


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
    "--fail-if-slower", metavar="PCT", type=float, help="Exit status 1 when a case is slower by more than this."
)
@as_table
def compare(
    before: tuple[Path, ...],
    after: tuple[Path, ...],
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
    document = commands.compare(before, after, threshold=threshold)
    if style == "json":
        _print_json(document)
    elif style == "csv":
        print(show.csv_text(document["rows"]), end="")
    else:
        _print_lines(show.comparison(document, "github" if style == "markdown" else "simple"))
    sys.exit(1 if fail_if_slower is not None and commands.slower(document, fail_if_slower / 100) else 0)


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

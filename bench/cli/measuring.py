"""Commands that look at this machine and measure on it: devices, list, run, selfcheck."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from bench.cli.group import as_json, as_table, main, print_json, print_lines, progress_to


@main.command(short_help="Show what is here and what will disturb a measurement.")
@as_json
def devices(as_json: bool) -> None:
    """Show what is here, what can be read from it, and what will disturb a measurement."""
    from bench import commands
    from bench.analyze import show_laboratory

    document = commands.devices()
    print_json(document) if as_json else print_lines(show_laboratory.devices(document))


@main.command("list", short_help="List workloads, suites, models, chips, or the schema.")
@click.argument("what", type=click.Choice(["workloads", "suites", "models", "chips", "schema"]), default="workloads")
@as_json
def list_(what: str, as_json: bool) -> None:
    """List the workloads, suites, models or chips there are, or print the schema of a result file."""
    from bench import commands
    from bench.analyze import show_laboratory

    document = commands.listing(what)
    if as_json:
        print_json(document)
    elif isinstance(document, dict):
        print(json.dumps(document, indent=4))  # as results/schema.json lies in a clone, to the byte
    else:
        print(show_laboratory.workloads(document) if what == "workloads" else show_laboratory.listing(document))


@main.command(short_help="Measure workloads or a suite into a result file.")
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
    from bench.analyze import show, show_laboratory
    from bench.errors import UserError
    from bench.measure.choice import Request

    _keep_at_a_signal()
    style = show.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
    if dry_run and style in ("csv", "markdown"):
        raise UserError(f"--dry-run has no table of results for --{style}: it prints the plan, as --json too")
    told = progress_to(progress)
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
        laboratory, planned = commands.prepare_run(request, device=device, seed=seed, out=out)
        intended = commands.plan_document(laboratory, planned)
        if dry_run:
            print_json(intended) if as_json else print_lines(show_laboratory.plan(intended))
            return
        for line in show_laboratory.plan(intended):
            told.note(line)
        outcome = commands.carry_out(
            laboratory, planned, seed=seed, out=out, argv=["accelmark", *sys.argv[1:]], progress=told
        )
    if outcome.interrupted and sys.stderr.isatty():
        print(file=sys.stderr)  # the cursor stands behind what was measured, and ^C
    document = commands.run_document(outcome)
    if style == "json":
        print_json(document)
    elif style == "csv":
        print(show.csv_text(document["rows"]), end="")
    else:
        print(show.table(document["rows"], "github" if style == "markdown" else "simple"))
        print(f"\n{outcome.path}")
    again = f"continue with: accelmark run --resume {outcome.path}" + (f" --model {model}" if model else "")
    if outcome.interrupted:
        print(f"accelmark: interrupted; {again}", file=sys.stderr)
        sys.exit(130)
    if outcome.over:
        say = f"the budget is used up, and {units.several(outcome.over, 'case')} of its rounds are not measured"
        print(f"accelmark: {say}: this machine was slower than planned; {again}", file=sys.stderr)
    sys.exit(1 if outcome.failed or outcome.unwritten else 0)


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
    from bench.analyze import show_verdicts
    from bench.errors import UserError

    _keep_at_a_signal()
    if what != "aa" and (workloads or turns is not None):
        raise UserError(f"selfcheck {what} runs loads of its own: workloads and --turns are for selfcheck aa")
    if what == "energy":
        verdicts = commands.selfcheck_energy(device=device, progress=progress_to(progress))
        print_json(verdicts) if as_json else print(show_verdicts.verdicts(verdicts))
        sys.exit(1 if any(one["verdict"] == "fail" for one in verdicts) else 0)
    if what == "timer":
        readings = commands.selfcheck_timer(device=device, progress=progress_to(progress))
        print_json(readings) if as_json else print(show_verdicts.timers(readings))
        sys.exit(1 if any(reading["passed"] is False for reading in readings) else 0)
    document = commands.selfcheck_aa(workloads, device=device, turns=turns or 5, progress=progress_to(progress))
    print_json(document) if as_json else print_lines(show_verdicts.comparison(document))
    sys.exit(1 if any(row["verdict"] in {"faster", "slower"} for row in document["rows"]) else 0)


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


def _keep_at_a_signal() -> None:
    """A batch system's end is an interruption like Ctrl-C: everything is kept. One is enough: `timeout` sends two."""

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)

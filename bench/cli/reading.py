"""Commands that read result files, and the one that shares them: show, check, submit, table, compare, report."""

import sys
from pathlib import Path

import click

from bench.cli.group import as_json, as_table, main, paths, print_json, print_lines, progress_to


@main.command(short_help="Show a result file to people.")
@paths("file")
@click.option("--pytest-benchmark", is_flag=True, help="Print it as pytest-benchmark's JSON, for its `compare`.")
@click.option(
    "--wall", type=click.Path(path_type=Path), metavar="LOG.csv", help="Energy at the socket, by a meter's own log."
)
@as_table
def show(file: Path, pytest_benchmark: bool, wall: Path | None, as_json: bool, as_csv: bool, as_markdown: bool) -> None:
    """Show a result file: what was measured on what, and what came out.

    With --wall also what a meter at the socket saw meanwhile: its log is a CSV file with a column of time and one of
    power, from some time before the run to some time after it; its clock need not be right.
    """
    from bench import commands, record
    from bench.analyze import show as shows
    from bench.errors import UserError

    style = shows.one_style(json=as_json, csv=as_csv, markdown=as_markdown, pytest_benchmark=pytest_benchmark)
    if wall and (style == "csv" or pytest_benchmark):
        raise UserError("--wall has a table of its own: print it with --json, --markdown or neither")
    if pytest_benchmark:
        print_json(commands.pytest_benchmark(file))
        return
    document = commands.show(file, wall=wall)
    if style == "json":
        print_json(document)
    elif style == "csv":
        print(shows.csv_text(document["rows"]), end="")
    else:
        drawn = "github" if style == "markdown" else "simple"
        print_lines(shows.headline(record.read(file).session, drawn))
        print("\n" + shows.table(document["rows"], drawn))
        for more in (shows.distributions(document["rows"], drawn), shows.power(document["rows"], drawn)):
            if more:
                print("\n" + more)
        if wall:
            print_lines(["", *shows.wall(document["wall"], drawn)])
        if told := shows.facts(document["rows"], drawn):
            print_lines(["", *told])


@main.command()
@paths("files", nargs=-1, required=True)
@click.option(
    "--table", type=click.Path(path_type=Path), help="Other machines' results.  [default: the results folder]"
)
@as_json
def check(files: tuple[Path, ...], table: Path | None, as_json: bool) -> None:
    """Check result files: every finding with its reason. Exit status 1 when a file is refused."""
    from bench import commands
    from bench.analyze import show_verdicts
    from bench.analyze.table import expand

    found = commands.check(files, table=table)
    print_json(found) if as_json else print_lines(show_verdicts.findings(found, [str(file) for file in expand(files)]))
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
    from bench.analyze import show_verdicts

    document = commands.submit(
        file, to=to, supersede=supersede, retract=retract, reason=reason, hide=hide, branch=branch, dry_run=dry_run
    )
    for line in show_verdicts.submission(document):
        print(line, file=sys.stderr)
    if as_json:
        print_json(document)
    elif dry_run:
        sys.stdout.buffer.write("".join(one["content"] for one in document["files"]).encode())
    elif not document["refused"]:
        print_lines([*(one["file"] for one in document["files"]), *([] if branch else document["git"])])
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
    from bench.text import plain

    style = show.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
    if sum(map(bool, (by or price_per_hour, standing, parquet, errors))) > 1:
        raise UserError(
            "--by (or --price-per-hour), --standing, --parquet and --errors are views of their own: take one"
        )
    source = commands.source(sources, cache=cache, note=progress_to(None).note)
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
        print_json(document)
    elif style == "csv":
        print(show.csv_text(document), end="")
    else:
        left = [] if errors else show_groups.not_counted(len(source.errors), source.quarantined)
        if where and not document:
            left.insert(0, f"no result is left by --where {plain(where)}")
        print_lines([*lines, *([""] if left and len(lines) == 1 else []), *left])
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
    from bench.analyze import show, show_verdicts

    style = show.one_style(json=as_json, csv=as_csv, markdown=as_markdown)
    # A limit below the usual threshold asks for a finer judgement.
    threshold = None if fail_if_slower is None else min(0.02, max(fail_if_slower / 100, 0.001))
    document = commands.compare(before, after, where=where, threshold=threshold)
    if style == "json":
        print_json(document)
    elif style == "csv":
        print(show.csv_text(document["rows"]), end="")
    else:
        print_lines(show_verdicts.comparison(document, "github" if style == "markdown" else "simple"))
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
    print_json(document) if as_json else print_lines([document["page"], *document["pictures"]])

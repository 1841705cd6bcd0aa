"""The group of all commands: their order, what errors become, and what several of them share."""

import io
import json
import os
import re
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

        for stream in (sys.stdout, sys.stderr):  # a terminal that has no ± or µ
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except UserError as error:
            print(f"accelmark: {plain(str(error), 1000)}", file=sys.stderr)
            sys.exit(2)
        except click.ClickException as error:
            if isinstance(error, click.UsageError) and error.ctx and error.message == error.ctx.get_help():
                print(error.message, file=sys.stderr)  # no arguments at all, from click 8.2 on
                sys.exit(2)
            say = " ".join(error.format_message().split())
            say = re.sub(r"is not a valid (float|integer)( range)?", _number, say)
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


def _number(said: re.Match[str]) -> str:
    return "is not a number" if said[1] == "float" else "is not a whole number"


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


def progress_to(wanted: bool | None) -> Any:
    """Whom to tell what happens: a terminal, unless it was asked for or forbidden."""
    from bench.measure.progress import Silent, Terminal

    return Terminal() if wanted or (wanted is None and sys.stderr.isatty()) else Silent()


def print_json(document: Any) -> None:
    """One JSON document in ASCII; a number that is not finite is a bug and raises ValueError."""
    print(json.dumps(document, ensure_ascii=True, allow_nan=False))


def print_lines(lines: list[str]) -> None:
    """Text for people."""
    print("\n".join(lines))

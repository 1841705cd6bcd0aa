"""Worked examples: every block of a page that begins with `$ accelmark`, and what the program prints for it.

What was assumed stands in the first example alone, as the page says; all print it.
"""

import re
import shlex
import sys
from pathlib import Path

from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cli import main

PAGE = Path(__file__).resolve().parent.parent / "README.md"
EXAMPLE = re.compile(r"```\n\$ accelmark ([^\n]*)\n(.*?)```", re.S)


def examples(page: str) -> list[tuple[str, str]]:
    """Each command of a page, with what the page says that it prints."""
    return EXAMPLE.findall(page)


def printed(command: str, *, assumed: bool) -> str:
    """What the program prints, with what it assumed or without."""
    said = CliRunner().invoke(main, shlex.split(command), standalone_mode=False, catch_exceptions=False).stdout
    return said if assumed else re.sub(r"assumed:\n(  .*\n)+", "", said)


def renewed(page: str) -> str:
    """The page with every example as the program prints it now."""

    def one(found: "re.Match[str]") -> str:
        command, before = found.groups()
        return f"```\n$ accelmark {command}\n{printed(command, assumed='assumed:' in before)}```"

    return EXAMPLE.sub(one, page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

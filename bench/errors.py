"""The two planned kinds of failure. Everything else is a bug and shows its traceback."""

import os
import re
import shlex
import sys


class UserError(Exception):
    """The user can put this right: one sentence with what was asked, what exists and what to try. Exit status 2."""


def not_installed(name: str, *packages: str) -> UserError:
    """What is missing, and the command that gives it to the python that runs, be its environment active or not.

    The packages and not our extras: from a clone a name of ours would be looked for in a registry, where it is a
    stranger's.
    """
    words = [sys.executable or "python3", "-m", "pip", "install", *(packages or (name,))]
    return UserError(f"{name} is not installed: {shlex.join(words)}")


class Unsupported(Exception):
    """This device cannot run this case. Becomes a record with status `unsupported`; the next case still runs."""


# A path of two or more parts, POSIX or Windows: it may hold a user's or a machine's name.
_PATH = re.compile(r"(?<![^\s/\\:='\"()<>,])(?:[A-Za-z]:)?[^\s/\\:='\"()<>,]*+(?:[/\\][^\s/\\:'\"()<>,]+){2,}[/\\]?")


def without_paths(text: str) -> str:
    """`text` with every path cut to its last part: nothing that names a person or a machine goes into a result file."""
    return _PATH.sub(lambda found: os.path.basename(found[0].rstrip("/\\").replace("\\", "/")), text)


def private(argument: str) -> str:
    """An argument of the command line as it may be kept: whatever holds a separator of paths is left out."""
    option, sign, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return f"{option}{sign}<path>" if "/" in value or "\\" in value else argument


def describe(error: BaseException, limit: int = 300) -> str:
    """One line for a record: the kind of error and its message, without paths, at most `limit` characters."""
    message = " ".join(without_paths(str(error)).split())
    name = type(error).__name__
    return (f"{name}: {message}" if message else name)[:limit]


def is_out_of_memory(error: Exception) -> bool:
    """Torch's own error on most accelerators; the CPU, MPS, the NPU and libraries raise a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)

"""The command line: one short function for each command, which parses, calls bench/commands and prints."""

from bench.cli import estimating, measuring, reading  # noqa: F401  each adds its commands
from bench.cli.group import main

__all__ = ["main"]

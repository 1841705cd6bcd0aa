"""`python -m bench` is the command accelmark."""

from bench.cli import main

main(prog_name="accelmark")

"""Progress on standard error: a line between two measurements, and nothing while one runs.

A display that redraws itself during a measurement raises what it measures: by 5 % in the mean, as seen with a live
progress bar at 10 Hz.
"""

import shutil
import sys

from bench import stats, units
from bench.record import Record
from bench.text import plain
from bench.workload import label


class Terminal:
    """For people who wait: what runs now, and what it came to."""

    def note(self, text: str) -> None:
        """A line of its own."""
        print(plain(text, 500), file=sys.stderr, flush=True)

    def begin(self, case: str, round_index: int, rounds: int, left_s: float) -> None:
        """Shown while the case is measured, then overwritten on a terminal."""
        if sys.stderr.isatty():
            text = f"round {round_index + 1} of {rounds}, about {units.clock(left_s)} left: {plain(case)}"
            print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)

    def done(self, measured: Record) -> None:
        """The case with its median, or what became of it."""
        if measured.status == "ok":
            location = stats.location(measured.samples_s)
            width = location.relative_half_width
            outcome = units.seconds(location.median) + (f" ±{units.percent(width)}" if width is not None else "")
        else:
            outcome = f"{measured.status}: {measured.reason}"
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        name = label(measured.workload, measured.params)
        launch = "" if measured.identity.launch == "eager" else f" [{measured.identity.launch}]"
        print(
            f"{start}round {measured.round + 1}  {plain(name)}{launch}  {plain(outcome)}", file=sys.stderr, flush=True
        )


class Silent:
    """For programs."""

    def note(self, text: str) -> None:
        """Nothing."""

    def begin(self, case: str, round_index: int, rounds: int, left_s: float) -> None:
        """Nothing."""

    def done(self, measured: Record) -> None:
        """Nothing."""

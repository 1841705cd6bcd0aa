"""Selfcheck: does this machine, and does this program, measure well? Nothing of the machine is changed."""

import contextlib
from pathlib import Path

from bench.measure import environment, messages, runner
from bench.measure.peers import Agreement
from bench.measure.plan import Plan
from bench.measure.powercheck import Verdict
from bench.measure.process import WorkerProcess


def timers(device: str, seed: int) -> list[Agreement]:
    """How other timers read the same call as ours. Raises UserError where `device` names nothing."""
    process = WorkerProcess(device, environment.usable_threads(), seed)
    with contextlib.closing(process):
        return runner.ask(process, messages.CompareTimers(), messages.TimersCompared).agreements


def power(device: str, seed: int, progress: runner.Progress) -> list[Verdict]:
    """Whether power and energy are what they are taken for; `progress` is told of each thing as soon as it is known.

    Ends at Ctrl-C with what is known by then. Raises UserError where `device` names nothing.
    """
    process = WorkerProcess(device, environment.usable_threads(), seed)
    found: list[Verdict] = []
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(process):
        told = runner.ask(process, messages.CheckPower(), messages.PowerChecked).verdict
        while told is not None:
            progress.note(f"{told.name}: {told.measured}: {told.verdict}")
            found.append(told)
            told = runner.answer(process, messages.PowerChecked).verdict
    return found


def identical(
    laboratory: runner.Laboratory, planned: Plan, folder: Path, *, seed: int, turns: int, progress: runner.Progress
) -> tuple[list[Path], list[Path]]:
    """Files of two sides that are one and the same, measured in turns: A B B A A B B A ..."""
    sides: tuple[list[Path], list[Path]] = ([], [])
    for turn in range(turns):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            session = runner.new_session(laboratory, planned, seed=seed, argv=["accelmark", "selfcheck", "aa"])
            path = folder / f"{session.id}.jsonl"
            outcome = runner.carry_out(laboratory, planned, session, path, progress)
            sides[side].append(path)
            if outcome.interrupted:
                raise KeyboardInterrupt
    return sides

"""Selfcheck: does this machine, and does this program, measure well? Nothing of the machine is changed."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from bench.errors import UserError
from bench.measure import environment, messages, peers, runner
from bench.measure.laboratory import Laboratory, Reply, answer, ask
from bench.measure.peers import Agreement
from bench.measure.plan import Plan
from bench.measure.powercheck import Verdict
from bench.measure.process import WorkerProcess

Told = TypeVar("Told", Agreement, Verdict)
# With one of each side there is no spread to judge a difference by.
FEWEST_TURNS = 2


def timers(device: str, seed: int, progress: runner.Progress) -> list[Agreement]:
    """How other timers read the same call as ours; `progress` is told of each as soon as it is known.

    Ends at Ctrl-C, and where the worker dies, with what is known by then. Raises UserError where nothing is known yet.
    """
    replies = _replies(device, seed, messages.CompareTimers(), messages.TimerCompared)
    return _kept(
        (reply.agreement for reply in replies),
        lambda told: progress.note(f"{told.name}: {told.reason or f'{told.ratio:.3f} of ours'}"),
        lambda why: peers.without("all other timers", why, broken=True),
    )


def power(device: str, seed: int, progress: runner.Progress) -> list[Verdict]:
    """Whether power and energy are what they are taken for; `progress` is told of each thing as soon as it is known.

    Ends as `timers` does.
    """
    replies = _replies(device, seed, messages.CheckPower(), messages.PowerChecked)
    return _kept(
        (reply.verdict for reply in replies),
        lambda told: progress.note(f"{told.name}: {told.measured}: {told.verdict}"),
        lambda why: Verdict(name="the rest of the check", measured=why, required="is done", verdict="fail"),
    )


def _kept(told: Iterator[Told | None], note: Callable[[Told], None], broken: Callable[[str], Told]) -> list[Told]:
    """What is told until None, and `broken` where the worker dies before."""
    found: list[Told] = []
    try:
        for one in told:
            if one is None:
                break
            note(one)
            found.append(one)
    except UserError as error:
        if not found:
            raise
        found.append(broken(str(error)))
    except KeyboardInterrupt:
        pass
    return found


def _replies(device: str, seed: int, order: messages.Order, kind: type[Reply]) -> Iterator[Reply]:
    """A worker's answers to `order`, without end: whoever asks knows the last."""
    process = WorkerProcess(device, environment.usable_threads(), seed)
    with contextlib.closing(process):
        yield ask(process, order, kind)
        while True:
            yield answer(process, kind)


def identical(
    laboratory: Laboratory, planned: Plan, folder: Path, *, seed: int, turns: int, progress: runner.Progress
) -> tuple[list[Path], list[Path]]:
    """Files of two sides that are one and the same, measured in turns: A B B A A B B A ...

    Ends at Ctrl-C with the turns that are whole; raises KeyboardInterrupt where these are too few to compare.
    """
    sides: tuple[list[Path], list[Path]] = ([], [])
    for turn in range(turns):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            session = runner.new_session(laboratory, planned, seed=seed, argv=["accelmark", "selfcheck", "aa"])
            path = folder / f"{session.id}.jsonl"
            outcome = runner.carry_out(laboratory, planned, session, path, progress)
            if outcome.interrupted:
                whole = min(map(len, sides))
                if whole < FEWEST_TURNS:
                    raise KeyboardInterrupt
                return sides[0][:whole], sides[1][:whole]
            sides[side].append(path)
    return sides

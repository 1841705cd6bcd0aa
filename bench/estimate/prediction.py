"""Prediction: a figure, its interval, and what it rests on. What every estimator gives."""

from dataclasses import dataclass, field
from typing import Literal

# L0: this machine and stack were measured, the shape lies within what was measured. L1: this kind of device and stack
# were, elsewhere. L2: the device with another stack, or a device of the same architecture. L3: datasheets alone.
Evidence = Literal["L0", "L1", "L2", "L3"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Multiplicative bounds: the truth lies within value / factor and value * factor. None: too few sources to say."""

    factor80: float
    factor90: float | None


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of a step's time, by what it waits for."""

    name: str  # "matmul", "attention", "memory", "launch", "optimizer", "communication", "pipeline bubble", ...
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is expected, or the reason why nothing can be.

    `values` are in SI units, named as columns of `estimate --rows` (`pred_step_time_s`, `pred_tok_s_gpu`, ...); `main`
    names the one that the interval is about. `basis` says in one sentence how many rows of how many sources stand
    behind it. `reason` is set where there is no number, and then everything else is empty.
    """

    values: dict[str, float] = field(default_factory=dict)
    main: str = ""
    interval: Interval | None = None
    evidence: Evidence | None = None
    basis: str = ""
    reason: str | None = None
    terms: tuple[Term, ...] = ()

    @property
    def bounds(self) -> tuple[float | None, float | None, float | None, float | None]:
        """lo80, hi80, lo90, hi90 of the main figure."""
        if self.interval is None or not self.main:
            return None, None, None, None
        value, wide = self.values[self.main], self.interval.factor90
        narrow = self.interval.factor80
        return (
            value / narrow,
            value * narrow,
            None if wide is None else value / wide,
            None if wide is None else value * wide,
        )


def refused(reason: str) -> Prediction:
    """No number, because."""
    return Prediction(reason=reason)

"""Residual: what physics missed on measured rows, carried over to rows like them (Gaussian process regression).

Physics with seven rates for a stack leaves 10 to 30 %: kernels chosen by size, schedulers, caches that fill. That
remainder is not noise: a sweep of the same model on twice the devices has the same bumps. So the logarithm of measured
over estimated is smoothed over the size of the work, the devices, the model and the stack (Rasmussen & Williams 2006,
"Gaussian Processes for Machine Learning", equations 2.22 to 2.24). Far from every measured row it fades to nothing.

The covariance of two rows is a sum of products: each term says how far the remainder is common to rows of the same
stack (or of the same software on another chip), near in work, in devices, in model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bench.estimate.serving.jobs as jobs

# Lengths over which a remainder stays alike, in octaves: batch, prompt, output.
_WORK_LENGTHS = (2.0, 2.5, 2.5)
_FAR_OFF = 0.25
_DEVICES_LENGTH = 1.0
_SHAPE_LENGTHS = (1.5, 1.5, 1.5)  # parameters, active parameters, cached values


@dataclass(frozen=True, kw_only=True)
class Points:
    """Rows as the covariance sees them: arrays of one entry a row, names as texts."""

    variant: Any
    stack: Any
    model: Any
    devices: Any
    work: Any  # (rows, 3)
    shape: Any  # (rows, 3)

    def __len__(self) -> int:
        return len(self.stack)

    def take(self, which: Any) -> "Points":
        """Some of the rows."""
        return Points(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})


def points(cases: Sequence[jobs.Case]) -> Points:
    """These rows."""
    import numpy as np

    def column(values: Sequence[float]) -> Any:
        return np.round(np.log2(np.maximum(np.array(values, float), 1e-3)), 3)

    return Points(
        variant=np.array([f"{case.stack.variant}|{case.stack.weights}|{case.kind}" for case in cases], object),
        stack=np.array([f"{case.stack.key}|{case.kind}" for case in cases], object),
        model=np.array([case.job.footprint.name for case in cases], object),
        devices=np.array([f"{case.job.tp}x{case.job.pp}" for case in cases], object),
        work=np.stack(
            [
                column([case.job.batch or 1.0 for case in cases]),
                column([case.job.prompt + 16.0 for case in cases]),
                column([case.job.output + 16.0 for case in cases]),
            ],
            axis=1,
        ),
        shape=np.stack(
            [
                column([case.job.footprint.parameters for case in cases]),
                column([case.job.footprint.active_parameters for case in cases]),
                column([case.job.footprint.cached(1e4) for case in cases]),
            ],
            axis=1,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Standard deviations of the terms of the covariance, and of what no row shares with another."""

    stack: float = 0.03
    work: float = 0.10
    layout: float = 0.10
    model: float = 0.10
    both: float = 0.05
    abroad: float = 0.08  # the same software on another chip
    noise: float = 0.03


def covariance(one: Points, other: Points, scales: Scales) -> Any:
    """Of each row with each."""
    same_stack = _same(one.stack, other.stack)
    same_software = _same(one.variant, other.variant)
    near = _near(one.work, other.work, _WORK_LENGTHS)
    layout = _layout(one.devices, other.devices)
    model = 0.5 * _same(one.model, other.model) + 0.5 * _near(one.shape, other.shape, _SHAPE_LENGTHS)
    within = scales.stack**2 + near * (
        scales.work**2 + scales.layout**2 * layout + scales.model**2 * model + scales.both**2 * layout * model
    )
    return same_stack * within + scales.abroad**2 * same_software * near * (0.5 + 0.5 * model) * (0.5 + 0.5 * layout)


def fit(rows: Points, residuals: Any, scales: Scales) -> Any:
    """The weight of each row, so that the remainder elsewhere is their covariance with it times these weights."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve

    # A row that lies far off the others is more likely wrong, or of another kind, than a guide to its neighbours.
    doubt = scales.noise + 0.5 * np.maximum(0.0, np.abs(residuals - np.median(residuals)) - _FAR_OFF)
    matrix = covariance(rows, rows, scales) + np.diag(doubt**2)
    return cho_solve(cho_factor(matrix, lower=True), residuals)


def carried(at: Points, rows: Points, weights: Any, scales: Scales) -> tuple[Any, Any]:
    """The expected remainder at each place, and how near the nearest measured row is: 1 the same, 0 nothing alike."""
    import numpy as np

    if not len(rows):
        return np.zeros(len(at)), np.zeros(len(at))
    expected, nearness = np.zeros(len(at)), np.zeros(len(at))
    whole = float(covariance(rows.take([0]), rows.take([0]), scales)[0, 0])
    for start in range(0, len(at), 1000):
        part = slice(start, start + 1000)
        cross = covariance(at.take(part), rows, scales)
        expected[part] = cross @ weights
        nearness[part] = cross.max(axis=1) / whole
    return expected, nearness


def _same(one: Any, other: Any) -> Any:
    import numpy as np

    _, codes = np.unique(np.concatenate([one, other]).astype(str), return_inverse=True)
    return (codes[: len(one), None] == codes[None, len(one) :]).astype(float)


def _layout(one: Any, other: Any) -> Any:
    """Alike in how many ways the work is split, and in how many stages."""
    import numpy as np

    def places(texts: Any) -> Any:
        return np.log2(np.array([[int(part) for part in text.split("x")] for text in texts], float).reshape(-1, 2))

    return _near(places(one), places(other), (_DEVICES_LENGTH, _DEVICES_LENGTH))


def _near(one: Any, other: Any, lengths: Sequence[float]) -> Any:
    import numpy as np

    scale = np.array(lengths)
    a, b = one / scale, other / scale
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * a @ b.T
    return np.exp(-0.5 * np.maximum(squares, 0.0))

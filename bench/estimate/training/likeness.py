"""Likeness: how much one measurement says about the error of another estimate. A Gaussian process over stacks.

What physics leaves over is the software: a framework's kernels, a release, a machine's cooling. Its logarithm is drawn
once for each framework, for each framework on an architecture, for each release on a device, for each machine, and
varies smoothly with the job's shape; all of these are normal with the variances below (empirical Bayes in closed form:
Rasmussen & Williams 2006, chapter 2). So a row of the same machine corrects most of an error, one of the same framework
some of it, one of nothing in common none, and what is left uncertain is the estimate's own sigma.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Standard deviations of what rows share, in logarithms of time; lengths are in factors of e of a job's sizes."""

    group: float = 0.03
    framework: float = 0.12
    architecture: float = 0.03
    device: float = 0.05
    framework_architecture: float = 0.06
    framework_device: float = 0.04
    release: float = 0.05  # the same framework and version on the same device
    machine: float = 0.06  # described in the same words
    precision: float = 0.04  # the same framework, architecture and precision
    model: float = 0.05  # the same framework and family of models
    shape: float = 0.15  # varies with the shape, for one framework and architecture
    shape_machine: float = 0.18  # and for one machine
    length: float = 1.2
    local: float = 0.10  # the same place, which is a lab's own: its rows are known to be of one machine and stack
    shape_local: float = 0.08
    noise: float = 0.03


# What rows must have in common to share the part of their errors that `Likeness` has the deviation of,
Names = tuple[str, ...]
_SHARED: dict[str, Names] = {
    "group": ("group",),
    "framework": ("framework",),
    "architecture": ("architecture",),
    "device": ("device",),
    "framework_architecture": ("framework", "architecture"),
    "framework_device": ("framework", "device"),
    "release": ("framework", "device", "version"),
    "machine": ("machine",),
    "precision": ("framework", "architecture", "precision"),
    "model": ("framework", "model"),
    "local": ("place",),
}
# and those that fade with the distance of their shapes.
_SMOOTH: dict[str, Names] = {
    "shape": ("framework", "architecture"),
    "shape_machine": ("machine",),
    "shape_local": ("place",),
}
_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a row stands: the names that it shares with others, and its shape."""

    group: str
    framework: str
    architecture: str
    device: str
    version: str
    machine: str
    precision: str
    model: str
    shape: tuple[float, ...]
    place: str = ""  # of a lab's own rows and of what it asks about the same machine and stack
    noise: float = 0.0  # besides the usual, for what is known to be noisy


def covariance(a: Sequence[Stand], b: Sequence[Stand], like: Likeness) -> Array:
    """Of the errors of each row of `a` with each of `b`, without noise."""
    total, part = np.zeros((len(a), len(b))), np.empty((len(a), len(b)))
    for name, names in _SMOOTH.items():
        total += np.multiply(_same(a, b, names), getattr(like, name) ** 2, out=part)
    total *= _near(a, b, like.length)
    for name, names in _SHARED.items():
        total += np.multiply(_same(a, b, names), getattr(like, name) ** 2, out=part)
    return total


def variances(rows: Sequence[Stand], like: Likeness) -> Array:
    """Of each row's error before anything was measured, without noise."""
    values = asdict(like)
    of_place = values.pop("local") ** 2 + values.pop("shape_local") ** 2
    total = sum(value**2 for name, value in values.items() if name not in ("length", "noise"))
    return np.array([total + of_place * bool(row.place) for row in rows])


def noise(rows: Sequence[Stand], like: Likeness) -> Array:
    """Variances of what repeats do not share."""
    return np.array([like.noise**2 + row.noise**2 for row in rows])


class _Known(list[Stand]):
    """Rows that are asked about again and again: their names are numbered once."""

    def __init__(self, rows: Sequence[Stand]) -> None:
        super().__init__(rows)
        self._numbered: dict[Names, tuple[dict[Names, int], NDArray[np.int32]]] = {}

    def numbered(self, names: Names) -> tuple[dict[Names, int], NDArray[np.int32]]:
        """The number of each combination of names, and of each row."""
        if names not in self._numbered:
            self._numbered[names] = _numbered(self, names)
        return self._numbered[names]

    @cached_property
    def shapes(self) -> Array:
        """Of each row."""
        return np.array([row.shape for row in self])


class Process:
    """Measured rows and the errors that physics made on them; gives the errors to be expected on others."""

    def __init__(self, rows: Sequence[Stand], errors: Array, like: Likeness) -> None:
        self._rows, self._like = _Known(rows), like
        whole = covariance(self._rows, self._rows, like) + np.diag(noise(rows, like))
        self._lower: Array = np.linalg.cholesky(whole).astype(np.float64, copy=False)
        self._errors = _solve_lower(self._lower, errors[:, None])[:, 0]

    def expect(self, rows: Sequence[Stand]) -> tuple[Array, Array]:
        """Mean and standard deviation of the error of each row, its noise included."""
        means, deviations = [np.zeros(0)], [np.zeros(0)]
        for start in range(0, len(rows), 1000):
            part = rows[start : start + 1000]
            reduced = _solve_lower(self._lower, covariance(self._rows, part, self._like))
            left = variances(part, self._like) - np.sum(reduced**2, axis=0) + noise(part, self._like)
            means.append(reduced.T @ self._errors)
            deviations.append(np.sqrt(np.maximum(left, self._like.noise**2)))
        return np.concatenate(means), np.concatenate(deviations)


def _solve_lower(lower: Array, right: Array) -> Array:
    """Forward substitution, block by block: importing scipy for it would take longer than all of them."""
    solved = np.empty_like(right)
    for start in range(0, len(lower), _BLOCK):
        block = slice(start, start + _BLOCK)
        solved[block] = np.linalg.solve(lower[block, block], right[block] - lower[block, :start] @ solved[:start])
    return solved


def _same(a: Sequence[Stand], b: Sequence[Stand], names: Names) -> NDArray[np.bool_]:
    """Where both have the same names, none of which is empty."""
    codes, left = a.numbered(names) if isinstance(a, _Known) else _numbered(a, names)
    right = left if a is b else np.array([codes.get(_named(row, names), -2) for row in b], dtype=np.int32)
    same: NDArray[np.bool_] = np.where(left < 0, -3, left)[:, None] == right[None, :]
    return same


def _numbered(rows: Sequence[Stand], names: Names) -> tuple[dict[Names, int], NDArray[np.int32]]:
    codes: dict[Names, int] = {}
    found = [_named(row, names) for row in rows]
    numbers = [codes.setdefault(one, len(codes)) if all(one) else -1 for one in found]
    return codes, np.array(numbers, dtype=np.int32)


def _named(row: Stand, names: Names) -> Names:
    return tuple(getattr(row, name) for name in names)


def _near(a: Sequence[Stand], b: Sequence[Stand], length: float) -> Array:
    left, right = _shapes(a), _shapes(b)
    squares = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1)[None, :] - 2 * left @ right.T
    return np.asarray(np.exp(-np.maximum(squares, 0.0) / (2 * length**2)), dtype=np.float64)


def _shapes(rows: Sequence[Stand]) -> Array:
    return rows.shapes if isinstance(rows, _Known) else np.array([row.shape for row in rows], dtype=np.float64)

"""Likeness: how much one measurement says about the error of another estimate. A Gaussian process over stacks.

What physics leaves over is the software: a framework's kernels, a release, a machine's cooling. Its logarithm is drawn
once for each framework, for each framework on an architecture, for each release on a device, for each machine, and
varies smoothly with the job's shape; all of these are normal with the variances below (empirical Bayes in closed form:
Rasmussen & Williams 2006, chapter 2). So a row of the same machine corrects most of an error, one of the same framework
some of it, one of nothing in common none, and what is left uncertain is the estimate's own sigma.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
    same = {
        key: _same(a, b, key)
        for key in ("group", "framework", "architecture", "device", "machine", "precision", "model", "place")
    }
    framework, architecture, device = same["framework"], same["architecture"], same["device"]
    place = same["place"]
    both = framework * architecture
    near = _near(a, b, like.length)
    return (
        like.group**2 * same["group"]
        + like.framework**2 * framework
        + like.architecture**2 * architecture
        + like.device**2 * device
        + like.framework_architecture**2 * both
        + like.framework_device**2 * framework * device
        + like.release**2 * framework * device * _same(a, b, "version")
        + like.machine**2 * same["machine"]
        + like.precision**2 * both * same["precision"]
        + like.model**2 * framework * same["model"]
        + like.local**2 * place
        + like.shape_local**2 * place * near
        + near * (like.shape**2 * both + like.shape_machine**2 * same["machine"])
    )


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
        self._numbered: dict[str, tuple[dict[str, int], Array]] = {}

    def numbered(self, key: str) -> tuple[dict[str, int], Array]:
        """The number of each name, and of each row."""
        if key not in self._numbered:
            self._numbered[key] = _numbered(self, key)
        return self._numbered[key]


class Process:
    """Measured rows and the errors that physics made on them; gives the errors to be expected on others."""

    def __init__(self, rows: Sequence[Stand], errors: Array, like: Likeness) -> None:
        from scipy.linalg import cho_solve

        self._rows, self._like = _Known(rows), like
        self._lower = np.linalg.cholesky(covariance(self._rows, self._rows, like) + np.diag(noise(rows, like)))
        self._weights = cho_solve((self._lower, True), errors)

    def expect(self, rows: Sequence[Stand]) -> tuple[Array, Array]:
        """Mean and standard deviation of the error of each row, its noise included."""
        from scipy.linalg import solve_triangular

        means, deviations = [np.zeros(0)], [np.zeros(0)]
        for start in range(0, len(rows), 1000):
            part = rows[start : start + 1000]
            shared = covariance(self._rows, part, self._like)
            reduced = solve_triangular(self._lower, shared, lower=True, check_finite=False)
            left = variances(part, self._like) - np.sum(reduced**2, axis=0) + noise(part, self._like)
            means.append(shared.T @ self._weights)
            deviations.append(np.sqrt(np.maximum(left, self._like.noise**2)))
        return np.concatenate(means), np.concatenate(deviations)


def _same(a: Sequence[Stand], b: Sequence[Stand], key: str) -> Array:
    """1 where both have the same name, which is not empty."""
    codes, left = a.numbered(key) if isinstance(a, _Known) else _numbered(a, key)
    right = left if a is b else np.array([codes.get(getattr(row, key), -2) for row in b])
    same = (left[:, None] == right[None, :]) & (left[:, None] >= 0)
    return np.asarray(same, dtype=np.float64)


def _numbered(rows: Sequence[Stand], key: str) -> tuple[dict[str, int], Array]:
    codes: dict[str, int] = {"": -1}
    return codes, np.array([codes.setdefault(getattr(row, key), len(codes)) for row in rows])


def _near(a: Sequence[Stand], b: Sequence[Stand], length: float) -> Array:
    left, right = np.array([row.shape for row in a]), np.array([row.shape for row in b])
    squares = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1)[None, :] - 2 * left @ right.T
    return np.asarray(np.exp(-np.maximum(squares, 0.0) / (2 * length**2)), dtype=np.float64)

"""Stack: what whole steps take beyond the sum of their operations, and how well a step left out is predicted.

Inside a model an operation does not run as it does alone: tensors are warm or fragmented, a framework's code stands in
between. So each term has a factor, and each class of step (train, prefill, decode) one more, kappa. They are what the
machine's own full steps say, each shrunk towards 1 by a prior (ridge regression on logarithms), because a quick run has
six full steps and not sixty. A term that no step depends on keeps its factor of 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.estimate.interval import student_factor
from bench.estimate.own.fitting import Prior, most_likely
from bench.estimate.prediction import Interval

if TYPE_CHECKING:
    from bench.estimate.own.fitting import Array

# Standard deviation of each factor's logarithm before any full step was seen. Products are the same calls inside and
# outside of a model; launches carry the framework's own time, of which an empty kernel knows nothing.
TERMS = {"matmul": 0.10, "attention": 0.25, "memory": 0.30, "optimizer": 0.15, "launch": 0.35}
# One operation of a model is nine or ten nested calls of torch (by its profiler, in steps of tiny and tiny-moe), an
# empty in-place addition is one. On a CPU that takes about six times as long; an accelerator's launch is long itself.
_LAUNCH = {False: 6.0, True: 3.0}  # by whether launches run ahead of the device
_CLASS_SPREAD = 0.20
_KIND_SPREAD = 0.25  # of what a workload does beside its class: adapters, experts
_STEP_NOISE = 0.05  # of a step's logarithm, beside what its rounds differ by: what no factor can follow
_SHARE_NOISE = 0.20  # of a share of a step's operations: of one step, under a profiler, which slows small ones
_LEAST_SHARE = 0.05
# Workloads that are their class; others have a factor of their own.
_PLAIN = {"train_step", "prefill", "decode"}
# What is expected of a held-out error before there is one, worth so many observations (interval.py).
_PRIOR_ERROR = 0.08


@dataclass(frozen=True, kw_only=True)
class FullStep:
    """A full step that was measured, beside the seconds of its terms by the laws alone."""

    label: str
    step_class: str  # train, prefill, decode
    kind: str  # the workload
    size: float  # FLOP, for how far a prediction lies outside
    terms: dict[str, float]
    measured_s: float
    noise: float  # of its logarithm, as its rounds show it
    shares: dict[str, float]  # of terms in the time of all operations, by a profiler; empty where none looked on


@dataclass(frozen=True, kw_only=True)
class StackFactors:
    """The factors, and the errors of each step predicted from all others."""

    overlap: bool  # whether launches run ahead of the device
    terms: dict[str, float]
    classes: dict[str, float]
    kinds: dict[str, float]
    spreads: dict[str, float]  # standard deviation of the logarithm of each of the above
    held_out: dict[str, float]  # log(predicted / measured), by the step's label
    scores: tuple[float, ...]  # the same, each as large as it would be had a step of its class and kind been measured
    sizes: dict[str, tuple[float, float]]  # smallest and largest step of each class

    def seconds(self, terms: dict[str, float], step_class: str, kind: str) -> dict[str, float]:
        """The terms as they are inside of a step; their sum is the step. Launches that overlap count as far as they
        exceed the device's work.
        """
        kappa = self.classes.get(step_class, 1.0) * self.kinds.get(kind, 1.0)
        made = {name: seconds * self.terms.get(name, 1.0) * kappa for name, seconds in terms.items()}
        if self.overlap:
            made["launch"] = max(0.0, made["launch"] - math.fsum(v for k, v in made.items() if k != "launch"))
        return made

    def interval(self, step_class: str, size: float) -> Interval:
        """Bounds of a step: from the errors of steps left out, wider beyond the sizes that were measured."""
        return student_factor(self.scores, _PRIOR_ERROR, widen=self.beyond(step_class, size))

    def beyond(self, step_class: str, size: float) -> float:
        """log10 of the factor by which a step lies outside of those of its class; 1 where there is none of it."""
        if step_class not in self.sizes:
            return 1.0
        low, high = self.sizes[step_class]
        return max(0.0, math.log10(low / size), math.log10(size / high))


def fit(steps: Sequence[FullStep], *, overlap: bool) -> StackFactors:
    """The factors of these steps, without any the priors'. `overlap`: launches run ahead of the device."""
    whole, held_out, scores = _fit(steps, overlap), {}, []
    for left in steps:
        # Without the only step of its kind, that kind's own factor is unknown and stays 1: an honest error.
        rest = _fit([one for one in steps if one is not left], overlap)
        predicted = math.fsum(rest.seconds(left.terms, left.step_class, left.kind).values())
        held_out[left.label] = math.log(predicted / left.measured_s)
        unknown = [] if left.step_class in rest.classes else [_CLASS_SPREAD]
        unknown += [] if left.kind in rest.kinds or left.kind in _PLAIN else [_KIND_SPREAD]
        scores.append(held_out[left.label] * _PRIOR_ERROR / math.hypot(_PRIOR_ERROR, *unknown))
    return replace(whole, held_out=held_out, scores=tuple(scores))


def _fit(steps: Sequence[FullStep], overlap: bool) -> StackFactors:
    import numpy as np

    classes = sorted({one.step_class for one in steps})
    kinds = sorted({one.kind for one in steps} - _PLAIN)
    names = [*TERMS, *classes, *kinds]
    priors = [Prior(_LAUNCH[overlap] if name == "launch" else 1.0, spread) for name, spread in TERMS.items()]
    priors += [Prior(1.0, _CLASS_SPREAD) for _ in classes] + [Prior(1.0, _KIND_SPREAD) for _ in kinds]
    seconds = np.array([[one.terms[name] for name in TERMS] for one in steps]).reshape(len(steps), len(TERMS))
    measured = np.log([one.measured_s for one in steps])
    noise = np.array([math.hypot(_STEP_NOISE, one.noise) for one in steps])
    member = np.array([[name in (one.step_class, one.kind) for name in names[len(TERMS) :]] for one in steps], float)
    member = member.reshape(len(steps), len(names) - len(TERMS))
    terms = list(TERMS)
    launch, memory = terms.index("launch"), terms.index("memory")
    which, term, shares = _profiled(steps)

    def errors(x: "Array") -> "Array":
        inside = seconds * np.exp(x[: len(TERMS)])
        launches = inside[:, launch].copy()
        rest = inside.sum(axis=1) - launches
        total = np.maximum(rest, launches) if overlap else rest + launches
        off = np.log(total) + member @ x[len(TERMS) :] - measured
        # A profiler sees calls as operations of their own, small ones that pass over memory.
        inside[:, memory] += 0.0 if overlap else launches
        inside[:, launch] = 0.0
        off_shares = np.log(inside[which, term] / inside[which].sum(axis=1)) - shares
        return np.concatenate([off / noise, off_shares / _SHARE_NOISE])

    x, spreads = most_likely(errors, priors)
    values = dict(zip(names, x, strict=True))
    return StackFactors(
        overlap=overlap,
        terms={name: values[name] for name in TERMS},
        classes={name: values[name] for name in classes},
        kinds={name: values[name] for name in kinds},
        spreads=dict(zip(names, spreads, strict=True)),
        held_out={},
        scores=(),
        sizes=_sizes(steps),
    )


def _profiled(steps: Sequence[FullStep]) -> "tuple[Array, Array, Array]":
    """Shares that a profiler saw: of which step, of which term, and their logarithms."""
    import numpy as np

    found = [
        (place, list(TERMS).index(name), math.log(share))
        for place, one in enumerate(steps)
        for name, share in one.shares.items()
        if share > _LEAST_SHARE
    ]
    which, term = (np.array([one[column] for one in found], int) for column in (0, 1))
    return which, term, np.array([share for _, _, share in found])


def _sizes(steps: Sequence[FullStep]) -> dict[str, tuple[float, float]]:
    """The smallest and the largest step of each class."""
    sizes: dict[str, list[float]] = {}
    for one in steps:
        sizes.setdefault(one.step_class, []).append(one.size)
    return {name: (min(found), max(found)) for name, found in sizes.items()}

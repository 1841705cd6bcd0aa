"""Attention over a prompt, forward and backward: a rate that rises with the sequence.

    FLOP/s(s) = A * s/(s + s_half) * (head_dim/128)^p * c      c only where the mask is causal

A and s_half are fitted for each direction, p and c for both together. FLOPs are those of the products that the mask
leaves (half where it is causal), times 2.5 backward, where the scores are computed again (Dao 2023, FlashAttention-2,
section 4.1); rates of other conventions must be turned into seconds first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bench.estimate.operation.curves.goodness import Goodness, goodness, hull, rounded

if TYPE_CHECKING:
    from bench.estimate.operation.curves.residual import Array

Direction = Literal["forward", "backward"]
BACKWARD_PER_FORWARD = 2.5
_PULL = 0.1  # of p and c to 0: a few points of one kind must not decide them
_START_HALF = 400.0


@dataclass(frozen=True, kw_only=True)
class Attention:
    """`batch` sequences of `seq` queries over `seq` keys, `heads` of `head_dim` each."""

    batch: int
    heads: int
    head_dim: int
    seq: int
    causal: bool = True
    direction: Direction = "forward"

    @property
    def flops(self) -> float:
        """Of scores and values: 4 b a s^2 h, half of it under a causal mask."""
        forward = 4.0 * self.batch * self.heads * self.seq**2 * self.head_dim / (2.0 if self.causal else 1.0)
        return forward * (BACKWARD_PER_FORWARD if self.direction == "backward" else 1.0)


@dataclass(frozen=True, kw_only=True)
class AttentionCurve:
    """Times of one attention kernel on one device."""

    flops_per_s: dict[Direction, float]  # A; a direction that was not measured is absent
    half_seq: dict[Direction, float]
    head_dim_power: float
    causal_factor: float
    sigma: float
    goodness: Goodness

    @classmethod
    def fit(cls, points: Sequence[tuple[Attention, float]]) -> "AttentionCurve":
        """Raises ValueError without points."""
        import numpy as np

        if not points:
            raise ValueError("a curve needs points")
        shapes, logs = [shape for shape, _ in points], np.log([seconds for _, seconds in points])
        curve = _fit(shapes, logs)
        fitted = _errors(curve, shapes, logs)
        sigma = max(float(np.sqrt(np.mean(fitted**2))), 0.03)
        left_out = fitted.tolist()
        if len(points) > 2 * len(curve.flops_per_s) + 2:
            for index in range(len(points)):
                rest = [i for i in range(len(points)) if i != index]
                if any(shapes[i].direction == shapes[index].direction for i in rest):
                    other = _fit([shapes[i] for i in rest], logs[rest])
                    left_out[index] = _errors(other, [shapes[index]], logs[[index]]).tolist()[0]
        return replace(
            curve,
            sigma=rounded(sigma),
            goodness=goodness(fitted.tolist(), left_out, [sigma] * len(points), _hull(shapes)),
        )

    def seconds(self, shape: Attention) -> tuple[float, float]:
        """Expected seconds and the standard deviation of their logarithm.

        Raises KeyError for a direction that was not measured.
        """
        rate = (
            self.flops_per_s[shape.direction]
            * shape.seq
            / (shape.seq + self.half_seq[shape.direction])
            * (shape.head_dim / 128) ** self.head_dim_power
            * (self.causal_factor if shape.causal else 1.0)
        )
        return shape.flops / rate, self.sigma

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "goodness": self.goodness.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AttentionCurve":
        """What `to_dict` gave."""
        return cls(**(values | {"goodness": Goodness.from_dict(values["goodness"])}))


def _fit(shapes: Sequence[Attention], logs: "Array") -> AttentionCurve:
    import numpy as np
    from scipy.optimize import least_squares

    directions: list[Direction] = [d for d in ("forward", "backward") if any(s.direction == d for s in shapes)]
    rates = np.log([shape.flops for shape in shapes]) - logs
    which = np.array([directions.index(shape.direction) for shape in shapes])
    num = len(directions)
    tops = [float(np.max(rates[which == index])) for index in range(num)]
    start = np.array([*tops, *[math.log(_START_HALF)] * num, 0.0, 0.0])
    seq = np.array([shape.seq for shape in shapes], dtype=float)
    size = np.log([shape.head_dim / 128 for shape in shapes])
    causal = np.array([float(shape.causal) for shape in shapes])

    def errors(x: "Array") -> "Array":
        law = x[which] + np.log(seq / (seq + np.exp(x[num + which]))) + x[-2] * size + x[-1] * causal
        return np.concatenate([law - rates, 0.02 * (x[:-2] - start[:-2]), _PULL * x[-2:]])

    solution = least_squares(errors, start, loss="soft_l1", f_scale=0.05).x
    return AttentionCurve(
        flops_per_s={d: rounded(math.exp(float(solution[i]))) for i, d in enumerate(directions)},
        half_seq={d: rounded(math.exp(float(solution[num + i]))) for i, d in enumerate(directions)},
        head_dim_power=rounded(float(solution[-2])),
        causal_factor=rounded(math.exp(float(solution[-1]))),
        sigma=0.0,
        goodness=Goodness(
            num_points=len(shapes), median=0, p90=0, loo_median=0, loo_p90=0, z80=0, z90=0, hull=_hull(shapes)
        ),
    )


def _errors(curve: AttentionCurve, shapes: Sequence[Attention], logs: "Array") -> "Array":
    import numpy as np

    errors: Array = np.log([curve.seconds(shape)[0] for shape in shapes]) - logs
    return errors


def _hull(shapes: Sequence[Attention]) -> dict[str, tuple[float, float]]:
    return hull({name: [getattr(shape, name) for shape in shapes] for name in ("seq", "head_dim")})

"""Training step of a model whose layers are of experts: routing, and products of each expert's own tokens."""

from dataclasses import dataclass
from typing import ClassVar

from bench.workload import FLOATS, Scalar
from workloads.train_step import TrainStep


@dataclass(frozen=True, kw_only=True)
class MoeTrainStep(TrainStep):
    """One optimizer step of a mixture of experts (Shazeer et al. 2017); counted are the experts that a token passes."""

    dtypes: ClassVar[tuple[str, ...]] = FLOATS
    experts: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Scalar]] = {"model": "tiny-moe", "batch": 1, "seq": 32, "dtype": "float32"}

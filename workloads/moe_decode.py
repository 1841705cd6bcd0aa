"""Decode with a mixture of experts: few weights for each token, more of them the larger the batch."""

from dataclasses import dataclass
from typing import ClassVar

from bench.workload import Scalar
from workloads.decode import Decode


@dataclass(frozen=True, kw_only=True)
class MoeDecode(Decode):
    """The token at position `context` again and again; read are the experts that the batch's tokens are expected to
    choose, were the router even: E (1 - (1 - e / E)^batch) of them.
    """

    experts: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Scalar]] = {"model": "tiny-moe", "batch": 2, "context": 32, "dtype": "float32"}

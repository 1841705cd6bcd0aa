"""A whole step that does nothing, and is right or wrong as it was told."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload


@dataclass(frozen=True, kw_only=True)
class MisbehaveStep(Workload):
    """Nothing, `off` by as much."""

    scale: ClassVar[Literal["micro", "macro"]] = "macro"
    rotate: ClassVar[bool] = False
    smoke: ClassVar[dict[str, Scalar]] = {"off": 0.0}

    off: float
    dtype: str = "float32"

    def cost(self) -> Cost:
        """As if something were done."""
        return Cost(bytes=8)

    def memory_bytes(self) -> int:
        """Two numbers."""
        return 8

    def tolerance(self) -> float:
        """Some."""
        return 1e-3

    def prepare(self, device: Device) -> Step:
        """Nothing."""
        return Step(run=lambda: None, error=lambda: self.off)

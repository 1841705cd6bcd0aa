"""The optimizer's step: seven numbers moved for every parameter and hardly any arithmetic, so bandwidth decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import Unsupported, UserError
from bench.workload import Scalar, Step, Workload
from workloads._reference import relative_error, wide

if TYPE_CHECKING:
    from torch import Tensor

_LEARNING_RATE, _BETA1, _BETA2, _EPS, _DECAY = 1e-3, 0.9, 0.95, 1e-8, 0.1
_CHECKED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class OptimizerStep(Workload):
    """AdamW of torch on parameters and states in float32, as one kernel for many tensors or as operations on each."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    smoke: ClassVar[dict[str, Scalar]] = {"num_parameters": 5000, "num_tensors": 3}

    num_parameters: int  # of all tensors together
    num_tensors: int = 128  # equally large; a Llama of 1 B has 146
    implementation: Literal["fused", "foreach", "single"] = "fused"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """No tensor is empty."""
        super().__post_init__()
        if self.num_parameters < self.num_tensors:
            raise UserError(f"num_parameters={self.num_parameters}: fewer than num_tensors={self.num_tensors}")

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """The others of torch count their steps on the host, which a graph would not."""
        return self.implementation == "fused"

    def cost(self) -> Cost:
        """Parameter and two moments read and written, the gradient read: 28 bytes; 14 FLOP as the formula has them."""
        return Cost(elementwise_flops=14 * self.num_parameters, bytes=28 * self.num_parameters)

    def memory_bytes(self) -> int:
        """Parameter, gradient, two moments; `foreach` a root of all second moments too, `single` of one tensor."""
        passing = {"fused": 0, "foreach": self.num_parameters, "single": self.num_parameters // self.num_tensors}
        return 16 * self.num_parameters + 4 * self.num_tensors + 4 * passing[self.implementation]

    def prepare(self, device: Device) -> Step:
        """Gradients are set once and kept."""
        import torch

        count, more = divmod(self.num_parameters, self.num_tensors)
        shapes = [count + (place < more) for place in range(self.num_tensors)]
        parameters = [device.normal(length, dtype="float32").requires_grad_() for length in shapes]
        for parameter in parameters:
            parameter.grad = device.normal(parameter.numel(), dtype="float32")
        chosen = {"fused": self.implementation == "fused", "foreach": self.implementation == "foreach"}
        in_graph = self.capturable and device.backend == "cuda"
        options = {"lr": _LEARNING_RATE, "betas": (_BETA1, _BETA2), "eps": _EPS, "weight_decay": _DECAY}
        try:
            optimizer = torch.optim.AdamW(parameters, capturable=in_graph, **chosen, **options)
        except RuntimeError:
            raise Unsupported(f"{device.name}: torch has no {self.implementation} AdamW for it") from None

        def run() -> None:
            optimizer.step()

        def error() -> float:
            # From the start again: where a long load has led, decay and gradient cancel and a step moves nothing.
            for parameter in parameters:
                parameter.detach().normal_()
                for state in optimizer.state[parameter].values():
                    state.zero_()
            before = [_sample(parameter) for parameter in parameters]
            for _ in range(_CHECKED_STEPS):
                run()
            if not all(bool(parameter.isfinite().all()) for parameter in parameters):
                return float("inf")
            return max(
                relative_error(result, expected)
                for parameter, old in zip(parameters, before, strict=True)
                for result, expected in _results(parameter, old, optimizer.state[parameter])
            )

        return Step(run=run, error=error)


def _sample(tensor: "Tensor") -> "Tensor":
    """At most 128 elements in float64."""
    return wide(tensor[:: max(1, tensor.numel() // 64)])


def _results(parameter: "Tensor", old: "Tensor", state: "dict[str, Tensor]") -> "Iterator[tuple[Tensor, Tensor]]":
    """Change and moments of some elements, and what they should be: Loshchilov & Hutter 2019, algorithm 2, with the
    decay times the learning rate as torch has it.
    """
    assert parameter.grad is not None
    new, gradient = old.clone(), _sample(parameter.grad)
    first, second = gradient * 0, gradient * 0
    for step in range(1, _CHECKED_STEPS + 1):
        first = _BETA1 * first + (1 - _BETA1) * gradient
        second = _BETA2 * second + (1 - _BETA2) * gradient.square()
        direction = first / (1 - _BETA1**step) / ((second / (1 - _BETA2**step)).sqrt() + _EPS)
        new = new - _LEARNING_RATE * (direction + _DECAY * new)
    yield _sample(parameter) - old, new - old
    yield _sample(state["exp_avg"]), first
    yield _sample(state["exp_avg_sq"]), second

"""The loss over a vocabulary, from logits that are there: often the largest tensors of a training step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._backward import passes, rows, rows_error

if TYPE_CHECKING:
    from torch import Tensor

# T tokens, V vocabulary
# The loss is multiplied by it before the backward pass, as training in float16 must: the gradient of a logit is about
# 1 / V, which float16 cannot hold.
LOSS_SCALE = 128.0


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Workload):
    """-log softmax(logits)[target] of each token, computed in float32; by default with the gradient of the logits."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"tokens": 64, "vocab_size": 128, "dtype": "float32"}

    tokens: int
    vocab_size: int
    dtype: str
    backward: bool = True

    def cost(self) -> Cost:
        """Maximum, subtract, exponential, sum: four FLOP a logit; logits and targets read, a loss a token written.

        The backward pass counts twice; it reads logits, targets and the losses' gradients and writes the logits'.
        """
        logits = self.tokens * self.vocab_size
        tensors, times, passed = (3, 3, 2) if self.backward else (1, 1, 1)
        # A target has eight bytes, a loss and its gradient four each.
        return Cost(
            elementwise_flops=times * 4 * logits, bytes=tensors * logits * self.dtype_bytes + passed * self.tokens * 12
        )

    def memory_bytes(self) -> int:
        """Logits, their gradient, and three tensors of that size in float32 on the way; without gradients two."""
        own, wider = (2, 12) if self.backward else (1, 8)
        return self.tokens * (self.vocab_size * (own * self.dtype_bytes + wider) + 16)

    def prepare(self, device: Device) -> Step:
        """Logits have the spread of 3 of a trained model: of flat ones the target's gradient alone would be seen."""
        import torch
        from torch.nn.functional import cross_entropy

        logits_TV = device.normal(self.tokens, self.vocab_size, dtype=self.dtype, std=3.0)
        targets_T1 = device.tokens(self.tokens, 1, vocab_size=self.vocab_size)
        incoming = [torch.full((self.tokens, 1), LOSS_SCALE, device=logits_TV.device)] if self.backward else []

        def forward(logits_TV: "Tensor") -> "tuple[Tensor]":
            return (cross_entropy(logits_TV.float(), targets_T1[:, 0], reduction="none")[:, None],)

        run, kept = passes(forward, [logits_TV], incoming)

        def reference(logits_TV: "Tensor") -> "tuple[Tensor]":
            less_TV = logits_TV - logits_TV.detach().amax(-1, keepdim=True)
            target_T1 = less_TV.gather(-1, rows(targets_T1).to(logits_TV.device))
            return (less_TV.exp().sum(-1, keepdim=True).log() - target_T1,)

        def error() -> float:
            run()
            return rows_error(kept, reference, [logits_TV], incoming)

        return Step(run=run, error=error)

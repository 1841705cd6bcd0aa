"""Head and loss together, forward and backward: what a large vocabulary costs a training step in time and memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import Unsupported
from bench.workload import Scalar, Step, Workload
from workloads._backward import passes, rows
from workloads._reference import relative_error, wide
from workloads.cross_entropy import LOSS_SCALE

if TYPE_CHECKING:
    from torch import Tensor

# T tokens, E hidden_size, V vocabulary, C tokens of a chunk, W some words of the vocabulary
# Tokens of a chunk. The weight is read anew for each: with fewer than some hundred that would take longer than the
# arithmetic does, with more the logits, at 12 bytes each, would no longer be small.
CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class LinearCrossEntropy(Workload):
    """The sum of the tokens' losses, with the gradients of hidden states and head.

    `unfused` holds all logits; `chunked` those of 1024 tokens at a time; `fused` is torch's own, which chunks too.
    """

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"tokens": 64, "hidden_size": 32, "vocab_size": 128, "dtype": "float32"}

    tokens: int
    hidden_size: int
    vocab_size: int
    dtype: str
    implementation: Literal["unfused", "chunked", "fused"] = "unfused"

    def cost(self) -> Cost:
        """Three products of 2 T E V. The task needs no logits in memory: each pass reads hidden states and weight, the
        backward pass writes the gradients of both.
        """
        products = self.tokens * self.hidden_size * self.vocab_size
        elements = (self.tokens + self.vocab_size) * self.hidden_size
        return Cost(
            gemm_flops=6 * products,
            elementwise_flops=12 * self.tokens * self.vocab_size,
            bytes=3 * elements * self.dtype_bytes + 8 * self.tokens,
        )

    def memory_bytes(self) -> int:
        """Hidden states, weight and their gradients; logits, their softmax and their gradient in float32."""
        elements = (self.tokens + self.vocab_size) * self.hidden_size
        held = self.tokens if self.implementation == "unfused" else min(self.tokens, CHUNK)
        return 2 * elements * self.dtype_bytes + 12 * held * self.vocab_size + 12 * self.tokens

    def tolerance(self) -> float:
        """Torch's own adds up the chunks' gradients in their own type, and there are many chunks."""
        return super().tolerance() * (2 if self.implementation == "fused" else 1)

    def prepare(self, device: Device) -> Step:
        """The head is scaled by 1 / sqrt(hidden_size), so that logits are normal too."""
        hidden_TE = device.normal(self.tokens, self.hidden_size, dtype=self.dtype)
        weight_VE = device.normal(self.vocab_size, self.hidden_size, dtype=self.dtype, std=self.hidden_size**-0.5)
        targets_T = device.tokens(self.tokens, vocab_size=self.vocab_size)
        make = {"unfused": _unfused, "chunked": _chunked, "fused": _fused}[self.implementation]
        run, kept = make(hidden_TE, weight_VE, targets_T)

        def error() -> float:
            run()
            if not all(bool(result.isfinite().all()) for result in kept):
                return float("inf")
            # Torch's own (2.13) adds up losses in the narrow type too, and loses 3 % of 3000 tokens' in bfloat16.
            # Training uses the gradients alone; a loss is off by more where something else is wrong.
            loss_error, *gradient_errors = _errors(kept, hidden_TE, weight_VE, targets_T)
            return max(loss_error / (10 if self.implementation == "fused" else 1), *gradient_errors)

        return Step(run=run, error=error)


Made = tuple[Callable[[], "Tensor"], "list[Tensor]"]


def _unfused(hidden_TE: "Tensor", weight_VE: "Tensor", targets_T: "Tensor") -> Made:
    from torch.nn.functional import cross_entropy, linear

    def forward(hidden_TE: "Tensor", weight_VE: "Tensor") -> "tuple[Tensor]":
        return (cross_entropy(linear(hidden_TE, weight_VE).float(), targets_T, reduction="sum"),)

    return passes(forward, [hidden_TE, weight_VE], [_loss_scale(hidden_TE, "float32")])


def _fused(hidden_TE: "Tensor", weight_VE: "Tensor", targets_T: "Tensor") -> Made:
    import torch
    from torch.nn import functional

    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise Unsupported(f"torch {torch.__version__} has no linear_cross_entropy of its own: it came with 2.13")
    if hidden_TE.dtype == torch.float16:
        raise Unsupported("torch's own linear_cross_entropy gives the loss in float16, where its sum overflows")
    options = torch.nn.LinearCrossEntropyOptions()

    def forward(hidden_TE: "Tensor", weight_VE: "Tensor") -> "tuple[Tensor]":
        return (functional.linear_cross_entropy(hidden_TE, weight_VE, targets_T, reduction="sum", options=options),)

    loss_dtype = str(forward(hidden_TE[:1], weight_VE)[0].dtype).removeprefix("torch.")
    return passes(forward, [hidden_TE, weight_VE], [_loss_scale(hidden_TE, loss_dtype)])


def _chunked(hidden_TE: "Tensor", weight_VE: "Tensor", targets_T: "Tensor") -> Made:
    """The gradient of logits is known as soon as they are, so nothing waits for a backward pass (Hsu et al. 2024,
    Liger Kernel, section 3.2). Weight gradients add up in the weight's own type, as there.
    """
    import torch

    kept: list[Tensor] = []
    minus_scale_C1 = torch.full((CHUNK, 1), -LOSS_SCALE, device=hidden_TE.device)

    def run() -> "Tensor":
        loss = torch.zeros((), device=hidden_TE.device)
        hidden_gradient_TE, weight_gradient_VE = torch.empty_like(hidden_TE), torch.zeros_like(weight_VE)
        for hidden_CE, targets_C1, gradient_CE in zip(
            hidden_TE.split(CHUNK), targets_T[:, None].split(CHUNK), hidden_gradient_TE.split(CHUNK), strict=True
        ):
            log_softmax_CV = (hidden_CE @ weight_VE.T).float().log_softmax(-1)
            loss -= log_softmax_CV.gather(1, targets_C1).sum()
            scaled_CV = log_softmax_CV.exp_().mul_(LOSS_SCALE)
            scaled_CV.scatter_add_(1, targets_C1, minus_scale_C1[: len(targets_C1)])
            logits_gradient_CV = scaled_CV.to(weight_VE.dtype)
            torch.mm(logits_gradient_CV, weight_VE, out=gradient_CE)
            # Not `addmm_`, which torch's own counter of FLOP overlooks.
            torch.addmm(weight_gradient_VE, logits_gradient_CV.T, hidden_CE, out=weight_gradient_VE)
        kept[:] = [loss, hidden_gradient_TE, weight_gradient_VE]
        return hidden_gradient_TE

    return run, kept


def _loss_scale(like: "Tensor", dtype: str) -> "Tensor":
    import torch

    return torch.full((), LOSS_SCALE, device=like.device, dtype=getattr(torch, dtype))


def _errors(kept: "list[Tensor]", hidden_TE: "Tensor", weight_VE: "Tensor", targets_T: "Tensor") -> list[float]:
    """The errors of the loss, of some tokens' gradients and of some words' weights, targets and others apart:
    the others' are so small beside them that nobody would miss them in one norm.
    """
    import torch

    loss, hidden_gradient_TE, weight_gradient_VE = kept
    wide_VE = wide(weight_VE)
    targets_T = targets_T.to(wide_VE.device)
    vocab_size = len(wide_VE)
    targets_W = targets_T[:: max(1, len(targets_T) // 32)].unique()
    others_W = torch.arange(0, vocab_size, max(1, vocab_size // 32), device=wide_VE.device)

    def logits_gradient(hidden_CE: "Tensor", targets_C: "Tensor") -> "tuple[Tensor, Tensor]":
        """With the loss; softmax minus one at the target."""
        logits_CV = hidden_CE @ wide_VE.T
        logits_CV -= logits_CV.amax(-1, keepdim=True)
        total_C1, target_C1 = logits_CV.exp().sum(-1, keepdim=True), targets_C[:, None]
        losses_C1 = total_C1.log() - logits_CV.gather(1, target_C1)
        softmax_CV = logits_CV.exp_() / total_C1
        return losses_C1.sum(), softmax_CV.scatter_add_(1, target_C1, -torch.ones_like(total_C1)) * LOSS_SCALE

    expected_loss = torch.zeros((), dtype=torch.float64, device=wide_VE.device)
    expected_WE, expected_others_WE = (
        torch.zeros(len(words_W), wide_VE.shape[1], dtype=torch.float64, device=wide_VE.device)
        for words_W in (targets_W, others_W)
    )
    count = max(1, 2**24 // vocab_size)
    for part_CE, targets_C in zip(hidden_TE.split(count), targets_T.split(count), strict=True):
        hidden_CE = wide(part_CE)
        some_loss, gradient_CV = logits_gradient(hidden_CE, targets_C)
        expected_loss += some_loss
        expected_WE += gradient_CV[:, targets_W].T @ hidden_CE
        expected_others_WE += gradient_CV[:, others_W].T @ hidden_CE
    _, gradient_RV = logits_gradient(wide(rows(hidden_TE)), rows(targets_T[:, None])[:, 0])
    return [
        relative_error(loss, expected_loss),
        relative_error(rows(hidden_gradient_TE), gradient_RV @ wide_VE),
        relative_error(wide(weight_gradient_VE).to(wide_VE.device)[targets_W], expected_WE),
        relative_error(wide(weight_gradient_VE).to(wide_VE.device)[others_W], expected_others_WE),
    ]

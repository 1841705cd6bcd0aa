"""What stands beside attention in a block: a plain or gated MLP, or experts of which a router chooses some.

Names of tensors carry their dimensions:
    B batch, S sequence, T tokens of the batch, E hidden_size, F intermediate_size, X experts, K experts for each token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.model import Model
from workloads._grouped import grouped_mm


def activate(kind: str, x: Tensor) -> Tensor:
    """The non-linearity of a hidden_act; GELU by its tanh form, as GPT-2 and Gemma have it."""
    if kind == "silu":
        return functional.silu(x)
    return functional.relu(x) if kind == "relu" else functional.gelu(x, approximate="tanh")


@contextmanager
def recorded_choices(module: nn.Module) -> Iterator[None]:
    """Inside it all experts' routers note what they choose, call by call. A reference must take the same: between two
    experts with nearly equal scores rounding decides, and another choice is no wrong output.
    """
    routed = [layer for layer in module.modules() if isinstance(layer, Experts)]
    for layer in routed:
        layer.recorded = []
    try:
        yield
    finally:
        for layer in routed:
            layer.recorded = None


class Mlp(nn.Module):
    """Two linear layers with a non-linearity between."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.kind = model.hidden_act
        self.up = nn.Linear(model.hidden_size, model.intermediate_size, bias=model.mlp_bias)
        self.down = nn.Linear(model.intermediate_size, model.hidden_size, bias=model.mlp_bias)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        out_BSE: Tensor = self.down(activate(self.kind, self.up(x_BSE)))
        return out_BSE


class GatedMlp(nn.Module):
    """SwiGLU or GeGLU (Shazeer 2020)."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.kind = model.hidden_act
        self.gate = nn.Linear(model.hidden_size, width, bias=model.mlp_bias)
        self.up = nn.Linear(model.hidden_size, width, bias=model.mlp_bias)
        self.down = nn.Linear(width, model.hidden_size, bias=model.mlp_bias)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        out_BSE: Tensor = self.down(activate(self.kind, self.gate(x_BSE)) * self.up(x_BSE))
        return out_BSE


class Experts(nn.Module):
    """A router chooses num_experts_per_tok gated MLPs for each token; their outputs are weighted and added up.

    Tokens are sorted by expert, so that each expert multiplies its own in one product. The weights of the chosen add up
    to one; scores are a softmax over all experts, or each a sigmoid of its own (DeepSeek-V3 2024, section 2.1.2).
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        num_experts, width = cast(int, model.num_experts), cast(int, model.moe_intermediate_size)
        self.kind, self.scores, self.chosen = model.hidden_act, model.router, cast(int, model.num_experts_per_tok)
        self.router = nn.Linear(model.hidden_size, num_experts, bias=model.router_bias)
        self.gate = nn.Parameter(torch.empty(num_experts, model.hidden_size, width))
        self.up = nn.Parameter(torch.empty(num_experts, model.hidden_size, width))
        self.down = nn.Parameter(torch.empty(num_experts, width, model.hidden_size))
        shared = model.shared_expert_intermediate_size
        self.shared = GatedMlp(model, shared) if shared else None
        self.recorded: list[Tensor] | None = None  # see `recorded_choices`

    def route(self, x_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of the experts of each token, [T, K]."""
        logits_TX = self.router(x_TE).float()
        scores_TX = logits_TX.sigmoid() if self.scores == "sigmoid" else logits_TX.softmax(-1)
        weights_TK, experts_TK = scores_TX.topk(self.chosen, dim=-1)
        return weights_TK / weights_TK.sum(-1, keepdim=True), experts_TK

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        x_TE = x_BSE.flatten(0, 1)
        weights_TK, experts_TK = self.route(x_TE)
        if self.recorded is not None:
            self.recorded.append(experts_TK.unflatten(0, x_BSE.shape[:2]))
        order = experts_TK.flatten().argsort(stable=True)  # of the T·K pairs of a token and an expert
        tokens = order // self.chosen
        counts_X = torch.zeros(len(self.gate), dtype=torch.int32, device=x_TE.device)
        counts_X.scatter_add_(0, experts_TK.flatten(), torch.ones_like(order, dtype=torch.int32))
        ends_X = counts_X.cumsum(0, dtype=torch.int32)
        sorted_PE = x_TE[tokens]
        hidden_PF = activate(self.kind, grouped_mm(sorted_PE, self.gate, ends_X)) * grouped_mm(
            sorted_PE, self.up, ends_X
        )
        out_PE = grouped_mm(hidden_PF, self.down, ends_X)
        weighted_PE = out_PE * weights_TK.flatten()[order, None].to(out_PE.dtype)
        out_TE = torch.zeros_like(x_TE, dtype=weighted_PE.dtype).index_add_(0, tokens, weighted_PE)
        out_BSE = out_TE.unflatten(0, x_BSE.shape[:2])
        return out_BSE if self.shared is None else out_BSE + self.shared(x_BSE)

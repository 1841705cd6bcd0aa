"""What follows attention in each layer: a dense MLP, gated or not, or experts of which each token uses a few.

B batch, S sequence, E hidden_size, F intermediate_size, T tokens of a batch, K experts for each token, X experts,
N rows: every token once for each of its experts
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.model import Model
from workloads._grouped import grouped_mm

_gelu = partial(functional.gelu, approximate="tanh")  # as GPT-2 has it
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "geglu": _gelu,
    "gelu": _gelu,
    "relu": functional.relu,
}


def mlp(model: Model, layer: int) -> nn.Module:
    """The MLP of a layer, counted from 0; the query layer on top has a dense one."""
    if model.is_dense(layer) or layer >= model.num_hidden_layers:
        return dense_mlp(model, model.intermediate_size)
    return Experts(model)


def dense_mlp(model: Model, width: int) -> nn.Module:
    """An MLP for every token."""
    return GatedMlp(model, width) if model.num_mlp_matrices == 3 else Mlp(model, width)


class GatedMlp(nn.Module):
    """SwiGLU or GEGLU (Shazeer 2020)."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[model.hidden_act]
        self.gate = nn.Linear(model.hidden_size, width, bias=model.mlp_bias)
        self.up = nn.Linear(model.hidden_size, width, bias=model.mlp_bias)
        self.down = nn.Linear(width, model.hidden_size, bias=model.mlp_bias)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        out_BSE: Tensor = self.down(self.activation(self.gate(x_BSE)) * self.up(x_BSE))
        return out_BSE


class Mlp(nn.Module):
    """Two linear layers and GELU or ReLU."""

    def __init__(self, model: Model, width: int) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[model.hidden_act]
        self.up = nn.Linear(model.hidden_size, width, bias=model.mlp_bias)
        self.down = nn.Linear(width, model.hidden_size, bias=model.mlp_bias)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        out_BSE: Tensor = self.down(self.activation(self.up(x_BSE)))
        return out_BSE


class Experts(nn.Module):
    """A router chooses some of many MLPs for each token (Shazeer et al. 2017), and one more may see every token."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        experts, hidden, width = model.num_experts, model.hidden_size, model.moe_intermediate_size
        assert experts is not None and width is not None and model.num_experts_per_tok is not None
        self.activation = _ACTIVATIONS[model.hidden_act]
        self.is_gated = model.num_mlp_matrices == 3
        self.has_bias = model.mlp_bias
        self.router = Router(model, experts, model.num_experts_per_tok)
        shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
        for name, (rows, columns) in shapes.items() if self.is_gated else list(shapes.items())[1:]:
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(experts, rows, columns)))
            if self.has_bias:
                self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(experts, rows)))
        shared = model.shared_expert_intermediate_size
        self.shared = dense_mlp(model, shared) if shared else None
        self.recorded: list[Tensor] | None = None  # see `recorded_choices`

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[B, S, E] to [B, S, E]: rows are sorted by expert, multiplied in groups, and put back in their order."""
        x_TE = x_BSE.flatten(0, 1)
        chosen_TK, weights_TK = self.router(x_TE)
        if self.recorded is not None:
            self.recorded.append(chosen_TK.unflatten(0, x_BSE.shape[:2]))
        experts_N, order_N = chosen_TK.flatten().sort(stable=True)
        every_X = torch.arange(self.router.experts, device=x_TE.device)
        offsets_X = torch.searchsorted(experts_N, every_X, right=True, out_int32=True)
        x_NE = x_TE.index_select(0, order_N // self.router.num_chosen)
        sorted_NE = self._product("down", self._hidden(x_NE, experts_N, offsets_X), experts_N, offsets_X)
        out_NE = torch.empty_like(sorted_NE).index_copy(0, order_N, sorted_NE)
        # In order and then added up, not added where they belong: atomic additions round differently each time.
        out_TKE = out_NE.unflatten(0, weights_TK.shape)
        out_BSE = (out_TKE * weights_TK.to(out_TKE.dtype)[..., None]).sum(1).view(x_BSE.shape)
        return out_BSE if self.shared is None else out_BSE + self.shared(x_BSE)

    def _hidden(self, x_NE: Tensor, experts_N: Tensor, offsets_X: Tensor) -> Tensor:
        up_NF = self._product("up", x_NE, experts_N, offsets_X)
        if not self.is_gated:
            return self.activation(up_NF)
        return self.activation(self._product("gate", x_NE, experts_N, offsets_X)) * up_NF

    def _product(self, name: str, x_NE: Tensor, experts_N: Tensor, offsets_X: Tensor) -> Tensor:
        out_NF = grouped_mm(x_NE, getattr(self, f"{name}_weight").mT, offsets_X)
        return out_NF + getattr(self, f"{name}_bias").to(out_NF.dtype)[experts_N] if self.has_bias else out_NF


@contextmanager
def recorded_choices(module: nn.Module) -> Iterator[None]:
    """Inside it experts note what their routers choose, call by call, and a reference takes the same.

    Between two experts with nearly equal scores rounding decides, and another choice is no wrong output.
    """
    routed = [layer for layer in module.modules() if isinstance(layer, Experts)]
    for layer in routed:
        layer.recorded = []
    try:
        yield
    finally:
        for layer in routed:
            layer.recorded = None


class Router(nn.Module):
    """Scores of experts, the best of which are chosen; what they give is weighted by their scores, which sum to one."""

    def __init__(self, model: Model, experts: int, num_chosen: int) -> None:
        super().__init__()
        self.experts, self.num_chosen = experts, num_chosen
        self.is_sigmoid = model.router == "sigmoid"
        self.linear = nn.Linear(model.hidden_size, experts, bias=model.router_bias and not self.is_sigmoid)
        # With sigmoids the bias helps to choose and has no weight. It has no gradient either: to keep experts evenly
        # busy it is moved by counting (DeepSeek-V3 2024, section 2.1.2).
        has_choice_bias = model.router_bias and self.is_sigmoid
        self.choice_bias = nn.Parameter(torch.empty(experts), requires_grad=False) if has_choice_bias else None

    def forward(self, x_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Experts [T, K] of each token and their weights."""
        logits_TX = self.linear(x_TE)
        if not self.is_sigmoid:
            # Softmax over all, then so that the chosen sum to one, is softmax over the chosen.
            best_TK, chosen_TK = logits_TX.topk(self.num_chosen, dim=-1)
            return chosen_TK, best_TK.softmax(-1)
        scores_TX = logits_TX.sigmoid()
        biased_TX = scores_TX if self.choice_bias is None else scores_TX + self.choice_bias
        chosen_TK = biased_TX.topk(self.num_chosen, dim=-1).indices
        best_TK = scores_TX.gather(-1, chosen_TK)
        return chosen_TK, best_TK / best_TK.sum(-1, keepdim=True)

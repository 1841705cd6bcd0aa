"""Scaling laws: how the loss of a model falls with its parameters and its tokens, and what is best for a budget.

L(N, D) = E + A / N**alpha + B / D**beta, the third approach of Hoffmann et al. 2022 ("Training Compute-Optimal Large
Language Models"). The coefficients are those of Besiroglu, Erdil, Barnett & You 2024 (arXiv 2404.10102), who fitted the
same data anew: the printed ones contradict the paper's own first two approaches, these agree with them, at about 20
tokens a parameter. They hold for one tokenizer and one corpus; differences of losses mean more than losses.
"""

from dataclasses import dataclass

E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658  # Besiroglu et al. 2024, table 1
SOURCE = "Hoffmann et al. 2022, approach 3, with the coefficients of Besiroglu et al. 2024 (arXiv 2404.10102)"


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best use of a number of FLOP, at 6 FLOP a parameter and token."""

    num_parameters: float
    tokens: float
    loss: float  # nats a token


def loss(num_parameters: float, tokens: float) -> float:
    """Expected loss in nats a token; of experts count the active parameters, which is a bound and no law."""
    return E + A / float(num_parameters**ALPHA) + B / float(tokens**BETA)


def optimum(flops: float) -> Optimum:
    """Least loss over all N and D with 6 N D = flops (Hoffmann et al. 2022, equation 4)."""
    ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    num_parameters = ratio * (flops / 6) ** (BETA / (ALPHA + BETA))
    tokens = flops / 6 / num_parameters
    return Optimum(num_parameters=num_parameters, tokens=tokens, loss=loss(num_parameters, tokens))

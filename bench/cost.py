"""Cost: the least that a step must do on any hardware, and the roofline that follows from it.

A cost is pure arithmetic. It is written once for each workload and serves rates, rooflines, plans and estimates alike.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work of one step. Everything counts what the *task* needs, not what an implementation happens to do.

    A multiply-add is two FLOP. Causal attention counts the keys that are attended, on average (s + 1) / 2 of s;
    the backward pass counts twice the forward pass, without any recomputation (Chowdhery et al. 2022, appendix B).
    `bytes` counts every input read once and every output written once. `recomputed_flops` is what is computed anew in
    the backward pass because it was not kept: hardware does it, the task does not need it, and so it is in no rate but
    that of the hardware (HFU).
    """

    gemm_flops: int = 0
    attention_flops: int = 0
    elementwise_flops: int = 0
    bytes: int = 0
    tokens: int = 0
    launches: int = 0
    link_bytes: int = 0
    recomputed_flops: int = 0

    @property
    def flops(self) -> int:
        """FLOP of all kinds together."""
        return self.gemm_flops + self.attention_flops + self.elementwise_flops

    def least_s(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The time below which no implementation can fall (roofline: Williams, Waterman & Patterson 2009)."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)

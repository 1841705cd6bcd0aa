"""Products of a layer of experts: each has its own weights and its own share of the tokens."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.errors import UserError
from bench.workload import Facts, Scalar, Step, Workload
from workloads._reference import poison, relative_error, wide

if TYPE_CHECKING:
    from torch import Tensor

# The busiest of skewed experts has about this many times the tokens of the idlest, and three times the mean.
_SKEW = 16.0
# Many times what any model has.
_MOST_EXPERTS = 4096


@dataclass(frozen=True, kw_only=True)
class GroupedMatmul(Workload):
    """y[T, N] = x[T, K] @ W_i[N, K]^T, where expert i of X has a run of the T rows: as many as all, or skewed."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"num_experts": 4, "tokens": 40, "n": 48, "k": 64, "dtype": "float32"}

    num_experts: int
    tokens: int  # all together, each counted once for every expert that it goes to
    n: int
    k: int
    dtype: str
    imbalance: Literal["even", "skewed"] = "even"

    def __post_init__(self) -> None:
        """A stranger's file may name any number of experts, and each is counted one by one."""
        super().__post_init__()
        if self.num_experts > _MOST_EXPERTS:
            raise UserError(f"num_experts={self.num_experts}: {_MOST_EXPERTS} at most")

    def ends(self) -> list[int]:
        """Behind the last row of each expert; skewed shares fall geometrically from the first expert to the last."""
        ratio = 1.0 if self.imbalance == "even" else _SKEW ** (-1 / max(1, self.num_experts - 1))
        shares = [ratio**place for place in range(self.num_experts)]
        total, before = sum(shares), 0.0
        ends = []
        for share in shares:
            before += share
            ends.append(round(self.tokens * before / total))
        return [*ends[:-1], self.tokens]

    def cost(self) -> Cost:
        """2 T N K; rows and products cross memory once, and so do the weights of every expert that has a row."""
        used = sum(start < end for start, end in pairwise([0, *self.ends()]))
        elements = self.tokens * (self.k + self.n) + used * self.n * self.k
        return Cost(gemm_flops=2 * self.tokens * self.n * self.k, bytes=elements * self.dtype_bytes)

    def memory_bytes(self) -> int:
        """Rows, products, the weights of all experts, and four bytes for each one's end."""
        elements = self.tokens * (self.k + self.n) + self.num_experts * self.n * self.k
        return elements * self.dtype_bytes + 4 * self.num_experts

    def prepare(self, device: Device) -> Step:
        """One call where the device has a grouped product, else one for each expert that has rows."""
        import torch

        from workloads._grouped import grouped_mm, has_grouped_product

        x_TK = device.normal(self.tokens, self.k, dtype=self.dtype)
        weights_XNK = device.normal(self.num_experts, self.n, self.k, dtype=self.dtype, std=self.k**-0.5)
        y_TN = torch.zeros(self.tokens, self.n, device=x_TK.device, dtype=x_TK.dtype)
        ends_X = torch.tensor(self.ends(), device=x_TK.device, dtype=torch.int32)
        groups = [
            (slice(*ends), expert) for expert, ends in enumerate(pairwise([0, *self.ends()])) if ends[0] < ends[1]
        ]
        grouped = has_grouped_product(x_TK.device, x_TK.dtype, self.k, self.n)
        kept = [y_TN]

        def run_grouped() -> "Tensor":
            kept[:] = [grouped_mm(x_TK, weights_XNK.mT, ends_X)]
            return kept[0]

        def run_loop() -> "Tensor":  # the sizes are known here, so nothing waits for the device
            for rows, expert in groups:
                torch.mm(x_TK[rows], weights_XNK[expert].T, out=y_TN[rows])
            return y_TN

        run = run_grouped if grouped else run_loop

        def error() -> float:
            poison(y_TN)
            out_TN, worst = run(), 0.0
            for rows, expert in groups:
                some = slice(rows.start, rows.stop, max(1, (rows.stop - rows.start) // 8))
                worst = max(worst, relative_error(out_TN[some], wide(x_TK[some]) @ wide(weights_XNK[expert]).T))
            return worst if bool(out_TN.isfinite().all()) else float("inf")

        def facts() -> Facts:
            return {"kernel": "grouped_mm" if grouped else "loop"}

        return Step(run=run, error=error, facts=facts)

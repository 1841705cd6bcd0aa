"""Embedding: a row of the table for each token. Free of arithmetic; its gradient is as large as the whole table."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.cost import Cost
from bench.device import Device
from bench.workload import Scalar, Step, Workload
from workloads._backward import passes
from workloads._reference import relative_error, wide

# T tokens, V vocab_size, E hidden_size


@dataclass(frozen=True, kw_only=True)
class Embedding(Workload):
    """y[T, E] = table[V, E][ids[T]]; with `backward` the table's dense gradient as well, as training makes it."""

    scale: ClassVar[Literal["micro", "macro"]] = "micro"
    smoke: ClassVar[dict[str, Scalar]] = {"tokens": 64, "vocab_size": 128, "hidden_size": 32, "dtype": "float32"}

    tokens: int
    vocab_size: int
    hidden_size: int
    dtype: str
    backward: bool = False

    def cost(self) -> Cost:
        """A row read and written for each token, and eight bytes of its id.

        The backward pass reads ids and incoming rows and writes the gradient of the whole table once: zero for words
        that did not occur, sums for those that did. Adding to what another token left there is not counted.
        """
        rows, table = self.tokens * self.hidden_size, self.vocab_size * self.hidden_size
        if not self.backward:
            return Cost(bytes=2 * rows * self.dtype_bytes + 8 * self.tokens)
        return Cost(elementwise_flops=rows, bytes=(3 * rows + table) * self.dtype_bytes + 16 * self.tokens)

    def memory_bytes(self) -> int:
        """Table and rows, their gradients, and the ids."""
        elements = (self.tokens + self.vocab_size) * self.hidden_size
        return (2 if self.backward else 1) * elements * self.dtype_bytes + 8 * self.tokens

    def prepare(self, device: Device) -> Step:
        """Ids are uniform over the vocabulary: fewer meet in one word than in a text."""
        from torch.nn import functional

        table_VE = device.normal(self.vocab_size, self.hidden_size, dtype=self.dtype)
        ids_T = device.tokens(self.tokens, vocab_size=self.vocab_size)
        incoming = [device.normal(self.tokens, self.hidden_size, dtype=self.dtype)] if self.backward else []
        run, kept = passes(lambda table_VE: (functional.embedding(ids_T, table_VE),), [table_VE], incoming)

        def error() -> float:
            run()
            if not all(bool(result.isfinite().all()) for result in kept):
                return float("inf")
            columns = slice(None, None, max(1, self.hidden_size // 16))  # they do not mix, and all are many in float64
            some_VE = wide(table_VE[:, columns])
            ids = ids_T.to(some_VE.device)
            worst = relative_error(kept[0][:, columns], some_VE[ids])
            if incoming:
                expected_VE = some_VE.new_zeros(some_VE.shape).index_add_(0, ids, wide(incoming[0][:, columns]))
                worst = max(worst, relative_error(kept[1][:, columns], expected_VE))
            return worst

        return Step(run=run, error=error)

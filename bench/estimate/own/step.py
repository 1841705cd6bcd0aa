"""Step: what one device does again and again, as far as its time depends on it; and the operations it is made of."""

from dataclasses import dataclass
from typing import Literal

from bench.arithmetic import Model

Kind = Literal["train", "prefill", "decode"]
Weights = Literal["full", "int8", "int4", "nf4"]  # nf4: written out wide for each product, as QLoRA does

# Which micro workload tells how fast a pass over memory is; where it is missing, a copy does (calibration.py).
PassKind = Literal["copy", "rms_norm", "layer_norm", "rope", "swiglu", "softmax", "cross_entropy", "embedding"]


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """One step of one device: everything that its time depends on, but for the machine."""

    model: Model
    kind: Kind
    batch: int  # sequences at a time
    length: int  # tokens of each that pass the model: a sequence, a prompt; 1 while decoding
    context: int = 0  # tokens before them, in the cache
    dtype: str  # what products take; also of weights and cache where nothing is trained
    recompute: Literal["none", "selective", "full"] = "none"
    accumulate: int = 1  # micro-batches in one step
    loss_chunk: int = 0  # tokens whose logits exist at a time; 0: all
    method: Literal["full", "lora", "qlora"] = "full"
    rank: int = 16  # of adapters
    weights: Weights = "full"
    compiled: bool = False

    @property
    def tokens(self) -> int:
        """T, of one micro-batch."""
        return self.batch * self.length

    @property
    def width(self) -> int:
        """Bytes of what products take."""
        return {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}[self.dtype]

    @property
    def mixed(self) -> bool:
        """Whether weights are float32 and products narrower: autocast."""
        return self.kind == "train" and self.method == "full" and self.width < 4


@dataclass(frozen=True, kw_only=True)
class Product:
    """`count` products C[m, n] = A[m, k] · B[k, n]; `layout` as in workloads/matmul.py: nt forward, nn the gradient of
    the input, tn that of the weight.
    """

    m: int
    n: int
    k: int
    dtype: str
    layout: Literal["nt", "nn", "tn"] = "nt"
    weights: Weights = "full"
    chosen: bool = False  # weights lie in the order that a CPU reads faster (workloads/models/layout.py)
    count: float = 1.0

    @property
    def flops(self) -> float:
        """Of one."""
        return 2.0 * self.m * self.n * self.k


@dataclass(frozen=True, kw_only=True)
class Attend:
    """`count` times attention of whole sequences; `pairs` of a query and a key that it sees, in each head."""

    batch: int
    heads: int
    kv_heads: int
    seq: int
    pairs: float
    head_dim: int
    dtype: str
    backward: bool = False
    count: float = 1.0

    @property
    def flops(self) -> float:
        """Two products of 2·h each forward; five backward, of which one computes the scores anew (Dao 2022)."""
        return self.batch * self.heads * self.pairs * self.head_dim * (10.0 if self.backward else 4.0)


@dataclass(frozen=True, kw_only=True)
class ReadCache:
    """`count` times attention of one query for each of `batch` sequences over `context` cached tokens."""

    batch: int
    heads: int
    kv_heads: int
    context: int
    head_dim: int
    dtype: str
    width: int
    count: float = 1.0

    @property
    def flops(self) -> float:
        """Of one."""
        return 4.0 * self.batch * self.heads * self.context * self.head_dim

    @property
    def num_bytes(self) -> float:
        """Keys and values of one."""
        return 2.0 * self.batch * self.kv_heads * self.context * self.head_dim * self.width


@dataclass(frozen=True, kw_only=True)
class Pass:
    """`count` passes over memory that move `num_bytes` each, counted as the micro workload of that kind counts them;
    `launches` calls each. `cached`: what it reads has just been written, and may still be in a cache.
    """

    kind: PassKind
    num_bytes: float
    launches: float = 1.0
    cached: bool = True
    backward: bool = False
    count: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Update:
    """The optimizer's step over so many parameters."""

    parameters: int
    tensors: int


Operation = Product | Attend | ReadCache | Pass | Update

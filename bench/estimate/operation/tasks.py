"""What a row of results/published/micro.csv asks for: an operation of some size on some chip, in some unit.

Only what describes the work is read, never what was measured. A row that cannot be understood gives a reason.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from bench.chip import Chip, resolve
from bench.errors import UserError
from bench.estimate.operation.curves import Attention, Gemm, Pass
from bench.estimate.operation.curves.collective import TRAFFIC, traffic
from bench.estimate.published import Row, number

Family = Literal["gemm", "peak", "pass", "collective", "attention"]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A collective over a buffer of `bytes` among `ranks` ranks in `nodes` nodes."""

    op: str
    bytes: float
    ranks: int
    nodes: int


Shape = Gemm | Pass | Exchange | Attention


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How a time becomes the row's figure: `amount / seconds * scale`, or `seconds * scale` where amount is None."""

    amount: float | None
    scale: float

    def value(self, seconds: float) -> float:
        """The figure in the row's unit."""
        return seconds * self.scale if self.amount is None else self.amount / seconds * self.scale

    def seconds(self, value: float) -> float:
        """The time behind a figure. Raises ValueError where there can be none."""
        if not 0 < value < math.inf:
            raise ValueError(f"{value} is no measurement")
        return value / self.scale if self.amount is None else self.amount / value * self.scale


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be estimated. Rows of one source and chip were measured on one machine with one software."""

    family: Family
    shape: Shape
    chip: Chip
    source: str
    dtype: str  # fp32, tf32, 16 for both 16-bit types, fp8, fp4, int8
    unit: Unit
    topology: str = ""
    words: str = field(default="", compare=False)  # the row's own name of the operation and its software

    @property
    def bytes_per_element(self) -> float:
        """Of one input."""
        return {"fp64": 8.0, "fp32": 4.0, "tf32": 4.0, "16": 2.0, "fp4": 0.5}.get(self.dtype, 1.0)

    @property
    def peak_flops_per_s(self) -> float | None:
        """The chip's dense peak for this type."""
        return self.chip.peak_flops_per_s("bf16" if self.dtype == "16" else self.dtype) or (
            self.chip.peak_flops_per_s("fp16") if self.dtype == "16" else None
        )


# What a row may state at most: more is a slip of the pen.
_MOST = {
    "gpu_mem_gb": 1e5, "M": 1e12, "N": 1e12, "K": 1e12, "batch": 1e12, "bytes": 1e15, "n_gpus": 1e6, "heads": 1e12,
    "head_dim": 1e12, "seq_len": 1e12, "theory_peak": 1e15,
}  # fmt: skip


def task_of(row: Row) -> Task | str:
    """What the row asks for, or why that is not known."""
    kind = row.get("kind", "").strip().lower()
    read = next((reader for word, reader in _READERS.items() if word in kind), None)
    if read is None:
        return f"rows of the kind '{kind:.40}' are not estimated here: {', '.join(_READERS)} are"
    for column, most in _MOST.items():
        value = number(row, column)
        if value is not None and not 0 <= value <= most:
            return f"{column} is '{row[column]:.40}', it must be a number from 0 to {most:g}"
    try:
        chip = resolve(row.get("device", ""), number(row, "gpu_mem_gb"))
    except UserError as error:
        return str(error)
    found = read(row)
    if isinstance(found, str):
        return found
    family, shape, op_bytes, elements = found
    dtype = _dtype(row.get("dtype", ""))
    task = Task(
        family=family,
        shape=shape,
        chip=chip,
        source=row.get("source_id", ""),
        dtype=dtype,
        unit=Unit(amount=None, scale=1.0),
        topology=_topology(row) if family == "collective" else "",
        words=" ".join((row.get("op", ""), row.get("software", ""), row.get("notes", ""))).lower(),
    )
    unit = _unit(row, task, op_bytes, elements)
    return unit if isinstance(unit, str) else replace(task, unit=unit)


Found = tuple[Family, Shape, float, float]  # family, shape, bytes moved, elements


def _gemm(row: Row) -> Found | str:
    sizes = _counts(row, ("M", "N", "K"))
    if isinstance(sizes, str):
        return sizes
    m, n, k = sizes
    batch = int(number(row, "batch") or 1)
    return ("gemm", Gemm(m=m, n=n, k=k, batch=max(batch, 1)), 0.0, float(m) * n)


def _peak(row: Row) -> Found | str:
    """The largest product that a search found: any large one without waves and edges."""
    sizes = _counts(row, ("M", "N", "K"))
    m, n, k = (8192, 8192, 8192) if isinstance(sizes, str) else sizes
    return ("peak", Gemm(m=m, n=n, k=k), 0.0, float(m) * n)


def _pass(row: Row) -> Found | str:
    rows, columns, moved = number(row, "M"), number(row, "N"), number(row, "bytes")
    elements = (rows or 0) * (columns or 1)
    element = 4.0 if _dtype(row.get("dtype", "")) in ("fp32", "tf32") else 2.0
    if not moved and not elements:
        return "a memory-bound operation needs bytes, or M and N"
    op = _pass_op(row.get("op", ""))
    if not moved:
        moved = elements * element * {"add": 3, "glu": 3}.get(op, 2)
    if op == "activation" and elements and moved / elements > 2.5 * element:
        op = "glu"  # two inputs and one output
    return ("pass", Pass(op=op, bytes=moved, columns=columns or 1.0), moved, elements)


def _copy(row: Row) -> Found | str:
    """A bandwidth test: a pass long enough to show nothing else."""
    if re.search(r"llama|gpt-?fast|vllm|decode|tok", row.get("op", "").lower()):
        return "what a framework reaches while it decodes is estimated as a row of inference"
    moved = number(row, "bytes") or 4e9
    return ("pass", Pass(op="copy", bytes=moved), moved, moved / 4)


def _collective(row: Row) -> Found | str:
    op = re.sub(r"[^a-z]+", "_", row.get("op", "").lower()).strip("_")
    op = {"allreduce": "all_reduce", "allgather": "all_gather", "alltoall": "all_to_all", "sendrecv": "send_recv"}.get(
        op, op
    )
    op = next((known for known in TRAFFIC if op.startswith(known)), op)
    moved, ranks = number(row, "bytes"), number(row, "n_gpus")
    if op not in TRAFFIC:
        return f"the collective '{op:.40}' is not known: {', '.join(TRAFFIC)} are"
    if not moved or moved <= 0:
        return "a collective needs the bytes of its buffer"
    if not ranks or ranks < 2:
        return "a collective needs n_gpus of at least 2"
    shape = Exchange(op=op, bytes=moved, ranks=int(ranks), nodes=_nodes(row.get("interconnect", ""), int(ranks)))
    return ("collective", shape, moved, moved / 2)


def _attention(row: Row) -> Found | str:
    sizes = _counts(row, ("batch", "heads", "head_dim", "seq_len"))
    if isinstance(sizes, str):
        return sizes
    batch, heads, head_dim, seq = sizes
    op, causal = row.get("op", "").lower(), row.get("causal", "").strip().lower()
    shape = Attention(
        batch=batch, heads=heads, head_dim=head_dim, seq=seq,
        causal=causal.startswith(("yes", "true", "1", "causal")),
        direction="backward" if re.search(r"\bbwd|backward", op) else "forward",
    )  # fmt: skip
    return ("attention", shape, 0.0, 0.0)


def _layer(row: Row) -> Found | str:
    """One operation of a layer, named with its setting: "GPT-3 175B, TP4, decode (batch 8, ctx 2048): GeLU"."""
    op = row.get("op", "")
    found = re.search(r"TP ?(\d+).*?(prefill|decode) \(batch (\d+), (?:seq|ctx|context) (\d+)\): *(\w+)", op)
    if not found or not re.search(r"gpt-?3.*175b", op.lower()):
        return f"'{op:.60}' does not name a model, TP, phase, batch and length that are known here"
    tp, batch, context = int(found[1]), int(found[3]), int(found[4])
    hidden, heads, head_dim = 12288, 96 // tp, 128  # Brown et al. 2020, table 2.1
    queries = context if found[2] == "prefill" else 1
    tokens, groups, name = batch * queries, batch * heads, found[5].lower()
    products = {
        "q_k_v": Gemm(m=tokens, n=3 * hidden // tp, k=hidden),
        "wo_proj": Gemm(m=tokens, n=hidden, k=hidden // tp),
        "w1_proj": Gemm(m=tokens, n=4 * hidden // tp, k=hidden),
        "w2_proj": Gemm(m=tokens, n=hidden, k=4 * hidden // tp),
        "q_mul_k": Gemm(m=queries, n=context, k=head_dim, batch=groups),
        "a_mul_v": Gemm(m=queries, n=head_dim, k=context, batch=groups),
    }
    if name in products:
        return ("gemm", products[name], 0.0, 0.0)
    passes = {
        "softmax": ("softmax", groups * queries, context),
        "layernorm": ("norm", tokens, hidden),
        "gelu": ("activation", tokens, 4 * hidden // tp),
    }
    for word, (kind, rows, columns) in passes.items():
        if name.startswith(word):
            moved = 4.0 * rows * columns
            return ("pass", Pass(op=kind, bytes=moved, columns=columns), moved, float(rows) * columns)
    if name.startswith("allreduce"):
        moved = 2.0 * tokens * hidden
        return ("collective", Exchange(op="all_reduce", bytes=moved, ranks=tp, nodes=1), moved, moved / 2)
    return f"the operation '{found[5]:.40}' of a layer is not known"


# By a word of the kind; the first that fits. "sustained matmul" is a peak, and no shape of its own.
_READERS: dict[str, Callable[[Row], Found | str]] = {
    "peak": _peak,
    "sustained": _peak,
    "gemm": _gemm,
    "matmul": _gemm,
    "memory_bound": _pass,
    "memory_bw": _copy,
    "memory bandwidth": _copy,
    "memory_bandwidth": _copy,
    "collective": _collective,
    "p2p": _collective,
    "attention": _attention,
    "layer": _layer,
}


def _counts(row: Row, columns: tuple[str, ...]) -> tuple[int, ...] | str:
    values = [number(row, column) for column in columns]
    if any(value is None or not 1 <= value < 1e12 for value in values):
        return f"{', '.join(columns)} must be given, each at least 1"
    return tuple(int(value) for value in values if value is not None)


def _pass_op(text: str) -> str:
    """Operations of one kind under one name, whatever a source calls them."""
    words = text.lower()
    kinds = (
        ("softmax", "softmax"), ("norm", "norm"), ("cross", "cross_entropy"), ("rope", "rope"), ("rotary", "rope"),
        ("gelu", "activation"), ("silu", "activation"), ("relu", "activation"), ("glu", "glu"), ("act", "activation"),
        ("add", "add"), ("residual", "add"), ("triad", "copy"), ("copy", "copy"),
    )  # fmt: skip
    return next((kind for word, kind in kinds if word in words), words.strip() or "other")


def _dtype(text: str) -> str:
    words = text.lower()
    if "tf32" in words and "off" not in words:
        return "tf32"
    for word in ("fp8", "float8", "fp4", "int8", "fp64"):
        if word in words:
            return word.replace("float", "fp")
    return "fp32" if re.search(r"fp32|float32|^float$|single", words) else "16"


def _nodes(interconnect: str, ranks: int) -> int:
    """As many as the text says; else eight ranks to a node."""
    found = re.search(r"\(?(\d+) *nodes?\b", interconnect.lower())
    if found:
        return max(1, int(found[1]))
    return 1 if "single node" in interconnect.lower() else max(1, math.ceil(ranks / 8))


def _topology(row: Row) -> str:
    return re.sub(r"\s+", " ", row.get("interconnect", "").strip().lower())


def _unit(row: Row, task: Task, moved: float, elements: float) -> Unit | str:
    """From a text such as "TFLOP/s (derived)", "GB/s busbw (out-of-place)" or "ms (median)"."""
    text = row.get("unit", "").strip()
    low = text.lower()
    flops = task.shape.flops if isinstance(task.shape, Gemm | Attention) else None
    rate = re.match(r"([kmgtp]?)(i?)(flops?\b|flop/s|b/s|bytes/s|byte/s|bps)", low.replace("flop/s", "flops"))
    if rate:
        scale = 1.0 / (1024.0 if rate[2] else 1000.0) ** " kmgtp".index(rate[1] or " ")
        if rate[3].startswith("flop"):
            return Unit(amount=flops, scale=scale) if flops else f"{text:.40} needs an operation that is arithmetic"
        if isinstance(task.shape, Exchange) and "algbw" not in low:
            return Unit(amount=moved * traffic(task.shape.op, task.shape.ranks), scale=scale)
        return Unit(amount=moved, scale=scale) if moved else f"{text:.40} needs bytes"
    if re.match(r"g ?elements?/s|gelem", low):
        return Unit(amount=elements, scale=1e-9) if elements else f"{text:.40} needs M and N"
    for name, scale in (("us", 1e6), ("µs", 1e6), ("microsec", 1e6), ("ms", 1e3), ("millisec", 1e3), ("s", 1.0)):
        if re.match(rf"{name}\b", low) or (len(name) > 2 and low.startswith(name)):
            return Unit(amount=None, scale=scale)
    if low.startswith(("%", "percent")):
        return _share(row, task, flops, moved)
    return f"the unit '{text:.40}' is not known: FLOP/s, B/s, seconds, elements/s and % are, with prefixes"


def _share(row: Row, task: Task, flops: float | None, moved: float) -> Unit | str:
    """Per cent of the peak that the row names (TFLOP/s or GB/s), else of the datasheet's."""
    stated = number(row, "theory_peak")
    if flops:
        peak = stated * 1e12 if stated else task.peak_flops_per_s
        return Unit(amount=flops, scale=100.0 / peak) if peak else f"no peak of {task.chip.name} is known for that type"
    return Unit(amount=moved, scale=100.0 / (stated * 1e9 if stated else task.chip.memory_bytes_per_s))

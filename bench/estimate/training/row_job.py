"""Row to job: a row of training measurements, as their authors wrote it, as a `TrainingJob`.

What the row leaves out is filled with what its framework does by habit or with what fits into memory, and every guess
widens the estimate by its `doubt`. A string that nobody foresaw is a guess too; it never stops the rest.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache

from bench import chip as catalog
from bench.arithmetic import Model
from bench.chip import Chip
from bench.errors import UserError
from bench.estimate.job import Cluster, Layout, Method, Precision, Recompute, Sharding, Stack, TrainingJob
from bench.estimate.published import Row, number
from bench.estimate.training import frameworks, memory_need, row_model

_USUAL_SEQ = 2048
_USUAL_TOKENS = 8192  # of a microbatch, where nobody says
_COUNTS = (
    "n_gpus", "seq_len", "gbs_seqs", "gbs_tokens", "micro_batch", "layers", "hidden", "params_b", "tp", "pp", "cp",
    "dp",
)  # fmt: skip
_WHOLE = frozenset({"n_gpus", "seq_len", "layers", "hidden", "tp", "pp", "cp", "dp"})
_LARGEST = 1e12
_GBIT = 1e9 / 8


@dataclass(frozen=True, kw_only=True)
class RowJob:
    """A row, understood."""

    job: TrainingJob
    device: str  # the chip's name
    habits: frameworks.Habits
    family: str  # of the model
    doubt: float  # what was guessed, as a standard deviation of the logarithm
    has_batch: bool  # whether the row gives a batch, and so has a step


class _Doubts:
    """Collects guesses; independent ones add up in squares."""

    def __init__(self) -> None:
        self.squares = 0.0

    def add(self, doubt: float) -> None:
        self.squares += doubt**2


def of(row: Row) -> RowJob | str:
    """The job of a row, or the reason why there is none."""
    try:
        chip = resolve(row.get("device") or row.get("gpu") or "", number(row, "gpu_mem_gb"))
    except UserError as error:
        return str(error)
    if "lora" not in (task := (row.get("task") or "").lower()) and "benchmark" in task:
        return f"a {task} is no step of a language model"
    for column in _COUNTS:
        value = number(row, column)
        if value is not None and not 0 < value <= _LARGEST:
            return f"{column} is {value:g}, it must be a number above 0 and up to {_LARGEST:g}"
        if value is not None and column in _WHOLE and value != int(value):
            return f"{column} is {value:g}, it must be a whole number"
    guess = row_model.of(row)
    if guess is None:
        return "the row gives no layers and hidden size, no parameters and no model that the catalog knows"
    doubts = _Doubts()
    doubts.add(guess.doubt)
    devices = _whole(row, "n_gpus")
    if devices is None:
        devices = 1
        doubts.add(0.1)
    habits = frameworks.habits(row.get("framework") or "")
    doubts.add(habits.doubt if habits.framework else 0.1)
    impossible = _impossible(row, guess)
    if impossible:
        return impossible
    try:
        return _assemble(row, chip, guess.model, devices, habits, doubts)
    except UserError as error:
        return str(error)


def _impossible(row: Row, guess: row_model.Guess) -> str | None:
    """What no layout can do, where the shape is known and not guessed."""
    model, tp, pp = guess.model, _whole(row, "tp") or 1, _whole(row, "pp") or 1
    if guess.doubt == 0 and model.num_attention_heads % tp and tp % model.num_attention_heads:
        return f"tp is {tp}, which does not divide {model.num_attention_heads} attention heads"
    if guess.doubt == 0 and pp > model.num_blocks:
        return f"pp is {pp}, more stages than the {model.num_blocks} layers"
    return None


@lru_cache(maxsize=1024)
def resolve(name: str, memory_gb: float | None) -> Chip:
    """The chip of that name; of a card with two dies one die, which is the device that torch sees. Raises UserError."""
    chip = catalog.resolve(name, memory_gb)
    die = re.sub(r"-card$", "-die", chip.name)
    return catalog.find(die) if die in catalog.names() else chip


def _assemble(row: Row, chip: Chip, model: Model, devices: int, habits: frameworks.Habits, doubts: _Doubts) -> RowJob:
    """One thing after another, for what is guessed later rests on what is known of the job by then."""
    job = _on_one_device(row, chip, model, devices, habits, doubts)
    batch = _batch(row, job.seq)
    micro = _whole(row, "micro_batch")
    job = replace(job, micro_batch=micro or 1, global_batch=batch or devices * (micro or 1))
    layout = replace(_layout(row, job, habits, batch, doubts), sequence_parallel=habits.sequence_parallel)
    micro = micro or _micro_batch(row, job.seq, layout.dp, batch, doubts)
    if batch:
        micro = min(micro, max(1, batch // layout.dp))
    job = replace(job, layout=layout, micro_batch=micro, global_batch=batch or micro * layout.dp)
    recompute = _recompute(row, doubts)
    if recompute is None:
        doubts.add(0.06)
        recompute = habits.recompute or _least_recompute(habits, job)
    return RowJob(
        job=replace(job, recompute=recompute), device=chip.name, habits=habits, family=family(row.get("model") or ""),
        doubt=math.sqrt(doubts.squares), has_batch=batch is not None,
    )  # fmt: skip


def _on_one_device(
    row: Row, chip: Chip, model: Model, devices: int, habits: frameworks.Habits, doubts: _Doubts
) -> TrainingJob:
    """All but the layout, the batch and what is recomputed."""
    seq = _whole(row, "seq_len")
    if seq is None:
        seq = 1024 if habits.framework == "megatron-v1" else _USUAL_SEQ
        doubts.add(0.08)
    per_node = _devices_per_node(row, chip, devices)
    names = (row.get("framework") or "", row.get("attn_impl") or "")
    return TrainingJob(
        model=model,
        cluster=Cluster(
            chip=chip, num_devices=devices, devices_per_node=per_node, network_bytes_per_s=_network(row, chip, per_node)
        ),
        stack=Stack(
            framework=habits.framework or "unknown",
            version=version(names[0]),
            attention=frameworks.attention(names[1], names[0]),
            compiled=True if re.search(r"compile|inductor", "".join(names)) else None,
        ),
        method=_method(row.get("task") or "", row.get("precision") or ""),
        seq=seq,
        micro_batch=1,
        global_batch=1,
        precision=_precision(row, chip, doubts),
    )


def _batch(row: Row, seq: int) -> int | None:
    """Sequences of a step; None where the row does not say."""
    tokens = number(row, "gbs_tokens")
    return _whole(row, "gbs_seqs") or (max(1, round(tokens / seq)) if tokens and 0 < tokens < math.inf else None)


def _micro_batch(row: Row, seq: int, replicas: int, batch: int | None, doubts: _Doubts) -> int:
    """From how often gradients are accumulated, else of a usual number of tokens."""
    accumulated = number(row, "grad_accum")
    if batch and accumulated and accumulated >= 1:
        return max(1, round(batch / (replicas * accumulated)))
    doubts.add(0.05)
    return max(1, round(_USUAL_TOKENS / seq))


def _layout(row: Row, job: TrainingJob, habits: frameworks.Habits, batch: int | None, doubts: _Doubts) -> Layout:
    """The layout as stated, or one that fits."""
    model, devices = job.model, job.cluster.num_devices
    sizes = {key: _whole(row, key) for key in ("tp", "pp", "cp", "ep")}
    sharding = _sharding(row, habits, devices, doubts)
    if model.num_expert_layers and not row.get("sharding") and sizes["ep"] is None:
        sharding = "zero1"  # experts are spread, and what is left fits without sharding weights
    unsaid = sizes["tp"] is sizes["pp"] is sizes["cp"] is None
    if unsaid and devices > 1 and sharding != "zero3":
        doubts.add(0.08)
        return _fitting(replace(job, recompute="full"), batch, sharding)
    layout = _stated(devices, {key: size or 1 for key, size in sizes.items()}, _whole(row, "dp"), sharding, batch)
    layout = replace(layout, virtual_stages=_whole(row, "vp") or 1)
    if layout.pp > 1 and not row.get("vp") and habits.framework == "megatron-nemo":
        doubts.add(0.03)
        layout = replace(layout, virtual_stages=_usual_virtual_stages(model, layout.pp))
    return layout


def _stated(devices: int, sizes: dict[str, int], stated: int | None, sharding: Sharding, batch: int | None) -> Layout:
    """Where stated sizes do not multiply to the devices, data parallelism takes the rest."""
    tp, pp, cp = sizes["tp"], sizes["pp"], sizes["cp"]
    while tp * pp * cp > devices and tp > 1:  # Neuron counts two cores a device
        tp = max(1, tp // 2)
    dp = max(1, devices // (tp * pp * cp))
    if stated and stated * tp * pp * cp == devices:
        dp = stated
    # Fewer sequences than replicas: the rest must share sequences.
    if batch and dp > batch:
        cp *= max(1, dp // batch)
        dp = max(1, devices // (tp * pp * cp))
    return Layout(dp=dp, tp=tp, pp=pp, cp=cp, ep=min(sizes["ep"], dp * cp), sharding=sharding)


def _fitting(job: TrainingJob, batch: int | None, sharding: Sharding) -> Layout:
    """The layout of fewest parts that fits into memory and leaves no replica without a sequence."""
    model, cluster = job.model, job.cluster
    devices = cluster.num_devices
    layout = Layout(dp=devices)
    for parts in (2**power for power in range(9)):
        if parts > devices:
            break
        widest = min(parts, cluster.devices_per_node, 8, model.num_key_value_heads)
        tp = 1 if model.num_expert_layers else widest
        pp = min(parts // tp, model.num_blocks)
        rest = max(1, devices // (tp * pp))
        dp = min(rest, batch or rest)
        layout = Layout(
            dp=dp, tp=tp, pp=pp, cp=max(1, rest // dp), ep=min(64, rest, model.num_experts or 1),
            virtual_stages=1 if pp == 1 else 4, sharding=sharding,
        )  # fmt: skip
        if memory_need.training_bytes(replace(job, layout=layout)) <= 0.9 * cluster.chip.memory_bytes:
            break
    return layout


def _usual_virtual_stages(model: Model, stages: int) -> int:
    """NeMo's recipes interleave as finely as layers divide, with at least two layers to a part."""
    layers = model.num_blocks / stages
    return next((parts for parts in (5, 4, 8, 3, 2) if layers % parts == 0 and layers / parts >= 2), 1)


def _least_recompute(habits: frameworks.Habits, job: TrainingJob) -> Recompute:
    """As little as fits. Megatron's users split, offload or recompute some modules before they recompute all."""
    if memory_need.training_bytes(job) <= 0.92 * job.cluster.chip.memory_bytes:
        return "none"
    return "selective" if habits.group == "megatron" else "full"


def _method(task: str, precision: str) -> Method:
    lower = task.lower()
    low_rank = "lora" in lower or "adapter" in lower
    if "qlora" in lower or (low_rank and re.search(r"nf4|4.?bit|int4", precision.lower())):
        return "qlora"
    if low_rank or "peft" in lower:
        return "lora"
    return "full" if re.search(r"sft|full|finetune|fine-tune", lower) else "pretrain"


def _precision(row: Row, chip: Chip, doubts: _Doubts) -> Precision:
    text = (row.get("precision") or "").lower()
    found = precision(text)
    if found is not None:
        if "not stated" in text:
            doubts.add(0.05)
        return found
    doubts.add(0.1 if not text else 0.15)
    if "mlperf" in (row.get("evidence") or "") and "fp8" in chip.flops_per_s:
        return "fp8"  # submitters tune, and every accelerated submission since Hopper's has been in FP8 or narrower
    return "bf16" if "bf16" in chip.flops_per_s else "fp16"


def precision(text: str) -> Precision | None:
    """What products are done in, from a free text; None where it does not say."""
    lower = text.lower()
    if re.search(r"nvfp4|mxfp4|\bfp4", lower):
        return "fp4"
    if re.search(r"fp8|float8|e4m3", lower):
        return "fp8"
    if "fp32" in lower and "tf32 off" in lower:
        return "fp32"
    if re.search(r"bf16|bfloat16", lower):
        return "bf16"
    if re.search(r"fp16|float16|half|amp|16-", lower):
        return "fp16"
    if re.search(r"nf4|4.?bit|int4|8.?bit", lower):
        return "bf16"  # weights are stored narrower than they are multiplied
    if "tf32" in lower:
        return "tf32"
    return "fp32" if re.search(r"fp32|float32|32", lower) else None


def _sharding(row: Row, habits: frameworks.Habits, devices: int, doubts: _Doubts) -> Sharding:
    text = (row.get("sharding") or "").lower()
    if devices == 1:
        return "none"
    if re.search(r"grad_op|zero.?2|stage.?2", text):
        return "zero2"
    if re.search(r"full_shard|fsdp|zero.?3|stage.?3|hsdp|hybrid", text):
        return "zero3"
    if re.search(r"zero.?1|stage.?1|distributed optimizer", text):
        return "zero1"
    if re.search(r"zero.?0|ddp|none|replic|no.?shard", text):
        return "none"
    doubts.add(0.03 if not text else 0.06)
    return habits.sharding


def _recompute(row: Row, doubts: _Doubts) -> Recompute | None:
    text = (row.get("act_ckpt") or "").lower()
    if not text:
        return None
    if re.search(r"select|minimal|\bop\b|partial", text):
        return "selective"
    if re.search(r"none|no\b|false|off\b|disabled|^0", text):
        return "none"
    if not re.search(r"full|true|yes|all|block|layer|on\b|offload", text):
        doubts.add(0.08)
    return "full"


def _devices_per_node(row: Row, chip: Chip, devices: int) -> int:
    """Devices that share links: a rack of GB200 or GB300 does, and a slice of TPUs."""
    words = (row.get("interconnect") or "").lower()
    if chip.name.startswith(("gb200", "gb300")) or "nvl72" in words or "domain 72" in words:
        return min(72, devices)
    if chip.name.startswith("tpu"):
        slices = re.search(r"(\d+)\s*(?:x|slice)", words)
        return max(1, devices // int(slices[1])) if slices and int(slices[1]) > 0 else devices
    return max(1, _whole(row, "gpus_per_node") or 8)


def _network(row: Row, chip: Chip, per_node: int) -> float | None:
    """Bytes per second of one device to other nodes, from a text like "4x Omni-Path 100 Gbps per node"."""
    words = (row.get("interconnect") or "").split("host net:")[-1]
    if chip.name.startswith("tpu"):
        return 3e9  # slices meet over the data centre's network
    if "tcpx" in words.lower():
        return 12.5e9  # four network cards of 200 Gb/s for eight devices, on Google's A3
    # Bits, not bytes: "GB/s" beside them is what the PCIe bus or NVLink does.
    found = re.search(r"(?:(\d+)\s*x\s[^;,|]*?)?\b(\d{2,4})\s*(?:Gbps|Gb/s|Gbit)", words)
    if not found:
        return None
    return float(found[2]) * (int(found[1]) if found[1] else 1) * _GBIT / min(per_node, 8)


def family(model: str) -> str:
    """Of a model's name the letters before any digit: "llama" of "Llama-3.1-8B", "gptoss" of "GPT OSS 120B"."""
    return re.sub(r"[^a-z]", "", re.split(r"[0-9(]", model.lower())[0])


def version(framework: str) -> str:
    """The first version number in a framework's name, "" without one."""
    found = re.search(r"\d+(?:\.\d+)+", framework)
    return found[0] if found else ""


def _whole(row: Row, column: str) -> int | None:
    """A whole number, "2e3" too, or one at the start of a cell: "4 (8)" is 4."""
    value = number(row, column)
    if value is not None:
        return round(value) if 1 <= value < 10**9 else None
    found = re.match(r"\s*(\d+)(?:\.\d*)?(?!\d)", row.get(column) or "")
    return int(found[1]) if found and 0 < int(found[1]) < 10**9 else None

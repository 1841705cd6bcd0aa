"""Job: what is to be estimated. Everything that decides its time, and nothing about how the time comes about."""

from dataclasses import dataclass, field
from typing import Literal

from bench.arithmetic import Model
from bench.chip import Chip

Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4"]
Sharding = Literal["none", "zero1", "zero2", "zero3"]  # of optimizer states; also of gradients; also of weights (FSDP)
Recompute = Literal["none", "selective", "full"]
Method = Literal["pretrain", "full", "lora", "qlora"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal devices, in nodes, over links."""

    chip: Chip
    num_devices: int = 1
    devices_per_node: int = 8
    link_bytes_per_s: float | None = None  # within a node, one way, each device; None: the chip's own
    network_bytes_per_s: float | None = None  # between nodes, one way, each device; None: not known


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a training step is spread: the product of dp, tp, pp and cp is the number of devices; ep divides dp * cp."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    virtual_stages: int = 1
    sharding: Sharding = "none"
    sequence_parallel: bool = True  # activations outside of the products split along the sequence where tp > 1


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The software, as far as it is known. An empty text is unknown."""

    framework: str = ""  # "megatron", "torch-fsdp", "deepspeed", "hf", "maxtext", "accelmark", "vllm", "llama.cpp", ...
    version: str = ""
    attention: Literal["", "flash", "unfused"] = ""
    compiled: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One optimizer step over `global_batch` sequences of `seq` tokens."""

    model: Model
    cluster: Cluster
    layout: Layout = field(default_factory=Layout)
    stack: Stack = field(default_factory=Stack)
    method: Method = "pretrain"
    lora_rank: int = 16
    seq: int
    micro_batch: int  # sequences that one replica takes at a time
    global_batch: int  # sequences
    precision: Precision = "bf16"
    recompute: Recompute = "none"


@dataclass(frozen=True, kw_only=True)
class ServingJob:
    """Generation: `batch` requests of `prompt` tokens at once, each answered with `output` tokens."""

    model: Model
    cluster: Cluster
    layout: Layout = field(default_factory=Layout)
    stack: Stack = field(default_factory=Stack)
    prompt: int
    output: int
    batch: int = 1
    precision: Precision = "bf16"
    weights: str = "full"  # "full", "int8", "int4", or a format of the framework's, e.g. "Q4_K_M"
    kv_bytes: float = 2.0  # bytes of one cached value

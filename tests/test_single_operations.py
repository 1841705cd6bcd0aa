"""What the contract of all workloads cannot say of single operations: spreads, kernels, links, compilers, formulas."""

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bench import device as devices
from bench import workload
from bench.device import Device
from bench.device.cpu import Cpu
from bench.device.virtual import Virtual
from bench.errors import Unsupported, UserError
from bench.measure import case as measuring
from bench.measure import meter
from bench.measure.contention import HostWatch
from bench.measure.messages import Job
from bench.record import Protocol
from bench.workload import FLOATS, Scalar, Workload
from workloads import _compiled

ROOT = Path(__file__).resolve().parent.parent

SHORT = Protocol(
    settle_s=0.01, min_samples=6, min_time_s=0.01, max_time_s=0.1, max_samples=50, half_width=0.05, sample_s=1e-4
)


@pytest.fixture
def cpu() -> Iterator[Device]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    device = devices.find("cpu")[0]
    device.seed(0)
    yield device
    torch.set_num_threads(threads)


def of(name: str, **changes: Scalar) -> Any:
    return workload.case(name, {**workload.find(name).smoke, **changes})


def error_of(case: Workload, device: Device) -> float:
    return device.prepare(case).error()


# Memory


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["memory_read", "memory_write", "memory_triad"])
def test_one_element_is_a_buffer_too(name: str, dtype: str, cpu: Device) -> None:
    case = of(name, num_bytes=workload.DTYPE_BYTES[dtype], dtype=dtype)
    assert error_of(case, cpu) <= case.tolerance()


@pytest.mark.parametrize("name", ["memory_read", "memory_write", "memory_triad", "host_copy"])
def test_half_an_element_is_none(name: str) -> None:
    with pytest.raises(UserError, match="no multiple of 4, the bytes of float32"):
        of(name, num_bytes=4098)


def test_reading_sees_every_element(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.sum
    step = cpu.prepare(of("memory_read"))
    monkeypatch.setattr(torch, "sum", lambda x, *a, **b: honest(x[1:], *a, **b))  # one of 16384 left out
    assert step.error() > 1e-3


# The link


class Linked(Cpu):
    """A device whose memory is not the host's, as far as a workload can tell."""

    asynchronous = True

    def __init__(self) -> None:
        super().__init__(vendor="linked", index=0, name="Linked", backend="linked")


@pytest.mark.parametrize("memory", ["pinned", "pageable"])
@pytest.mark.parametrize("direction", ["to_device", "from_device"])
def test_copies_over_a_link_are_exact(direction: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self), self)[1])
    case, device = of("host_copy", direction=direction, memory=memory), Linked()
    device.seed(0)
    step = device.prepare(case)
    assert step.error() == 0.0
    assert len(pinned) == (memory == "pinned")
    honest = torch.Tensor.copy_
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other, **_: honest(self[1:], other[1:]))
    assert step.error() == math.inf


def test_where_there_is_no_link_or_nothing_to_pin_the_copy_is_unsupported(cpu: Device) -> None:
    with pytest.raises(Unsupported, match="there is no link"):
        cpu.prepare(of("host_copy"))
    with pytest.raises(Unsupported, match="cannot pin"):
        Linked().prepare(of("host_copy"))


@pytest.mark.parametrize(("memory", "launched"), [("pinned", True), ("pageable", False)])
def test_a_copy_that_waits_has_no_launch_of_its_own(memory: str, launched: bool) -> None:
    """On a virtual GPU, where a copy of a megabyte would otherwise be bound by its launch and queued."""
    params: dict[str, Scalar] = {**workload.find("host_copy").smoke, "num_bytes": 1 << 20, "memory": memory}
    job = Job(workload="host_copy", params=params, device=0, round=0, protocol=SHORT)
    device = Virtual()
    seen = measuring.Witnesses(HostWatch(threads=1, spin_slowdown=0.0), meter.of(device, 0))
    records = list(measuring.measure(device, job, 0, seen))
    assert [record.status for record in records] == ["ok"] * len(records)
    assert (records[0].timing is not None and records[0].timing.enqueue_s is not None) == launched
    assert [record.identity.launch for record in records] == (["eager", "queued"] if launched else ["eager"])
    assert records[0].work.link_bytes == records[0].work.bytes == 1 << 20


# Experts


@pytest.mark.parametrize("imbalance", ["even", "skewed"])
@pytest.mark.parametrize(("num_experts", "tokens"), [(1, 1), (1, 7), (7, 1), (8, 64), (128, 8), (256, 10_007)])
def test_every_token_has_an_expert(num_experts: int, tokens: int, imbalance: str) -> None:
    ends = of("grouped_matmul", num_experts=num_experts, tokens=tokens, imbalance=imbalance).ends()
    sizes = [stop - start for start, stop in itertools.pairwise([0, *ends])]
    assert len(sizes) == num_experts and sum(sizes) == tokens and min(sizes) >= 0
    if imbalance == "even":
        assert max(sizes) - min(sizes) <= 1


def test_skewed_experts_are_as_skewed_as_they_say() -> None:
    ends = of("grouped_matmul", num_experts=64, tokens=10**6, imbalance="skewed").ends()
    sizes = [stop - start for start, stop in itertools.pairwise([0, *ends])]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] / sizes[-1] == pytest.approx(16, rel=0.01)
    assert sizes[0] / (10**6 / 64) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("num_experts", "tokens", "n", "k"), [(1, 1, 1, 1), (5, 3, 7, 11), (3, 50, 17, 9)])
def test_experts_of_odd_sizes_are_right(num_experts: int, tokens: int, n: int, k: int, dtype: str, cpu: Device) -> None:
    for imbalance in ("even", "skewed"):
        case = of("grouped_matmul", num_experts=num_experts, tokens=tokens, n=n, k=k, dtype=dtype, imbalance=imbalance)
        assert error_of(case, cpu) <= case.tolerance()
    assert cpu.prepare(case).facts() == {"kernel": "loop"}


def test_a_grouped_product_takes_rows_of_whole_sixteen_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from workloads import _grouped

    monkeypatch.setattr(_grouped, "_tried", lambda *_: True)
    cpu, bfloat16 = torch.device("cpu"), torch.bfloat16
    assert _grouped.has_grouped_product(cpu, bfloat16, 24, 8)
    assert not _grouped.has_grouped_product(cpu, bfloat16, 24, 12)
    assert not _grouped.has_grouped_product(cpu, bfloat16, 100, 24)
    # Torch itself refuses them, which was a crash of the case: our loop takes them.
    x_TE, weights_XEF = torch.ones(2, 12, dtype=bfloat16), torch.ones(1, 12, 8, dtype=bfloat16)
    assert _grouped.grouped_mm(x_TE, weights_XEF, torch.tensor([2], dtype=torch.int32)).tolist() == [[12.0] * 8] * 2


def test_a_grouped_product_is_used_where_there_is_one(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from workloads import _grouped

    monkeypatch.setattr(_grouped, "has_grouped_product", lambda *_: True)
    step = cpu.prepare(of("grouped_matmul", imbalance="skewed"))
    assert step.facts() == {"kernel": "grouped_mm"}
    assert step.error() < 1e-3  # on the CPU torch has a loop of its own behind it


# Quantised weights


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 32), (3, 33, 96), (17, 64, 128), (2, 128, 1024)])
def test_products_are_right_with_each_kernel(m: int, n: int, k: int, dtype: str, weights: str, cpu: Device) -> None:
    case = of("dequantised_matmul", m=m, n=n, k=k, weights=weights, dtype=dtype)
    assert error_of(case, cpu) <= case.tolerance()


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_packed_weights_weigh_what_is_declared_and_are_close(bits: Any, dtype: str, cpu: Device) -> None:
    from workloads import _quantized

    weight_FE = cpu.normal(64, 128, dtype=dtype)
    packed = _quantized.pack(weight_FE, bits, 1, cpu)
    case = of("dequantised_matmul", m=1, n=64, k=128, weights=bits, dtype=dtype)
    activations = (64 + 128) * case.dtype_bytes
    assert packed.weight_bytes == case.cost().bytes - activations
    off = float((packed.wide() - weight_FE.double()).norm() / weight_FE.double().norm())
    assert off < {"int8": 0.01, "int4": 0.1}[bits]
    assert packed.kernel.device is None or dtype == "bfloat16"


def test_the_kernel_that_multiplies_so_many_tokens_fastest_is_taken(
    cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workloads import _quantized

    clock_s = 0.0
    monkeypatch.setattr(cpu, "now_s", lambda: clock_s)
    monkeypatch.setattr(_quantized, "_chosen", {})

    def lasting(seconds_a_token: float, name: str, device: str | None) -> Any:
        def multiply(x_TE: torch.Tensor, codes_FE: torch.Tensor, scales_F: torch.Tensor) -> torch.Tensor:
            nonlocal clock_s
            clock_s += 1.0 + seconds_a_token * len(x_TE)
            return _quantized._widen_int8(x_TE, codes_FE, scales_F)

        return _quantized._Kernel(name, device, _quantized._pack_int8, multiply)

    slow, absent = lasting(9.0, "slow", None), lasting(0.0, "of another device", "cuda")
    quick = lasting(1.0, "quick", "cpu")
    weight_FE = cpu.normal(8, 32, dtype="bfloat16")
    for kernels in ((absent, quick, slow), (absent, slow, quick)):
        monkeypatch.setattr(_quantized, "_chosen", {})
        monkeypatch.setitem(_quantized._KERNELS, "int8", kernels)
        assert _quantized.pack(weight_FE, "int8", 16, cpu).kernel is quick
    assert _quantized.pack(weight_FE.float(), "int8", 16, cpu).kernel is slow  # torch's own are for bfloat16


def test_what_does_not_fill_its_groups_is_refused() -> None:
    with pytest.raises(UserError, match="groups of 32 columns"):
        of("dequantised_matmul", weights="int4", k=48)
    of("dequantised_matmul", weights="int8", k=47)


# Embeddings


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (50, 1, 3), (3, 1000, 17)])
def test_embeddings_of_odd_sizes_are_right(sizes: tuple[int, int, int], dtype: str, cpu: Device) -> None:
    tokens, vocab_size, hidden_size = sizes
    for backward in (False, True):
        case = of(
            "embedding",
            tokens=tokens, vocab_size=vocab_size, hidden_size=hidden_size, dtype=dtype, backward=backward,
        )  # fmt: skip
        assert error_of(case, cpu) <= case.tolerance()


def test_a_large_table_of_which_little_is_read_still_comes_from_memory() -> None:
    device = Virtual()  # 50 MB of cache
    case = of("embedding", tokens=1000, vocab_size=100_000, hidden_size=1000)  # 400 MB, of which 8 MB are touched
    steps, cache = measuring._prepare(device, case)
    assert cache == "cold_rotate"
    assert len(steps) * case.cost().bytes >= measuring.COLD_FACTOR * device.cache_bytes()


# The optimizer


@pytest.mark.parametrize("implementation", ["fused", "foreach", "single"])
def test_each_adamw_is_the_formulas(implementation: str, cpu: Device) -> None:
    for count, tensors in ((1, 1), (7, 3), (10_001, 5)):
        case = of("optimizer_step", num_parameters=count, num_tensors=tensors, implementation=implementation)
        step = cpu.prepare(case)
        for _ in range(20):
            step.run()
        assert step.error() <= case.tolerance()


@pytest.mark.parametrize(
    "wrong", [{"lr": 1.1e-3}, {"betas": (0.9, 0.99)}, {"betas": (0.8, 0.95)}, {"weight_decay": 0.2}, {"eps": 0.1}]
)
def test_another_optimizer_than_that_is_caught(wrong: dict[str, Any], cpu: Device, monkeypatch: Any) -> None:
    honest = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda p, **options: honest(p, **{**options, **wrong}))
    case = of("optimizer_step", num_parameters=500)
    assert cpu.prepare(case).error() > case.tolerance()


def test_a_tensor_needs_a_parameter() -> None:
    with pytest.raises(UserError, match="fewer than num_tensors=3"):
        of("optimizer_step", num_parameters=2)


# The compiler


def test_a_type_counts_no_further_than_it_can() -> None:
    of("launch_overhead", num_launches=256, dtype="bfloat16")
    with pytest.raises(UserError, match="bfloat16 counts to 256 only"):
        of("launch_overhead", num_launches=257, dtype="bfloat16")


def test_a_compiled_chain_leaves_no_addition_out(cpu: Device) -> None:
    step = cpu.prepare(of("launch_overhead", num_launches=70, compiled=True))
    try:
        step.run()
    except Unsupported as reason:  # no compiler here
        pytest.skip(str(reason))
    assert step.error() == 0.0
    assert step.facts() == {"graphs": 1, "graph_breaks": 0}
    assert step.error() == 0.0


class Fallen:
    """What torch.compile gives where it only fails once it is called."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __call__(self) -> None:
        raise RuntimeError(self.message)


def test_a_compiler_that_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "InductorError: InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx\n\nmore"
    monkeypatch.setattr(torch, "compile", lambda *_, **__: Fallen(told))
    run, _ = _compiled.compiled(lambda: None)
    with pytest.raises(Unsupported, match=r"^torch\.compile has no C\+\+ compiler: install g\+\+[^\n]*$"):
        run()
    monkeypatch.setattr(torch, "compile", lambda *_, **__: Fallen("something else"))
    run, _ = _compiled.compiled(lambda: None)
    with pytest.raises(RuntimeError, match="something else"):
        run()


def test_a_library_that_was_cut_short_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a compiler leaves it that is ended while it writes; two of them, because a step has several."""
    broken = [tmp_path / name for name in ("one.so", "two.so")]
    for path in broken:
        path.touch()

    def load() -> int:
        for path in broken:
            if path.exists():
                raise RuntimeError(f"InductorError: ImportError: {path}: file too short\n\nmore")
        return 3

    monkeypatch.setattr(torch, "compile", lambda *_, **__: load)
    run, _ = _compiled.compiled(lambda: None)
    assert run() == 3 and not any(path.exists() for path in broken)
    gone = f"ImportError: {tmp_path / 'gone.so'}: file too short"
    monkeypatch.setattr(torch, "compile", lambda *_, **__: Fallen(gone))
    run, _ = _compiled.compiled(lambda: None)
    with pytest.raises(RuntimeError, match="too short"):
        run()


def test_what_was_not_compiled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # as TORCHDYNAMO_DISABLE makes it
    run, facts = _compiled.compiled(lambda: 3)
    assert run() == 3
    with pytest.raises(Unsupported, match="compiled nothing"):
        facts()


def test_breaks_between_graphs_are_counted() -> None:
    def branching(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        return x * 2 if x.sum() > 0 else x

    honest = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: honest(function, backend="eager"))
        run, facts = _compiled.compiled(branching)
        assert float(cast(Any, run)(torch.zeros(1))) == 2
        assert facts() == {"graphs": 2, "graph_breaks": 1}


def test_what_a_cuda_device_can_do_breaks_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own question for it would, once in each layer; the compiler must not look into ours. Nor is it imported
    for programs that compile nothing.
    """
    program = "import sys; from workloads import _capability, _grouped; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
    from workloads import _capability, _grouped

    asked: list[torch.device] = []

    def capability(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        torch._dynamo.graph_break()
        return 9, 0

    def tried(device: torch.device, dtype: torch.dtype) -> bool:
        torch._dynamo.graph_break()
        return True

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(_grouped, "_tried", tried)
    _capability._of_ampere.cache_clear()

    def layer(x: torch.Tensor) -> torch.Tensor:
        able = _capability.is_of_ampere(x.device) and _grouped.has_grouped_product(x.device, x.dtype, 8, 16)
        return x + 1 if able else x

    whole = torch.compile(layer, backend="eager", fullgraph=True)
    assert whole(torch.zeros(2)).tolist() == [1, 1] == whole(torch.zeros(2)).tolist()
    assert asked == [torch.device("cpu")]
    _capability._of_ampere.cache_clear()


def test_few_rows_of_int8_are_unsupported_on_cuda(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    small = of("matmul", m=16, n=32, k=32, dtype="int8")
    assert cpu.prepare(small).error() == 0
    monkeypatch.setattr(cpu, "backend", "cuda")
    with pytest.raises(Unsupported, match="m=16: torch multiplies int8 on CUDA from 17 rows on"):
        small.prepare(cpu)


def test_a_back_end_that_is_lacking_brings_torchs_reason_and_no_word_of_the_others() -> None:
    import warnings

    from workloads._backend import restricted

    said = (
        "Memory efficient kernel not used because:",
        "Memory efficient attention has been runtime disabled. (Triggered internally at sdp_utils_cpp.h:552.)",
        "cuDNN attention kernel not used because:",
        "cuDNN SDPA does not support this head dim. (Triggered internally at sdp_utils.cpp:600.)",
    )

    def attention() -> None:
        for text in said:
            warnings.warn(text, stacklevel=1)
        raise RuntimeError("No available kernel. Aborting execution.")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Unsupported, match=r"for this here: cuDNN SDPA does not support this head dim\.$"):
            restricted(attention, "cudnn")()

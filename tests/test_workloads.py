"""The contract of every workload in workloads/, found by file name: its cost, memory, data and its own check."""

import contextlib
import dataclasses
import math
import re
import sys
import tracemalloc
import types
import typing
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from bench import model, workload
from bench.device import Device, Step
from bench.device.cpu import Cpu
from bench.errors import Unsupported, UserError
from bench.workload import FLOATS, Scalar, Workload
from workloads import _slope
from workloads.models.transformer import Transformer

WORKLOADS = workload.names()

# A second case of each, other than its smoke case in kind: without grouped queries, with biases, oblong. A workload
# that is not here is looked at in its smoke case alone.
OTHER: dict[str, dict[str, Scalar]] = {
    "decode": {"model": "miniature", "batch": 3, "context": 11, "dtype": "float32"},
    "launch_overhead": {"num_launches": 3, "dtype": "float32"},
    "matmul": {"m": 1, "n": 130, "k": 7, "dtype": "float32"},
    "memory_copy": {"num_bytes": 4 * 1013, "dtype": "float32"},
    "prefill": {"model": "miniature", "batch": 1, "prompt": 19, "dtype": "float32"},
    "train_step": {"model": "miniature", "batch": 2, "seq": 13, "dtype": "float32", "accumulate": 2},
    "moe_train_step": {"model": "tiny-moe", "batch": 2, "seq": 13, "dtype": "float32", "layers": 2},
    "moe_decode": {"model": "tiny-moe", "batch": 3, "context": 11, "dtype": "float32", "layers": 2},
    "finetune_step": {
        "model": "tiny",
        "batch": 2,
        "seq": 13,
        "dtype": "float32",
        "method": "qlora",
        "rank": 3,
        "accumulate": 2,
    },
    "memory_frontier": {"model": "miniature", "batch": 1, "seq": 13, "dtype": "float32", "most": 1},
    # The blocks of a transformer, with their gradients.
    "attention": {
        "batch": 1,
        "num_heads": 3,
        "num_kv_heads": 3,
        "seq": 37,
        "head_dim": 16,
        "dtype": "float32",
        "backward": True,
    },
    "cross_entropy": {"tokens": 7, "vocab_size": 33, "dtype": "float32", "backward": False},
    "decode_attention": {
        "batch": 3,
        "num_heads": 3,
        "num_kv_heads": 3,
        "context": 37,
        "head_dim": 16,
        "dtype": "float32",
    },
    "layer_norm": {"tokens": 7, "hidden_size": 33, "dtype": "float32", "backward": True},
    "linear_cross_entropy": {
        "tokens": 1500,
        "hidden_size": 7,
        "vocab_size": 33,
        "dtype": "float32",
        "implementation": "chunked",
    },
    "rms_norm": {"tokens": 7, "hidden_size": 33, "dtype": "float32", "backward": True},
    "rope": {"tokens": 7, "num_heads": 3, "num_kv_heads": 1, "head_dim": 6, "dtype": "float32", "backward": True},
    "softmax": {"rows": 7, "columns": 33, "dtype": "float32", "backward": True},
    "swiglu": {"tokens": 7, "intermediate_size": 33, "dtype": "float32", "backward": True},
    # Single operations.
    "dequantised_matmul": {"m": 1, "n": 33, "k": 7, "weights": "int8", "dtype": "float32"},
    "embedding": {"tokens": 7, "vocab_size": 3, "hidden_size": 33, "dtype": "float32", "backward": True},
    "grouped_matmul": {"num_experts": 7, "tokens": 9, "n": 3, "k": 5, "dtype": "float32", "imbalance": "skewed"},
    "host_copy": {"num_bytes": 4 * 1013, "direction": "from_device", "memory": "pageable", "dtype": "float32"},
    "memory_read": {"num_bytes": 4 * 1013, "dtype": "float32"},
    "memory_triad": {"num_bytes": 4 * 1013, "dtype": "float32"},
    "memory_write": {"num_bytes": 4 * 1013, "dtype": "float32"},
    "optimizer_step": {"num_parameters": 7, "num_tensors": 7, "implementation": "foreach", "dtype": "float32"},
}
MINIATURE = """
hidden_size = 48
intermediate_size = 80
num_hidden_layers = 3
num_attention_heads = 3
num_key_value_heads = 3
head_dim = 16
vocab_size = 61
max_position_embeddings = 32
tie_word_embeddings = true
hidden_act = "gelu"
norm = "layer_norm"
norm_eps = 1e-5
position = "learned"
attention_bias = ["qkv", "o"]
mlp_bias = true
source = "made for these tests, in the style of GPT-2"
"""
CASES = [pytest.param(name, which, id=f"{name}-{which}") for name in WORKLOADS for which in ("smoke", "other")]


@pytest.fixture(scope="module", autouse=True)
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("models") / "miniature.toml"
    path.write_text(MINIATURE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELMARK_MODEL_FILES", "")
        model.adopt(str(path))
        yield


@pytest.fixture(scope="module", autouse=True)
def no_search() -> Iterator[None]:
    """The search for the memory frontier starts processes; tests/test_memory_frontier.py is about it."""
    workload.find("memory_frontier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["workloads.memory_frontier"], "_fits", lambda *_: True)
        yield


class _Tested(Cpu):
    """The CPU, where a test of a case that it cannot run is skipped."""

    def prepare(self, case: Any) -> Step:
        try:
            return super().prepare(case)
        except Unsupported as error:
            if case.name != "host_copy":
                raise
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def cpu() -> Iterator[Device]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the cases are so small that more threads mostly wait for each other
    yield _Tested(vendor="cpu", index=0, name="CPU", backend="cpu")
    torch.set_num_threads(threads)


def case_of(name: str, which: str = "smoke", **changes: Scalar) -> Workload:
    params = dict(workload.find(name).smoke) if which == "smoke" else OTHER.get(name, workload.find(name).smoke)
    return workload.case(name, {**params, **changes})


def sizes(case: Workload) -> dict[str, int]:
    return {key: value for key, value in case.params().items() if type(value) is int}


def tensors_of(*functions: object) -> list[torch.Tensor]:
    """Every tensor that these functions hold on to, in closures, modules and containers, each storage once."""
    found: dict[int, torch.Tensor] = {}
    waiting, seen = list(functions), set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found[one.untyped_storage().data_ptr()] = one
        elif isinstance(one, types.FunctionType):
            waiting += [cell.cell_contents for cell in one.__closure__ or () if cell != types.CellType()]
        elif isinstance(one, torch.nn.Module):
            waiting += one.parameters()
        elif isinstance(one, torch.optim.Optimizer):
            waiting += [state for states in one.state.values() for state in states.values()]
            waiting += [x for group in one.param_groups for p in group["params"] for x in (p, p.grad)]
        elif isinstance(one, list | tuple):
            waiting += one
        elif dataclasses.is_dataclass(one) and not isinstance(one, type | Workload):
            waiting += [getattr(one, field.name) for field in dataclasses.fields(one)]
    return list(found.values())


# The step and its check


@pytest.mark.parametrize(("name", "which"), CASES)
def test_the_output_is_right_at_once_and_after_the_load(name: str, which: str, cpu: Device) -> None:
    case = case_of(name, which)
    cpu.seed(0)
    assert cpu.prepare(case).error() <= case.tolerance()
    step = cpu.prepare(case)
    for _ in range(30):
        step.run()
    assert step.error() <= case.tolerance()
    step.run()
    assert step.error() <= case.tolerance()


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in WORKLOADS for dtype in workload.find(name).dtypes]
)
def test_the_output_is_right_in_every_type(name: str, dtype: str, cpu: Device) -> None:
    if not cpu.supports(dtype):
        pytest.skip(f"this CPU does not multiply {dtype}")
    case = case_of(name, dtype=dtype)
    cpu.seed(0)
    assert cpu.prepare(case).error() <= case.tolerance()


@pytest.mark.parametrize("name", ["prefill", "decode", "train_step"])
def test_a_sequence_of_one_token_is_a_case_too(name: str, cpu: Device) -> None:
    length = {"prefill": "prompt", "decode": "context", "train_step": "seq"}[name]
    case = case_of(name, batch=1, **{length: 1})
    assert cpu.prepare(case).error() <= case.tolerance()


class Corrupted(TorchDispatchMode):
    """Does something to every float32 result that is written. References are float64 and stay as they are."""

    def __init__(self, spoil: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.spoil = spoil

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        every = results if isinstance(results, tuple | list) else [results]
        if not func._schema.returns:  # such as fused optimizers, which only write into what they are given
            for given, form in zip(args, func._schema.arguments, strict=False):
                if form.alias_info is not None and form.alias_info.is_write:
                    for tensor in given if isinstance(given, list | tuple) else [given]:
                        self.spoil(tensor.detach())
        for result, form in zip(every, func._schema.returns, strict=False):
            is_view = form.alias_info is not None and not form.alias_info.is_write
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32 and not is_view:
                self.spoil(result.detach())
        return results


SPOILS: dict[str, Callable[[torch.Tensor], object]] = {
    "nan": lambda result: result.fill_(math.nan),
    "constant": lambda result: result.fill_(0.5),
    "five percent too large": lambda result: result.mul_(1.05),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_wrong_output_is_caught(name: str, spoil: str, cpu: Device) -> None:
    cpu.seed(0)
    case = case_of(name)
    step = cpu.prepare(case)
    with torch.enable_grad() if hasattr(case, "accumulate") else torch.no_grad(), Corrupted(SPOILS[spoil]):
        assert not step.error() <= case.tolerance()


@pytest.mark.parametrize("name", ["attention", "prefill", "train_step"])
def test_attention_that_sees_the_future_is_caught(name: str, cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.nn.functional.scaled_dot_product_attention
    seeing = lambda *args, **options: honest(*args, **{**options, "is_causal": False})  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seeing)
    cpu.seed(0)
    case = case_of(name)
    assert not cpu.prepare(case).error() <= case.tolerance()


# Gradients


DIFFERENTIATED = [name for name in WORKLOADS if "backward" in workload.parameters(workload.find(name))]
IMPLEMENTATIONS = ["unfused", "chunked", "fused"]
WITH_GRADIENTS = [pytest.param(name, {"backward": True}, id=name) for name in DIFFERENTIATED] + [
    pytest.param("linear_cross_entropy", {"implementation": one}, id=f"linear_cross_entropy-{one}")
    for one in IMPLEMENTATIONS
    if one != "fused" or hasattr(torch.nn, "LinearCrossEntropyOptions")
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "changes"), WITH_GRADIENTS)
def test_gradients_are_right_in_every_type(name: str, changes: dict[str, Scalar], dtype: str, cpu: Device) -> None:
    if changes.get("implementation") == "fused" and dtype == "float16":
        pytest.skip("refused: see below")
    for which in ("smoke", "other"):
        case = case_of(name, which, dtype=dtype, **changes)
        cpu.seed(1)
        assert cpu.prepare(case).error() <= case.tolerance()


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize(("name", "changes"), WITH_GRADIENTS)
def test_a_wrong_step_with_gradients_is_caught(name: str, changes: Any, spoil: str, cpu: Device) -> None:
    cpu.seed(0)
    case = case_of(name, **changes)
    step = cpu.prepare(case)
    with torch.no_grad(), Corrupted(SPOILS[spoil]):
        assert not step.error() <= case.tolerance()


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_each_gradient_alone_is_looked_at(name: str, spoil: str, cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.autograd.grad
    count, spoilt = 0, 0

    def spoiling(*args: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        nonlocal count
        gradients = honest(*args, **options)
        if gradients[0].dtype == torch.float32:  # the reference is float64
            count = len(gradients)
            SPOILS[spoil](gradients[spoilt])
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", spoiling)
    case = case_of(name, backward=True)
    for place in range(4):
        spoilt = min(place, max(0, count - 1))
        cpu.seed(0)
        assert not cpu.prepare(case).error() <= case.tolerance(), place
    assert count >= 1


@pytest.mark.parametrize("kept", range(3))
@pytest.mark.parametrize("spoil", SPOILS)
def test_each_result_of_a_chunked_loss_is_looked_at(kept: int, spoil: str, cpu: Device) -> None:
    from workloads import linear_cross_entropy as module

    case = case_of("linear_cross_entropy", "other")
    hidden_TE, weight_VE = cpu.normal(1500, 7, dtype="float32"), cpu.normal(33, 7, dtype="float32", std=7**-0.5)
    targets_T = cpu.tokens(1500, vocab_size=33)
    run, results = module._chunked(hidden_TE, weight_VE, targets_T)
    run()
    assert max(module._errors(results, hidden_TE, weight_VE, targets_T)) <= case.tolerance()
    SPOILS[spoil](results[kept])
    assert not max(module._errors(results, hidden_TE, weight_VE, targets_T)) <= case.tolerance()


def test_a_gradient_of_words_that_are_no_target_is_looked_at(cpu: Device) -> None:
    from workloads import linear_cross_entropy as module

    hidden_TE, weight_VE = cpu.normal(9, 16, dtype="float32"), cpu.normal(3000, 16, dtype="float32", std=0.25)
    targets_T = cpu.tokens(9, vocab_size=3000)
    run, results = module._chunked(hidden_TE, weight_VE, targets_T)
    run()
    others_V = torch.ones(3000, dtype=torch.bool)
    others_V[targets_T] = False
    results[2][others_V] = 0
    assert max(module._errors(results, hidden_TE, weight_VE, targets_T)) > 0.5


def test_an_attention_with_gradients_that_sees_the_future_is_caught(
    cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = torch.nn.functional.scaled_dot_product_attention
    seeing = lambda *args, **options: honest(*args, **{**options, "is_causal": False})  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seeing)
    cpu.seed(0)
    case = case_of("attention", backward=True)
    assert not cpu.prepare(case).error() <= case.tolerance()


ONE_TOKEN: list[tuple[str, dict[str, Scalar]]] = [
    ("attention", {"batch": 1, "seq": 1}),
    ("attention", {"batch": 1, "seq": 1, "backward": True}),
    ("decode_attention", {"batch": 1, "context": 1}),
    *((name, {"tokens": 1, "backward": True}) for name in DIFFERENTIATED if name not in ("attention", "softmax")),
    ("softmax", {"rows": 1, "columns": 1, "backward": True}),
    ("cross_entropy", {"vocab_size": 1}),
    *(("linear_cross_entropy", {"tokens": 1, "implementation": one}) for one in ("unfused", "chunked")),
    ("linear_cross_entropy", {"vocab_size": 1}),
]


@pytest.mark.parametrize(("name", "changes"), ONE_TOKEN)
def test_one_token_one_key_and_one_word_are_cases_too(name: str, changes: dict[str, Scalar], cpu: Device) -> None:
    cpu.seed(0)
    case = case_of(name, **changes)
    assert cpu.prepare(case).error() <= case.tolerance()


def test_a_chunked_loss_never_holds_all_logits(cpu: Device) -> None:
    largest = {}
    for one in ("unfused", "chunked"):
        case = case_of("linear_cross_entropy", tokens=2500, hidden_size=16, vocab_size=512, implementation=one)
        sizes_seen: list[int] = []
        run = cpu.prepare(case).run
        with Corrupted(lambda result, seen=sizes_seen: seen.append(result.numel())):  # type: ignore[misc]
            run()
        largest[one] = max(sizes_seen)
    assert largest == {"unfused": 2500 * 512, "chunked": 1024 * 512}
    less, more = (
        case_of("linear_cross_entropy", tokens=8192, vocab_size=128256, implementation=one).memory_bytes()
        for one in ("chunked", "unfused")
    )
    assert less < more / 4


def test_a_loss_that_float16_cannot_hold_is_unsupported(cpu: Device) -> None:
    with pytest.raises(Unsupported, match=r"float16|came with 2\.13"):
        cpu.prepare(case_of("linear_cross_entropy", dtype="float16", implementation="fused"))


# Back ends of attention


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("asked", "found"), [("auto", "flash"), ("flash", "flash"), ("math", "math")])
def test_the_back_end_is_named(asked: str, found: str, backward: bool, cpu: Device) -> None:
    case = case_of("attention", backend=asked, backward=backward)
    step = cpu.prepare(case)
    assert step.error() <= case.tolerance()
    assert step.facts() == {"backend": found}


@pytest.mark.parametrize("backend", ["cudnn", "efficient"])
def test_a_back_end_that_is_not_here_is_unsupported(backend: str, cpu: Device) -> None:
    with pytest.raises(Unsupported, match=f"torch has no {backend} attention"):
        cpu.prepare(case_of("attention", backend=backend)).run()


def test_another_back_end_than_asked_for_is_wrong(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", lambda _: torch.no_grad())
    step = cpu.prepare(case_of("attention", backend="flash"))
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        assert step.error() == math.inf
    finally:
        torch.backends.cuda.enable_flash_sdp(True)


def test_what_is_computed_anew_is_told_apart_from_the_task() -> None:
    whole = case_of("attention", backward=True)
    assert whole.cost().attention_flops == 3 * case_of("attention").cost().attention_flops
    assert 2 * whole.cost().recomputed_flops == case_of("attention").cost().attention_flops
    assert whole.work({"backend": "math"}).recomputed_flops == 0 == case_of("attention").cost().recomputed_flops
    assert whole.work({"backend": "flash"}) == whole.work({}) == whole.cost()


def test_heads_that_rotate_have_two_halves() -> None:
    assert "even number" in refusal("rope", {**workload.find("rope").smoke, "head_dim": 5})


def test_training_that_learns_nothing_is_caught(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    assert cpu.prepare(case_of("train_step")).error() == math.inf


@pytest.mark.parametrize("name", ["train_step", "moe_train_step", "finetune_step"])
@pytest.mark.parametrize("spoil", [lambda gradient: 1.05 * gradient, torch.zeros_like, lambda _: None])
def test_a_wrong_gradient_of_one_weight_is_caught(
    name: str, spoil: Any, cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the weight with the largest gradient in the check, as a wrong kernel of the backward pass would leave it."""
    right, spoiled = _slope.slope_error, []

    def slope_error(loss: Any, reference: Any, parameters: Any, **how: Any) -> float:
        def with_spoilt_backward() -> Any:
            value = loss()
            plain = value.backward

            def backward() -> None:
                plain()
                largest = max(parameters, key=lambda parameter: float(parameter.grad.norm()))
                largest.grad = spoil(largest.grad)
                spoiled.append(largest)

            value.backward = backward
            return value

        return right(with_spoilt_backward, reference, parameters, **how)

    monkeypatch.setattr(_slope, "slope_error", slope_error)
    cpu.seed(0)
    case = case_of(name)
    assert cpu.prepare(case).error() > case.tolerance()
    assert spoiled


def test_a_prompt_s_check_sees_what_follows_the_last_keys(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Transformer.next_logits
    monkeypatch.setattr(Transformer, "next_logits", lambda self, *inputs: right(self, *inputs) * 1.05)
    assert cpu.prepare(case_of("prefill")).error() > case_of("prefill").tolerance()


def test_a_decoding_s_check_sees_every_sequence(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Transformer.next_logits

    def wrong_at_the_end(self: Any, *inputs: Any) -> torch.Tensor:
        logits_BV = right(self, *inputs)
        return torch.cat((logits_BV[:-1], 1.05 * logits_BV[-1:]))

    monkeypatch.setattr(Transformer, "next_logits", wrong_at_the_end)
    assert cpu.prepare(case_of("decode", batch=2)).error() > case_of("decode").tolerance()


# The data


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_data_is_that_of_the_seed(name: str, cpu: Device) -> None:
    def prepared(seed: int) -> list[torch.Tensor]:
        cpu.seed(seed)
        return [tensor.clone() for tensor in tensors_of(cpu.prepare(case_of(name)).run)]

    first, again, other = prepared(3), prepared(3), prepared(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    draws = any(tensor.count_nonzero() for tensor in first)
    assert draws == any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_two_prepared_steps_share_no_data(cpu: Device) -> None:
    cpu.seed(0)
    one, two = (tensors_of(cpu.prepare(case_of("matmul")).run) for _ in range(2))
    assert not {t.data_ptr() for t in one} & {t.data_ptr() for t in two}
    assert not any(torch.equal(a, b) for a, b in zip(one, two, strict=True) if a.count_nonzero())


@pytest.mark.parametrize("dtype", FLOATS)
def test_normal_data_is_normal(dtype: str, cpu: Device) -> None:
    cpu.seed(5)
    data = cpu.normal(300, 1000, dtype=dtype).double()
    centred = data - data.mean()
    assert abs(float(data.mean())) < 0.01
    assert float(data.std()) == pytest.approx(1, abs=0.01)
    assert float((centred**4).mean() / data.var() ** 2) == pytest.approx(3, abs=0.1)


def test_tokens_are_uniform_over_the_vocabulary(cpu: Device) -> None:
    cpu.seed(5)
    counts = cpu.tokens(100, 1000, vocab_size=10).flatten().bincount(minlength=10)
    assert len(counts) == 10 and all(9500 < int(count) < 10500 for count in counts)


# The cost


@pytest.mark.parametrize(("name", "which"), CASES)
def test_the_cost_is_positive_and_no_size_makes_it_fall(name: str, which: str) -> None:
    case = case_of(name, which)
    before = dataclasses.asdict(case.cost())
    assert case.cost().bytes > 0 and case.memory_bytes() > 0
    assert all(value >= 0 for value in before.values())
    for key, value in sizes(case).items():
        if value == 0 or key == "most":  # none, all, or a bound of a search
            continue
        try:
            doubled = dataclasses.replace(case, **{key: 2 * value})
        except UserError:  # beyond a model's positions, or heads that no longer divide
            continue
        after = dataclasses.asdict(doubled.cost())
        grown = doubled.memory_bytes() > case.memory_bytes()
        assert all(after[kind] >= before[kind] for kind in before), key
        assert doubled.memory_bytes() >= case.memory_bytes(), key
        assert grown or after != before, f"{key} is a size of nothing"


def _model_attention(case: Any, queries: int, keys: int) -> int:
    """The two products of all layers and heads over all pairs of `queries` and `keys`, attended or not."""
    shape = shape_of(case)
    return 4 * case.batch * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * queries * keys


def _linear(case: Any, body_tokens: int, head_tokens: int) -> int:
    """Two FLOP a weight and token; written out from the shape, because the counter is to check `Model` as well."""
    s = shape_of(case)
    heads = 2 * s.num_attention_heads + 2 * s.num_key_value_heads
    matrices = 3 if s.hidden_act == "silu" else 2
    mlps = s.num_dense_layers if s.num_experts else s.num_hidden_layers
    widths = mlps * matrices * s.intermediate_size
    if s.num_experts:
        chosen = s.num_experts_per_tok * s.moe_intermediate_size + s.shared_expert_intermediate_size
        widths += (s.num_hidden_layers - mlps) * (3 * chosen + s.num_experts)
    layers = s.hidden_size * (s.num_hidden_layers * heads * s.head_dim + widths)
    return 2 * (layers * body_tokens + s.vocab_size * s.hidden_size * head_tokens)


def shape_of(case: Any) -> Any:
    return model.find(case.model).with_layers(case.layers) if case.layers else model.find(case.model)


def _adapters(case: Any) -> int:
    """FLOP of a step with adapters: frozen matrices forward and for the input's gradient, adapters for their own too;
    but what the first queries, keys and values read came from no trained weight.
    """
    s = shape_of(case)
    q, k, tokens = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim, case.batch * case.seq
    tokens *= case.accumulate
    sides = [(s.hidden_size, q), (s.hidden_size, k), (s.hidden_size, k), (q, s.hidden_size)]
    sides += [(s.hidden_size, s.intermediate_size)] * 2 + [(s.intermediate_size, s.hidden_size)]
    frozen = s.num_hidden_layers * sum(a * b for a, b in sides) + s.hidden_size * s.vocab_size
    adapters = s.num_hidden_layers * case.rank * sum(a + b for a, b in sides)
    unasked = sum(a * b for a, b in sides[:3]) + 3 * case.rank * s.hidden_size
    return tokens * (4 * frozen + 6 * adapters - 2 * unasked)


def _training(case: Any, gemm: int) -> tuple[int, int, Fraction]:
    pairs = _model_attention(case, case.seq, case.seq) * case.accumulate
    return gemm, pairs * 7 // 2, Fraction(case.seq + 1, 2 * case.seq) * Fraction(6, 7)


# What torch's counter must see of each workload, from its parameters: FLOP of matrix products, FLOP of attention, and
# the share of the latter that `cost` declares. A workload that is not here must declare what the counter sees.
#   Causal: the counter takes all S^2 pairs of a query and a key, `cost` those attended, S (S + 1) / 2.
#   Backward of fused attention: the counter sees five products, because the scores are computed anew; `cost` declares
#   four, twice the forward pass, since recomputation is not the model's own arithmetic. Forward and backward: 6 of 7.
EXPECTED: dict[str, Callable[[Any], tuple[int, int, Fraction]]] = {
    "matmul": lambda c: (2 * c.m * c.n * c.k, 0, Fraction(1)),
    "prefill": lambda c: (
        _linear(c, c.batch * c.prompt, c.batch),
        _model_attention(c, c.prompt, c.prompt),
        Fraction(c.prompt + 1, 2 * c.prompt),
    ),
    "decode": lambda c: (_linear(c, c.batch, c.batch), _model_attention(c, 1, c.context + 1), Fraction(1)),
    "train_step": lambda c: _training(c, 3 * _linear(c, c.tokens, c.tokens)),
    "moe_train_step": lambda c: _training(c, 3 * _linear(c, c.tokens, c.tokens)),
    "memory_frontier": lambda c: _training(c, 3 * _linear(c, c.tokens, c.tokens)),
    "finetune_step": lambda c: _training(c, _adapters(c)),
    "moe_decode": lambda c: (_linear(c, c.batch, c.batch), _model_attention(c, 1, c.context + 1), Fraction(1)),
    # The blocks of a transformer.
    "attention": lambda c: (
        0,
        4 * c.batch * c.num_heads * c.head_dim * c.seq**2 * (7 if c.backward else 2) // 2,
        Fraction(c.seq + 1, 2 * c.seq) * (Fraction(6, 7) if c.backward else 1),
    ),
    "decode_attention": lambda c: (0, 4 * c.batch * c.num_heads * c.head_dim * c.context, Fraction(1)),
    "linear_cross_entropy": lambda c: (6 * c.tokens * c.hidden_size * c.vocab_size, 0, Fraction(1)),
    # Single operations.
    "dequantised_matmul": lambda c: (2 * c.m * c.n * c.k, 0, Fraction(1)),
    "grouped_matmul": lambda c: (2 * c.tokens * c.n * c.k, 0, Fraction(1)),
}


def counted(run: Callable[[], object]) -> tuple[int, int]:
    """FLOP of matrix products and of attention by torch's own counter, taught the CPU's fused attention."""
    aten = torch.ops.aten
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda gradient, q, k, v, *_, **__: (
            sdpa_backward_flop_count(gradient, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        run()
    counts = counter.get_flop_counts().get("Global", {})
    attention = sum(count for operation, count in counts.items() if "attention" in str(operation))
    return sum(counts.values()) - attention, attention


@pytest.mark.parametrize(("name", "which"), CASES)
def test_declared_flops_are_those_that_torch_counts(name: str, which: str, cpu: Device) -> None:
    case = case_of(name, which)
    gemm, attention = counted(cpu.prepare(case).run)
    cost = case.cost()
    share = Fraction(1)
    if name in EXPECTED:
        expected_gemm, expected_attention, share = EXPECTED[name](case)
        assert (gemm, attention) == (expected_gemm, expected_attention)
    assert cost.gemm_flops == gemm
    assert cost.attention_flops == share * attention


@pytest.mark.parametrize(("name", "which"), CASES)
def test_memory_is_no_less_than_the_tensors_held(name: str, which: str, cpu: Device) -> None:
    case = case_of(name, which)
    held = sum(tensor.untyped_storage().nbytes() for tensor in tensors_of(cpu.prepare(case).run))
    assert 0 < held <= case.memory_bytes()
    if name in {"matmul", "memory_copy"}:
        assert held == case.memory_bytes()


# Parameters that are wrong


def refusal(name: str, params: dict[str, Any]) -> str:
    with pytest.raises(UserError) as raised:
        workload.case(name, params)
    sentence = str(raised.value)
    assert sentence and "\n" not in sentence and len(sentence) < 300
    return sentence


@pytest.mark.parametrize("name", WORKLOADS)
def test_wrong_values_are_refused_in_one_sentence(name: str) -> None:
    smoke = dict(workload.find(name).smoke)
    for key in sizes(case_of(name)):
        allowed = {0} if getattr(workload.find(name), key, 1) == 0 else set()  # 0 stands for none, or for all
        for wrong in {0, -1, 1.5, "64", True, 2**60} - allowed:
            assert re.search(f"{key}=|positions|layers", refusal(name, {**smoke, key: wrong})), (key, wrong)
    for wrong in ("float8", "", "Float32", 32):
        assert ", ".join(workload.find(name).dtypes) in refusal(name, {**smoke, "dtype": wrong})
    for key, kind in workload.kinds(workload.find(name)).items():
        if choices := typing.get_args(kind):
            assert ", ".join(choices) in refusal(name, {**smoke, key: "sideways"})
        if kind is bool:
            for wrong in (0, 1, "true", 0.0):
                assert "needs true or false there" in refusal(name, {**smoke, key: wrong})


@pytest.mark.parametrize("name", WORKLOADS)
def test_unknown_and_missing_parameters_are_named(name: str) -> None:
    kind = workload.find(name)
    smoke = dict(kind.smoke)
    assert "no parameter 'colour'" in refusal(name, {**smoke, "colour": 1})
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            assert f"'{field.name}'" in refusal(name, {key: smoke[key] for key in smoke if key != field.name})


@pytest.mark.parametrize("name", ["attention", "decode_attention"])
def test_heads_that_do_not_divide_are_refused(name: str) -> None:
    assert "no multiple" in refusal(name, {**workload.find(name).smoke, "num_kv_heads": 3})


@pytest.mark.parametrize(("name", "length"), [("prefill", "prompt"), ("decode", "context"), ("train_step", "seq")])
def test_a_model_is_known_and_long_enough(name: str, length: str) -> None:
    smoke = dict(workload.find(name).smoke)
    assert "did you mean tiny" in refusal(name, {**smoke, "model": "tinny"})
    assert "4096 positions" in refusal(name, {**smoke, length: 4097})
    longest = 4095 if name == "decode" else 4096
    workload.case(name, {**smoke, length: longest})
    # A case goes into a result file, where no path may stand, and a stranger's file must not make us open one.
    assert "no model is named" in refusal(name, {**smoke, "model": "/home/somebody/secret.json"})


@pytest.mark.parametrize(
    ("field", "size"), [("hidden_size", 250), ("intermediate_size", 100), ("head_dim", 62), ("num_key_value_heads", 1)]
)
def test_products_of_float8_are_of_whole_sixteens_in_each_direction(
    field: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELMARK_MODEL_FILES", "")
    narrow = {"head_dim": 24} if field == "num_key_value_heads" else {}
    changed: Any = {"num_parameters": None, **narrow, field: size}
    path = tmp_path / "mine.toml"
    path.write_text(model.text(dataclasses.replace(model.find("tiny"), **changed)))
    smoke = {**workload.find("train_step").smoke, "model": model.adopt(str(path))}
    workload.case("train_step", smoke)
    assert "float8 needs multiples of 16" in refusal("train_step", {**smoke, "dtype": "float8_e4m3fn"})


def test_a_copy_is_of_whole_elements() -> None:
    for num_bytes in (1, 5, 1023):
        assert "4" in refusal("memory_copy", {"num_bytes": num_bytes, "dtype": "float32"})


def test_a_step_is_no_larger_than_a_result_file_can_hold() -> None:
    cube = lambda size: {"m": size, "n": size, "k": size, "dtype": "float32"}  # noqa: E731
    assert workload.LARGEST < workload.case("matmul", cube(1 << 20)).cost().flops <= workload.LARGEST_FLOPS == 2**63 - 1
    assert "more FLOP or bytes in a step than a result file can hold" in refusal("matmul", cube(1 << 21))
    copied = {"num_bytes": 2**52, "dtype": "float32"}  # read and written
    assert workload.case("memory_copy", copied).cost().bytes == workload.LARGEST
    assert "more FLOP or bytes" in refusal("memory_copy", {**copied, "num_bytes": 2**52 + 4})


# Finding and reading


def test_an_unknown_workload_brings_its_near_misses() -> None:
    with pytest.raises(UserError, match="did you mean matmul"):
        workload.find("matmull")
    with pytest.raises(UserError, match=r"there are attention, .*train_step"):
        workload.find("xyzzy")
    for hidden in ("_shape", "__init__", "../bench/cost", "models", ""):
        with pytest.raises(UserError, match="no workload is named"):
            workload.find(hidden)


@pytest.mark.parametrize("text", ["abc", "1.5", "1.0005K", "4Ki", "", "1e3", "0x10", "²"])
def test_a_value_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^m=.*: matmul needs a whole number there$"):
        workload.parse("matmul", "m", text)


@pytest.mark.parametrize("text", ["-1", "9" * 5000])
def test_a_number_that_no_size_can_be_says_what_it_can_be(text: str) -> None:
    with pytest.raises(UserError, match=r"^m=.{1,80}: must be from 1 to 2\*\*53$"):
        workload.parse("matmul", "m", text)


def test_values_are_read_as_their_parameter_has_them() -> None:
    for text, value in (("4096", 4096), ("4K", 4000), ("1.5M", 1_500_000), ("1G", 10**9), ("2.0", 2)):
        assert workload.parse("matmul", "m", text) == value
    assert workload.parse("matmul", "dtype", "bfloat16") == "bfloat16"
    with pytest.raises(UserError, match="no parameter 'x': its parameters are m, n, k, dtype"):
        workload.parse("matmul", "x", "1")


def test_every_parameter_survives_being_written_and_read() -> None:
    for name in WORKLOADS:
        case = case_of(name)
        assert workload.case(name, case.params()) == case
        assert {key: workload.parse(name, key, str(value)) for key, value in case.params().items()} == case.params()
        assert case.label() == workload.label(name, case.params())


OWN = """
from dataclasses import dataclass
from bench.cost import Cost
from bench.workload import Workload

@dataclass(frozen=True, kw_only=True)
class Own(Workload):
    scale = "micro"
    smoke = {"eager": True, "dtype": "float32"}
    eager: bool
    dtype: str
    def cost(self): return Cost(bytes=1)
    def memory_bytes(self): return 1
    def prepare(self, device): raise NotImplementedError
"""


def test_a_lab_keeps_workloads_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_own.py").write_text(OWN)
    (tmp_path / "lab_none.py").write_text("")
    (tmp_path / "lab_two.py").write_text(OWN + OWN.replace("class Own", "class Other").partition("\n\n")[2])
    monkeypatch.setenv("ACCELMARK_WORKLOADS", str(tmp_path))
    assert {"lab_own", "matmul"} <= set(workload.names())
    assert workload.case("lab_own", {"eager": True, "dtype": "float32"}).name == "lab_own"
    assert workload.parse("lab_own", "eager", "False") is False
    with pytest.raises(UserError, match="eager=maybe: lab_own needs true or false there"):
        workload.parse("lab_own", "eager", "maybe")
    for name, count in (("lab_none", 0), ("lab_two", 2)):
        with pytest.raises(UserError, match=f"it defines {count}"):
            workload.find(name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_quantised_weights_are_right_and_read_fewer_bytes(name: str, weights: str, dtype: str, cpu: Device) -> None:
    full, case = case_of(name, dtype=dtype), case_of(name, dtype=dtype, weights=weights)
    assert case.cost().bytes < full.cost().bytes and case.cost().flops == full.cost().flops
    cpu.seed(0)
    step = cpu.prepare(case)
    assert step.error() <= case.tolerance()
    assert step.facts()["kernel"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_size_makes_the_arithmetic_take_memory(name: str) -> None:
    """A file of a stranger may hold any number up to 2**53, and `check` computes what the case comes to."""
    smoke = dict(workload.find(name).smoke)
    tracemalloc.start()
    try:
        for key in sizes(case_of(name)):
            with contextlib.suppress(UserError):
                case = workload.case(name, {**smoke, key: 1 << 20})
                assert case.memory_bytes() > 0
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_profiler_that_fails_costs_the_profile_and_not_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked last: by then all samples are taken, and their output is checked."""
    from workloads import _profile

    def refuses(**options: object) -> None:
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr("torch.profiler.profile", refuses)
    assert "INSUFFICIENT" in str(
        _profile.shares(lambda: None, Cpu(vendor="cpu", index=0, name="a CPU", backend="cpu"))["profile"]
    )

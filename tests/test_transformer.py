"""The one transformer of all macro workloads, against its float64 reference, in a small copy of every catalog model."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from bench import device as devices
from bench import model
from bench.device import Device
from bench.device.cpu import Cpu
from bench.model import Model
from workloads._shape import recomputed_weights
from workloads.models.mlp import Experts, recorded_choices
from workloads.models.transformer import Transformer, empty_caches, reference_layers, reference_logits

LENGTH = 24


@pytest.fixture(scope="module")
def cpu() -> Iterator[Device]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are so small that more threads mostly wait for each other
    yield devices.find("cpu")[0]
    torch.set_num_threads(threads)


def small(name: str) -> Model:
    """The catalog model with all its traits and few of its numbers; heads stay grouped and oblong as they were."""
    shape = model.find(name)
    group = min(4, shape.num_attention_heads // shape.num_key_value_heads)
    oblong = shape.query_size != shape.hidden_size
    head_dim = 24 if oblong or shape.kv_lora_rank else 16
    return dataclasses.replace(
        shape,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4 // group,
        head_dim=head_dim,
        vocab_size=97,
        max_position_embeddings=32,
        rotary_dim=shape.rotary_dim and head_dim // 2,
        sliding_window=shape.sliding_window and 7,
        full_attention_every=shape.full_attention_every and 2,
        kv_lora_rank=shape.kv_lora_rank and 20,
        q_lora_rank=shape.q_lora_rank and 28,
        qk_nope_head_dim=shape.qk_nope_head_dim and 16,
        qk_rope_head_dim=shape.qk_rope_head_dim and 8,
        v_head_dim=shape.v_head_dim and 12,
        num_experts=shape.num_experts and 6,
        num_experts_per_tok=shape.num_experts_per_tok and 2,
        moe_intermediate_size=shape.moe_intermediate_size and 40,
        shared_expert_intermediate_size=shape.shared_expert_intermediate_size and 48,
        num_dense_layers=min(shape.num_dense_layers, 1),
        num_parameters=None,
    )


_EXPERTS: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 24,
    "num_key_value_heads": 4,
}
_ALIBI: dict[str, Any] = {"position": "alibi", "rope_theta": None}
# What a small Llama becomes with one trait, or with those that go together; so that no trait waits for a catalog model.
TRAITS: dict[str, dict[str, Any]] = {
    "geglu": {"hidden_act": "geglu"},
    "relu": {"hidden_act": "relu"},
    "biases": {"mlp_bias": True, "head_bias": True, "attention_bias": ("qkv", "o")},
    "layer norm": {"norm": "layer_norm"},
    "layer norm, no bias": {"norm": "layer_norm", "norm_bias": False},
    "post": {"norm_place": "post"},
    "both": {"norm_place": "both"},
    "embedding": {"embedding_norm": True, "embedding_scale": True},
    "parallel": {"block": "parallel"},
    "parallel, one norm": {"block": "parallel_one_norm"},
    "partial rotation": {"rotary_dim": 6},
    "offset": {"position": "learned", "rope_theta": None, "position_offset": 2},
    "alibi": _ALIBI,
    "alibi, 6 heads": _ALIBI | {"num_attention_heads": 6, "num_key_value_heads": 3},
    "norm of heads": {"qk_norm": "head"},
    "norm of all heads": {"qk_norm": "all_heads"},
    "sinks": {"attention_sinks": True},
    "soft caps": {"attention_softcap": 0.7, "logit_softcap": 1.5},
    "window": {"sliding_window": 7},
    "windows, some": {"sliding_window": 5, "full_attention_every": 2, "rope_local_theta": 100.0},
    "window, sinks and cap": {"sliding_window": 8, "attention_sinks": True, "attention_softcap": 0.7},
    "query layer": {"query_layer": True},
    "query layer above windows": {"query_layer": True, "sliding_window": 4},
    "latent": _LATENT,
    "latent, narrow queries": _LATENT | {"q_lora_rank": 28, "tie_word_embeddings": True},
    "experts": _EXPERTS,
    "experts, biases": _EXPERTS | {"mlp_bias": True, "router_bias": True},
    "experts, relu": _EXPERTS | {"hidden_act": "relu"},
    "experts, sigmoid": _EXPERTS | {"router": "sigmoid"},
    "experts, all": _EXPERTS
    | _LATENT
    | {
        "shared_expert_intermediate_size": 48,
        "router": "sigmoid",
        "router_bias": True,
        "num_dense_layers": 1,
        "query_layer": False,
    },
}
EVERY = [*model.names(), *TRAITS]
# One of each kind.
DIFFERENTIATED = ["llama-3.1-8b", "gpt2-124m", "qwen3-0.6b", "qwen2.5-7b", *TRAITS]


def shaped(name: str) -> Model:
    """A small model of the catalog, or a small Llama with a trait."""
    return small(name) if name not in TRAITS else dataclasses.replace(small("llama-3.1-8b"), **TRAITS[name])


def built(shape: Model, device: Device, dtype: str = "float32", seed: int = 0) -> Transformer:
    device.seed(seed)
    return Transformer(shape, device, dtype, LENGTH)


def relative(out: torch.Tensor, reference: torch.Tensor) -> float:
    return float((out.double() - reference.double()).norm() / reference.double().norm())


@pytest.mark.parametrize("name", EVERY)
def test_it_computes_what_the_reference_computes(name: str, cpu: Device) -> None:
    transformer = built(shaped(name), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    with torch.no_grad():
        logits_BSV = transformer.head(transformer(tokens_BS))
    for row in range(2):
        assert relative(logits_BSV[row], reference_logits(transformer, tokens_BS[row])) < 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_token_by_token_is_the_whole_at_once(name: str, cpu: Device) -> None:
    shape = shaped(name)
    transformer = built(shape, cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    whole_BSV = transformer.head(transformer(tokens_BS))
    for prompt in (1, 7, LENGTH - 1):  # then one token after the other
        caches = empty_caches(shape, cpu, "float32", 2, LENGTH)
        logits_BV = transformer.next_logits(tokens_BS[:, :prompt], caches, 0)
        for position in range(prompt, LENGTH):
            assert relative(logits_BV, whole_BSV[:, position - 1]) < 1e-5
            logits_BV = transformer.next_logits(tokens_BS[:, position : position + 1], caches, position)
        assert relative(logits_BV, whole_BSV[:, -1]) < 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_the_cache_holds_the_references_keys_and_values(name: str, cpu: Device) -> None:
    shape = shaped(name)
    transformer = built(shape, cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(1, LENGTH, vocab_size=97)
    caches = empty_caches(shape, cpu, "float32", 1, LENGTH)
    transformer.next_logits(tokens_BS, caches, 0)
    for cache, (keys, values, _) in zip(caches, reference_layers(transformer, tokens_BS[0]), strict=True):
        assert relative(cache.parts[0][0], keys) < 1e-5
        assert relative(cache.parts[1][0], values) < 1e-5


def test_several_tokens_after_a_filled_cache_are_refused(cpu: Device) -> None:
    shape = small("tiny")
    transformer = built(shape, cpu)
    caches = empty_caches(shape, cpu, "float32", 1, LENGTH)
    with pytest.raises(AssertionError, match="one token"):  # they would see each other's future
        transformer.next_logits(cpu.tokens(1, 2, vocab_size=97), caches, 5)


@pytest.mark.parametrize("name", EVERY)
def test_no_token_sees_a_later_one(name: str, cpu: Device) -> None:
    transformer = built(shaped(name), cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(1, LENGTH, vocab_size=97)
    changed_BS = tokens_BS.clone()
    changed_BS[0, 10] = (changed_BS[0, 10] + 1) % 97
    before, after = transformer(tokens_BS)[0], transformer(changed_BS)[0]
    assert relative(after[:10], before[:10]) < 1e-6
    reach = LENGTH if transformer.model.num_windowed_layers == 0 else 10 + transformer.model.sliding_window
    assert all(relative(after[i], before[i]) > 1e-4 for i in range(10, min(reach, LENGTH)))


def test_a_window_ends(cpu: Device) -> None:
    """Through three layers with a window of 4 a token is seen by the 9 after it and no others."""
    transformer = built(dataclasses.replace(small("llama-3.1-8b"), sliding_window=4), cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(1, LENGTH, vocab_size=97)
    changed_BS = tokens_BS.clone()
    changed_BS[0, 3] = (changed_BS[0, 3] + 1) % 97
    before, after = transformer(tokens_BS)[0], transformer(changed_BS)[0]
    assert relative(after[12], before[12]) > 1e-6
    assert relative(after[13:], before[13:]) == 0


@pytest.mark.parametrize(("theta", "size"), [(1e4, 64), (5e5, 128), (1e6, 24)])
def test_rotated_heads_know_distances_and_no_places(theta: float, size: int, cpu: Device) -> None:
    """Scores of rotated queries and keys depend on how far apart they stand (Su et al. 2021, equation 11)."""
    from workloads.models.position import Rotation, rotate

    rotation = Rotation(theta, size, cpu, 4096)
    query, key = cpu.normal(1, size, dtype="float32"), cpu.normal(1, size, dtype="float32")

    def score(query_at: int, key_at: int) -> float:
        angles = [rotation.at(place, place + 1, torch.float32) for place in (query_at, key_at)]
        return float((rotate(query, *angles[0]) * rotate(key, *angles[1])).sum())

    assert score(9, 5) == pytest.approx(score(104, 100), abs=1e-3)
    assert score(9, 5) == pytest.approx(score(4004, 4000), abs=1e-2)
    assert abs(score(9, 5) - score(9, 3)) > 1e-3


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_gradients_are_the_references_slopes(name: str, cpu: Device) -> None:
    """Central differences of the float64 reference, in a random direction for each parameter."""
    transformer = built(shaped(name), cpu, "float64")
    tokens_S, targets_S = cpu.tokens(1, 9, vocab_size=97)[0], cpu.tokens(1, 9, vocab_size=97)[0]
    loss = transformer.loss(tokens_S[None], targets_S[None])
    loss.backward()  # type: ignore[no-untyped-call]

    def reference() -> float:
        return float(cross_entropy(reference_logits(transformer, tokens_S), targets_S))

    assert loss.item() == pytest.approx(reference(), rel=1e-6)
    generator = torch.Generator().manual_seed(1)
    step = 1e-5
    for parameter_name, parameter in transformer.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, parameter_name
        # Half of it along the gradient: a random direction alone may happen to be level.
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction = noise / noise.norm() + parameter.grad / parameter.grad.norm().clamp(min=1e-12)
        with torch.no_grad():
            parameter += step * direction
            above = reference()
            parameter -= 2 * step * direction
            below = reference()
            parameter += step * direction
        slope = float((parameter.grad * direction).sum())
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-7), parameter_name


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_the_loss_falls_from_that_of_a_guess(name: str, cpu: Device) -> None:
    transformer = built(shaped(name), cpu)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-3)
    tokens_BS = cpu.tokens(4, LENGTH + 1, vocab_size=97)
    losses = []
    for _ in range(20):
        loss = transformer.loss(tokens_BS[:, :-1], tokens_BS[:, 1:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    # Logits of random weights have a spread of about one, which costs half a nat.
    assert losses[0] == pytest.approx(math.log(97), abs=1.0)
    assert losses[-1] < losses[10] < losses[0] - 0.5


class Meta(Cpu):
    """Allocates nothing, so that a model of any size can be built."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device("meta")

    def normal(self, *shape: int, dtype: str, std: float = 1.0) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=getattr(torch, dtype))


@pytest.mark.parametrize("name", EVERY)
def test_it_has_as_many_parameters_as_its_model(name: str) -> None:
    shape = shaped(name) if name in TRAITS else model.find(name)
    transformer = Transformer(shape, Meta(vendor="cpu", index=0, name="meta", backend="meta"), "bfloat16", 8)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == shape.total_parameters
    linear = [layer for layer in transformer.modules() if isinstance(layer, torch.nn.Linear)]
    routed = [p for name, p in transformer.named_parameters() if p.dim() == 3]
    active = sum(p.numel() // p.shape[0] * (shape.num_experts_per_tok or 0) for p in routed)
    assert sum(layer.weight.numel() for layer in linear) + active == shape.matmul_parameters
    assert all(parameter.dtype == torch.bfloat16 for parameter in transformer.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_it_trains_under_autocast(name: str, cpu: Device) -> None:
    """With weights in float32 and products in bfloat16, where operations of both types meet."""
    transformer = built(shaped(name), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    expected = transformer.loss(tokens_BS, tokens_BS).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = transformer.loss(tokens_BS, tokens_BS)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected, rel=0.02)


def test_a_tied_head_stays_tied(cpu: Device) -> None:
    tied, untied = built(small("llama-3.2-1b"), cpu), built(small("llama-3.1-8b"), cpu)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_activations_neither_vanish_nor_explode(name: str, cpu: Device) -> None:
    """In 16-bit types too: a deep model of random weights must not end in infinities."""
    shape = dataclasses.replace(shaped(name), num_hidden_layers=32)
    transformer = built(shape, cpu, "float16").requires_grad_(False)
    *_, (_, _, x_SE) = reference_layers(transformer, cpu.tokens(1, LENGTH, vocab_size=97)[0])
    assert 0.1 < float(x_SE.std()) < 100
    assert transformer(cpu.tokens(1, LENGTH, vocab_size=97)).isfinite().all()


def gradients(transformer: Transformer, tokens_BS: torch.Tensor, chunk: int | None = None) -> torch.Tensor:
    """All in one, because some alone are nothing but rounding, such as that of a key's bias."""
    transformer.zero_grad()
    transformer.loss(tokens_BS[:, :-1], tokens_BS[:, 1:], chunk).backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.flatten() for parameter in transformer.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("name", ["gpt2-124m", "tiny", "soft caps"])
@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_a_loss_in_chunks_is_the_loss(name: str, chunk: int, cpu: Device) -> None:
    transformer = built(shaped(name), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    assert relative(gradients(transformer, tokens_BS, chunk), gradients(transformer, tokens_BS)) < 1e-5


def test_a_loss_in_chunks_never_holds_all_logits(cpu: Device) -> None:
    transformer = built(small("tiny"), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        transformer.loss(tokens_BS, tokens_BS)
        assert 2 * LENGTH * 97 in kept
        kept.clear()
        transformer.loss(tokens_BS, tokens_BS, chunk=8)
    assert 2 * LENGTH * 97 not in kept


@pytest.mark.parametrize("name", ["gpt2-124m", "tiny", "window, sinks and cap", "experts, all", "query layer", "alibi"])
def test_recomputing_changes_the_work_and_no_gradient(name: str, cpu: Device) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    transformer = built(shaped(name), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    flops: dict[str, int] = {}
    found: dict[str, torch.Tensor] = {}
    for how in ("none", "selective", "full"):
        transformer.recompute = how  # type: ignore[assignment]
        with FlopCounterMode(display=False) as counter:
            found[how] = gradients(transformer, tokens_BS)
        flops[how] = counter.get_total_flops()
    assert all(relative(found[how], found["none"]) < 1e-5 for how in ("selective", "full"))
    assert flops["selective"] == flops["none"]
    again = 2 * 2 * (LENGTH - 1) * recomputed_weights(transformer.model)
    assert flops["full"] - flops["none"] >= again


def test_the_plain_path_is_one_graph(cpu: Device) -> None:
    """torch.compile of a training step's loss and of a decoding step, without a break. No C++ compiler is needed."""
    transformer = built(small("llama-3.1-8b"), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    compiled = torch.compile(transformer.loss, backend="eager", fullgraph=True)
    assert relative(compiled(tokens_BS, tokens_BS).detach(), transformer.loss(tokens_BS, tokens_BS).detach()) < 1e-6
    caches = empty_caches(transformer.model, cpu, "float32", 2, LENGTH)
    with torch.no_grad():
        expected = transformer.next_logits(tokens_BS[:, :1], caches, 9)
        found = torch.compile(transformer.next_logits, backend="eager", fullgraph=True)(tokens_BS[:, :1], caches, 9)
    assert relative(found, expected) < 1e-6
    torch.compiler.reset()


@pytest.mark.parametrize("name", [name for name in EVERY if shaped(name).num_experts])
def test_choices_that_were_recorded_are_those_of_the_reference(name: str, cpu: Device) -> None:
    """In bfloat16 too, where the same router may choose otherwise than in float64."""
    transformer = built(shaped(name), cpu, "bfloat16").requires_grad_(False)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    with recorded_choices(transformer):
        logits_SV = transformer.head(transformer(tokens_BS))[0]
        assert relative(logits_SV, reference_logits(transformer, tokens_BS[0])) < 5e-2
    assert all(layer.recorded is None for layer in transformer.modules() if isinstance(layer, Experts))


@pytest.mark.parametrize("sizes", [[3, 0, 5, 1], [0, 0, 9, 0]])
def test_a_grouped_product_is_a_product_for_each_group(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """By our loop, and by torch's own function called as on a device that has it."""
    from workloads import _grouped

    x_TE = torch.randn(sum(sizes), 16, requires_grad=True)
    weights_XFE = torch.randn(len(sizes), 24, 16, requires_grad=True)  # a row for each output, as in linear layers
    offsets_X = torch.tensor(sizes).cumsum(0).to(torch.int32)
    groups = zip(x_TE.split(sizes), weights_XFE, strict=True)
    expected = torch.cat([rows @ weight.T for rows, weight in groups])
    slopes = torch.autograd.grad(expected.square().sum(), (x_TE, weights_XFE))
    for has_kernel in (False, hasattr(torch, "_grouped_mm")):
        monkeypatch.setattr(_grouped, "has_grouped_product", lambda *_, has=has_kernel: has)
        found = _grouped.grouped_mm(x_TE, weights_XFE.mT, offsets_X)
        assert relative(found, expected) < 1e-6
        for one, other in zip(torch.autograd.grad(found.square().sum(), (x_TE, weights_XFE)), slopes, strict=True):
            assert relative(one, other) < 1e-6


def test_attention_that_is_not_fused_goes_in_slices(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from workloads import _attend

    q_BHSD, k_BGSD, v_BGSD = torch.randn(2, 4, 21, 8), torch.randn(2, 2, 21, 8), torch.randn(2, 2, 21, 8)
    whole = _attend.attend(q_BHSD, k_BGSD, v_BGSD, is_causal=True)
    for rows in (5, 7, 20, 21, 30):
        monkeypatch.setattr(_attend, "_ROWS", rows)
        assert relative(_attend.attend_unfused(q_BHSD, k_BGSD, v_BGSD, is_causal=True), whole) < 1e-6


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2-124m", "llama-3.1-8b", "latent"])
def test_quantised_layers_compute_with_the_weights_that_they_say(
    name: str, dtype: str, kind: Any, cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workloads import _quantized
    from workloads.models.quantized import quantize

    for kernels in (
        _quantized._KERNELS[kind],
        _quantized._KERNELS[kind][-1:],
    ):  # torch's, and what is left without them
        monkeypatch.setattr(_quantized, "_chosen", {})
        monkeypatch.setitem(_quantized._KERNELS, kind, kernels)
        sizes: dict[str, Any] = {"intermediate_size": 128, "vocab_size": 128}  # multiples of what kernels take
        shape = dataclasses.replace(shaped(name), **sizes, v_head_dim=16 if name == "latent" else None)
        transformer = built(shape, cpu, dtype).requires_grad_(False)
        linear = transformer.blocks[0].mlp.down
        before, tokens_BS = linear.weight.double(), cpu.tokens(2, LENGTH, vocab_size=97)
        names = quantize(transformer, kind, cpu, 2, LENGTH)
        down = transformer.blocks[0].mlp.down
        assert down.packed.kernel.name in names
        assert relative(down.wide_weight(), before) < {"int8": 0.01, "int4": 0.1}[kind]
        bits = 8 * down.packed.weight_bytes / before.numel()
        assert bits < {"int8": 9, "int4": 7 if dtype == "float32" else 5.1}[kind]
        logits_BSV = transformer.head(transformer(tokens_BS))
        for row in range(2):
            reference_SV = reference_logits(transformer, tokens_BS[row])
            assert relative(logits_BSV[row], reference_SV) < (1e-5 if dtype == "float32" else 5e-2)


def test_quantising_leaves_tied_heads_and_refuses_experts(cpu: Device) -> None:
    from bench.errors import Unsupported
    from workloads.models.quantized import QuantizedLinear, quantize

    tied = built(dataclasses.replace(small("llama-3.2-1b"), intermediate_size=128), cpu)
    quantize(tied, "int8", cpu, 1, 1)
    assert tied.head.weight is tied.embedding.weight
    untied = built(dataclasses.replace(small("llama-3.1-8b"), intermediate_size=128), cpu)
    quantize(untied, "int8", cpu, 1, 1)
    assert isinstance(untied.head, QuantizedLinear)
    with pytest.raises(Unsupported, match="experts"):
        quantize(built(shaped("experts"), cpu), "int8", cpu, 1, 1)


@pytest.mark.parametrize("name", ["gpt2-124m", "llama-3.1-8b", "latent", "experts, all"])
@pytest.mark.parametrize("base", ["float32", "bfloat16", "4 bits before", "4 bits after"])
def test_adapters_learn_and_nothing_else_does(name: str, base: str, cpu: Device) -> None:
    from workloads.models.adapters import add_lora, quantize_base

    transformer = built(shaped(name), cpu, "bfloat16" if base == "bfloat16" else "float32")
    if base == "4 bits before":
        quantize_base(transformer)
    add_lora(transformer, 4)
    if base == "4 bits after":
        quantize_base(transformer)
    trained = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    assert all(name.endswith(("down_RK", "up_NR")) for name in trained)
    tokens_BS = cpu.tokens(2, LENGTH + 1, vocab_size=97)
    frozen = {name: p.clone() for name, p in transformer.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = transformer.loss(tokens_BS[:, :-1], tokens_BS[:, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in trained.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(p, frozen[name]) for name, p in transformer.named_parameters() if not p.requires_grad)
    with torch.no_grad():
        logits_SV = transformer.head(transformer(tokens_BS[:1, 1:]))[0]
    # Rounding may tip a router's choice where two experts are nearly as good.
    tolerance = 1e-5 if base != "bfloat16" else 0.2 if transformer.model.num_experts else 5e-2
    assert relative(logits_SV, reference_logits(transformer, tokens_BS[0, 1:])) < tolerance


def test_four_bits_are_close_to_the_weight_and_have_its_gradient() -> None:
    """A normal weight keeps all but 1 % of its variance (QLoRA 2023 reports errors of that size)."""
    from workloads.models.adapters import NormalFloatLinear

    linear = torch.nn.Linear(256, 128)
    torch.nn.init.normal_(linear.weight)
    narrow = NormalFloatLinear(linear)
    assert relative(narrow.wide_weight(), linear.weight.detach()) < 0.1
    assert 8 * narrow.weight_bytes / linear.weight.numel() == 4.5
    x = torch.randn(3, 256, requires_grad=True)
    narrow(x).square().sum().backward()
    weight = narrow.wide_weight().float()
    (expected,) = torch.autograd.grad((x @ weight.T + linear.bias).square().sum(), x)
    assert x.grad is not None and relative(x.grad, expected) < 1e-5

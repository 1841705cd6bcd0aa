"""The one transformer of all macro workloads, against its float64 reference, in a small copy of every catalog model."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from bench import device as devices
from bench import model
from bench.device import Device
from bench.device.cpu import Cpu
from bench.errors import Unsupported
from bench.model import Model
from workloads._shape import recomputed_weights
from workloads.models.mlp import Experts, recorded_choices
from workloads.models.reference import reference_layers, reference_logits
from workloads.models.transformer import Transformer, empty_caches

LENGTH = 24
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LATENT = {"kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16, "head_dim": 16}


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
    if shape.kv_lora_rank:
        return dataclasses.replace(shape, **LATENT, q_lora_rank=None, num_parameters=None)
    return dataclasses.replace(
        shape,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4 // group,
        head_dim=24 if oblong else 16,
        vocab_size=97,
        max_position_embeddings=32,
        num_parameters=None,
        rotary_dim=8 if shape.rotary_dim else None,
        sliding_window=5 if shape.sliding_window else None,
        full_attention_every=2 if shape.full_attention_every else None,
        **(EXPERTS if shape.num_experts else {}),
        shared_expert_intermediate_size=32 if shape.shared_expert_intermediate_size else None,
        num_dense_layers=min(1, shape.num_dense_layers),
    )


def is_built(name: str) -> bool:
    """Whether the transformer has all parts of this model; what it has not it refuses."""
    try:
        built(small(name), devices.find("cpu")[0])
    except Unsupported:
        return False
    return True


def built(shape: Model, device: Device, dtype: str = "float32", seed: int = 0) -> Transformer:
    device.seed(seed)
    return Transformer(shape, device, dtype, LENGTH)


BUILT = [name for name in model.names() if is_built(name)]


def relative(out: torch.Tensor, reference: torch.Tensor) -> float:
    return float((out.double() - reference.double()).norm() / reference.double().norm())


@pytest.mark.parametrize("name", BUILT)
def test_it_computes_what_the_reference_computes(name: str, cpu: Device) -> None:
    transformer = built(small(name), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    with torch.no_grad():
        logits_BSV = transformer.head(transformer(tokens_BS))
    for row in range(2):
        assert relative(logits_BSV[row], reference_logits(transformer, tokens_BS[row])) < 1e-5


@pytest.mark.parametrize("name", BUILT)
def test_token_by_token_is_the_whole_at_once(name: str, cpu: Device) -> None:
    shape = small(name)
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


@pytest.mark.parametrize("name", BUILT)
def test_the_cache_holds_the_references_keys_and_values(name: str, cpu: Device) -> None:
    shape = small(name)
    transformer = built(shape, cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(1, LENGTH, vocab_size=97)
    caches = empty_caches(shape, cpu, "float32", 1, LENGTH)
    transformer.next_logits(tokens_BS, caches, 0)
    for cache, (k_GSD, v_GSD, _) in zip(caches, reference_layers(transformer, tokens_BS[0]), strict=True):
        assert relative(cache.keys_BGCD[0], k_GSD) < 1e-5
        assert relative(cache.values_BGCD[0], v_GSD) < 1e-5


def test_several_tokens_after_a_filled_cache_are_refused(cpu: Device) -> None:
    shape = small("tiny")
    transformer = built(shape, cpu)
    caches = empty_caches(shape, cpu, "float32", 1, LENGTH)
    with pytest.raises(AssertionError, match="one token"):  # they would see each other's future
        transformer.next_logits(cpu.tokens(1, 2, vocab_size=97), caches, 5)


def test_no_token_sees_a_later_one(cpu: Device) -> None:
    transformer = built(small("llama-3.1-8b"), cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(1, LENGTH, vocab_size=97)
    changed_BS = tokens_BS.clone()
    changed_BS[0, 10] = (changed_BS[0, 10] + 1) % 97
    before, after = transformer(tokens_BS)[0], transformer(changed_BS)[0]
    assert relative(after[:10], before[:10]) < 1e-6
    assert all(relative(after[i], before[i]) > 1e-4 for i in range(10, LENGTH))


@pytest.mark.parametrize("name", [name for name in BUILT if model.find(name).position == "rope"])
def test_rotated_heads_know_distances_and_no_places(name: str, cpu: Device) -> None:
    """Scores of rotated queries and keys depend on how far apart they stand (Su et al. 2021, equation 11)."""
    from workloads.models.transformer import Rotation, rotate

    shape = small(name)
    rotation = Rotation(shape, shape.rope_theta or 1e4, cpu, 4096)
    query, key = cpu.normal(1, shape.head_dim, dtype="float32"), cpu.normal(1, shape.head_dim, dtype="float32")

    def score(query_at: int, key_at: int) -> float:
        angles = [rotation.at(place, place + 1, torch.float32) for place in (query_at, key_at)]
        return float((rotate(query, *angles[0]) * rotate(key, *angles[1])).sum())

    assert score(9, 5) == pytest.approx(score(104, 100), abs=1e-3)
    assert score(9, 5) == pytest.approx(score(4004, 4000), abs=1e-2)
    assert abs(score(9, 5) - score(9, 3)) > 1e-3


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt2-124m", "qwen3-0.6b", "qwen2.5-7b"])
def test_gradients_are_the_references_slopes(name: str, cpu: Device) -> None:
    """Central differences of the float64 reference, in a random direction for each parameter."""
    transformer = built(small(name), cpu, "float64")
    tokens_S, targets_S = cpu.tokens(1, 9, vocab_size=97)[0], cpu.tokens(1, 9, vocab_size=97)[0]
    loss = transformer.loss(tokens_S[None], targets_S[None])
    loss.backward()  # type: ignore[no-untyped-call]

    def reference() -> float:
        return float(cross_entropy(reference_logits(transformer, tokens_S), targets_S))

    assert loss.item() == pytest.approx(reference(), rel=1e-6)
    generator = torch.Generator().manual_seed(1)
    step = 1e-5
    for parameter_name, parameter in transformer.named_parameters():
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


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt2-124m", "qwen3-0.6b", "qwen2.5-7b"])
def test_the_loss_falls_from_that_of_a_guess(name: str, cpu: Device) -> None:
    transformer = built(small(name), cpu)
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


@pytest.mark.parametrize("name", BUILT)
def test_it_has_as_many_parameters_as_its_model(name: str) -> None:
    shape = model.find(name)
    transformer = Transformer(shape, Meta(vendor="cpu", index=0, name="meta", backend="meta"), "bfloat16", 8)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == shape.total_parameters
    linear = [layer for layer in transformer.modules() if isinstance(layer, torch.nn.Linear)]
    experts = [layer for layer in transformer.modules() if isinstance(layer, Experts)]
    chosen = sum(x.chosen * (x.gate[0].numel() + x.up[0].numel() + x.down[0].numel()) for x in experts)
    assert sum(layer.weight.numel() for layer in linear) + chosen == shape.matmul_parameters
    assert all(parameter.dtype == torch.bfloat16 for parameter in transformer.parameters())


def test_a_tied_head_stays_tied(cpu: Device) -> None:
    tied, untied = built(small("llama-3.2-1b"), cpu), built(small("llama-3.1-8b"), cpu)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight


def test_activations_neither_vanish_nor_explode(cpu: Device) -> None:
    """In 16-bit types too: a deep model of random weights must not end in infinities."""
    deep: dict[str, Any] = {"num_hidden_layers": 32}
    for name in ("llama-3.1-8b", "gpt2-124m", "qwen3-8b"):
        transformer = built(dataclasses.replace(small(name), **deep), cpu, "float16").requires_grad_(False)
        *_, (_, _, x_SE) = reference_layers(transformer, cpu.tokens(1, LENGTH, vocab_size=97)[0])
        assert 0.1 < float(x_SE.std()) < 100
        assert transformer(cpu.tokens(1, LENGTH, vocab_size=97)).isfinite().all()


# What training keeps, and what is computed anew


def gradients(transformer: Transformer, **options: Any) -> list[torch.Tensor]:
    tokens_BS = torch.arange(2 * (LENGTH + 1)).remainder(97).reshape(2, -1)
    transformer.loss(tokens_BS[:, :-1], tokens_BS[:, 1:], **options).backward()
    found = [parameter.grad for parameter in transformer.parameters() if parameter.grad is not None]
    transformer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "gemma-3-1b", "pythia-160m"])
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_no_gradient(name: str, recompute: Any, cpu: Device) -> None:
    transformer = built(small(name), cpu)
    kept = gradients(transformer)
    transformer.recompute = recompute
    assert all(relative(a, b) < 1e-6 for a, b in zip(gradients(transformer), kept, strict=True))


def test_full_recomputation_runs_the_layers_once_more_and_selective_no_product(cpu: Device) -> None:
    transformer, counts = built(small("llama-3.1-8b"), cpu), {}
    for recompute in ("none", "selective", "full"):
        transformer.recompute = recompute  # type: ignore[assignment]
        with FlopCounterMode(display=False) as counter:
            gradients(transformer)
        counts[recompute] = sum(counter.get_flop_counts()["Global"].values())
    assert counts["selective"] == counts["none"]
    shape = transformer.model
    assert counts["full"] - counts["none"] >= 2 * 2 * LENGTH * recomputed_weights(shape)
    assert recomputed_weights(shape) < shape.layer_matmul_parameters  # torch stops before the last product of a block


@pytest.mark.parametrize("chunk", [1, 7, 48, 100])
def test_a_loss_in_chunks_is_the_same_loss_with_the_same_gradients(chunk: int, cpu: Device) -> None:
    for name in ("llama-3.1-8b", "gemma-2-2b" if "gemma-2-2b" in BUILT else "gpt2-124m"):
        transformer = built(small(name), cpu)
        # A key's bias shifts all scores of a query alike, which softmax does not see: its gradient is rounding alone.
        whole, chunked = gradients(transformer), gradients(transformer, chunk=chunk)
        assert all(float((a - b).norm()) < 1e-4 * (1e-2 + float(b.norm())) for a, b in zip(chunked, whole, strict=True))


# Traits


def test_a_window_hides_what_lies_before_it(cpu: Device) -> None:
    shape = dataclasses.replace(small("mistral-7b-v0.1"), num_hidden_layers=1)
    transformer = built(shape, cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(1, LENGTH, vocab_size=97)
    changed_BS = tokens_BS.clone()
    changed_BS[0, 3] = (changed_BS[0, 3] + 1) % 97
    before, after = transformer(tokens_BS)[0], transformer(changed_BS)[0]
    seen = range(3, 3 + 5)  # the token itself and the queries whose window of five reaches it
    for place in range(LENGTH):
        assert (relative(after[place], before[place]) > 1e-5) == (place in seen), place


@pytest.mark.parametrize("name", [name for name in BUILT if model.find(name).num_experts])
def test_the_choices_of_routers_are_those_of_the_reference(name: str, cpu: Device) -> None:
    transformer = built(small(name), cpu).requires_grad_(False)
    tokens_BS = cpu.tokens(1, LENGTH, vocab_size=97)
    with recorded_choices(transformer):
        logits_SV = transformer.logits(transformer(tokens_BS))[0]
        assert relative(logits_SV, reference_logits(transformer, tokens_BS[0])) < 1e-5
    assert all(layer.recorded is None for layer in transformer.modules() if isinstance(layer, Experts))


def test_every_model_is_built_or_refused_with_the_part_that_is_missing(cpu: Device) -> None:
    assert len(BUILT) >= 70
    for name in set(model.names()) - set(BUILT):
        with pytest.raises(Unsupported, match=r"has (.*), which this version does not build"):
            built(small(name), cpu)


def test_the_plain_path_compiles_as_one_graph(cpu: Device) -> None:
    """Without a break: what torch.compile does not understand it leaves to plain code, and slow."""
    transformer = built(small("llama-3.1-8b"), cpu)
    tokens_BS = cpu.tokens(2, LENGTH, vocab_size=97)
    torch._dynamo.reset()
    loss = torch.compile(transformer.loss, backend="eager", fullgraph=True)(tokens_BS, tokens_BS)
    assert relative(loss.detach(), transformer.loss(tokens_BS, tokens_BS).detach()) < 1e-6
    caches = empty_caches(transformer.model, cpu, "float32", 2, LENGTH)
    with torch.inference_mode():
        following = torch.compile(transformer.next_logits, backend="eager", fullgraph=True)
        assert (
            relative(following(tokens_BS[:, :1], caches, 5), transformer.next_logits(tokens_BS[:, :1], caches, 5))
            < 1e-6
        )

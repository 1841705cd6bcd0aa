"""Memory: formulas against published figures, and the tensors of our own steps against what torch allocates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import chip, model, workload
from bench.estimate import memory
from bench.estimate.job import Cluster, Layout, ServingJob, TrainingJob
from bench.estimate.own import step_memory as own_memory
from bench.estimate.own.cases import shape_of

PEAKS = json.loads((Path(__file__).parent / "peaks.json").read_text())


def job(name: str = "llama-3.1-8b", *, device: str = "h100-sxm", num_devices: int = 1, **changed: Any) -> TrainingJob:
    cluster = Cluster(chip=chip.find(device), num_devices=num_devices)
    values = {"model": model.find(name), "cluster": cluster, "seq": 2048, "micro_batch": 1, "global_batch": 1}
    return TrainingJob(**{**values, **changed})


def serving(name: str, device: str, **changed: Any) -> ServingJob:
    values = {"model": model.find(name), "cluster": Cluster(chip=chip.find(device)), "prompt": 1024, "output": 1024}
    return ServingJob(**{**values, **changed})


# Published figures


@pytest.mark.parametrize(("sharding", "per_parameter"), [
    ("none", 16.0), ("zero1", 4 + 12 / 64), ("zero2", 2 + 14 / 64), ("zero3", 16 / 64),
])  # fmt: skip
def test_states_are_those_of_zero(sharding: Any, per_parameter: float) -> None:
    """Rajbhandari et al. 2020, figure 1: 120, 31.4, 16.6 and 1.9 GB for 7.5 B parameters on 64 devices."""
    # Two micro-batches, so that gradients are there at the fullest moment.
    made = memory.training(job(num_devices=64, layout=Layout(dp=64, sharding=sharding), global_batch=128)).parts
    states = sum(made[name] for name in ("weights", "gradients", "optimizer"))
    assert states / model.find("llama-3.1-8b").total_parameters == pytest.approx(per_parameter)


def test_states_of_an_expert_are_shared_by_those_that_hold_it() -> None:
    """Of 64 devices with eight experts each eighth holds the same: Megatron-Core's expert data parallelism."""
    mixtral = model.find("mixtral-8x7b")
    experts = mixtral.num_expert_layers * 8 * mixtral.expert_matmul_parameters
    layout = Layout(dp=64, ep=8, sharding="zero1")
    made = memory.training(job("mixtral-8x7b", num_devices=64, layout=layout, global_batch=128)).parts
    assert made["optimizer"] == pytest.approx(12 * ((mixtral.total_parameters - experts) / 64 + experts / 8 / 8))
    alone = memory.training(job("mixtral-8x7b", num_devices=8, layout=replace(layout, dp=8), global_batch=16)).parts
    assert alone["optimizer"] == pytest.approx(12 * ((mixtral.total_parameters - experts) / 8 + experts / 8))


def test_an_expert_keeps_a_copy_of_each_token_that_it_is_given() -> None:
    mixtral = model.find("mixtral-8x7b")
    kept = [
        memory.activation_bytes(replace(mixtral, num_experts_per_tok=chosen), 1, 2, "none", Layout())
        for chosen in (1, 2)
    ]
    assert kept[1] - kept[0] == pytest.approx(32 * 2 * (4096 + 4 * 14336))  # layers, bytes, width and four hidden


@pytest.mark.parametrize(("layout", "per_element"), [
    (Layout(), 32), (Layout(tp=8, sequence_parallel=False), 8 + 24 / 8), (Layout(tp=8), 32 / 8),
])  # fmt: skip
def test_activations_of_a_gpt_are_those_of_korthikanti(layout: Layout, per_element: float) -> None:
    """Their equations 1, 2 and 4 in 16 bits: 34, 10 + 24/t and 34/t bytes for each of s·b·d, of which 2 are masks of
    dropout, which nobody trains with any more; here four bytes a head more, of attention that keeps no scores.
    """
    shape, tokens = model.find("gpt3-175b"), 2048
    whole = memory.activation_bytes(shape, tokens, 2, "none", layout) / shape.num_blocks
    sums = tokens * 4 * shape.num_attention_heads / layout.tp
    assert (whole - sums) / (tokens * shape.hidden_size * per_element) == pytest.approx(1.000)


@pytest.mark.parametrize(("name", "per_token"), [
    ("llama-2-7b", 524_288), ("llama-3.1-8b", 131_072), ("llama-3.1-405b", 516_096), ("qwen2.5-72b", 327_680),
    ("deepseek-v3", 70_272),
])  # fmt: skip
def test_the_cache_is_as_published(name: str, per_token: int) -> None:
    """The last three: DeepSeek-AI 2025, "Insights into DeepSeek-V3", table 1, in 16 bits."""
    short, long = (memory.serving(serving(name, "h200-sxm", output=count)).parts["kv cache"] for count in (1024, 1025))
    assert long - short == per_token


# What fits


@pytest.mark.parametrize(("one", "fits"), [
    (job("llama-2-7b", device="a100-sxm-80"), False),  # 16 bytes a parameter are 108 GB
    (job("llama-2-7b", device="a100-sxm-80", method="lora"), True),
    (job("llama-2-7b", device="rtx-4090", method="qlora", recompute="full"), True),
    (job("gpt2-124m", device="rtx-4090"), True),
    (serving("llama-2-7b", "rtx-4090"), True),
    (serving("llama-2-70b", "a100-sxm-80"), False),
    (serving("llama-2-70b", "a100-sxm-80", weights="int4"), True),
])  # fmt: skip
def test_what_is_known_to_fit_fits(one: TrainingJob | ServingJob, fits: bool) -> None:
    found = memory.fits(one)
    assert (found.oom_probability < 0.05) is fits
    assert (found.oom_probability > 0.95) is not fits
    assert bool(found.knobs) is not fits


def test_more_of_anything_needs_more() -> None:
    def needed(**changed: Any) -> float:
        return memory.fits(job("llama-3.2-1b", **changed)).needed_bytes

    assert needed() < needed(micro_batch=2) < needed(micro_batch=4, global_batch=4)
    assert needed(recompute="full") < needed(recompute="selective") < needed()
    assert needed(method="qlora") < needed(method="lora") < needed()


def test_every_knob_that_is_named_makes_it_fit() -> None:
    found = memory.fits(job("llama-2-7b", device="h100-sxm", micro_batch=32, global_batch=32, method="lora", seq=4096))
    assert found.oom_probability > 0.5
    smaller = [int(say.split()[1]) for say in found.knobs if say.startswith("micro-batch") and "recompute" not in say]
    assert smaller == sorted(smaller, reverse=True)
    for size in smaller:
        changed = job("llama-2-7b", device="h100-sxm", micro_batch=size, global_batch=32, method="lora", seq=4096)
        assert memory.fits(changed).oom_probability < 0.5


@pytest.mark.parametrize("name", [name for name in model.names() if "tiny" not in name])
def test_every_model_has_a_footprint(name: str) -> None:
    for one in (job(name), serving(name, "h100-sxm")):
        parts = memory.fits(one).footprint.parts
        assert all(size > 0 for size in parts.values())
    whole = memory.training(replace(job(name), recompute="full")).num_bytes
    assert whole > 12 * model.find(name).total_parameters


# Our own steps


@pytest.mark.parametrize("peak", PEAKS, ids=lambda peak: peak["label"])
def test_peaks_of_our_own_steps_are_predicted(peak: dict[str, Any]) -> None:
    """Measured on a CPU by torch's own count of what it allocated, from building the model to the third step."""
    case = workload.case(peak["workload"], peak["params"])
    predicted = own_memory.of_step(shape_of(case), on_cpu=True).num_bytes
    assert max(predicted / peak["bytes"], peak["bytes"] / predicted) - 1 < 0.08

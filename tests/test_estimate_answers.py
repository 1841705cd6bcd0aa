"""From a step to a run: sizes, scaling law, layouts, assumptions, answers and plans, on machines of planted truth."""

import math
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import bench
from bench import chip as chips
from bench import model as models
from bench.analyze import answers
from bench.errors import UserError
from bench.estimate import memory
from bench.estimate.answer import assumptions, layouts, plan, scaling, sizes
from bench.estimate.answer import training as answer
from bench.estimate.answer.assumptions import Range
from bench.estimate.answer.layouts import Fixed
from bench.estimate.answer.training import Means, Memory, Power
from bench.estimate.job import Cluster, Layout, Stack, TrainingJob
from bench.estimate.prediction import Interval, Prediction, Term
from bench.estimate.training import rows as training_rows

FLAT = {"goodput": "1", "pue": "1", "electricity_price": "0.2", "carbon_intensity": "0.5", "price_per_hour": "2"}
EFFICIENCY = 0.4


def _step(job):
    """Forty percent of the peak, and every stage and tensor slice costs a tenth more."""
    flops = answer.model_flops(job) * (4 / 3 if job.recompute == "full" else 1.0)
    peak = job.cluster.chip.peak_flops_per_s(job.precision) * job.cluster.num_devices
    step_s = flops / (EFFICIENCY * peak) * 1.1 ** (math.log2(job.layout.tp) + math.log2(job.layout.pp))
    return Prediction(
        values={"pred_step_time_s": step_s, "pred_tok_s_gpu": 1.0}, main="pred_step_time_s",
        interval=Interval(factor80=1.2, factor90=1.3), evidence="L1", basis="planted",
        terms=(Term(name="matmul", seconds=step_s),),
    )  # fmt: skip


def _memory(job):
    """Sixteen bytes a parameter, of which twelve are sharded by zero1; activations by tokens, less when recomputed."""
    layout = job.layout
    own = job.model.total_parameters / (layout.tp * layout.pp)
    states = {"none": 16.0, "zero1": 4 + 12 / layout.dp, "zero2": 2 + 14 / layout.dp, "zero3": 16 / layout.dp}
    kept = {"none": 34.0, "selective": 20.0, "full": 2.0}[job.recompute]
    activations = job.micro_batch * job.seq * job.model.hidden_size * job.model.num_hidden_layers * kept / layout.tp
    return Memory(
        bytes=own * states[layout.sharding] + activations, parts={"states": own * states[layout.sharding]},
        probability_of_oom=0.01,
    )  # fmt: skip


MEANS = Means(
    step_of=_step,
    seconds_of=lambda job: _step(job).values["pred_step_time_s"],
    bytes_of=lambda job: _memory(job).bytes,
    memory_of=_memory,
    power_of=lambda job, step: Power(watts=800.0, interval=None, basis="planted"),
)


def _job(model="7b", devices=8, chip="a100-sxm-80", **changes):
    cluster = Cluster(chip=chips.find(chip), num_devices=devices, devices_per_node=8)
    values = {
        "model": sizes.of(model), "cluster": cluster, "seq": 2048, "micro_batch": 1, "global_batch": 512,
        "layout": Layout(dp=devices),
    }  # fmt: skip
    return TrainingJob(**{**values, **changes})


@pytest.mark.parametrize(("text", "parameters"), [("125m", 0.125e9), ("1.3b", 1.3e9), ("7B", 7e9), ("70b", 70e9)])
def test_a_size_becomes_a_model_of_about_that_size(text, parameters):
    assert sizes.of(text).total_parameters == pytest.approx(parameters, rel=0.08)


@pytest.mark.parametrize("text", ["7b", "8b", "13b", "34b", "70b", "405b"])
def test_a_size_of_billions_splits_over_eight_devices_and_keeps_its_count(text):
    model = sizes.of(text)
    assert model.num_attention_heads % 8 == 0
    assert model.total_parameters == pytest.approx(float(text[:-1]) * 1e9, rel=0.01)


@pytest.mark.parametrize("power", range(60))
def test_a_number_of_parameters_is_kept(power):
    wanted = 2e7 * 1.24**power
    model = sizes.of_parameters(wanted)
    assert model.total_parameters == pytest.approx(wanted, rel=0.03)
    assert model.intermediate_size >= model.hidden_size


def test_sizes_by_keys_are_the_shape_that_was_given():
    model = sizes.of("layers=24,hidden=2048,heads=16,kv_heads=4,ffn=8192,vocab=50304")
    assert (model.num_hidden_layers, model.num_key_value_heads, model.vocab_size) == (24, 4, 50304)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layers=24,hidden=2048", "lacks heads"),
        ("layers=x", "no size"),
        ("1b=2", "no size"),
        ("layers=2,hidden=100,heads=3", "divide"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_one_line(text, said):
    with pytest.raises(UserError, match=said):
        sizes.of(text)


def test_the_optimum_spends_its_compute_and_no_neighbour_is_better():
    found = scaling.optimum(5.76e23)  # the budget of Gopher and Chinchilla
    assert 6 * found.num_parameters * found.tokens == pytest.approx(5.76e23)
    assert 60e9 < found.num_parameters < 80e9  # Hoffmann et al. 2022 trained 70 B on 1.4 T tokens
    for factor in (0.9, 1.1):
        assert scaling.loss(found.num_parameters * factor, found.tokens / factor) > found.loss


def test_a_spread_without_causes_is_a_point_and_its_shares_add_up_otherwise():
    point = assumptions.spread(3.0, {"model": None})
    assert (point.lo80, point.hi90) == (3.0, 3.0)
    wide = assumptions.spread(
        3.0, {"model": Interval(factor80=1.5, factor90=None)}, {"pue": (Range(low=1.0, high=1.6), 1.0)}
    )
    assert sum(wide.shares.values()) == pytest.approx(1.0)
    assert wide.hi80 / 3.0 == pytest.approx(1.5, rel=0.1)
    assert wide.lo80 < 3.0 < wide.hi80
    assert (wide.lo90, wide.hi90) == (None, None)  # too few sources stand behind it


@pytest.mark.parametrize(("narrow", "broad"), [(1.2, 1.3), (1.2, 2.0), (1.5, 1.5)])
def test_an_answer_has_the_interval_of_its_prediction_at_both_levels(narrow, broad):
    one = assumptions.spread(10.0, {"model": Interval(factor80=narrow, factor90=broad)})
    bounds = [one.lo80, one.hi80, one.lo90, one.hi90]
    assert bounds == pytest.approx([10 / narrow, 10 * narrow, 10 / broad, 10 * broad], rel=0.01)


def test_a_run_has_the_interval_of_its_step():
    job = _job("1.3b")
    found = bench.estimate_training(model="1.3b", tokens="1B", device="a100-sxm-80", count=8)
    layout = Layout(**{name: found["layout"][name] for name in ("dp", "tp", "pp", "cp", "ep", "sharding")})
    sizes_of_it = {name: found[name] for name in ("micro_batch", "global_batch", "recompute")}
    expected = training_rows.predict_job(replace(job, layout=layout, **sizes_of_it)).bounds
    assert [found["step_s"][name] for name in ("lo80", "hi80", "lo90", "hi90")] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("given", [{"pue": "0.9"}, {"goodput": "1.2"}, {"price_per_hour": "3..2"}, {"pue": "nan"}])
def test_assumptions_that_cannot_be_are_refused(given):
    with pytest.raises(UserError):
        assumptions.assume(given)


def test_the_answer_is_arithmetic_on_the_step():
    job = _job(micro_batch=1, recompute="full", layout=Layout(dp=8, sharding="zero3"))
    chosen, _ = layouts.fastest(job, Fixed(dp=8, sharding="zero3", recompute="full", micro_batch=1), MEANS)
    supposed = assumptions.assume(FLAT)
    found = answer.training(10**11, chosen, MEANS, supposed)
    seconds = 1e11 / (512 * 2048) * _step(chosen.job).values["pred_step_time_s"]
    assert found.days.value == pytest.approx(seconds / 86400)
    assert found.energy_kwh.value == pytest.approx(8 * 0.8 * seconds / 3600)
    assert found.money.value == pytest.approx(8 * 2 * seconds / 3600)
    assert found.electricity.value == pytest.approx(0.2 * found.energy_kwh.value)
    assert found.model_flops_utilization == pytest.approx(EFFICIENCY * 3 / 4)


def test_the_fastest_layout_that_fits_is_chosen_and_needs_no_more_than_it_must():
    found = layouts.fitting(_job("1.3b"), Fixed(), MEANS.seconds_of, MEANS.bytes_of)
    first, _ = found[0]
    assert first.recompute == "none" and first.layout.tp == first.layout.pp == 1
    assert all(memory_bytes <= layouts.USABLE * job.cluster.chip.memory_bytes for job, memory_bytes in found)
    times = [MEANS.seconds_of(job) for job, _ in found]
    assert times == sorted(times)


@pytest.mark.parametrize(("model", "devices", "batch"), [("7b", 8, 64), ("13b", 4, 4), ("1.3b", 1, 512)])
def test_a_micro_batch_is_left_out_untried_only_where_it_would_not_fit(model, devices, batch):
    job = _job(model, devices=devices, global_batch=batch)
    sizes_tried = [1 << power for power in range(7)]
    one_by_one = [
        layouts.fitting(job, Fixed(micro_batch=size), MEANS.seconds_of, memory.needed_bytes) for size in sizes_tried
    ]
    expected = {(one.layout, one.micro_batch, one.recompute) for found in one_by_one for one, _ in found}
    found = layouts.fitting(job, Fixed(), MEANS.seconds_of, memory.needed_bytes)
    assert {(one.layout, one.micro_batch, one.recompute) for one, _ in found} == expected


def test_an_estimate_starts_without_what_only_fits_and_calibrations_need():
    code = (
        "import sys, bench; bench.estimate_training(model='7b', tokens='1B', device='h100-sxm', count=8);"
        "bench.plan(device='rtx-3090', days=1);"
        "print(sorted({'scipy', 'bench.estimate.own.calibration'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stages_may_count_embedding_and_head_as_layers():
    """BLOOM: 70 layers in 12 stages, with 2,048 sequences on 384 devices, which no power of two divides."""
    job = _job("layers=70,hidden=14336,heads=112,ffn=38144", devices=384, global_batch=2048)
    found = layouts.fitting(job, Fixed(), MEANS.seconds_of, memory.needed_bytes)
    assert (4, 12, 8) in {(one.layout.tp, one.layout.pp, one.layout.dp) for one, _ in found}


def test_virtual_stages_that_were_asked_for_are_kept_or_refused():
    options = {"model": "7b", "tokens": "1B", "device": "a100-sxm-80", "count": 16}
    found = bench.estimate_training(**options, pp=4, virtual_stages=2)
    assert (found["layout"]["pp"], found["layout"]["virtual_stages"]) == (4, 2)
    assert found["step_s"]["value"] < bench.estimate_training(**options, pp=4, **_like(found))["step_s"]["value"]
    for changes in ({"virtual_stages": 2, "pp": 1}, {"virtual_stages": 3, "pp": 4}):
        with pytest.raises(UserError, match="--virtual-stages"):
            bench.estimate_training(**options, **changes)


def _like(found):
    """The options that give the same layout, but for its virtual stages."""
    layout = {name: found["layout"][name] for name in ("dp", "tp", "sharding")}
    return {**layout, "micro_batch": found["micro_batch"], "recompute": found["recompute"]}


def test_experts_that_a_model_does_not_have_are_not_spread():
    with pytest.raises(UserError, match="ep 8 does not divide"):
        bench.estimate_training(model="7b", tokens="1B", device="h100-sxm", count=8, ep=8)


@pytest.mark.parametrize(
    ("method", "offered"), [("pretrain", ""), ("full", "lora or qlora"), ("lora", "qlora"), ("qlora", "")]
)
def test_who_runs_out_of_memory_is_told_of_smaller_methods_alone(method, offered):
    with pytest.raises(UserError) as refused:
        bench.estimate_training(method=method, model="llama-3.1-70b", tokens="1B", device="rtx-3090")
    assert "".join(re.findall(r"--method ([a-z]+(?: or [a-z]+)?)", str(refused.value))) == offered


def test_what_does_not_fit_gives_no_layout_and_says_what_is_missing():
    job = _job("405b", devices=2)
    assert layouts.fastest(job, Fixed(), MEANS) == (None, 0)
    lean, need = layouts.smallest(job, Fixed(), MEANS.bytes_of)
    assert "take about 83 devices instead of 2, " in answer.advice(lean, need)


def test_a_stack_that_nobody_knows_is_said_to_be_none():
    asked = {"model": "7b", "device": "a100-sxm-80", "count": 8}
    trained = [bench.estimate_training(tokens="1B", stack=name, **asked) for name in ("megatrn", "megatron", "")]
    served = [bench.estimate_serving(stack=name, **asked) for name in ("vlm", "vllm 0.6", "")]
    for found in (trained, served):
        assert ["is not known here" in one["assumed"][0] for one in found] == [True, False, False]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"count": 4, "tp": 2}, "on 2 x rtx-3090, tp 2, one replica of 2"),
        ({"count": 2, "stack": "llama.cpp"}, "on 2 x rtx-3090, pp 2"),
        ({"count": 1}, "on 1 x rtx-3090"),
    ],
)
def test_a_replica_says_how_it_is_split_and_how_many_there_are(asked, said):
    first = answers.serving(bench.estimate_serving(model="7b", device="rtx-3090", **asked))[0]
    assert first.endswith(said)


def test_one_request_is_not_several_and_units_stand_once():
    text = "\n".join(answers.serving(bench.estimate_serving(model="7b", device="h100-sxm")))
    assert ": 1 request of 512 + 256 tokens" in text
    assert re.search(r"energy per tok [0-9.]+ m?J +[0-9.]+ ", text)


@pytest.mark.parametrize(
    ("layout", "changes", "said"),
    [
        (Layout(dp=4), {}, "4 devices, and there are 8"),
        (Layout(dp=1, tp=8), {"model": "layers=4,hidden=768,heads=12"}, "does not divide the 12"),
        (Layout(dp=1, pp=8), {"model": "layers=4,hidden=768,heads=12"}, "more stages"),
        (Layout(dp=8), {"global_batch": 12}, "does not divide into dp 8"),
        (Layout(dp=8, ep=3), {}, "does not divide the model's 1 experts"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_with_its_numbers(layout, changes, said):
    with pytest.raises(UserError, match=said):
        layouts.check(_job(layout=layout, **changes))


def test_a_plan_finds_the_size_that_the_scaling_law_prefers_at_even_efficiency():
    cluster = Cluster(chip=chips.find("h100-sxm"), num_devices=8, devices_per_node=8)
    supposed = assumptions.assume(FLAT)
    found = plan.best(cluster, plan.Limit(days=7), _job(), MEANS, supposed)
    flops = EFFICIENCY * 989.4e12 * 8 * 7 * 86400
    best = scaling.optimum(flops)
    assert found[0].num_parameters == pytest.approx(best.num_parameters, rel=0.4)
    assert found[0].loss == pytest.approx(best.loss, abs=0.02)
    smaller = plan.overtrained(found)
    sizes_of = [one.num_parameters for one in [found[0], *smaller]]
    assert smaller and sizes_of == sorted(sizes_of, reverse=True)
    assert all(one.tokens > found[0].tokens and one.loss >= found[0].loss for one in smaller)


def test_more_time_or_more_devices_never_give_a_worse_model():
    cluster = Cluster(chip=chips.find("a100-sxm-80"), num_devices=4, devices_per_node=8)
    supposed = assumptions.assume(FLAT)
    now = plan.best(cluster, plan.Limit(days=3), _job(), MEANS, supposed)[0]
    for name, one in plan.what_if(cluster, plan.Limit(days=3), _job(), MEANS, supposed, now.num_parameters):
        assert one is None or one.loss <= now.loss + 1e-9 or name == "one more device", name


def test_money_and_energy_are_limits_like_days():
    cluster = Cluster(chip=chips.find("a100-sxm-80"), num_devices=4, devices_per_node=8)
    supposed = assumptions.assume(FLAT)
    candidate, _ = layouts.fastest(_job("350m", devices=4), Fixed(), MEANS)
    assert plan.days_within(plan.Limit(money=192), candidate, MEANS, supposed) == pytest.approx(1.0)
    assert plan.days_within(plan.Limit(kwh=76.8), candidate, MEANS, supposed) == pytest.approx(1.0)
    assert cluster.num_devices == candidate.job.cluster.num_devices


@pytest.mark.parametrize("given", [{}, {"days": 1, "kwh": 2}, {"days": 0}, {"money": -3}])
def test_a_plan_needs_exactly_one_limit(given):
    with pytest.raises(UserError, match="one limit"):
        plan.Limit(**given)


@pytest.mark.parametrize("days", [math.nan, math.inf, 1e300, 1e-300])
def test_a_limit_that_cannot_be_is_refused(days):
    with pytest.raises(UserError):
        bench.plan(device="h100-sxm", count=8, days=days)


def test_every_price_may_be_a_range_or_a_number():
    machines = {"device": "rtx-3090", "count": 8, "days": 3}
    cheap, dear, both = (
        bench.plan(purchase_price=price, **machines)["rent_or_buy"] for price in (700, "900", "700..900")
    )
    hours = [re.search(r"after ([\d,]+) hours", text)[1] for text in (cheap, dear)]
    assert f"bought for 700 to 900 has paid for itself after {hours[0]} to {hours[1]} hours" in both
    job = {"model": "1b", "tokens": "1B", "device": "rtx-3090"}
    text, number = (bench.estimate_training(price_per_hour=price, **job) for price in ("0.5", 0.5))
    assert text["money"] == number["money"]
    for price in ("700..", "900..700", "0", "a lot", "-1"):
        with pytest.raises(UserError, match=r"purchase.price"):
            bench.plan(purchase_price=price, **machines)


def test_renting_and_owning_break_even_where_costs_are_equal():
    hours = plan.break_even_hours(10_000, 2.0, 800, 0.25, 1.5)
    assert 10_000 + hours * 0.8 * 1.5 * 0.25 == pytest.approx(2.0 * hours)
    assert plan.break_even_hours(10_000, 0.1, 800, 0.25, 1.5) is None


def test_every_listed_price_is_of_a_chip_of_the_catalog():
    listed = tomllib.loads((Path(assumptions.__file__).parent / "prices.toml").read_text())
    assert listed["source"]
    for name in listed["price_per_hour"]:
        assert name in chips.names(), name
        price, _ = assumptions.listed_price(name)
        assert price is not None and 0 < price.low <= price.high


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": -500, "method": "lora"}, {"link": -5e9}, {"link": float("nan")}, {"network": 0.0}, {"seq": 0},
        {"virtual_stages": 0}, {"count": 0},
    ],
)  # fmt: skip
def test_counts_and_rates_that_cannot_be_are_refused(changes):
    with pytest.raises(UserError, match="it is "):
        bench.estimate_training(**{"model": "llama-3.2-1b", "tokens": "1B", "device": "h100-sxm", **changes})


def test_serving_refuses_what_cannot_be_and_knows_its_link():
    asked = {"model": "llama-3.1-8b", "device": "h100-sxm", "count": 2, "tp": 2}
    for changes in ({"users": 0}, {"tp": 0}, {"requests_per_hour": -20.0}):
        with pytest.raises(UserError, match="it is "):
            bench.estimate_serving(**{**asked, **changes})
    fast, slow = (bench.estimate_serving(**asked, link=link) for link in (None, 1e9))
    assert fast != slow


def test_llama_cpp_gives_each_card_some_layers_and_others_split_each_layer():
    asked = {"model": "falcon-40b", "device": "rtx-4090", "count": 2, "weights": "Q4_K_M"}
    layers, tensors = (bench.estimate_serving(**asked, stack=stack) for stack in ("llama.cpp", "vllm"))
    assert [(one["tp"], one["pp"]) for one in (layers, tensors)] == [(1, 2), (2, 1)]
    assert layers["tpot_s"]["value"] > 1.4 * tensors["tpot_s"]["value"]  # one card works at a time
    assert layers["evidence"] == "L1"  # the edition that was measured on this card in this format
    with pytest.raises(UserError, match="more stages than the model has layers, 60"):
        bench.estimate_serving(**asked | {"count": 64}, stack="llama.cpp")


def test_a_precision_of_eight_bits_stores_weights_in_them():
    asked = {"model": "deepseek-v3", "device": "h200-sxm", "count": 8, "stack": "vllm"}
    eight = bench.estimate_serving(**asked, precision="fp8")
    assert eight["weights"] == "fp8"
    assert eight == bench.estimate_serving(**asked, precision="fp8", weights="fp8")
    with pytest.raises(UserError, match="do not fit"):
        bench.estimate_serving(**asked)


def test_every_assumption_of_serving_moves_a_figure_and_no_other_is_told():
    asked = {"model": "llama-3.1-8b", "device": "h100-sxm", "stack": "vllm"}
    plain = bench.estimate_serving(**asked)
    figures = {
        "electricity_price": "electricity_per_million_tokens", "carbon_intensity": "carbon_kg_per_million_tokens",
        "pue": "joules_per_token", "price_per_hour": "money_per_million_tokens",
    }  # fmt: skip
    for name, figure in figures.items():
        other = bench.estimate_serving(**asked, **{name: "9"})
        assert other[figure]["value"] > 1.5 * plain[figure]["value"], name
        assert any(note.startswith(("price" if "hour" in name else name) + " 9") for note in other["assumed"])
    assert not any("goodput" in note for note in plain["assumed"])
    kwh = plain["joules_per_token"]["value"] / 3.6  # of a million tokens
    assert plain["electricity_per_million_tokens"]["value"] == pytest.approx(0.2 * kwh)


def test_copies_on_fewer_devices_stand_beside_one_over_all_where_they_serve_more():
    asked = {"model": "qwen2.5-7b", "device": "rtx-3090", "stack": "vllm", "batch": 16}
    found, one = bench.estimate_serving(**asked, count=4), bench.estimate_serving(**asked)
    copies = found["copies"]
    assert (copies["tp"], copies["num_copies"]) == (1, 4)
    assert copies["tokens_per_s"] == pytest.approx(4 * one["tokens_per_s"]["value"])
    assert copies["tokens_per_s"] > found["tokens_per_s"]["value"]
    assert "4 on one device each (--tp 1)" in "\n".join(answers.serving(found))
    assert bench.estimate_serving(**asked, count=4, tp=2)["copies"] is None  # as asked for
    assert one["copies"] is None
    large = {**asked, "model": "llama-3.1-70b", "device": "h100-sxm"}
    assert bench.estimate_serving(**large, count=4)["copies"]["tp"] == 2  # on one it does not fit


def test_more_users_than_a_replica_serves_are_counted_in_replicas():
    asked = {"model": "qwen2.5-7b", "device": "rtx-4090", "stack": "vllm"}
    few, many = (bench.estimate_serving(**asked, users=users) for users in (2, 500_000))
    assert "% of one replica: take 1" in "\n".join(answers.serving(few))
    assert "500,000 x 20 requests an hour ask for what" in "\n".join(answers.serving(many))


def test_a_plan_refuses_words_that_it_does_not_know():
    with pytest.raises(TypeError, match="dayz"):
        bench.plan(device="h100-sxm", days=3, dayz=3)


def test_states_are_shared_over_context_parallel_devices_and_megatron_adds_in_four_bytes():
    cluster = Cluster(chip=chips.find("h100-sxm"), num_devices=16)
    asked = TrainingJob(model=models.find("llama-3.1-8b"), cluster=cluster, seq=4096, micro_batch=1, global_batch=64)
    parts = [
        memory.training(replace(asked, layout=Layout(dp=dp, cp=cp, sharding="zero3"))).parts
        for dp, cp in ((16, 1), (8, 2))
    ]
    assert parts[0]["optimizer"] == parts[1]["optimizer"]
    of = {
        name: memory.needed_bytes(replace(asked, layout=Layout(dp=16, sharding="zero1"), stack=Stack(framework=name)))
        for name in ("megatron", "Megatron-LM", "nemo", "torch-fsdp")
    }
    assert of["megatron"] == of["Megatron-LM"] == of["nemo"] > of["torch-fsdp"]


def test_experts_may_spread_beyond_a_node():
    model = "layers=8,hidden=1024,heads=8,experts=256,active_experts=8,expert_ffn=512"
    found = layouts.fitting(_job(model, devices=128), Fixed(), MEANS.seconds_of, memory.needed_bytes)
    assert {8, 64} <= {one.layout.ep for one, _ in found}

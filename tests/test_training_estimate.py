import json
import math
import random
from dataclasses import replace

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("scipy")

from bench import chip, model  # after the check that there is something to test with
from bench.estimate import backtest, published, rows
from bench.estimate.job import Cluster, Layout, Stack, TrainingJob
from bench.estimate.published import number
from bench.estimate.training import backtest as backtest_training
from bench.estimate.training import fit as training_fit
from bench.estimate.training import folds, memory_need, row_job, work
from bench.estimate.training import rows as training_rows
from bench.estimate.training import step as training
from bench.estimate.training import store as training_store
from bench.estimate.training.rates import from_chip


def job(**changes):
    h100 = Cluster(chip=chip.find("h100-sxm"), num_devices=64)
    layout = Layout(dp=8, tp=4, pp=2, sharding="zero1")
    values = {
        "model": model.find("llama-3.1-8b"), "cluster": h100, "layout": layout, "stack": Stack(framework="megatron-lm"),
        "seq": 4096, "micro_batch": 1, "global_batch": 256,
    }  # fmt: skip
    return TrainingJob(**(values | changes))


def step_s(one, rates=None):
    known = training_rows.stored()
    return sum(term.seconds for term in training.step(one, rates or training_rows.chip_rates(one), known.coefficients))


JOBS = [
    job(),
    job(recompute="full", precision="fp8"),
    job(layout=Layout(dp=64, sharding="zero3"), stack=Stack(framework="torchtitan", compiled=True)),
    job(layout=Layout(dp=16, tp=2, cp=2, sharding="zero2"), stack=Stack(framework="hf", attention="unfused")),
    job(model=model.find("mixtral-8x7b"), layout=Layout(dp=16, tp=4, ep=8, sharding="zero1")),
    job(method="lora", cluster=Cluster(chip=chip.find("rtx-4090")), layout=Layout(), global_batch=8),
]
ids = [f"{one.stack.framework} {one.model.name}" for one in JOBS]


@pytest.mark.parametrize("one", JOBS, ids=ids)
class TestStep:
    def test_terms_add_up_to_the_step(self, one):
        prediction = training_rows.predict_job(one)
        total = sum(term.seconds for term in prediction.terms)
        assert total == pytest.approx(prediction.values["pred_step_time_s"])
        tokens = one.global_batch * one.seq / one.cluster.num_devices
        assert prediction.values["pred_tok_s_gpu"] == pytest.approx(tokens / total)

    def test_more_work_is_never_faster(self, one):
        usual = step_s(one)
        assert step_s(replace(one, global_batch=2 * one.global_batch)) > usual
        assert step_s(replace(one, seq=2 * one.seq)) > usual
        assert step_s(replace(one, recompute="full")) >= usual

    @pytest.mark.parametrize(
        "rate",
        [
            "attention_flops_per_s",
            "memory_bytes_per_s",
            "optimizer_bytes_per_s",
            "link_bytes_per_s",
            "network_bytes_per_s",
        ],
    )
    def test_a_faster_part_is_never_slower(self, one, rate):
        rates = training_rows.chip_rates(one)
        faster = replace(rates, **{rate: 2 * getattr(rates, rate)})
        assert step_s(one, faster) <= step_s(one, rates)

    def test_faster_products_are_never_slower(self, one):
        rates = training_rows.chip_rates(one)
        products = {precision: 2 * rate for precision, rate in rates.matmul_flops_per_s.items()}
        assert step_s(one, replace(rates, matmul_flops_per_s=products)) < step_s(one, rates)

    def test_arrays_give_what_numbers_give(self, one):
        known = training_rows.stored()
        row = training_fit.Measured(
            row={}, understood=row_job.RowJob(job=one, device="", habits=None, family="", doubt=0.0, has_batch=True),
            stand=None, log_step=0.0,
        )  # fmt: skip
        by_array = training_fit.log_steps(training_fit.table([row]), known.values)[0]
        assert math.exp(by_array) == pytest.approx(step_s(one))


def test_products_are_six_flops_a_parameter_and_token():
    one = job(cluster=Cluster(chip=chip.find("h100-sxm")), layout=Layout(), micro_batch=2, global_batch=2)
    assert work.of(one).matmul_flops == 6 * one.model.matmul_parameters * 2 * one.seq


def test_fused_attention_is_three_and_a_half_forward_passes():
    one = job(cluster=Cluster(chip=chip.find("h100-sxm")), layout=Layout(), global_batch=1)
    assert work.of(one).attention_flops == pytest.approx(3.5 * one.model.attention_flops(1, one.seq))


def test_a_layout_shares_the_work():
    alone = work.of(job(cluster=Cluster(chip=chip.find("h100-sxm")), layout=Layout(), global_batch=1))
    split = work.of(job(layout=Layout(tp=4), global_batch=1))
    assert split.matmul_flops == pytest.approx(alone.matmul_flops / 4)


def alone(**changes):
    one = {"cluster": Cluster(chip=chip.find("h100-sxm")), "layout": Layout(), "global_batch": 1}
    return job(**(one | changes))


def test_narrow_products_cast_inputs_and_gradients():
    one = alone(precision="fp8")
    d, kv, ffn, layers = 4096, 1024, 14336, 32
    inputs = d + d + d + ffn  # of q, k and v; of o; of gate and up; of down
    gradients = (d + 2 * kv) + d + 2 * ffn + d
    assert work.of(one).cast_bytes == pytest.approx(4 * one.seq * layers * (inputs + gradients))
    assert work.of(replace(one, precision="fp4")).cast_bytes == pytest.approx(0.75 * work.of(one).cast_bytes)
    assert work.of(replace(one, precision="bf16")).cast_bytes == 0


def test_gradients_are_read_again_where_microbatches_add_up():
    weights, once = model.find("llama-3.1-8b").matmul_parameters, work.of(alone())
    summed = work.of(alone(global_batch=2))
    assert summed.matmul_bytes - once.matmul_bytes == pytest.approx(4 * weights)  # Megatron's are in FP32
    low_rank = work.of(alone(global_batch=2, method="lora"))
    assert low_rank.matmul_bytes == work.of(alone(method="lora")).matmul_bytes


def test_experts_cost_launches_and_traffic_where_they_are():
    mixtral = model.find("mixtral-8x7b")
    spread = Layout(dp=8, ep=8)
    apart = work.of(job(model=mixtral, cluster=Cluster(chip=chip.find("h100-sxm"), num_devices=8), layout=spread))
    together = work.of(alone(model=mixtral))
    assert together.kernels - apart.kernels == pytest.approx(32 * 2 * (8 - 1) * 2.8)  # two products of each expert
    sorted_again = 2 * 4096 * 32 * 2 * 4 * 4096  # bytes, tokens, layers, experts of each, passes, width
    assert apart.stream_bytes - together.stream_bytes == pytest.approx(sorted_again)
    activation = (
        together.stream_bytes
        - work.of(alone(model=replace(mixtral, moe_intermediate_size=1, num_parameters=None))).stream_bytes
    )
    assert activation == pytest.approx(2 * 4096 * 32 * 2 * 8 * (14336 - 1))


def test_an_expert_is_summed_and_stepped_by_those_that_hold_it():
    mixtral = model.find("mixtral-8x7b")
    experts = mixtral.num_expert_layers * 8 * mixtral.expert_matmul_parameters
    rest = mixtral.total_parameters - experts
    once = {"model": mixtral, "cluster": Cluster(chip=chip.find("h100-sxm"), num_devices=8), "global_batch": 8}
    alone = work.of(job(layout=Layout(dp=8, ep=8, sharding="zero1"), **once))
    assert alone.optimizer_bytes == pytest.approx(rest * (30 / 8 + 4) + experts / 8 * (30 + 8))  # nobody else has them
    assert alone.reduce_link_bytes == pytest.approx(rest * (4 + 2) * 7 / 8)
    pairs = work.of(job(layout=Layout(dp=8, ep=4, sharding="zero1"), **once))
    assert pairs.optimizer_bytes == pytest.approx(rest * (30 / 8 + 4) + experts / 4 * (30 / 2 + 4))
    assert pairs.reduce_link_bytes == pytest.approx((rest * 7 / 8 + experts / 4 / 2) * (4 + 2))


@pytest.mark.parametrize(
    ("name", "device", "devices", "pp", "ep", "batch", "precision", "tokens_per_s"),
    # No rows of ours. Mixtral: 468 TFLOP/s on 128 H100 (NVIDIA, Megatron-Core 0.9, package moe), where a token has 80.5
    # GFLOP. DeepSeek-V3 2024, section 1: 180,000 hours of H800 for 1e12 tokens, whose exchange DualPipe hides.
    [
        ("mixtral-8x7b", "h100-sxm", 128, 4, 8, 256, "bf16", 5814),
        ("deepseek-v3", "h800-sxm", 2048, 16, 64, 15360, "fp8", 1543),
    ],
)
def test_experts_train_as_fast_as_published(name, device, devices, pp, ep, batch, precision, tokens_per_s):
    layout = Layout(dp=devices // pp, pp=pp, ep=ep, virtual_stages=32 // pp, sharding="zero1")
    cluster = Cluster(chip=chip.find(device), num_devices=devices)
    one = job(model=model.find(name), cluster=cluster, layout=layout, global_batch=batch, precision=precision)
    predicted = training_rows.predict_job(one).values["pred_tok_s_gpu"]
    assert predicted == pytest.approx(tokens_per_s, rel=0.25)


def test_what_runs_kernel_by_kernel_is_less_sure():
    like = next(row for row in published.rows("training") if row["source_id"] == "neusight")
    eager, fused = (row_job.of({**like, "framework": name}).doubt for name in ("PyTorch eager HF", "torch"))
    assert eager == pytest.approx(math.hypot(fused, 0.12))


def test_the_bubble_is_p_minus_1_over_v():
    assert work.of(job(layout=Layout(dp=8, pp=8, virtual_stages=4))).bubble == 7 / 4  # Narayanan et al. 2021, 2.2


def test_an_all_gather_between_nodes_uses_every_port_of_the_node():
    plain = job(layout=Layout(dp=64, sharding="zero3"))
    held = plain.model.total_parameters * 2
    done = work.of(plain)
    assert done.gather_link_bytes == pytest.approx(3 * held * 63 / 64, rel=0.01)
    assert done.gather_network_bytes == pytest.approx(3 * held * 7 / 8 / 8, rel=0.01)


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "layout", "batch", "micro_batch", "seconds"),
    # Korthikanti et al. 2022, tables 3 and 5: A100, sequence parallelism and selective recomputation. No row of ours.
    [
        (48, 6144, 64, Layout(tp=8), 4, 4, 1.10),
        (96, 12288, 96, Layout(tp=8, pp=8, virtual_stages=3), 64, 1, 13.75),
        (105, 20480, 128, Layout(tp=8, pp=35, virtual_stages=3), 280, 1, 37.83),
        (128, 25600, 160, Layout(tp=8, pp=64), 512, 1, 71.49),
    ],
)
def test_megatron_on_a100_takes_what_its_authors_published(layers, hidden, heads, layout, batch, micro_batch, seconds):
    shape = replace(
        model.find("gpt3-175b"), num_hidden_layers=layers, hidden_size=hidden, intermediate_size=4 * hidden,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=hidden // heads, num_parameters=None,
    )  # fmt: skip
    one = job(
        model=shape, layout=layout, seq=2048, micro_batch=micro_batch, global_batch=batch, recompute="selective",
        cluster=Cluster(chip=chip.find("a100-sxm-80"), num_devices=layout.tp * layout.pp),
        stack=Stack(framework="megatron-lm", attention="unfused"),
    )  # fmt: skip
    assert 1 / 1.2 < training_rows.predict_job(one).values["pred_step_time_s"] / seconds < 1.2


def test_sharded_gradients_are_summed_for_each_microbatch_and_whole_ones_once_a_step():
    once, each = (work.of(job(layout=Layout(dp=64, sharding=kind))) for kind in ("zero1", "zero2"))
    assert once.gather_network_bytes == 0
    assert each.gather_network_bytes > each.reduce_network_bytes > 0
    # Megatron's gradients are twice as wide as the weights that come back.
    assert once.reduce_network_bytes == pytest.approx(each.gather_network_bytes + each.reduce_network_bytes)
    assert each.gather_network_bytes == pytest.approx(2 * each.reduce_network_bytes)


def test_what_hides_transport_is_slowed_by_it():
    """Weights that are gathered wholly behind products still cost a fifth or so of their transport's time."""
    one = job(layout=Layout(dp=64, sharding="zero3"), micro_batch=4, seq=8192)
    terms = {term.name: term.seconds for term in training.step(one, training_rows.chip_rates(one), coefficients())}
    free = {
        term.name: term.seconds
        for term in training.step(one, training_rows.chip_rates(one), replace(coefficients(), contention=0.0))
    }
    done, speeds = work.of(one), training_rows.chip_rates(one).at("bf16")
    transport = done.microbatches * done.gather_network_bytes / speeds.network_bytes_per_s
    assert free.get("sharded states", 0.0) < 0.02 * transport
    assert 0.1 * transport < terms["sharded states"] < 0.6 * transport


def test_selective_recomputation_costs_a_few_percent_and_never_more_than_full():
    """Korthikanti et al. 2022, table 4: 2 to 4 % of forward and backward, where all of it again costs a third."""
    one = job(layout=Layout(dp=64, sharding="zero1"), micro_batch=4)
    none, selective, full = (step_s(replace(one, recompute=kind)) for kind in ("none", "selective", "full"))
    assert 1.01 < selective / none < 1.05
    assert 1.2 < full / none < 1.4


def coefficients():
    return training_rows.stored().coefficients


def test_activations_are_as_korthikanti_counts_them():
    one = job(model=model.find("gpt3-175b"), layout=Layout(tp=8, pp=8), seq=2048, recompute="selective")
    tokens, d, layers = 2048, 12288, 96
    assert memory_need.activation_bytes(one) == pytest.approx(tokens * d * 34 * layers / 8)


def test_published_utilisation_follows_from_the_parsed_shape():
    """MosaicML prints (6 N + 12 L d s) · tokens/s over the peak, which the shapes that we read must give again."""
    own = [row for row in published.rows("training") if row["source_id"] == "foundry"]
    assert len(own) > 100
    for row in own:
        understood = row_job.of(row)
        one = understood.job.model
        positions = understood.job.seq * one.hidden_size  # learned ones, which the columns do not mention
        assert one.total_parameters + positions == pytest.approx(1e9 * number(row, "params_b"), rel=1e-3)
        peak = understood.job.cluster.chip.flops_per_s["fp8" if "fp8" in row["precision"] else "bf16"]
        flops = 6 * 1e9 * number(row, "params_b") + 12 * one.num_blocks * one.hidden_size * understood.job.seq
        assert 100 * flops * number(row, "tok_s_gpu") / peak == pytest.approx(number(row, "mfu_pct"), rel=0.01)


def test_a_device_rate_is_the_datasheet_times_a_fraction():
    known = training_rows.stored()
    a100 = chip.find("a100-sxm-80")
    rates = from_chip(a100, training_fit.fractions(known.values, a100))
    assert 0.5 * 312e12 < rates.matmul_flops_per_s["bf16"] < 312e12
    assert rates.at("fp8").matmul_flops_per_s < 312e12  # has none, and runs it in 16 bits


class TestRows:
    def test_measured_columns_are_never_read(self):
        own = published.rows("training")[:40]
        blank = [{**row, **dict.fromkeys(rows.MEASURED["training"], "")} for row in own]
        assert [one.values for one in training_rows.predict(own, [])] == [
            one.values for one in training_rows.predict(blank, [])
        ]

    def test_every_published_row_has_a_number_or_a_reason(self):
        for one in training_rows.predict(published.rows("training", trusted=False), []):
            assert bool(one.values) != bool(one.reason)
            assert all(math.isfinite(value) and value > 0 for value in one.values.values())

    def test_odd_strings_widen_and_never_stop(self):
        draw = random.Random(3)
        odd = [
            "",
            "?",
            "0",
            "-1",
            "1e400",
            "nan",
            "8 (4)",
            "TF32",
            "int4",
            "ÄÖ",
            "none",
            "hsdp + tp",
            "99999999999999999999",
        ]
        known = [row for row in published.rows("training") if row["source_id"] != "lambda"]
        strange = []
        for _ in range(400):
            row = dict(draw.choice(known))
            for column in draw.sample(sorted(row), 8):
                row[column] = draw.choice(odd)
            strange.append(row)
        for one in training_rows.predict(strange, []):
            assert bool(one.values) != bool(one.reason)
            assert all(math.isfinite(value) and value > 0 for value in one.values.values())

    @pytest.mark.parametrize(
        ("column", "cell", "reason"),
        [
            ("n_gpus", "-8", "n_gpus is -8"),
            ("tp", "3", "does not divide"),
            ("pp", "999", "more stages"),
            ("device", "X1", "X1"),
        ],
    )
    def test_what_cannot_be_has_a_reason_and_the_rest_goes_on(self, column, cell, reason):
        good = next(row for row in published.rows("training") if row["source_id"] == "vtrain")
        first, second = training_rows.predict([{**good, column: cell}, good], [])
        assert reason in first.reason and not first.values
        assert second.values

    def test_what_is_not_said_widens_the_interval(self):
        full = next(row for row in published.rows("training") if row["source_id"] == "foundry" and row["n_gpus"] == "8")
        vague = {
            **full,
            "act_ckpt": "",
            "micro_batch": "",
            "grad_accum": "",
            "framework": "something new",
            "sharding": "",
        }
        sure, unsure = training_rows.predict([full, vague], [])
        assert unsure.sigma > sure.sigma
        assert unsure.evidence != "L1"

    def test_own_rows_pull_estimates_to_themselves(self):
        """A lab that is 1.4 times slower than what is published: ten rows of it tell."""
        own = [
            row for row in published.rows("training") if row["source_id"] == "foundry" and row["device"] == "H100-SXM"
        ]
        slower = [{**row, "tok_s_gpu": str(float(row["tok_s_gpu"]) / 1.4)} for row in own]
        for row in slower:
            row["framework"], row["interconnect"] = "a lab's own FSDP loop", "NVLink"
        local, asked = slower[::4][:10], slower[1::4]

        def error(found):
            pairs = zip(asked, found, strict=True)
            return np.median(
                [abs(math.log(one.values["pred_tok_s_gpu"] / float(row["tok_s_gpu"]))) for row, one in pairs]
            )

        alone, helped = training_rows.predict(asked, []), training_rows.predict(asked, local)
        assert error(helped) < 0.08 < error(alone)
        assert {one.evidence for one in helped} == {"L0"}


def test_a_local_factor_scales_the_step():
    usual = training_rows.predict_job(job(), local_factor=1.0).values["pred_step_time_s"]
    assert training_rows.predict_job(job(), local_factor=1.5).values["pred_step_time_s"] == pytest.approx(1.5 * usual)


def test_what_is_stored_was_made_from_these_published_rows():
    kept = json.loads(training_rows.STORED.read_text(encoding="utf-8"))
    assert kept["made_from"] == training_store.made_from(), "run `python -m bench.estimate.training.store`"
    assert set(kept["values"]) == set(training_fit.PRIORS)


def test_estimates_are_no_worse_than_the_stored_back_test():
    lines = backtest.run(fast=True, kinds=["training"])
    assert lines
    assert backtest.worsened(lines) == []


def test_the_choice_of_a_layout_is_judged_by_the_fastest_published_run_of_a_job():
    rows = [one for one in folds.measured_rows() if one.row["source_id"] == "tinyllama"]
    slower = [replace(one, log_step=one.log_step + 1) for one in rows]
    errors = [one.error for one in backtest_training.chosen(rows)]
    assert errors
    assert [one.error for one in backtest_training.chosen([*slower, *rows])] == errors

"""Estimates of serving: the physics, what it learns from rows, and what it says of rows it has not seen."""

import dataclasses
import math
import random

import pytest

from bench import chip, model
from bench.estimate import published
from bench.estimate.job import Cluster, Layout, ServingJob, Stack
from bench.estimate.rows import MEASURED
from bench.estimate.serving import backtest as inference_backtest
from bench.estimate.serving import confidence, footprint, power, residual, stacks, store
from bench.estimate.serving import fitted as fits
from bench.estimate.serving import jobs as inference_jobs
from bench.estimate.serving import step as serving
from bench.estimate.serving.figures import figures, table
from bench.estimate.serving.possible import impossible
from bench.estimate.serving.rows import case_of, predict, predict_job

ROW = {
    "source_id": "here", "device": "H100-SXM", "model": "meta-llama/Meta-Llama-3-8B", "params_b": "8.03",
    "phase": "prefill+decode, offline batch", "input_len": "512", "output_len": "512", "batch": "16", "n_gpus": "1",
    "framework": "vLLM", "quant": "", "precision": "bf16",
}  # fmt: skip
RATES = serving.Rates(
    weights=0.7, cache=0.5, compute=0.4, prefill=0.55, reach=9.0, experts=0.7, link=0.5,
    host_s=60e-6, expert_s=20e-6, sequence_s=12e-6, message_s=15e-6,
)  # fmt: skip


def case(**changes: str) -> inference_jobs.Case:
    read = inference_jobs.read(ROW | changes)
    assert not isinstance(read, str), read
    return read


def rate(one: inference_jobs.Case, rates: serving.Rates = RATES) -> float:
    return float(figures(table([one]), rates)["rate"][0])


# Physics


@pytest.mark.parametrize("framework", ["vLLM", "llama.cpp", "TensorRT-LLM", "HF transformers", "DeepSpeed-MII"])
def test_a_job_is_what_its_row_would_be(framework):
    llama, h100 = model.find("llama-3.1-8b"), chip.find("h100-sxm")
    row = case(model="meta-llama/Llama-3.1-8B", framework=framework)
    job = ServingJob(
        model=llama, cluster=Cluster(chip=h100, num_devices=1), stack=Stack(framework=framework),
        prompt=512, output=512, batch=16,
    )  # fmt: skip
    asked = case_of(job).job
    same = {"footprint": row.job.footprint, "chip": row.job.chip, "alike": row.job.alike}
    assert dataclasses.replace(asked, **same) == row.job


def test_a_model_of_the_catalog_is_weighed_as_its_shape_says():
    llama, mixtral = (footprint.of_model(model.find(name)) for name in ("llama-2-7b", "mixtral-8x7b"))
    assert llama.parameters == model.find("llama-2-7b").matmul_parameters
    assert mixtral.parameters == pytest.approx(46.7e9, rel=0.01)
    assert mixtral.active_parameters == pytest.approx(12.9e9, rel=0.02)
    assert llama.cached(100) * 2 == model.find("llama-2-7b").kv_cache_bytes(2, 100)


def test_a_step_of_one_token_reads_the_experts_of_one_token_and_a_large_batch_reads_all():
    mixtral = footprint.of_model(model.find("mixtral-8x7b"))
    assert mixtral.parameters_read(1) == pytest.approx(mixtral.active_parameters)
    assert mixtral.parameters_read(1000) == pytest.approx(mixtral.parameters)


@pytest.mark.parametrize("kind", ["inference"])
def test_every_published_model_has_a_footprint_of_the_published_size(kind):
    for row in published.rows(kind):
        size = published.number(row, "params_b")
        found = footprint.named(row["model"], size, published.number(row, "active_params_b"))
        assert found is not None, row["model"]
        if size is not None:
            assert found.parameters == pytest.approx(size * 1e9, rel=0.12), row["model"]


def test_a_model_that_nobody_knows_is_derived_from_its_size_and_says_so():
    found = footprint.named("acme-13B", 13.0)
    assert found is not None
    assert not found.known
    assert found.parameters == pytest.approx(13e9)
    assert footprint.named("acme", None) is None


def test_terms_add_up_to_the_step_and_more_bandwidth_is_never_slower():
    one = case().job
    ideal = serving.ideal(one)
    terms = serving.step_s(ideal, RATES)
    assert all(seconds >= 0 for seconds in terms.values())
    faster = dataclasses.replace(
        one, chip=dataclasses.replace(one.chip, memory_bytes_per_s=2 * one.chip.memory_bytes_per_s)
    )
    assert serving.total(serving.step_s(serving.ideal(faster), RATES)) < serving.total(terms)


def test_longer_answers_take_longer_and_larger_batches_give_more_tokens_a_second():
    latencies = [512 * 2 / rate(case(output_len="512", input_len=str(512))), 1536 / rate(case(output_len="1024"))]
    assert latencies[0] < latencies[1]
    rates = [rate(case(batch=str(batch))) for batch in (1, 4, 16, 64)]
    assert rates == sorted(rates)


def test_a_cache_that_does_not_fit_is_gone_through_in_waves():
    fits_in, too_many = (case(device="RTX4090", batch=batch, framework="TensorRT-LLM").job for batch in ("2", "64"))
    assert serving.ideal(fits_in).waves == 1.0
    assert serving.ideal(too_many).waves > 1.0


def test_an_a100_feels_how_many_bytes_its_sms_ask_for_and_an_rtx_4090_does_not():
    slow = dataclasses.replace(RATES, reach=7.0)
    free = dataclasses.replace(RATES, reach=1e6)
    row = {"phase": "decode", "batch": "1", "input_len": "0", "n_gpus": "1", "framework": "llama.cpp"}
    a100, gaming = case(device="A100-SXM-80", **row), case(device="RTX4090", **row)
    assert rate(a100, slow) < 0.75 * rate(a100, free)
    assert rate(gaming, slow) > 0.9 * rate(gaming, free)


LLAMA = {"phase": "prefill", "framework": "llama.cpp", "batch": "1", "output_len": "0", "device": "RTX4090"}


def busy(**changes: str) -> float:
    one = case(**LLAMA | {"input_len": "8192", "n_gpus": "4"} | changes).job
    alone = dataclasses.replace(one, pp=1)
    return serving.ideal(alone).prefill_flops / serving.ideal(one).prefill_flops


def test_a_pipeline_whose_stages_outgrow_the_queue_of_launches_gains_next_to_nothing():
    eight, seventy = {"model": "Llama-3-8B", "params_b": "8.03"}, {"model": "Llama-3-70B", "params_b": "70.6"}
    assert busy(**eight, quant="Q4_K_M") > 2.3  # 10,994 tokens/s of four RTX 4090 over 4,040 of one: 2.7
    assert 1.0 < busy(**seventy, quant="Q4_K_M") < 1.3  # 80 layers of 55 kernels are more than four queues of 1,024
    assert 1.5 < busy(**seventy, quant="Q4_K_M", n_gpus="8") < 2.5
    assert busy(**eight, input_len="512") == pytest.approx(1.0)  # a single chunk has nobody to follow it


def test_weights_of_fewer_bits_are_written_out_for_each_chunk_of_a_prompt():
    wide, narrow = (serving.ideal(case(**LLAMA, input_len="2048", quant=quant).job) for quant in ("F16", "Q4_K_M"))
    more = (narrow.prefill_activations - wide.prefill_activations) * chip.find("rtx-4090").memory_bytes_per_s
    assert more == pytest.approx(4 * 7.5e9 * (0.606 + 4), rel=0.02)
    apple = {"device": "Apple-m2-ultra-76-core", "input_len": "2048"}
    wide, narrow = (serving.ideal(case(**LLAMA | apple, quant=quant).job) for quant in ("F16", "Q4_K_M"))
    assert narrow.prefill_activations == wide.prefill_activations


def test_devices_beyond_the_key_value_heads_hold_copies_of_the_cache():
    eight = {"n_gpus": "8", "params_b": "", "device": "H200", "precision": "fp8"}
    latent, four, dense = (
        case(**eight, model=name).job for name in ("deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-235B-A22B", "Llama-3-70B")
    )
    assert [one.cache_copies for one in (latent, four, dense)] == [8.0, 2.0, 1.0]
    copied = dataclasses.replace(latent, whole_attention=True)
    assert copied.cache_copies == 1.0
    assert serving.ideal(copied).decode_weights == pytest.approx(8 * serving.ideal(latent).decode_weights)
    assert serving.ideal(copied).decode_exchange == pytest.approx(serving.ideal(latent).decode_exchange / 2)


def test_there_are_no_more_sequences_at_once_than_requests_and_all_rounds_are_alike():
    row = {"source_id": "trtllm", "framework": "TensorRT-LLM", "phase": "offline, max throughput", "quant": "FP8"}
    small = case(**row, batch="", input_len="128", output_len="4096", device="H200", n_gpus="8").job
    assert serving.ideal(small).sequences == 1500.0
    tight = case(**row, batch="", input_len="20000", output_len="2000", device="H200").job
    rounds = 1000.0 / serving.ideal(tight).sequences
    assert rounds == pytest.approx(round(rounds))
    assert rounds > 1


def test_all_wait_for_the_device_that_reads_the_most_experts():
    mixture = {"model": "Qwen/Qwen3-235B-A22B", "params_b": "", "n_gpus": "8", "phase": "online", "device": "H200"}

    def times(batch: str) -> float:
        sliced, whole = (serving.ideal(case(**mixture, concurrency=batch, batch="", ep=ep).job) for ep in ("1", "8"))
        return float(whole.decode_experts / sliced.decode_experts)

    assert times("1") > times("8") > 1.2 > times("512") >= 1.0


def test_prompts_ride_along_where_reading_hides_them_and_cost_their_arithmetic_where_not():
    def cost(batch: str, prompt: str) -> float:
        """Of prompts in a step, as a share of what they take by themselves."""
        one = serving.ideal(case(phase="online", batch=batch, input_len=prompt, output_len="256").job)
        alone = serving.total(serving.prefill_s(one, RATES)) / 256
        return float((serving.mixed_step_s(one, RATES) - serving.total(serving.step_s(one, RATES))) / alone)

    assert 0 < cost("4", "32") < 0.3
    assert 0.3 < cost("64", "2048") < 1.0


def test_windows_bound_what_the_tokens_of_a_prompt_look_at():
    gemma = footprint.of_model(model.find("gemma-3-27b"))
    summed = sum(gemma.attended(place) for place in range(1, 4001))
    assert gemma.attended_by(4000) == pytest.approx(summed, rel=0.001)
    assert gemma.attended_by(4000) < 0.7 * gemma.query_values * 4000**2 / 2
    latent = footprint.of_model(model.find("deepseek-v3"))
    assert latent.attended(1) == 61 * 128 * (2 * 512 + 64) / 2  # scores of 576 and values of 512 for each of 128 heads


def test_what_bounds_a_cpu_is_its_memory():
    """A desktop of 102 GB/s decoded a 7B in four bits at 12.7 to 18.3 tokens/s (results/published, llamacpp_user)."""
    desktop = dataclasses.replace(
        chip.find("rtx-3060"), name="desktop", vendor="Intel", architecture="Raptor Lake", num_sms=24,
        memory_kind="DDR5", memory_bytes=2**36, memory_bytes_per_s=102.4e9, flops_per_s={"fp32": 1.5e12},
    )  # fmt: skip
    asked = {"model": model.find("llama-2-7b"), "cluster": Cluster(chip=desktop), "stack": Stack(framework="llama.cpp")}
    found = predict_job(job(**asked, weights="Q4_K_M", batch=1, prompt=8, output=128))
    assert 11 < 1 / found.values["pred_tpot_s"] < 22


# What is learned


def planted(devices: tuple[str, ...] = ("H100-SXM", "A100-SXM-80"), noise: float = 0.02):
    """Cases of two models in many sizes, with figures from RATES."""
    cases = [
        case(device=device, model=name, params_b="", batch=str(batch), input_len=str(length), output_len=str(length))
        for device in devices
        for name in ("meta-llama/Llama-2-7b-hf", "Qwen/Qwen2-7B")
        for batch in (1, 8, 32, 64)
        for length in (128, 1024)
    ]
    draw = random.Random(1)
    return cases, [{"rate": rate(one) * math.exp(draw.gauss(0, noise))} for one in cases]


def test_planted_rates_of_a_stack_predict_sizes_that_were_not_measured():
    cases, measured = planted()
    learned = fits.fit(cases, measured)
    for changes in ({"batch": "16", "input_len": "512"}, {"batch": "48", "input_len": "256", "output_len": "700"}):
        one = case(**changes)
        assert fits.estimate(learned, [one]).values["rate"][0] == pytest.approx(rate(one), rel=0.08)


def test_a_device_that_nobody_measured_is_estimated_by_its_relatives():
    cases, measured = planted()
    one = case(device="H200", batch="32")
    found = fits.estimate(fits.fit(cases, measured), [one])
    assert found.evidence == ["L2"]
    assert found.values["rate"][0] == pytest.approx(rate(one), rel=0.2)


def test_a_remainder_is_carried_to_a_neighbour_and_fades_far_away():
    import numpy as np

    near, far = (
        case(batch="16"),
        case(batch="1", input_len="32000", model="Qwen/Qwen2-72B", device="L4", n_gpus="8", framework="other"),
    )
    rows = residual.points([case(batch="12"), case(batch="24")])
    weights = residual.fit(rows, np.array([0.2, 0.2]), residual.Scales())
    left, nearness = residual.carried(residual.points([near, far]), rows, weights, residual.Scales())
    assert left[0] == pytest.approx(0.2, abs=0.05)
    assert abs(left[1]) < 0.01
    assert nearness[0] > 0.8 > 0.1 > nearness[1]


def test_rows_of_ones_own_move_the_estimate_of_their_stack():
    rows = [ROW | {"batch": str(batch)} for batch in (4, 16, 64)]
    before = predict(rows, [])
    local = [
        ROW | {"batch": str(batch), "tok_s_total": str(0.6 * one.values["pred_tok_s_total"])}
        for batch, one in zip(
            (2, 8, 32), predict([ROW | {"batch": str(batch)} for batch in (2, 8, 32)], []), strict=True
        )
    ]
    after = predict(rows, local)
    for one, other in zip(before, after, strict=True):
        assert other.values["pred_tok_s_total"] == pytest.approx(0.6 * one.values["pred_tok_s_total"], rel=0.1)
        assert other.evidence == "L0"


STOPPED = ROW | {"batch": "1", "input_len": "2048", "output_len": "2048", "tok_s_total": "89750"}


def test_a_run_that_stopped_after_its_prompt_is_no_evidence_and_the_basis_says_so():
    rows = [ROW | {"batch": "1", "input_len": "2048", "output_len": "2048"}]
    (without,), (with_it,) = predict(rows, []), predict(rows, [STOPPED])
    assert with_it.values == without.values
    assert with_it.evidence == without.evidence
    assert "1 of your rows left out" in with_it.basis


def test_what_a_machine_can_just_do_is_believed_and_what_it_cannot_is_not():
    one = case(batch="1", input_len="2048", output_len="2048")
    j = one.job
    weights_s = 2 * j.footprint.active_parameters / j.chip.memory_bytes_per_s
    assert impossible(one, {"rate": 4096 / (2047 * weights_s)}) is None
    assert impossible(one, {"rate": 1.5 * 4096 / (2047 * weights_s)}) is not None
    decode = case(phase="decode", batch="1", input_len="0")
    assert impossible(decode, {"rate": 1 / weights_s}) is None
    assert impossible(decode, {"rate": 1.3 / weights_s}) is not None
    prefill = case(phase="prefill", batch="1", input_len="2048", output_len="0")
    flops_s = 2 * j.footprint.active_parameters / j.chip.flops_per_s["bf16"]
    assert impossible(prefill, {"rate": 1 / flops_s}) is None
    assert impossible(prefill, {"rate": 1.5 / flops_s}) is not None


def test_no_row_is_doubted_for_a_rate_that_no_datasheet_gives():
    m4 = case(device="M4", phase="prefill", batch="1", input_len="512", output_len="0", framework="llama.cpp")
    assert not m4.job.chip.flops_per_s
    assert impossible(m4, {"rate": 224.8}) is None


def test_of_the_published_rows_those_that_stopped_are_left_out_and_no_others():
    out = inference_backtest.impossible_rows()
    assert len(out) == 24
    assert {(one.case.source, one.case.job.prompt, one.case.job.output) for one in out} == {("argonne", 2048, 2048)}
    assert {one.case.job.footprint.name for one in out} >= {"qwen2.5-7b"}
    (sentence,) = inference_backtest.remarks()
    assert "24 rows" in sentence


# Rows


def test_measured_columns_are_never_read_and_neither_is_an_energy_that_a_note_states():
    known = [row for row in published.rows("inference") if row["source_id"] in ("mlenergy", "argonne", "trtllm")][::97]
    blank = [{**row, **dict.fromkeys(MEASURED["inference"], "")} for row in known]
    other = [{**row, "metric_note": row["metric_note"].replace("MEASURED GPU energy", "9 J, not")} for row in blank]
    assert predict(known, []) == predict(blank, []) == predict(other, [])


def test_what_applies_follows_from_the_phase():
    wanted = {
        "decode": ("pred_tok_s_decode", {"pred_tok_s_decode", "pred_tpot_s"}),
        "prefill": ("pred_tok_s_prefill", {"pred_tok_s_prefill", "pred_ttft_s"}),
        "TTFT": ("pred_ttft_s", {"pred_ttft_s"}),
        "online decode (measured steady state)": (
            "pred_tok_s_total",
            {"pred_tok_s_total", "pred_tpot_s", "pred_power_w"},
        ),
        "prefill+decode, offline batch": ("pred_tok_s_total", {"pred_tok_s_total", "pred_ttft_s"}),
    }
    for phase, (main, names) in wanted.items():
        (found,) = predict([ROW | {"phase": phase}], [])
        assert found.main == main
        assert names <= set(found.values)
        assert all(0 < value < math.inf for value in found.values.values())
        low80, high80, low90, high90 = found.bounds
        assert low80 is not None and high80 is not None and low80 < found.values[main] < high80
        if low90 is not None and high90 is not None:
            assert low90 <= low80 and high80 <= high90
        assert found.basis
        assert found.terms


def test_what_cannot_be_estimated_says_why_and_the_rest_goes_on():
    rows = [ROW | {"device": "abacus"}, ROW, ROW | {"phase": "sleeping"}, ROW | {"model": "secret", "params_b": ""}, {}]
    found = predict(rows, [])
    assert [bool(one.values) for one in found] == [False, True, False, False, False]
    assert all((one.reason is None) == bool(one.values) for one in found)


def test_a_format_that_nobody_stated_is_the_widest_that_fits_and_the_basis_says_so():
    unstated = ROW | {"precision": "", "device": "RTX4090", "model": "Llama-3-70B", "params_b": "70.6"}
    for changes, weights in (
        ({"n_gpus": "8"}, "full"),
        ({"n_gpus": "4"}, "fp8"),
        ({"n_gpus": "2"}, "int4"),
        ({"n_gpus": "2", "framework": "llama.cpp"}, "Q4_K_M"),
        ({"n_gpus": "2", "model": "Llama-2-70B-GPTQ"}, "int4"),
        ({"device": "H100-SXM", "model": "openai/gpt-oss-20b", "params_b": ""}, "mxfp4"),
        ({"device": "H200", "model": "deepseek-ai/DeepSeek-R1", "params_b": "", "n_gpus": "8"}, "fp8"),
    ):
        row = unstated | changes
        read = inference_jobs.read(row)
        assert isinstance(read, inference_jobs.Case), read
        assert read.stack.weights == weights, row
        (found,) = predict([row], [])
        assert found.values
        assert (f"weights taken as {weights}" in found.basis) == (weights != "full")


def test_weights_that_cannot_fit_as_stated_or_in_any_format_are_refused():
    large = ROW | {"device": "RTX4090", "model": "Llama-3-70B", "params_b": "70.6"}
    for precision in ("bf16", ""):
        (found,) = predict([large | {"precision": precision}], [])
        assert not found.values
        assert "do not fit into the memory of 1 x rtx-4090" in (found.reason or "")


def test_experts_and_tensors_together_are_no_pipeline():
    row = ROW | {"n_gpus": "4", "framework": "TensorRT-LLM"}
    assert (case(**row | {"precision": "fp16 [Hybrid TP = 2 and EP = 2]"}).job.pp) == 1
    assert (case(**row | {"precision": "fp16 [Hybrid TP = 2 and PP = 2]"}).job.pp) == 2


def test_sequences_of_one_text_read_the_experts_of_one_token():
    mixtral = {"model": "mistralai/Mixtral-8x7B-v0.1", "params_b": "", "n_gpus": "4", "framework": "TensorRT-LLM"}
    alike, mixed = case(**mixtral, source_id="argonne").job, case(**mixtral).job
    assert serving.ideal(alike).decode_experts < 0.3 * serving.ideal(mixed).decode_experts
    assert case(**mixtral | {"framework": "vLLM"}, source_id="argonne").job.alike is False


def test_a_chip_without_a_rate_has_that_of_its_makers_other_processors():
    m3 = chip.find("apple-m3-max")
    without = dataclasses.replace(m3, flops_per_s={})
    for rate_of in (lambda one: serving.peak_flops_per_s(one, "full"), serving.sm_clocks_per_s):
        assert rate_of(without) == pytest.approx(rate_of(m3), rel=0.15)
    (found,) = predict([ROW | {"device": "H100-96"}], [])
    assert "gives a rate" in (found.reason or "")


def test_strange_cells_never_stop_the_others():
    draw = random.Random(0)
    odd = ("", "-1", "0", "nan", "inf", "1e30", "text", "4bit", "8 x 80", "in-flight (max)")
    rows = [ROW | {name: draw.choice(odd) for name in draw.sample(sorted(ROW), 3)} for _ in range(300)]
    assert len(predict(rows, [])) == 300


def test_published_rows_of_known_devices_come_out_near_what_was_measured():
    known = inference_backtest.known_rows()[::9]
    held = inference_backtest.hold(store.fitted(), known)
    errors = sorted(one.error for one in held if one.figure == one.known.main)
    assert errors[len(errors) // 2] < 0.08  # they were fitted to; what left-out rows say is in the back-test


def test_decode_of_an_unmeasured_device_is_within_the_target():
    rows = [
        row
        for row in published.rows("inference")
        if row["source_id"] == "xiongjie_llamacpp" and row["phase"] == "decode"
    ]
    known = inference_backtest.known_rows([row for row in rows if row["output_len"] in ("512", "4096")])
    errors = []
    for name in ("rtx-4090", "a100-sxm-80"):
        out = [one for one in known if one.case.stack.chip.name == name]
        learned = inference_backtest.fit([one for one in known if one.case.stack.chip.name != name])
        errors += [one.error for one in inference_backtest.hold(learned, out)]
    assert sorted(errors)[len(errors) // 2] < 0.12
    assert sorted(errors)[int(0.9 * len(errors))] < 0.35


def test_the_back_test_has_a_line_for_each_source_and_one_for_their_median():
    known = inference_backtest.known_rows([row for row in published.rows("inference") if row["trust"] == "A"][::19])
    held = inference_backtest.hold(store.fitted(), known)
    lines = inference_backtest.groups({"again": held})
    assert [line["group"] for line in lines][-1] == "again: median over sources"
    assert lines[-1]["sources"] == len(lines) - 1 >= 3
    for line in lines:
        assert 0 <= line["median"] <= line["p90"]
        assert line["median"] < line["baselines"]["roofline"]


def test_the_stored_fit_is_read_as_it_was_written():
    names = ("rows", "sources", "left_out", "summary", "backtest", "scores")
    extra = {name: store.content()[name] for name in names}
    assert store.text(store.fitted(), extra) == store.FILE.read_text(encoding="utf-8")
    assert set(store.fitted().carried) == {"rate", "tpot", "ttft", "power"}


# Jobs


def job(**changes: object) -> ServingJob:
    fields: dict[str, object] = {
        "model": model.find("llama-3.1-8b"),
        "cluster": Cluster(chip=chip.find("h100-sxm")),
        "prompt": 512,
        "output": 256,
        "batch": 8,
        "stack": Stack(framework="vllm"),
    }
    return ServingJob(**(fields | changes))  # type: ignore[arg-type]


def test_a_job_has_rates_times_power_and_terms_of_a_step():
    found = predict_job(job())
    assert found.evidence == "L1"
    step_s = sum(term.seconds for term in found.terms)
    assert found.values["pred_tpot_s"] == pytest.approx(step_s, rel=0.5)
    assert 100 < found.values["pred_power_w"] < 700
    assert found.interval is not None


def test_a_model_that_does_not_fit_is_refused_with_the_reason():
    found = predict_job(job(model=model.find("llama-3.1-405b")))
    assert not found.values
    assert "fit" in (found.reason or "")


def test_two_devices_answer_sooner_than_one_and_four_bits_sooner_than_sixteen():
    alone = predict_job(job(batch=1)).values["pred_tpot_s"]
    cluster = Cluster(chip=chip.find("h100-sxm"), num_devices=2)
    assert predict_job(job(batch=1, cluster=cluster, layout=Layout(tp=2))).values["pred_tpot_s"] < alone
    assert predict_job(job(batch=1, weights="int4")).values["pred_tpot_s"] < alone


def test_a_name_of_software_alone_is_the_edition_measured_on_that_chip_in_that_format():
    groups = list(store.fitted().groups.values())

    def variant(framework: str, weights: str, name: str) -> str:
        family = inference_jobs.family_of(framework)
        return stacks.variant_of(groups, family, framework, weights, chip.find(name))

    assert variant("llama.cpp", "Q4_K_M", "rtx-4090") == "llama.cpp (llama-bench)"
    assert variant("llama.cpp", "full", "mi300x") == "llama.cpp"
    assert variant("vllm", "fp8", "b200") == "vLLM (ML.ENERGY benchmark v3)"  # and not with attention copied
    assert variant("vllm", "full", "a100-sxm-40") == "vLLM"
    assert variant("DeepSpeed-FastGen", "full", "a100-sxm-40") != "DeepSpeed-FastGen"
    assert variant("mine", "full", "a100-sxm-40") == "mine"


# Power


@pytest.mark.parametrize(
    ("wall_w", "compute", "communication"),
    # Watts: mlcommons/training_results_v4.0 at 6fe9543, nodes of eight H100 (LoRA on 8, GPT-3 on 512, LoRA on 64 and on
    # 512 boards). The logs do not say how busy the boards were: shares of the FP8 peak and of waiting are assumed.
    [(7162.0, 0.30, 0.0), (6851.0, 0.34, 0.05), (5808.0, 0.20, 0.35), (5068.0, 0.09, 0.72)],
)
def test_a_metered_node_draws_what_its_boards_and_host_do(wall_w, compute, communication):
    one = power.device_power(chip.find("h100-sxm"), compute=compute, memory=0.2, communication=communication)
    assert one is not None
    assert power.node_power(one, 8) == pytest.approx(wall_w, rel=0.10)


def test_a_board_never_draws_more_than_its_limit_and_more_work_never_less():
    h100 = chip.find("h100-sxm")
    watts = [power.device_power(h100, compute=share, memory=0.5) for share in (0.0, 0.2, 0.5, 1.0)]
    assert all(one is not None and one <= 700 for one in watts)
    assert watts == sorted(watts, key=lambda one: one or 0.0)
    assert (
        power.device_power(
            dataclasses.replace(h100, power_w=None, sources=_without(h100, "power_w")), compute=0, memory=0
        )
        is None
    )


def _without(one: chip.Chip, key: str) -> dict[str, str]:
    return {name: source for name, source in one.sources.items() if name != key}


def test_stacks_know_which_edition_of_a_software_they_mean():
    groups = list(store.fitted().groups.values())
    assert stacks.variant_of(groups, "vllm", "vllm", "full", chip.find("h100-sxm")).lower().startswith("vllm")
    assert stacks.variant_of(groups, "own", "own", "full", chip.find("h100-sxm")) == "own"


def test_a_laboratory_of_few_rows_says_nothing_of_intervals():
    scores = {f"lab{index}|vllm|offline": {"q80": 0.2, "q90": 0.4, "rows": 100} for index in range(9)}
    lucky = {"here|vllm|offline": {"q80": 0.01, "q90": 0.01, "rows": 3}}
    unlucky = {"away|vllm|offline": {"q80": 5.0, "q90": 5.0, "rows": 3}}
    expected = confidence.interval_of(case(), 1.0, scores)
    assert confidence.interval_of(case(), 1.0, scores | lucky | unlucky) == expected
    assert 1 < expected.factor80 < expected.factor90 < math.exp(0.5)
    assert confidence.interval_of(case(), 1.0, lucky) is None

"""Summaries: planted samples give back their medians, spreads, rates and shares."""

import math
import random
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import chip, record, workload
from bench.analyze.summary import Summary, ceilings, extrapolated, relative_half_width, summarize
from bench.device.virtual import Spec, Virtual

replace = msgspec.structs.replace
WORK = {"gemm_flops": 0, "attention_flops": 0, "elementwise_flops": 0, "bytes": 0, "tokens": 0, "launches": 0}


def work(**counts: int) -> record.Work:
    return record.Work(**{**WORK, "link_bytes": 0, **counts})


def only(build: Any, records: list[record.Record], **session: Any) -> Summary:
    (summary,) = summarize([build.file(records, **session)])
    return summary


# Time


def test_a_step_is_the_median_of_the_rounds_medians(build: Any) -> None:
    rounds = [[1.0, 2.0, 90.0], [4.0, 5.0, 6.0], [3.0, 3.0, 3.0]]
    summary = only(build, [build.record(samples, round=number) for number, samples in enumerate(rounds)])
    assert summary.launches_s == [2.0, 5.0, 3.0]
    assert summary.step_s == 3.0


def test_no_sample_is_ever_dropped(build: Any) -> None:
    assert only(build, [build.record([1.0, 1.0, 50.0, 60.0])]).step_s == 25.5


def test_spread_is_the_t_interval_of_the_rounds(build: Any) -> None:
    """Three medians whose logarithms are -s, 0 and s: standard deviation s, t(0.975, 2) = 4.302653."""
    s = 0.01
    summary = only(build, build.rounds([math.exp(-s), 1.0, math.exp(s)]))
    assert summary.spread == pytest.approx(math.expm1(4.302652729749464 * s / math.sqrt(3)), rel=1e-9)


def test_spread_of_equal_rounds_is_nothing(build: Any) -> None:
    assert only(build, build.rounds([2e-3] * 4)).spread == 0


def test_spread_of_a_single_round_is_that_of_its_samples(build: Any) -> None:
    samples = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02]
    assert only(build, [build.record(samples)]).spread == pytest.approx((1.1 - 0.9) / 2 / statistics.median(samples))
    assert only(build, [build.record(samples[:5])]).spread is None


def test_samples_of_one_round_do_not_narrow_the_spread_of_many(build: Any) -> None:
    few = [build.record([median] * 3, round=number) for number, median in enumerate((1.0, 1.1, 1.2))]
    many = [build.record([median] * 300, round=number) for number, median in enumerate((1.0, 1.1, 1.2))]
    assert only(build, few).spread == only(build, many).spread


def test_spread_covers_the_truth_as_often_as_it_says() -> None:
    generator = random.Random(7)
    held = 0
    for _ in range(2000):
        launches = [math.exp(generator.gauss(0, 0.05)) for _ in range(4)]
        mean = math.fsum(map(math.log, launches)) / 4
        held += abs(mean) <= math.log1p(relative_half_width(launches))
    assert 0.935 < held / 2000 < 0.965


# Rates


def test_rates_of_whole_steps_are_total_work_by_total_time(build: Any) -> None:
    """Hoefler & Belli (SC15), rule 3: 100 units in 10, 100 and 40 s are 2 a second, not the mean of three rates."""
    planted = build.record([10.0, 100.0, 40.0], work=work(tokens=100))
    assert only(build, [planted]).rate == (2.0, "tok/s")


def test_rates_of_whole_steps_join_all_rounds(build: Any) -> None:
    rounds = [build.record([10.0, 30.0], work=work(tokens=8)), build.record([60.0, 60.0], round=1, work=work(tokens=8))]
    assert only(build, rounds).rate == (4 * 8 / 160, "tok/s")


def test_rates_of_operations_are_work_by_the_median(build: Any) -> None:
    samples = [1.0, 2.0, 9.0]
    assert only(build, [build.record(samples, work=work(gemm_flops=100, bytes=7))]).rate == (50.0, "FLOP/s")
    assert only(build, [build.record(samples, work=work(attention_flops=100))]).rate == (50.0, "FLOP/s")
    assert only(build, [build.record(samples, work=work(bytes=100, elementwise_flops=5))]).rate == (50.0, "B/s")
    assert only(build, [build.record(samples, work=work(launches=200, bytes=9))]).rate == (100.0, "launch/s")


def test_flops_of_every_kind_and_bytes_are_counted(build: Any) -> None:
    counts = work(gemm_flops=6, attention_flops=3, elementwise_flops=1, bytes=40)
    summary = only(build, [build.record([2.0], work=counts)])
    assert (summary.flops_per_s, summary.bytes_per_s) == (5.0, 20.0)


def test_work_that_is_not_there_has_no_rate(build: Any) -> None:
    summary = only(build, [build.record([2.0], work=work(gemm_flops=6))])
    assert summary.bytes_per_s is None
    assert only(build, [build.record([2.0], work=work(bytes=6))]).flops_per_s is None


# What counts


def test_failed_rounds_join_the_case_and_count_for_nothing(build: Any) -> None:
    flash = replace(build.record().identity, cache="warm", data="zeros")
    failed = build.failed("oom", round=1, identity=flash)
    summary = only(build, [build.record([1.0]), failed, build.record([3.0], round=2)])
    assert len(summary.records) == 3
    assert summary.launches_s == [1.0, 3.0]
    assert summary.status == "oom"
    assert summary.first.status == "ok"


def test_a_case_that_only_failed_has_a_row_without_numbers(build: Any) -> None:
    summary = only(build, [build.failed("timeout", round=number) for number in range(2)])
    assert summary.status == "timeout"
    assert (summary.step_s, summary.spread, summary.rate, summary.flops_per_s, summary.bytes_per_s) == (None,) * 5
    assert summary.of_datasheet is None


@pytest.mark.parametrize("flag", sorted(record.INVALID_FLAGS))
def test_invalid_rounds_are_left_out_and_said(build: Any, flag: str) -> None:
    summary = only(build, [build.record([1.0]), build.record([9.0], round=1, flags=[flag])])
    assert summary.step_s == 1.0
    assert summary.status == "invalid"
    assert summary.flags == [flag]


def test_flags_that_only_warn_leave_the_round_in(build: Any) -> None:
    summary = only(build, [build.record([1.0], flags=["not_steady"]), build.record([3.0], round=1)])
    assert (summary.step_s, summary.status, summary.flags) == (2.0, "ok", ["not_steady"])


def test_samples_of_a_hostile_file_break_nothing(build: Any) -> None:
    for samples in ([], [0.0], [5e-324, 5e-324], [1e30]):
        summary = only(build, [build.record(samples, round=0), build.record(samples, round=1)])
        assert (summary.step_s, summary.spread, summary.rate, summary.status) == (None, None, None, "invalid")


# Grouping


def test_modes_of_launching_are_two_rows_named_apart(build: Any) -> None:
    graph = replace(build.record().identity, launch="graph")
    found = summarize([build.file([build.record([2.0]), build.record([1.0], identity=graph)])])
    assert [one.case for one in found] == ["matmul m=64 n=64 k=64 dtype=float32", found[0].case + " [graph]"]
    assert [one.step_s for one in found] == [2.0, 1.0]


def test_a_case_measured_cold_and_warm_is_never_averaged(build: Any) -> None:
    warm = replace(build.record().identity, cache="warm")
    found = summarize([build.file([build.record([4.0]), build.record([1.0], round=1, identity=warm)])])
    assert sorted(one.step_s or 0 for one in found) == [1.0, 4.0]


def test_devices_and_versions_are_rows_of_their_own(build: Any) -> None:
    devices = build.session().devices * 2
    records = [build.record([1.0]), build.record([2.0], device=1), build.record([3.0], version=2)]
    found = summarize([build.file(records, devices=devices)])
    assert sorted(one.step_s or 0 for one in found) == [1.0, 2.0, 3.0]


def test_the_same_run_in_two_files_counts_once(build: Any) -> None:
    records = build.rounds([1.0, 2.0])
    one, copy = build.file(records), build.file(records, name="copy.jsonl")
    assert len(summarize([one, copy])) == 1
    assert len(summarize([one, build.file(records, id="b" * 16)])) == 2


def test_rows_come_in_the_order_of_the_plan(build: Any) -> None:
    sizes = [{"m": m, "n": 64, "k": 64, "dtype": "float32"} for m in (512, 64, 256)]
    file = build.file([build.record(params=params) for params in sizes])
    shuffled = record.ResultFile(name="x", session=file.session, records=file.records[::-1], torn=False)
    assert [one.first.params["m"] for one in summarize([shuffled])] == [512, 64, 256]


# Roofs

MATMUL = {"m": 512, "n": 512, "k": 512, "dtype": "float32"}
COPY = {"num_bytes": 2**20, "dtype": "float32"}
NORM = {"tokens": 64, "hidden_size": 64, "dtype": "float32"}


def test_shares_are_of_the_roof_that_binds(build: Any) -> None:
    """Roofs of 1000 FLOP/s and 10 B/s: 500 FLOP and 10 B need 1 s of traffic, 5000 FLOP and 10 B 5 s of arithmetic."""
    roofs = [
        build.record([1.0], params=MATMUL, work=work(gemm_flops=900)),
        build.record([1.0], params={**MATMUL, "m": 256}, work=work(gemm_flops=1000)),
        build.record([2.0], workload="memory_copy", params=COPY, work=work(bytes=20)),
    ]
    lean = build.record([4.0], workload="rms_norm", params=NORM, work=work(gemm_flops=500, bytes=10))
    rich = build.record(
        [10.0], workload="rms_norm", params={**NORM, "tokens": 128}, work=work(gemm_flops=5000, bytes=10)
    )
    found = summarize([build.file([*roofs, lean, rich])])
    (roof,) = ceilings(found).values()
    assert (roof.flops_per_s, roof.bytes_per_s) == ({"float32": 1000.0}, 10.0)
    assert [roof.share(one) for one in found] == [None, None, None, 0.25, 0.5]


def test_without_the_roof_that_may_bind_there_is_no_share(build: Any) -> None:
    copy = build.record([2.0], workload="memory_copy", params=COPY, work=work(bytes=20))
    mixed = build.record([4.0], workload="rms_norm", params=NORM, work=work(gemm_flops=500, bytes=10))
    found = summarize([build.file([copy, mixed])])
    assert ceilings(found)[found[0].session.id, 0].share(found[1]) is None
    plain = build.record([4.0], workload="rms_norm", params=NORM, work=work(elementwise_flops=5, bytes=10))
    found = summarize([build.file([copy, plain])])
    assert ceilings(found)[found[0].session.id, 0].share(found[1]) == 0.25


def test_roofs_of_one_type_do_not_bound_another(build: Any) -> None:
    roof = build.record([1.0], params={**MATMUL, "dtype": "bfloat16"}, work=work(gemm_flops=1000))
    other = build.record([1.0], workload="rms_norm", params=NORM, work=work(gemm_flops=10))
    found = summarize([build.file([roof, other])])
    assert ceilings(found)[found[0].session.id, 0].share(found[1]) is None


def test_roofs_come_from_valid_rounds_of_the_same_device(build: Any) -> None:
    devices = build.session().devices * 2
    records = [
        build.record([1.0], params=MATMUL, work=work(gemm_flops=10**6), flags=["bad_output"]),
        build.record([1.0], params=MATMUL, work=work(gemm_flops=1000), device=1),
    ]
    roofs = ceilings(summarize([build.file(records, devices=devices)]))
    assert roofs["a" * 16, 0].flops_per_s == {}
    assert roofs["a" * 16, 1].flops_per_s == {"float32": 1000.0}


def test_share_of_the_datasheet_is_of_the_chips_own_peaks(build: Any) -> None:
    h100 = chip.find("h100-sxm")
    devices = [replace(build.session().devices[0], chip="h100-sxm")]
    peak = h100.peak_flops_per_s("bfloat16")
    assert peak is not None
    one = build.record([2.0], params={**MATMUL, "dtype": "bfloat16"}, work=work(gemm_flops=round(peak)))
    assert only(build, [one], devices=devices).of_datasheet == pytest.approx(0.5)
    copy = build.record([4.0], work=work(bytes=round(h100.memory_bytes_per_s)))
    assert only(build, [copy], devices=devices).of_datasheet == pytest.approx(0.25)


def test_a_chip_that_the_catalog_lacks_has_no_share(build: Any) -> None:
    for name in ("chip-of-the-future", None, "../../etc/passwd", "\x1b[31m"):
        devices = [replace(build.session().devices[0], chip=name)]
        assert only(build, [build.record()], devices=devices).of_datasheet is None


def test_the_golden_file_gives_what_was_simulated(golden: Path) -> None:
    """The virtual device's own numbers: 500 TFLOP/s for two-byte types, half for four, 2 TB/s, 4 us for a launch."""
    found = {one.case: one for one in summarize([record.read(golden)])}
    rates = {case.partition(" ")[0] + case[-8:]: one.rate[0] for case, one in found.items() if one.rate}
    assert rates["matmulbfloat16"] == pytest.approx(500e12, rel=0.01)
    assert rates["matmul=float32"] == pytest.approx(250e12, rel=0.02)
    assert rates["memory_copy=float32"] == pytest.approx(2e12, rel=0.01)
    assert rates["launch_overhead=float32"] == pytest.approx(1 / 4e-6, rel=0.01)


# Utilization and whole models from some of their layers


def test_utilization_counts_recomputation_for_the_hardware_only(build: Any) -> None:
    done = work(gemm_flops=600, attention_flops=60, recomputed_flops=220, tokens=8, bytes=1)
    summary = only(build, [build.record([2.0] * 8, work=done)])
    assert summary.utilization(1000.0) == (pytest.approx(0.33), pytest.approx(0.44))
    assert summary.utilization(None) is None
    assert only(build, [build.record([2.0] * 8)]).utilization(1000.0) is None  # a matrix product has no model


def stacks(build: Any, times_s: dict[int, list[float]]) -> list[record.Record]:
    """Training steps of stacks of so many layers, a time for each round."""
    params = {"model": "llama-3.1-8b", "batch": 1, "seq": 128, "dtype": "bfloat16"}
    return [
        one
        for layers, rounds in times_s.items()
        for one in build.rounds(rounds, workload="train_step", params=params | {"layers": layers})
    ]


def test_a_whole_model_follows_from_two_stacks_round_by_round(build: Any) -> None:
    # 0.5 s for embedding and head, 0.1 s and 0.2 s for a layer; llama-3.1-8b has 32.
    summaries = summarize([build.file(stacks(build, {2: [0.7, 0.9], 4: [0.9, 1.3]}))])
    (whole,) = extrapolated(summaries)
    assert whole.launches_s == pytest.approx([0.5 + 3.2, 0.5 + 6.4])
    assert whole.case == "train_step model=llama-3.1-8b batch=1 seq=128 dtype=bfloat16 [from 4 layers]"
    assert whole.first.work == record.Work.of(workload.case("train_step", dict(whole.first.params)).cost())
    assert whole.first.extras["num_parameters"] == 8_030_261_248


def test_one_stack_alone_or_time_that_does_not_grow_says_nothing_of_the_whole(build: Any) -> None:
    assert extrapolated(summarize([build.file(stacks(build, {4: [0.9]}))])) == []
    assert extrapolated(summarize([build.file(stacks(build, {2: [0.9], 4: [0.9]}))])) == []
    assert extrapolated(summarize([build.file(stacks(build, {2: [0.7, 0.9], 4: [0.9, 0.8]}))])) == []


def test_on_the_virtual_gpu_the_extrapolation_is_exact() -> None:
    """There a step takes what its declared work takes, so the whole can be measured and compared."""
    device = Virtual(Spec(gap_s=0.0, event_quantum_s=0.0, idle_clock=1.0, cap_w=1e9))
    params = {"model": "llama-3.2-1b", "batch": 4, "seq": 2048, "dtype": "bfloat16"}

    def step_s(layers: int) -> float:
        run = device.prepare(workload.case("train_step", params | {"layers": layers})).run
        start = device.now_s()
        run()
        device.synchronize()
        return device.now_s() - start

    small, large = step_s(4), step_s(8)
    assert large + (16 - 8) * (large - small) / 4 == pytest.approx(step_s(0), rel=1e-3)

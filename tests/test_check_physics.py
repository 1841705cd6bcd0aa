"""Physics: what hardware cannot have done is refused or set apart, with its numbers; what it can do passes."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from boards import board, metered, replace, rounds, run, timed

from bench import chip
from bench.analyze.check import Bands, Finding, check, quarantined
from bench.record import Record, ResultFile, Series, Telemetry

BF16 = {"m": 8192, "n": 8192, "k": 8192, "dtype": "bfloat16"}
DECODE = {"model": "llama-3.1-8b", "batch": 1, "context": 512, "dtype": "bfloat16"}
TRAIN = {"model": "llama-3.2-1b", "batch": 2, "seq": 2048, "dtype": "bfloat16"}
COPY = {"num_bytes": 1 << 30, "dtype": "float32"}
PEAK, BANDWIDTH = 989.4e12, 3.35e12


@pytest.fixture
def judged(build: Any, tmp_path: Path) -> Callable[..., list[Finding]]:
    def judged(records: Sequence[Record], **session: Any) -> list[Finding]:
        return check(build.write(tmp_path / "x.jsonl", run(build, records, **session)))

    return judged


def at(
    build: Any, rate: float, params: dict[str, Any], workload: str = "matmul", per: str = "flops", **fields: Any
) -> Record:
    """A record that comes to this rate of FLOP or bytes."""
    one = build.record(workload=workload, params=params)
    work = one.work.gemm_flops + one.work.attention_flops if per == "flops" else one.work.bytes
    return timed(build, work / rate, workload=workload, params=params, **fields)


def levels(found: Sequence[Finding], code: str) -> set[str]:
    return {one.level for one in found if one.code == code}


def test_a_genuine_h100_passes_without_a_word(build: Any, judged: Any) -> None:
    """794 TFLOP/s in a burst and 3.0 TB/s are what others measured (stas00/ml-engineering)."""
    records = [
        at(build, 794e12, BF16),
        at(build, 3.0e12, COPY, "memory_copy", "bytes"),
        at(build, 2.4e12, DECODE, "decode", "bytes"),
        at(build, 400e12, TRAIN, "train_step"),
    ]
    assert judged(records) == []


@pytest.mark.parametrize(
    ("share", "level"), [(0.99, None), (1.05, "quarantine"), (1.14, "quarantine"), (1.2, "error"), (50, "error")]
)
def test_flops_above_the_datasheet_are_set_apart_and_far_above_refused(
    build: Any, judged: Any, share: float, level: str | None
) -> None:
    found = judged([at(build, share * PEAK, BF16)])
    assert levels(found, "datasheet") == ({level} if level else set())
    if level:
        assert "PFLOP/s" in found[0].message or "TFLOP/s" in found[0].message
        assert "989 TFLOP/s" in found[0].message and found[0].line == 2


@pytest.mark.parametrize(("share", "level"), [(0.99, None), (1.04, "quarantine"), (1.1, "error")])
def test_bytes_above_the_datasheet_likewise(build: Any, judged: Any, share: float, level: str | None) -> None:
    found = judged([at(build, share * BANDWIDTH, COPY, "memory_copy", "bytes")])
    assert levels(found, "datasheet") == ({level} if level else set())


def test_what_may_come_from_a_cache_is_not_held_against_memory(build: Any, judged: Any) -> None:
    assert judged([at(build, 3 * BANDWIDTH, {**COPY, "num_bytes": 32 << 20}, "memory_copy", "bytes")]) == []
    amd = board(build, "AMD Instinct MI300X", vendor="amd", chip=None, readings={"power_limit_w": 750.0})
    name = chip.find("mi300x").driver_names[0]
    amd = replace(amd, name=name, chip="mi300x", last_level_cache_bytes=4 << 20)
    small = at(build, 9e12, {**COPY, "num_bytes": 256 << 20}, "memory_copy", "bytes")
    assert judged([small], devices=[amd]) == []  # its Infinity Cache holds 256 MiB, and no driver says so


def test_an_unknown_chip_has_no_datasheet_and_passes(build: Any, judged: Any) -> None:
    assert judged([at(build, 1e18, BF16)], devices=[board(build, "Some New Board", chip=None)]) == []


@pytest.mark.parametrize(
    ("told", "name"), [("l4", "NVIDIA H100 80GB HBM3"), (None, "NVIDIA H100 80GB HBM3"), ("h100-sxm", "NVIDIA L4x")]
)
def test_a_chip_is_known_by_its_drivers_name_alone(build: Any, judged: Any, told: str | None, name: str) -> None:
    assert levels(judged([timed(build)], devices=[replace(board(build), name=name, chip=told)]), "chip") == {"error"}


def test_a_training_step_faster_than_this_boards_own_product_is_set_apart(build: Any, judged: Any) -> None:
    """The mistake of published tables: 152 % and 563 % of peak (pytorch/torchtitan#4779)."""
    products = rounds(build, build.record(params=BF16).work.gemm_flops / 500e12, params=BF16)
    whole = [at(build, 700e12, TRAIN, "train_step", round=number) for number in range(3)]
    (finding,) = judged([*products, *whole])
    assert (finding.level, finding.code) == ("quarantine", "measured")
    assert "700 TFLOP/s" in finding.message and "best matmul of this file does" in finding.message
    assert judged([*products, *(at(build, 500e12, TRAIN, "train_step", round=number) for number in range(3))]) == []


def test_decode_faster_than_the_best_copy_is_set_apart(build: Any, judged: Any) -> None:
    copy = at(build, 2.0e12, COPY, "memory_copy", "bytes")
    assert levels(judged([copy, at(build, 2.6e12, DECODE, "decode", "bytes")]), "measured") == {"quarantine"}
    assert judged([copy, at(build, 1.9e12, DECODE, "decode", "bytes")]) == []


def test_another_boards_product_is_no_roof(build: Any, judged: Any) -> None:
    slow = replace(at(build, 100e12, BF16), device=1)
    assert (
        judged(
            [slow, at(build, 400e12, TRAIN, "train_step")],
            devices=[board(build), board(build, uuid="1" * 16)],
            speeds=[],
        )
        == []
    )


@pytest.mark.parametrize(
    ("power_w", "level"),
    [(650, None), (740, None), (800, "quarantine"), (1100, "error"), (60, None), (50, "quarantine")],
)
def test_power_lies_between_idle_and_limit(build: Any, judged: Any, power_w: float, level: str | None) -> None:
    found = judged([metered(build, power_w)])
    assert levels(found, "energy") == ({level} if level else set())
    if level:
        assert f"{power_w:g} W" in found[0].message


def test_energy_and_power_that_contradict_each_other_are_set_apart_unless_flagged(build: Any, judged: Any) -> None:
    assert levels(judged([metered(build, 600, told_w=300)]), "energy") == {"quarantine"}
    assert judged([metered(build, 600, told_w=300, flags=["energy_disagree"])]) == []
    assert judged([metered(build, 600, told_w=560)]) == []


def test_no_energy_is_null_and_never_zero(build: Any, judged: Any) -> None:
    one = metered(build, 600)
    zero = replace(one, energy=replace(one.energy, joules=0.0))
    assert levels(judged([zero]), "energy") == {"error"}


@pytest.mark.parametrize(("clock_hz", "level"), [(1.98e9, None), (2.5e9, "quarantine"), (-1.0, "error")])
def test_clocks_lie_within_what_the_board_says(build: Any, judged: Any, clock_hz: float, level: str | None) -> None:
    one = timed(build)
    series = {"clock_hz": Series(t_s=[0.0], values=[clock_hz])}
    telemetry = Telemetry(window_s=1.0, period_s=0.1, busy=0.0, series=series, changes={}, state={})
    assert levels(judged([replace(one, telemetry=telemetry)]), "clock") == ({level} if level else set())


def test_a_larger_product_is_not_faster(build: Any, judged: Any) -> None:
    small, large = {**BF16, "m": 4096}, BF16
    found = judged([*rounds(build, 2e-3, params=small), *rounds(build, 1.5e-3, params=large)])
    (finding,) = found
    assert (finding.level, finding.code) == ("quarantine", "order")
    assert "which is more work" in finding.message
    assert judged([*rounds(build, 1e-3, params=small), *rounds(build, 2e-3, params=large)]) == []
    noisy = [timed(build, step_s, params=small, round=n) for n, step_s in enumerate((1e-3, 2e-3, 4e-3))]
    assert judged([*noisy, *rounds(build, 1.5e-3, params=large)]) == []  # their spread explains it


def test_thousands_of_sizes_take_no_minutes(build: Any, judged: Any) -> None:
    """All pairs of 4,000 took two minutes of a processor, and would have given millions of findings."""
    sizes = [{**BF16, "m": 64 + number, "n": 64, "k": 64} for number in range(1500)]
    records = [timed(build, 1e-2 / (number + 1), params=params) for number, params in enumerate(sizes)]
    started = time.process_time()
    found = [one for one in judged(records) if one.code == "order"]
    assert time.process_time() - started < 10  # all pairs of 4,000 took 119
    assert len(sizes) / 2 < len(found) < len(sizes)
    assert "other larger cases are faster too" in found[0].message


def test_a_batch_that_costs_far_more_than_its_share_is_worth_a_note(build: Any, judged: Any) -> None:
    alone, many = DECODE, {**DECODE, "batch": 4}
    one, four = (
        rounds(build, 10e-3, workload="decode", params=alone),
        rounds(build, 90e-3, workload="decode", params=many),
    )
    (finding,) = judged([*one, *four])
    assert (finding.level, finding.code) == ("note", "batch")
    assert "4 times the batch" in finding.message


def test_a_model_with_the_wrong_number_of_parameters_is_refused(build: Any, judged: Any) -> None:
    """A configuration named 7B that held 125 million parameters (mosaicml/llm-foundry#1706)."""
    one = at(build, 2e12, DECODE, "decode", "bytes")
    found = judged([replace(one, extras={"num_parameters": 125e6})])
    assert levels(found, "parameters") == {"error"}
    assert "1.25e+08" in found[0].message and "8.03e+09" in found[0].message
    assert judged([replace(one, extras={"num_parameters": 8030261248.0})]) == []


# Statistics that can be computed anew


def steady_samples(spread: float, count: int = 60) -> list[float]:
    return [1e-3 * (1 + spread * ((7 * n * n + 3 * n) % 11 - 5) / 5) for n in range(count)]


def test_precision_is_computed_anew_from_the_samples(build: Any, judged: Any) -> None:
    planned = {"protocols": {"micro": build.session().protocols["micro"]}}
    assert judged([timed(build, steady_samples(0.001))], **planned) == []
    assert levels(judged([timed(build, steady_samples(0.2))], **planned), "precision") == {"error"}


def test_a_drift_that_no_flag_tells_of_is_refused(build: Any, judged: Any) -> None:
    drifting = [1e-3 * (1 + 0.002 * n) for n in range(60)]
    found = judged([timed(build, drifting)], protocols={})
    assert levels(found, "steadiness") == {"error"}
    flags = ["not_steady", "strong_autocorrelation"]
    assert judged([timed(build, drifting, flags=flags)], protocols={}) == []


def test_samples_that_do_not_fit_into_their_window_are_refused(build: Any, judged: Any) -> None:
    one = timed(build)
    assert levels(judged([replace(one, timing=replace(one.timing, window_s=6e-3))]), "window") == {"error"}
    late = replace(one, started="2026-11-25T10:00:00.000+00:00", ended="2026-11-25T10:00:00.100+00:00")
    long = replace(late, timing=replace(one.timing, window_s=3.0, repeats=375))
    assert levels(judged([long]), "moment") == {"error"}
    assert judged([replace(long, flags=["wallclock_stepped"])]) == []


@pytest.mark.parametrize(("begins_s", "found"), [(0.02, set()), (3.0, {"error"}), (1e30, {"error"})])
def test_a_window_that_begins_after_the_record_ended_is_refused(
    build: Any, judged: Any, begins_s: float, found: set[str]
) -> None:
    one = timed(build, started="2026-11-25T10:00:00.000+00:00", ended="2026-11-25T10:00:02.000+00:00")
    assert levels(judged([replace(one, timing=replace(one.timing, begins_s=begins_s))]), "moment") == found


@pytest.mark.parametrize("moment", ["2026-02-31T10:00:00+00:00", "2026-11-25T25:00:00Z", "2026-11-25", "", "now"])
def test_a_moment_that_never_was_is_refused(build: Any, judged: Any, moment: str) -> None:
    assert levels(judged([timed(build, started=moment)]), "moment") == {"error"}
    assert levels(judged([timed(build)], started=moment), "moment") == {"error"}


def test_a_simulated_clock_belongs_to_a_simulated_device(build: Any, judged: Any) -> None:
    one = timed(build)
    assert levels(judged([replace(one, timing=replace(one.timing, clock="virtual"))]), "clock") == {"error"}


# The band of the other machines


def machines(build: Any, steps_s: Sequence[float], **fields: Any) -> list[ResultFile]:
    return [
        replace(
            run(
                build,
                rounds(build, step_s, params=BF16),
                session=f"{number:016x}",
                devices=[board(build, uuid=f"{number:016x}", **fields)],
            ),
            name=f"{number}.jsonl",
        )
        for number, step_s in enumerate(steps_s, start=1)
    ]


@pytest.mark.parametrize(
    ("factor", "apart"), [(1.0, False), (0.95, False), (1.4, False), (0.8, True), (1.7, True), (10.0, True)]
)
def test_a_machine_far_from_the_others_is_set_apart_and_told_how_to_appeal(
    build: Any, tmp_path: Path, factor: float, apart: bool
) -> None:
    others = machines(build, [2.00e-3, 2.02e-3, 1.98e-3, 2.01e-3])
    mine = run(
        build, rounds(build, 2e-3 * factor, params=BF16), session="f" * 16, devices=[board(build, uuid="f" * 16)]
    )
    bands = Bands(others)
    found = check(build.write(tmp_path / "x.jsonl", mine), lambda file: bands)
    assert levels(found, "band") == ({"quarantine"} if apart else set())
    if apart:
        assert "4 other machines" in found[0].message and "pull request" in found[0].message
        assert [key[0] for key in quarantined([mine], others)] == ["f" * 16]
    assert quarantined(others, [*others, mine]) == {}  # the others stay what they are


def test_two_others_make_no_band_and_ones_own_runs_none_at_all(build: Any) -> None:
    far = machines(build, [2e-3, 2e-3, 20e-3])
    assert quarantined([far[2]], far) == {}
    own = [
        msgspec.structs.replace(one, session=replace(one.session, devices=[board(build)]))
        for one in machines(build, [2e-3] * 5)
    ]
    mine = run(build, rounds(build, 20e-3, params=BF16), session="f" * 16)
    assert quarantined([mine], own) == {}


def test_machines_that_differ_among_themselves_make_a_wider_band(build: Any) -> None:
    others = machines(build, [10e-3, 13e-3, 16e-3, 20e-3, 26e-3])
    mine = run(build, rounds(build, 11e-3, params=BF16), session="f" * 16, devices=[board(build, uuid="f" * 16)])
    assert quarantined([mine], others) == {}


def test_a_lowered_power_limit_is_set_beside_its_like_alone(build: Any) -> None:
    """370 W cards capped at 230 W were nearly taken for broken (noonghunna/club-3090#1277)."""
    others = machines(build, [2e-3] * 4)
    capped = board(build, uuid="f" * 16, readings={"power_limit_w": 400.0})
    mine = run(build, rounds(build, 4e-3, params=BF16), session="f" * 16, devices=[capped])
    assert quarantined([mine], others) == {}


def test_what_is_refused_calibrates_nothing_either(build: Any) -> None:
    bad, good = at(build, 2 * PEAK, BF16), timed(build, 5e-3, params={**BF16, "m": 16384})
    found = quarantined([run(build, [bad, good])])
    assert list(found) == [("a" * 16, 0, bad.key())]
    wrong_chip = run(build, [bad, good], devices=[board(build, chip="l4")])
    assert set(quarantined([wrong_chip])) == {("a" * 16, 0, bad.key()), ("a" * 16, 0, good.key())}


def test_an_accepted_run_is_no_longer_set_apart(build: Any) -> None:
    others = machines(build, [2e-3] * 4)
    mine = run(build, rounds(build, 20e-3, params=BF16), session="f" * 16, devices=[board(build, uuid="f" * 16)])
    mine = replace(mine, name="20260101T000000Z-aaaaaaaaaaaaaaaa.jsonl")
    assert quarantined([mine], others) != {}
    assert quarantined([mine], others, accepted={"a" * 16}) == {}

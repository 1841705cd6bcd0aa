"""Compare: noise is no claim, a planted difference is one, and what is not alike is not compared."""

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import record, stats
from bench.analyze import compare as compares
from bench.analyze import show_verdicts
from bench.analyze.compare import Compared, Comparison, compare
from bench.record import Record, ResultFile, Series, Telemetry

replace = msgspec.structs.replace
CPU = "cpu"


@pytest.fixture
def side(build: Any) -> Any:
    """A run of one case with these medians; sides that start an hour apart did not take turns."""
    runs = itertools.count()

    def make(medians_s: Sequence[float], *, hour: int = 0, step: int = 60, **fields: Any) -> ResultFile:
        records = build.rounds(medians_s, start=3600 * hour, step=step, **fields)
        return build.file(records, id=f"{next(runs):016d}")

    return make


def only(before: ResultFile, after: ResultFile) -> Comparison:
    (row,) = compare([before], [after]).rows
    return row


def apart(log_ratio: float, launch_sd: float, rounds: int = 5, seed: int = 1) -> tuple[list[float], list[float]]:
    """Two sides' medians around 1 ms, the second slower by exp(log_ratio)."""
    generator = random.Random(seed)
    return tuple(  # type: ignore[return-value]
        [1e-3 * math.exp(shift + generator.gauss(0, launch_sd)) for _ in range(rounds)] for shift in (0, log_ratio)
    )


# What must hold exactly


def test_a_file_compared_with_itself_is_exactly_one(golden: Path) -> None:
    file = record.read(golden)
    found = compare([file], [file])
    assert len(found.rows) == len({one.key() for one in file.records}) > 8
    for row in found.rows:
        assert row.ratio == 1
        assert row.verdict in {"equivalent", "inconclusive"}
        assert row.before_s == row.after_s
    assert (found.only_before, found.only_after, found.differences) == ([], [], [])


def test_that_both_sides_are_one_run_is_said(golden: Path) -> None:
    file = record.read(golden)
    found = compare([file], [file])
    assert found.notes[0].startswith(f"run {file.session.id} is on both sides: what is equal there says nothing")


@pytest.mark.parametrize("seed", range(5))
def test_two_halves_of_a_file_are_never_told_apart(build: Any, seed: int) -> None:
    chance = random.Random(seed)
    records = build.rounds([1e-3 * math.exp(chance.gauss(0, 0.02) - (number > 3) * 0.2) for number in range(8)])
    first, last = build.file(records[:4], id="one"), build.file(records[4:], id="one")
    for before, after in ((first, last), (last, first)):
        row = only(before, after)
        assert (row.verdict, row.reason) == ("inconclusive", "both sides hold rounds of one run")


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_equal_sides_are_never_told_apart(side: Any, rounds: int) -> None:
    medians = [1e-3 * (1 + 0.003 * number) for number in range(rounds)]
    row = only(side(medians), side(medians, hour=1))
    assert row.ratio == 1
    assert row.verdict in {"equivalent", "inconclusive"}
    assert row.interval95 is not None
    assert row.interval95[0] < 1 < row.interval95[1]


@pytest.mark.parametrize("hour", [0, 1])
@pytest.mark.parametrize("rounds", [1, 3, 6])
def test_swapping_the_sides_inverts_the_ratio_and_mirrors_the_verdict(side: Any, rounds: int, hour: int) -> None:
    first, second = apart(0.3, 0.004, rounds)
    before, after = side(first), side(second, hour=hour)
    one, other = only(before, after), only(after, before)
    assert one.ratio is not None and other.ratio is not None
    assert one.interval95 is not None and other.interval95 is not None
    assert one.ratio * other.ratio == pytest.approx(1, rel=1e-12)
    assert one.interval95[0] * other.interval95[1] == pytest.approx(1, rel=1e-12)
    assert {one.verdict, other.verdict} == ({"slower", "faster"} if rounds > 1 else {"inconclusive"})
    assert (one.before_s, one.after_s) == (other.after_s, other.before_s)


# What must be found, and what must not


def test_a_planted_tenth_is_found_and_its_interval_holds_it(side: Any) -> None:
    first, second = apart(math.log(1.1), 0.005)
    row = only(side(first), side(second, hour=1))
    assert row.verdict == "slower"
    assert row.interval95 is not None
    assert row.interval95[0] < 1.1 < row.interval95[1]
    assert row.rounds == (5, 5)


def test_a_planted_three_percent_is_found_when_the_sides_take_turns(build: Any) -> None:
    first, second = apart(math.log(1.03), 0.005, rounds=8)
    before = build.file(build.rounds(first, start=0, step=120), id="b" * 16)
    after = build.file(build.rounds(second, start=60, step=120), id="c" * 16)
    row = only(before, after)
    assert (row.interleaved, row.verdict) == (True, "slower")


def test_a_real_difference_that_matters_to_nobody_is_equivalent(build: Any) -> None:
    first, second = apart(math.log(1.003), 0.001, rounds=8)
    before = build.file(build.rounds(first, start=0, step=120), id="b" * 16)
    after = build.file(build.rounds(second, start=60, step=120), id="c" * 16)
    assert only(before, after).verdict == "equivalent"


def test_drift_that_both_sides_share_is_taken_out_by_turns(build: Any) -> None:
    """Half a percent from each turn to the next: five times the noise, and no difference."""
    generator = random.Random(3)
    drifting = [1e-3 * math.exp(0.005 * turn + generator.gauss(0, 0.001)) for turn in range(20)]
    turns = [turn for block in range(5) for turn in (4 * block, 4 * block + 3, 4 * block + 1, 4 * block + 2)]
    places = {0: sorted(turn for at, turn in enumerate(turns) if at % 4 < 2), 1: []}
    places[1] = [turn for turn in range(20) if turn not in places[0]]  # ABBA ABBA ...
    sides = []
    for number, own in places.items():
        records = [
            build.record([drifting[turn]] * 8, round=at, started=f"2026-01-01T00:{turn:02d}:00.000+00:00")
            for at, turn in enumerate(own)
        ]
        sides.append(build.file(records, id=str(number) * 16))
    row = only(*sides)
    assert row.interleaved
    assert row.verdict == "equivalent"
    assert row.ratio == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize("vendor", [CPU, "nvidia"])
@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_noise_is_not_a_claim(build: Any, vendor: str, rounds: int) -> None:
    """The same thing twice, in two sittings, with the spread of launches and the drift that are assumed."""
    generator = random.Random(f"{vendor} {rounds}")
    drift = compares.SITTING_SD.get(vendor, compares.SITTING_SD_ELSEWHERE)
    devices = [replace(build.session().devices[0], vendor=vendor)]
    claims, trials = 0, 400
    for _ in range(trials):
        files = []
        for hour in (0, 1):
            sitting = generator.gauss(0, drift)
            medians = [math.exp(sitting + generator.gauss(0, 0.005)) for _ in range(rounds)]
            records = build.rounds(medians, start=3600 * hour)
            files.append(build.file(records, id=str(hour) * 16, devices=devices))
        claims += only(*files).verdict in {"faster", "slower"}
    assert claims / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_noise_is_not_a_claim_when_the_sides_take_turns(build: Any) -> None:
    generator = random.Random(11)
    claims, trials = 0, 400
    for _ in range(trials):
        files = []
        for number in (0, 1):
            medians = [math.exp(generator.gauss(0, 0.02)) for _ in range(5)]
            files.append(build.file(build.rounds(medians, start=60 * number, step=120), id=str(number) * 16))
        row = only(*files)
        assert row.interleaved
        claims += row.verdict in {"faster", "slower"}
    assert claims / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_among_many_cases_chance_is_not_a_claim(build: Any) -> None:
    """Twenty cases compared with themselves: few claims, and hardly a family with one that is not marked as chance."""
    generator = random.Random(5)
    drift = compares.SITTING_SD_ELSEWHERE
    devices = [replace(build.session().devices[0], vendor="nvidia")]
    sizes = [{"m": 64 * size, "n": 64, "k": 64, "dtype": "float32"} for size in range(1, 21)]
    families, claims, trials = 0, 0, 60
    for _ in range(trials):
        files = []
        for hour in (0, 1):
            records: list[Record] = []
            for params in sizes:
                sitting = generator.gauss(0, drift)
                medians = [math.exp(sitting + generator.gauss(0, 0.005)) for _ in range(3)]
                records += build.rounds(medians, start=3600 * hour, params=params)
            files.append(build.file(records, id=str(hour) * 16, devices=devices))
        found = compare(files[:1], files[1:])
        claimed = [row for row in found.rows if row.verdict in {"faster", "slower"}]
        claims += len(claimed)
        families += any(not row.reason for row in claimed)
    assert claims / (trials * len(sizes)) <= 0.05
    assert families / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_samples_of_one_start_are_no_evidence(build: Any) -> None:
    """A thousand samples that agree to a millionth, one start a side, one percent apart: that is nothing."""
    before = build.file([build.record([1e-3 + 1e-9 * (at % 3) for at in range(1000)])], id="b" * 16)
    after = build.file([build.record([1.01e-3 + 1e-9 * (at % 3) for at in range(1000)], started="2027")], id="c" * 16)
    assert only(before, after).verdict == "inconclusive"


def test_a_single_round_gives_a_ratio_and_no_verdict(side: Any) -> None:
    row = only(side([1e-3]), side([2e-3], hour=1))
    assert (row.verdict, row.ratio, row.rounds) == ("inconclusive", pytest.approx(2), (1, 1))
    assert row.reason == compares.ALONE and row.p_value is None
    assert only(side([1e-3]), side([2e-3] * 4, hour=1)).verdict == "inconclusive"
    assert only(side([1e-3] * 2), side([2e-3] * 2, hour=1)).verdict == "slower"


def test_steps_too_short_for_the_clock_are_no_claim(side: Any) -> None:
    row = only(side([1e-3] * 3), side([2e-3] * 3, hour=1, flags=["below_timer_floor"]))
    assert (row.verdict, row.reason) == ("inconclusive", "samples are too short for the clock")


def test_turns_are_seen_from_the_times_of_the_rounds(build: Any) -> None:
    medians = [1e-3, 1.001e-3, 0.999e-3, 1e-3]

    def took_turns(starts: tuple[int, int], step: int) -> bool:
        before, after = (
            build.file(build.rounds(medians, start=start, step=step), id=str(number) * 16)
            for number, start in enumerate(starts)
        )
        return only(before, after).interleaved

    assert took_turns((0, 60), 120)
    assert not took_turns((0, 3600), 60)


def test_sides_that_took_turns_are_compared_in_pairs(build: Any) -> None:
    first, second = [1.0, 2.0, 4.0, 8.0], [1.1, 2.19, 4.41, 8.81]
    before = build.file(build.rounds(first, start=0, step=120), id="b" * 16)
    after = build.file(build.rounds(second, start=60, step=120), id="c" * 16)
    row, expected = only(before, after), stats.paired_ratio(first, second)
    assert expected is not None
    assert (row.ratio, row.p_value) == (expected.ratio, expected.p_value)
    assert row.verdict == "slower"


def test_several_files_of_one_side_are_more_rounds(side: Any) -> None:
    found = compare([side([1e-3]), side([1.1e-3], hour=2)], [side([1e-3] * 3, hour=1)])
    assert found.rows[0].rounds == (2, 3)


def test_a_copy_of_a_file_is_no_more_evidence(side: Any, build: Any) -> None:
    before, after = side([1e-3, 1.01e-3]), side([1.05e-3, 1.06e-3], hour=1)
    copy = build.file(before.records, id=before.session.id, name="copy.jsonl")
    assert compare([before, copy], [after]).rows == compare([before], [after]).rows


# What may not be compared


def identity(field: str, value: str) -> Any:
    return lambda one: replace(one, identity=replace(one.identity, **{field: value}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: replace(one, version=2), "matmul version: 1 and 2"),
        (identity("dtype", "float16"), "dtype: float32 and float16"),
        (identity("data", "zeros"), "data: normal and zeros"),
        (identity("cache", "warm"), "cache: cold_rotate and warm"),
        (identity("duty", "burst"), "duty: sustained and burst"),
    ],
)
def test_what_differs_in_kind_is_not_comparable(side: Any, change: Any, reason: str) -> None:
    before, after = side([1e-3] * 3), side([2e-3] * 3, hour=1)
    changed = record.ResultFile(
        name="x", session=after.session, records=[change(one) for one in after.records], torn=False
    )
    row = only(before, changed)
    assert (row.verdict, row.reason) == ("not comparable", reason)
    assert (row.ratio, row.p_value, row.interval95) == (None, None, None)


def test_modes_of_launching_are_different_cases(side: Any) -> None:
    before, after = side([1e-3] * 3), side([2e-3] * 3, hour=1)
    records = [identity("launch", "graph")(one) for one in after.records]
    found = compare([before], [record.ResultFile(name="x", session=after.session, records=records, torn=False)])
    assert found.rows == []
    assert found.only_after == ["matmul m=64 n=64 k=64 dtype=float32 [graph] on Virtual GPU"]


def test_two_methods_of_measuring_are_not_comparable(build: Any) -> None:
    harness = replace(build.session().harness, method=99)
    row = only(build.file([build.record()]), build.file([build.record()], id="b" * 16, harness=harness))
    assert (row.verdict, row.reason) == ("not comparable", f"method: {record.METHOD} and 99")


def test_two_power_limits_are_not_comparable(build: Any) -> None:
    device = build.session().devices[0]
    capped = replace(device, readings={**device.readings, "power_limit_w": 350.0})
    row = only(build.file([build.record()]), build.file([build.record()], id="b" * 16, devices=[capped]))
    assert (row.verdict, row.reason) == ("not comparable", "power limit: 700.0 and 350.0")


def test_rounds_of_one_side_in_two_modes_are_not_comparable(build: Any) -> None:
    mixed = [build.record(), identity("cache", "warm")(build.record(round=1))]
    row = only(build.file(mixed), build.file([build.record()], id="b" * 16))
    assert row.reason == "cache differs within one side: cold_rotate and warm; --where can select one of them"


@pytest.mark.parametrize("status", ["oom", "timeout", "crash", "unsupported", "skipped", "waived"])
def test_a_side_that_failed_says_so(build: Any, status: str) -> None:
    good, bad = build.file([build.record()]), build.file([build.failed(status)], id="b" * 16)
    assert only(good, bad).reason == f"no valid round after: {status}"
    assert only(bad, good).reason == f"no valid round before: {status}"
    assert only(good, bad).verdict == "not comparable"


def test_invalid_rounds_are_no_evidence(build: Any) -> None:
    bad = build.file([build.record(flags=["bad_output"])], id="b" * 16)
    assert only(build.file([build.record()]), bad).reason == "no valid round after: invalid"


# What is listed


def test_cases_of_one_side_only_are_listed(build: Any) -> None:
    params = {"m": 128, "n": 64, "k": 64, "dtype": "float32"}
    two, one = build.file([build.record(), build.record(params=params)]), build.file([build.record()], id="b" * 16)
    name = "matmul m=128 n=64 k=64 dtype=float32 on Virtual GPU"
    assert (compare([two], [one]).only_before, compare([two], [one]).only_after) == ([name], [])
    assert (compare([one], [two]).only_before, compare([one], [two]).only_after) == ([], [name])


def test_another_device_is_another_case_where_the_sides_share_one(build: Any) -> None:
    device = build.session().devices[0]
    both = [device, replace(device, name="Other GPU")]
    found = compare(
        [build.file([build.record()])],
        [build.file([build.record(), build.record(device=1)], id="b" * 16, devices=both)],
    )
    assert [row.device for row in found.rows] == ["Virtual GPU"]
    assert found.only_after == ["matmul m=64 n=64 k=64 dtype=float32 on Other GPU"]


def test_everything_else_that_differs_is_listed(build: Any) -> None:
    session = build.session()
    after = {
        "software": {**session.software, "torch": "99.0", "triton": "3"},
        "host": replace(session.host, kernel="6.0", threads=64, settings={**session.host.settings, "smt": "1"}),
        "devices": [replace(session.devices[0], driver="999", uuid_hash="f" * 16)],
        "harness": replace(session.harness, commit="deadbeef"),
    }
    found = compare([build.file([build.record()])], [build.file([build.record()], id="b" * 16, **after)])
    listed = {difference.partition(":")[0]: difference for difference in found.differences}
    assert set(listed) == {"torch", "triton", "kernel", "threads", "smt", "driver 0", "board 0", "commit"}
    assert listed["torch"] == f"torch: {session.software['torch']} and 99.0"
    assert listed["triton"] == "triton: unknown and 3"


def test_verdicts_are_counted(side: Any) -> None:
    found: Compared = compare([side([1e-3] * 3)], [side([2e-3] * 3, hour=1)])
    assert (found.count("slower"), found.count("faster")) == (1, 0)


def test_samples_of_a_hostile_file_break_nothing(build: Any) -> None:
    extremes = [record.SHORTEST_S, record.LONGEST_S]
    before = build.file(build.rounds(extremes, start=0, step=120), id="b" * 16)
    after = build.file(build.rounds(extremes[::-1], start=60, step=120), id="c" * 16)
    for row in (only(before, after), only(after, before)):
        assert row.verdict in {"equivalent", "inconclusive"}
    for samples in ([0.0], [], [5e-324]):
        bad = build.file([build.record(samples)], id="d" * 16)
        assert only(before, bad).verdict == "not comparable"


def test_ten_percent_in_one_of_nine_cases_is_found_after_three_rounds(build: Any) -> None:
    """Launches that differ by 1 %, sittings by 1 %, as on a quiet machine; the sides one after the other."""
    generator = random.Random(7)
    devices = [replace(build.session().devices[0], vendor="cpu")]
    sizes = [{"m": 64 * size, "n": 64, "k": 64, "dtype": "float32"} for size in range(1, 10)]
    found, trials = 0, 60
    for trial in range(trials):
        files = []
        for hour in (0, 1):
            records: list[Record] = []
            for number, params in enumerate(sizes):
                slower = math.log(1.10) if hour and number == trial % len(sizes) else 0.0
                sitting = generator.gauss(slower, 0.01)
                medians = [math.exp(sitting + generator.gauss(0, 0.01)) for _ in range(3)]
                records += build.rounds(medians, start=3600 * hour, params=params)
            files.append(build.file(records, id=str(hour) * 16, devices=devices))
        rows = compare(files[:1], files[1:]).rows
        found += rows[trial % len(sizes)].verdict == "slower"
    assert found >= 0.95 * trials


def test_a_case_that_fails_after_is_lost_and_not_just_incomparable(build: Any) -> None:
    before = build.file(build.rounds([1e-3] * 3), id="b" * 16)
    after = build.file([build.failed("crash", round=index) for index in range(3)], id="c" * 16)
    assert [row.lost for row in compare([before], [after]).rows] == [True]
    assert [row.lost for row in compare([after], [before]).rows] == [False]


def test_sides_without_a_common_case_are_told_so_and_have_no_empty_table(build: Any) -> None:
    sizes = ({"m": 64, "n": 64, "k": k, "dtype": "float32"} for k in (64, 128))
    sides = [build.file(build.rounds([1e-3] * 3, params=size), id=f"{size['k']:016d}") for size in sizes]
    said = show_verdicts.comparison(msgspec.to_builtins(compare(sides[:1], sides[1:])))
    assert said[0] == "no case is on both sides: nothing can be compared"


@pytest.mark.parametrize(("stolen", "verdict"), [((0.0, 0.12), "inconclusive"), ((0.12, 0.12), "slower")])
def test_what_others_took_on_one_side_explains_a_difference(
    build: Any, stolen: tuple[float, float], verdict: str
) -> None:
    """Ten percent slower: not believed where the hypervisor took as much on that side only."""
    devices = [replace(build.session().devices[0], vendor="cpu")]
    files = []
    for side, (share, median) in enumerate(zip(stolen, (1e-3, 1.12e-3), strict=True)):
        contention = replace(build.record().contention, pressure=0.0, stolen=share)
        records = build.rounds([median, 1.001 * median, 1.002 * median], start=3600 * side, contention=contention)
        files.append(build.file(records, id=str(side) * 16, devices=devices))
    (row,) = compare(files[:1], files[1:]).rows
    assert row.verdict == verdict
    assert ("others took 0 % and 12 % of the CPU" in row.reason) == (verdict == "inconclusive")


@pytest.mark.parametrize(
    ("stolen", "reason"), [((0.0, 0.12), "others took 0 % and 12 % of the CPU"), ((0.12, 0.12), "")]
)
def test_the_ratio_over_all_cases_has_the_guard_of_its_cases(
    build: Any, stolen: tuple[float, float], reason: str
) -> None:
    devices, files = [replace(build.session().devices[0], vendor="cpu")], []
    for side, (share, median) in enumerate(zip(stolen, (1e-3, 1.12e-3), strict=True)):
        contention = replace(build.record().contention, pressure=0.0, stolen=share)
        records = [
            one
            for size in (64, 128, 256)
            for one in build.rounds(
                [median, 1.001 * median, 1.002 * median], start=3600 * side, contention=contention,
                params={"m": size, "n": 64, "k": 64, "dtype": "float32"},
            )
        ]  # fmt: skip
        files.append(build.file(records, id=str(side) * 16, devices=devices))
    found = compare(files[:1], files[1:])
    assert found.score and found.score.interval95 and found.score.interval95[0] > 1
    assert found.score.reason == reason
    document = msgspec.to_builtins(found)
    (line,) = [line for line in show_verdicts.comparison(document) if line.startswith("over all 3 cases")]
    assert line.endswith(f"; inconclusive: {reason}") == bool(reason)
    same = compare(files[:1], files[:1]).score
    assert same and same.reason == ""


def test_another_kernel_on_one_side_is_said(build: Any) -> None:
    one, other = (
        build.file(build.rounds([1e-3] * 3, start=start, extras=extras), id=str(start).zfill(16))
        for start, extras in ((0, {"kernel": "int4mm", "num_parameters": 1}), (3600, {"kernel": "loop"}))
    )
    assert only(one, other).reason == "kernel: int4mm and loop"
    assert only(one, one).reason == ""
    mixed = replace(other, records=[other.records[0], *one.records[1:]])
    assert only(one, mixed).reason.endswith("kernel: int4mm and int4mm or loop")
    assert only(build.file(build.rounds([1e-3] * 3), id="b" * 16), one).reason == "kernel: unknown and int4mm"


# What may have made a difference


def told(**series: list[float]) -> Telemetry:
    return Telemetry(
        window_s=1.0,
        period_s=0.1,
        busy=0.0,
        series={
            name: Series(t_s=[0.1 * place for place in range(len(values))], values=values)
            for name, values in series.items()
        },
        changes={},
        state={},
    )


def test_a_difference_that_vanishes_in_cycles_is_the_clocks(build: Any) -> None:
    before = build.file(build.rounds([1e-3] * 5, telemetry=told(clock_hz=[1.98e9] * 3)), id="b" * 16)
    after = build.file(build.rounds([1.2e-3] * 5, start=3600, telemetry=told(clock_hz=[1.65e9] * 3)), id="c" * 16)
    row = only(before, after)
    assert row.verdict == "slower" and row.reason == "the clock explains it: 1.98 GHz and 1.65 GHz"
    same = build.file(build.rounds([1.2e-3] * 5, start=3600, telemetry=told(clock_hz=[1.98e9] * 3)), id="c" * 16)
    assert only(before, same).reason == ""
    little = build.file(build.rounds([1.2e-3] * 5, start=3600, telemetry=told(clock_hz=[1.97e9] * 3)), id="c" * 16)
    (row,) = compare([before], [little], threshold=0.15).rows  # within it, and yet the clock made little of it
    assert row.verdict == "slower" and row.reason == ""


def test_sides_that_began_at_other_temperatures_say_so(build: Any) -> None:
    before = build.file(build.rounds([1e-3] * 5, telemetry=told(temperature_c=[41.0, 50.0])), id="b" * 16)
    for celsius, reason in ((47.5, "the sides began at 41 °C and 48 °C"), (45.0, "")):
        seen = told(temperature_c=[celsius, 60.0])
        after = build.file(build.rounds([1.2e-3] * 5, start=3600, telemetry=seen), id="c" * 16)
        assert only(before, after).reason == reason

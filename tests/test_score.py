"""One number over many cases, sides of several machines, and what a comparison may claim."""

import json
import math
import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bench import record, stats
from bench.analyze import show_verdicts
from bench.analyze.compare import MODEL_MACHINES, Compared, compare
from bench.analyze.score import Error, score
from bench.record import ResultFile

replace = msgspec.structs.replace
SIZES = [{"m": 64 * size, "n": 64, "k": 64, "dtype": "float32"} for size in range(1, 11)]


@pytest.fixture
def run(build: Any) -> Any:
    """A run of one board, each case with its rounds' medians."""

    def make(
        cases: Sequence[Sequence[float]],
        *,
        board: str = "a",
        device: str = "GPU",
        hour: int = 0,
        limit_w: float = 700.0,
    ) -> ResultFile:
        facts = replace(build.session().devices[0], name=device, uuid_hash=board, readings={"power_limit_w": limit_w})
        records = [
            one
            for params, medians_s in zip(SIZES, cases, strict=False)
            for one in build.rounds(medians_s, start=3600 * hour, params=params)
        ]
        return build.file(records, id=f"{board} {device} {hour}", devices=[facts])

    return make


def noisy(chance: random.Random, median_s: float = 1e-3, sd: float = 0.003, rounds: int = 5) -> list[float]:
    return [median_s * math.exp(chance.gauss(0, sd)) for _ in range(rounds)]


# A16


def test_the_score_is_the_geometric_mean_and_inverts_with_the_sides(run: Any) -> None:
    factors = [1.0, 2.0, 0.5, 4.0]
    before, after = run([[1.0] * 3] * 4), run([[factor] * 3 for factor in factors], hour=1)
    one, other = compare([before], [after]).score, compare([after], [before]).score
    assert one is not None and other is not None and one.ratio and other.ratio and one.interval95 and other.interval95
    assert one.ratio == pytest.approx(math.sqrt(2))
    assert one.ratio * other.ratio == pytest.approx(1)
    assert one.interval95[0] * other.interval95[1] == pytest.approx(1)
    assert (one.before_s, one.after_s, one.cases) == (pytest.approx(4.0), pytest.approx(7.5), 4)


def test_the_score_does_not_depend_on_the_machine_of_reference(run: Any) -> None:
    """Hoefler & Belli, rule 4: A to C is A to B times B to C; of arithmetic means it is not."""
    chance = random.Random(2)
    sides = [run([[chance.uniform(1, 9)] * 2 for _ in range(5)], hour=hour) for hour in range(3)]
    ratios = [compare([sides[i]], [sides[j]]).score.ratio for i, j in ((0, 1), (1, 2), (0, 2))]  # type: ignore[union-attr]
    assert ratios[0] * ratios[1] == pytest.approx(ratios[2])


def test_the_score_rests_on_common_cases_and_is_refused_where_they_are_few(run: Any) -> None:
    before, after = run([[1e-3] * 3] * 10), run([[1e-3] * 3] * 7, hour=1)
    found = compare([before], [after])
    assert found.score is not None and found.score.ratio is None
    assert found.score.reason == "only 7 of 10 cases can be compared"
    assert "no ratio over all cases: only 7 of 10" in text(found)
    found = compare([before], [run([[1e-3] * 3] * 8, hour=1)])
    assert found.score is not None and found.score.ratio == 1.0
    assert "over all 8 cases: time ratio 1.000" in text(found)


def test_one_case_has_no_score(run: Any) -> None:
    assert compare([run([[1e-3] * 3])], [run([[1e-3] * 3], hour=1)]).score is None


def test_the_interval_of_the_score_holds_the_truth(run: Any) -> None:
    """Rounds that differ by 2 %, sittings by what is assumed of a GPU, common to all cases of a sitting."""
    chance, held, trials = random.Random(4), 0, 60
    device = "GPU"
    for _ in range(trials):
        sides = []
        for hour in (0, 1):
            sitting = math.exp(chance.gauss(0, 0.01))
            sides.append(run([noisy(chance, sitting, 0.02, 3) for _ in range(4)], hour=hour, device=device))
        found = compare([sides[0]], [sides[1]]).score
        assert found is not None and found.interval95 is not None
        held += found.interval95[0] <= 1 <= found.interval95[1]
    assert held / trials >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / trials)


def test_identical_pairs_have_an_interval_of_no_width() -> None:
    class Row:
        ratio, before_s, after_s, error = 1.0, 1.0, 1.0, Error(own=0.0, common=0.0, df=3.0)

    found = score([Row(), Row()], 2)
    assert found is not None and found.interval95 == (1.0, 1.0)


# A15


@pytest.mark.parametrize("seed", range(3))
def test_two_halves_of_one_file_are_never_told_apart(golden: Any, seed: int) -> None:
    file = record.read(golden)
    halves = []
    for half in (0, 1):
        records = [one for one in file.records if one.round % 2 == half]
        halves.append(ResultFile(name=f"{half}", session=file.session, records=records, torn=False))
    if seed % 2:
        halves.reverse()
    found = compare([halves[0]], [halves[1]])
    assert len(found.rows) > 8
    assert {row.verdict for row in found.rows} <= {"equivalent", "inconclusive"}


def test_two_halves_of_noisy_files_are_hardly_ever_told_apart(run: Any) -> None:
    """Rounds that differ by 2 %, odd and even ones as two sides: never more than one in twenty."""
    chance, claims, tested = random.Random(6), 0, 0
    for _ in range(20):
        file = run([noisy(chance, sd=0.02, rounds=10) for _ in range(5)])
        halves = [
            ResultFile(
                name="x",
                session=file.session,
                records=[one for one in file.records if one.round % 2 == half],
                torn=False,
            )
            for half in (0, 1)
        ]
        rows = compare([halves[0]], [halves[1]]).rows
        claims, tested = claims + sum(row.verdict in {"faster", "slower"} for row in rows), tested + len(rows)
    assert claims / tested <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tested)


def test_the_number_of_false_alarms_to_expect_is_said(run: Any) -> None:
    found = compare([run([[1e-3] * 3] * 10)], [run([[1e-3] * 3] * 10, hour=1)])
    assert found.notes[0].startswith("10 cases were tested: without a difference anywhere about 0.5 of them")


def test_one_board_a_side_is_no_claim_about_models(run: Any) -> None:
    found = compare([run([[1e-3] * 5], board="a")], [run([[2e-3] * 5], board="b", hour=1)])
    assert found.rows[0].verdict == "slower" and found.rows[0].machines == (1, 1)
    assert "a side has 1 machine: this compares machines and not models" in found.notes[-1]
    same = compare([run([[1e-3] * 5], board="a")], [run([[2e-3] * 5], board="a", hour=1)])
    assert same.notes == []


def test_devices_of_two_kinds_are_compared_case_by_case(run: Any) -> None:
    before = [run([[1e-3] * 3, [4e-3] * 3], board=f"h{one}", device="H100") for one in range(5)]
    after = [run([[2e-3] * 3, [9e-3] * 3], board=f"a{one}", device="A100", limit_w=400.0) for one in range(5)]
    found = compare(before, after)
    assert [(row.verdict, row.device, row.machines) for row in found.rows] == [("slower", "H100 and A100", (5, 5))] * 2
    assert [row.ratio for row in found.rows] == [pytest.approx(2), pytest.approx(2.25)]
    assert (found.rows[0].before_s, found.rows[0].after_s) == (pytest.approx(1e-3), pytest.approx(2e-3))
    assert found.only_before == found.only_after == []
    assert not any("models" in note for note in found.notes)
    assert "device 0: H100 and A100" in found.differences


def test_between_machines_the_machine_is_what_is_repeated(run: Any) -> None:
    """Boards that differ by 5 %, no difference between the models: more rounds of each are no more boards."""
    chance, claims, trials = random.Random(8), 0, 100
    for _ in range(trials):
        sides = [
            [
                run([noisy(chance, math.exp(chance.gauss(0, 0.05)), 0.002, 2)], board=f"{name}{one}", device=name)
                for one in range(MODEL_MACHINES)
            ]
            for name in ("X", "Y")
        ]
        claims += compare(*sides).rows[0].verdict in {"faster", "slower"}
    assert claims / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_the_same_boards_before_and_after_are_compared_board_by_board(run: Any) -> None:
    """Boards differ by 10 %, a change costs each of them 3 %: plain between pairs, and lost between groups."""
    chance = random.Random(9)
    speeds = [math.exp(chance.gauss(0, 0.1)) for _ in range(5)]
    before, after = (
        [run([noisy(chance, speed * factor, 0.002)], board=f"b{one}", hour=hour) for one, speed in enumerate(speeds)]
        for hour, factor in ((0, 1.0), (1, 1.03))
    )
    (row,) = compare(before, after).rows
    assert (row.verdict, row.machines) == ("slower", (5, 5))
    assert row.ratio == pytest.approx(1.03, abs=0.003)


def test_where_selects_on_both_sides(run: Any) -> None:
    capped = run([[3e-3] * 3], board="capped", limit_w=350.0)
    before, after = [run([[1e-3] * 3]), capped], [run([[1e-3] * 3], hour=1)]
    (row,) = compare(before, after).rows
    assert row.reason == "power limit differs within one side: 700.0 and 350.0; --where can select one of them"
    (row,) = compare(before, after, where="power_limit_w=700").rows
    assert (row.ratio, row.machines) == (1.0, (1, 1))


def test_absolute_times_stand_beside_every_ratio(run: Any) -> None:
    found = compare([run([[1e-3] * 3] * 2)], [run([[2e-3] * 3] * 2, hour=1)])
    for line in text(found).splitlines():
        if "2.000" in line and "matmul" in line:
            assert re.search(r"1\.00 ms\s+2\.00 ms", line)
    assert "one step of each took 2.00 ms and 4.00 ms" in text(found)


def text(found: Compared) -> str:
    return "\n".join(show_verdicts.comparison(json.loads(msgspec.json.encode(found))))


def test_ratios_of_several_machines_use_their_means(run: Any) -> None:
    before = [run([[1e-3, 1.2e-3]], board="a"), run([[2e-3]], board="b")]
    (row,) = compare(before, [run([[2e-3]], board="c", hour=1), run([[2e-3]], board="d", hour=1)]).rows
    assert row.before_s == pytest.approx(stats.geometric_mean([math.sqrt(1.2) * 1e-3, 2e-3]))

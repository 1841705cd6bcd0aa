import json
import math

import pytest

np = pytest.importorskip("numpy")

from bench.estimate import backtest  # after the check that there is something to test with
from bench.estimate.backtest import Case
from bench.estimate.training.likeness import Likeness, Process, Stand


def case(source, factor, **more):
    return Case(group="g", source=source, error=math.log(factor), **more)


def test_a_source_of_many_rows_does_not_outvote_the_others():
    cases = [case("large", 1.0)] * 1000 + [case("small", 1.2)] + [case("other", 1 / 1.3)]
    (line,) = backtest.summarize(cases)
    assert (line.rows, line.sources) == (1002, 3)
    assert line.median == pytest.approx(0.2)


def test_too_fast_and_too_slow_are_errors_of_the_same_size():
    slow, fast = (backtest.summarize([case("a", factor)])[0] for factor in (1.25, 0.8))
    assert slow.median == pytest.approx(fast.median) == pytest.approx(0.25)
    assert slow.bias == pytest.approx(-fast.bias)


def test_coverage_is_the_share_within_the_interval():
    cases = [case("a", factor, factor80=1.1, factor90=1.5) for factor in (1.05, 0.95, 1.2, 2.0)]
    (line,) = backtest.summarize(cases)
    assert (line.coverage80, line.coverage90, line.factor90) == (0.5, 0.75, 1.5)


def test_baselines_stand_beside_the_same_rows():
    (line,) = backtest.summarize([case("a", 1.1, baselines={"6ND": math.log(2)})])
    assert line.baselines["6ND"] == pytest.approx((1.0, 1.0))
    assert "| 6ND |" in backtest.markdown([line])


def test_a_median_that_worsens_by_more_than_a_point_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(backtest, "STORED", tmp_path / "backtest.json")
    backtest.store(backtest.summarize([case("a", 1.10)]))
    assert backtest.worsened(backtest.summarize([case("a", 1.105)])) == []
    (told,) = backtest.worsened(backtest.summarize([case("a", 1.12)]))
    assert "10.0 % to 12.0 %" in told


def test_storing_one_kind_keeps_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(backtest, "STORED", tmp_path / "backtest.json")
    for group in ("training: x", "micro: y", "training: x"):
        backtest.store(backtest.summarize([Case(group=group, source="a", error=0.1)]))
    kept = json.loads(backtest.STORED.read_text(encoding="utf-8"))
    assert sorted(line["group"] for line in kept) == ["micro: y", "training: x"]


def stand(**names):
    usual = {
        "group": "torch", "framework": "mine", "architecture": "Hopper", "device": "h100-sxm", "version": "1",
        "machine": "m", "precision": "bf16", "model": "llama", "shape": (0.0, 0.0),
    }  # fmt: skip
    return Stand(**(usual | names))


def test_a_row_with_nothing_in_common_changes_nothing():
    stranger = stand(
        group="xla", framework="its", architecture="TPU", device="tpu", version="2", machine="n", precision="fp8",
        model="gemma",
    )  # fmt: skip
    means, _ = Process([stand()], np.array([0.5]), Likeness()).expect([stranger])
    assert means[0] == 0.0


def test_the_nearer_a_row_the_more_it_tells_and_the_less_stays_open():
    known = Process([stand(shape=(float(x), 0.0)) for x in range(8)], np.full(8, 0.3), Likeness())
    same = stand(shape=(3.5, 0.0))
    relative = stand(device="h200-sxm", machine="other", version="")
    stranger = stand(group="", framework="", device="x", architecture="Y", machine="")
    means, deviations = known.expect([same, relative, stranger])
    assert 0.3 * 0.9 < means[0] < 0.31
    assert means[0] > means[1] > means[2] >= 0.0
    assert deviations[0] < deviations[1] < deviations[2]


def test_a_kind_says_what_it_leaves_out_and_one_that_leaves_nothing_out_says_nothing():
    (told,) = backtest.remarks(["serving"])
    assert "neither fitted to nor asked" in told
    assert backtest.remarks(["training"]) == []


def test_a_slip_of_the_pen_starts_no_back_test_of_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["nonsense"], ["--nonsense"]):
        with pytest.raises(SystemExit):
            backtest._main(words)
    assert "operation, serving, training" in capsys.readouterr().out

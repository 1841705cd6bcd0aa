"""A loop that is not ours, measured into a file like any other."""

import time

import pytest

import bench
from bench import record
from bench.errors import UserError
from bench.measure import draft, user


def _loop(meter, steps, seconds=0.002):
    for _ in range(steps):
        time.sleep(seconds)
        meter.step()


def test_a_loop_of_ones_own_becomes_a_valid_result_file_and_a_row_of_the_table(tmp_path):
    path = tmp_path / "own.jsonl"
    with bench.meter(
        "my-train", tokens_per_step=256, model="tiny", seq=128, device="cpu", out=path, settle_steps=2
    ) as meter:
        _loop(meter, 300)
    file = record.read(path)
    (one,) = file.records
    assert one.workload == "user:my-train" and one.valid and one.work.tokens == 256 and one.work.gemm_flops > 0
    assert 0.002 < sum(one.samples_s) / len(one.samples_s) < 0.02
    (row,) = bench.table([path])
    assert row["case"].startswith("user:my-train") and row["status"] == "ok"
    assert not [finding for finding in bench.check([path]) if finding["level"] == "error"]


def test_a_loop_that_stops_now_and_then_is_told_by_its_whole_time(tmp_path):
    path = tmp_path / "own.jsonl"
    with bench.meter("stops", tokens_per_step=1000, device="cpu", out=path, settle_steps=2) as meter:
        for number in range(402):
            time.sleep(0.4 if number % 150 == 100 else 0.002)  # somebody writes a checkpoint
            meter.step()
    (one,) = record.read(path).records
    assert not [finding for finding in bench.check([path]) if finding["level"] == "error"]
    assert sum(one.samples_s) * one.timing.repeats == pytest.approx(one.timing.window_s, rel=1e-4)
    (row,) = bench.table([path])
    counted = one.timing.repeats * len(one.samples_s)
    assert 400 - one.timing.repeats < counted <= 400
    assert row["rate"] == pytest.approx(1000 * counted / one.timing.window_s, rel=1e-4)


def test_a_loop_that_becomes_faster_is_told_to_drift_and_is_no_bad_file(tmp_path):
    path = tmp_path / "own.jsonl"
    with bench.meter("drifts", tokens_per_step=1000, device="cpu", out=path, settle_steps=2) as meter:
        _loop(meter, 30, 0.06)
        _loop(meter, 30, 0.02)
    (one,) = record.read(path).records
    assert "not_steady" in one.flags
    assert not [finding for finding in bench.check([path]) if finding["level"] == "error"]


def test_a_loop_that_is_shorter_than_a_block_is_one_block(tmp_path):
    path = tmp_path / "own.jsonl"
    with bench.meter("short", device="cpu", out=path, settle_steps=1) as meter:
        _loop(meter, 21)
    (one,) = record.read(path).records
    assert one.valid and len(one.samples_s) == 1 and one.timing.repeats == 20


def test_a_loop_that_names_no_file_can_say_where_its_file_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELMARK_RESULTS", str(tmp_path))
    with bench.meter("own", device="cpu", settle_steps=1) as meter:
        _loop(meter, 3)
    assert meter.path.parent == tmp_path / "local" and len(record.read(meter.path).records) == 1


def test_an_error_in_the_loop_leaves_a_record_with_its_reason_and_goes_on_to_the_caller(tmp_path):
    path = tmp_path / "own.jsonl"

    def loop():
        with bench.meter("broken", device="cpu", out=path) as meter:
            meter.step()
            raise ZeroDivisionError("a bug of theirs")

    with pytest.raises(ZeroDivisionError):
        loop()
    (one,) = record.read(path).records
    assert one.status == "crash" and "ZeroDivisionError" in one.reason


def test_steps_measured_before_an_interruption_are_kept(tmp_path):
    path = tmp_path / "own.jsonl"

    def loop():
        with bench.meter("long", device="cpu", out=path, settle_steps=1) as meter:
            _loop(meter, 200)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    (one,) = record.read(path).records
    assert one.valid and "KeyboardInterrupt" in one.reasons["ended"]


def test_a_loop_that_ends_while_it_settles_says_so(tmp_path):
    path = tmp_path / "own.jsonl"
    with bench.meter("short", device="cpu", out=path) as meter:
        _loop(meter, 3)
    (one,) = record.read(path).records
    assert one.status == "skipped" and "3 steps" in one.reason


def test_a_name_that_could_be_a_path_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="is no name"):
        bench.meter("../etc", device="cpu", out=tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "counts", [{"flops_per_step": -3}, {"seq": -5}, {"seq": 0}, {"tokens_per_step": 64, "seq": 128}]
)
def test_counts_that_cannot_be_are_refused_before_anything_runs(tmp_path, counts):
    with pytest.raises(UserError):
        bench.meter("own", device="cpu", model="tiny", out=tmp_path / "x.jsonl", **counts)
    assert not (tmp_path / "x.jsonl").exists()


def test_a_loop_of_many_hours_keeps_as_many_samples_as_a_file_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(user, "BLOCK_S", 0.0)
    monkeypatch.setattr(draft, "MOST_STEPS", 100)
    path = tmp_path / "own.jsonl"
    with bench.meter("long", device="cpu", out=path, settle_steps=1) as meter:
        for _ in range(1001):
            meter.step()
    (one,) = record.read(path).records
    assert one.status == "ok" and 50 <= len(one.samples_s) <= 100
    assert one.timing.window_s > 2 * sum(one.samples_s)  # of all blocks, and not of those that were kept

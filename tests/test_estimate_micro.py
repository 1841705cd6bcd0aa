import csv
import json
import math
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.estimate import published
from bench.estimate.operation import backtest as backtest_micro
from bench.estimate.operation import rows as micro_rows
from bench.estimate.operation.curves import Gemm, GemmCurve
from bench.estimate.operation.evidence import COEFFICIENTS, Evidences, key_of
from bench.estimate.operation.evidence import published as evidence
from bench.estimate.operation.tasks import Task, task_of
from bench.estimate.published import Row
from bench.estimate.rows import MEASURED, estimate_rows

ROWS = published.rows("micro")


def row(**cells: object) -> Row:
    empty = dict.fromkeys(ROWS[0], "")
    known = {"device": "H100-SXM", "kind": "gemm", "unit": "TFLOP/s", "M": 4096, "N": 4096, "K": 4096, "dtype": "fp16"}
    return {**empty, **{name: str(value) for name, value in {**known, **cells}.items()}}


def value_of(one: Row, local: list[Row] | None = None) -> float:
    (prediction,) = micro_rows.predict([one], local or [])
    assert prediction.reason is None, prediction.reason
    return prediction.values["pred_value"]


def test_every_trusted_row_is_understood_and_agrees_with_its_own_time() -> None:
    for one in ROWS:
        task = task_of(one)
        assert isinstance(task, Task), (one["row_id"], task)
        seconds = task.unit.seconds(float(one["value"]))
        assert task.unit.value(seconds) == pytest.approx(float(one["value"]))
        scale = {"ms": 1e-3, "us": 1e-6}.get(one["second_unit"][:2])
        if scale is not None:  # the source's own time; values have three or four digits
            assert seconds == pytest.approx(float(one["second_value"]) * scale, rel=0.02)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("TFLOP/s (derived)", 1.0), ("TFLOPS", 1.0), ("GFLOP/s", 1e3), ("PFLOP/s", 1e-3)],
)
def test_rates_are_one_in_any_unit(unit: str, scale: float) -> None:
    assert value_of(row(unit=unit)) == pytest.approx(value_of(row()) * scale)


def test_what_a_launch_takes_is_the_sources_own_on_any_chip() -> None:
    tiny = {"device": "L40S", "M": 16, "N": 16, "K": 16, "unit": "us"}
    assert value_of(row(source_id="vidur", **tiny)) < 8
    assert value_of(row(source_id="llmcompass", **tiny)) > 25
    copy = {"device": "L40S", "kind": "memory_bound_op", "op": "rms_norm", "M": 1, "N": 64, "K": "", "unit": "us"}
    assert value_of(row(source_id="vidur", **copy)) < value_of(row(source_id="llmcompass", **copy)) / 2


def test_times_shares_and_rates_agree() -> None:
    seconds = 2 * 4096**3 / (value_of(row()) * 1e12)
    assert value_of(row(unit="us")) == pytest.approx(seconds * 1e6)
    assert value_of(row(unit="ms (median, as stored)")) == pytest.approx(seconds * 1e3)
    assert value_of(row(unit="s")) == pytest.approx(seconds)
    assert value_of(row(unit="%", theory_peak=1000)) == pytest.approx(value_of(row()) / 10)
    share = value_of(row()) / 989.4 * 100
    assert value_of(row(unit="%")) == pytest.approx(share)


def test_bus_bandwidth_and_algorithm_bandwidth_differ_by_their_definition() -> None:
    reduce = {"kind": "collective", "op": "all_reduce", "n_gpus": 8, "bytes": 2**26, "M": "", "N": "", "K": ""}
    bus = value_of(row(unit="GB/s busbw (derived)", **reduce))
    assert bus == pytest.approx(value_of(row(unit="GB/s algbw", **reduce)) * 2 * 7 / 8)
    assert value_of(row(unit="us", **reduce)) == pytest.approx(2**26 * 2 * 7 / 8 / bus / 1e3)


def test_a_network_that_the_row_names_bounds_a_ring_between_nodes() -> None:
    reduce = {"kind": "collective", "op": "all_reduce", "M": "", "N": "", "K": "", "unit": "GB/s busbw"}
    fast, slow = (
        value_of(row(n_gpus=32, bytes=2**34, interconnect=f"{network}, 4 nodes", **reduce))
        for network in ("8x400Gbps InfiniBand", "EFA 400 Gbps")
    )
    assert fast == slow  # one card of 400 Gbit/s for each of eight devices
    assert 200 < fast < 400  # of 400 GB/s
    assert value_of(row(n_gpus=32, bytes=2**34, interconnect="1x100 Gbps, 4 nodes", **reduce)) < 12.5


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        ({"M": 0}, "at least 1"),
        ({"M": -5}, "M is"),
        ({"K": "nan"}, "K is"),
        ({"N": "many"}, "at least 1"),
        ({"device": "no such thing"}, "no chip"),
        ({"unit": "furlongs"}, "unit"),
        ({"unit": ""}, "unit"),
        ({"kind": "launch/step"}, "kind"),
        ({"kind": "collective", "op": "all_reduce", "bytes": -1, "n_gpus": 8}, "bytes"),
        ({"kind": "collective", "op": "all_reduce", "bytes": 8, "n_gpus": 1}, "n_gpus"),
        ({"kind": "collective", "op": "gossip", "bytes": 8, "n_gpus": 8}, "gossip"),
        ({"kind": "attention", "batch": 1}, "seq_len"),
        ({"kind": "layer_breakdown", "op": "something", "unit": "ms"}, "something"),
        ({"kind": "memory_bw", "op": "llama.cpp achieved", "unit": "GB/s"}, "inference"),
    ],
)
def test_a_row_that_cannot_be_estimated_says_why(cells: dict[str, object], word: str) -> None:
    (prediction,) = micro_rows.predict([row(**cells)], [])
    assert prediction.reason is not None
    assert word in prediction.reason
    assert not prediction.values
    assert prediction.interval is None


def test_evidence_falls_with_the_distance_to_what_was_measured() -> None:
    asked = [
        row(source_id="vidur"),  # measured there
        row(source_id="vidur", M=200_000),  # beyond the sizes that were
        row(source_id="elsewhere"),  # on this chip, by another
        row(device="H200"),  # of the same generation
        row(device="MI300X"),
    ]
    predictions = micro_rows.predict(asked, [])
    assert [one.evidence for one in predictions] == ["L0", "L1", "L1", "L2", "L3"]
    factors = [one.interval.factor80 for one in predictions if one.interval is not None]
    assert factors[0] == min(factors)
    assert factors[-1] == max(factors)
    for one in predictions:
        low80, high80, low90, high90 = one.bounds
        assert low80 is not None
        assert high80 is not None
        assert low80 < one.values["pred_value"] < high80
        assert low90 is None or (high90 is not None and low90 <= low80 and high80 <= high90)
        assert one.basis


def test_a_card_that_nobody_measured_stays_below_its_datasheet() -> None:
    for device in ("B200", "MI300X", "RTX4090", "L40S", "H200", "Gaudi2"):
        (prediction,) = micro_rows.predict([row(device=device, M=8192, N=8192, K=8192, dtype="bf16")], [])
        task = task_of(row(device=device, dtype="bf16"))
        assert isinstance(task, Task)
        assert task.peak_flops_per_s is not None
        assert 0.3 < prediction.values["pred_value"] * 1e12 / task.peak_flops_per_s < 1.0


def test_measured_columns_are_never_read(tmp_path: Path) -> None:
    source, out, again = tmp_path / "rows.csv", tmp_path / "out.csv", tmp_path / "again.csv"
    chosen = ROWS[::150]

    def write(rows: list[Row]) -> None:
        with source.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def read(path: Path) -> list[str]:
        with path.open(newline="", encoding="utf-8") as file:
            return [one["pred_value"] for one in csv.DictReader(file)]

    write(chosen)
    assert estimate_rows(source, out)["estimated"] == len(chosen)
    write([{**one, **dict.fromkeys(MEASURED["micro"], "12345")} for one in chosen])
    estimate_rows(source, again)
    assert read(out) == read(again)
    assert all(read(out))
    with pytest.raises(UserError, match="cannot write"):
        estimate_rows(source, tmp_path / "nowhere" / "out.csv")


def test_the_coefficients_are_those_of_the_published_rows() -> None:
    counts: dict[object, int] = {}
    for one in ROWS:
        task = task_of(one)
        assert isinstance(task, Task)
        if one["kind"] != "layer_breakdown":
            counts[key_of(task)] = counts.get(key_of(task), 0) + 1
    found = {profile.key: profile for profile in evidence().profiles}
    assert counts.keys() == found.keys()
    for key, profile in found.items():
        merged = profile.family == "collective"  # a table has each size once
        assert profile.curve.goodness.num_points == counts[key] or (
            merged and profile.curve.goodness.num_points <= counts[key]
        ), f"{key}: run `python -m bench.estimate.operation.fit`"


def test_one_machine_fitted_anew_gives_the_coefficients_that_ship() -> None:
    chosen = [one for one in ROWS if one["source_id"] == "llmcompass" and one["device"] == "MI210"]
    shipped = evidence().by_key
    for profile in Evidences.of([one for one in chosen if one["kind"] == "gemm"]).profiles:
        old = shipped[profile.key].curve
        assert isinstance(old, GemmCurve)
        assert isinstance(profile.curve, GemmCurve)
        shape = Gemm(m=512, n=12288, k=12288)
        assert profile.curve.seconds(shape) == pytest.approx(old.seconds(shape), rel=5e-3)


def test_coefficients_are_small_and_from_trusted_rows_alone() -> None:
    assert COEFFICIENTS.stat().st_size < 150_000
    text = COEFFICIENTS.read_text(encoding="utf-8")
    assert {profile["source"] for profile in json.loads(text)["profiles"]} == {
        one["source_id"] for one in ROWS if one["kind"] != "layer_breakdown"
    }


def test_a_few_rows_of_ones_own_shift_what_is_expected() -> None:
    asked = row(device="RTX4090", M=4096, N=8192, K=4096, source_id="mine")
    before = value_of(asked)
    slower = [
        row(device="RTX4090", M=m, N=4096, K=4096, source_id="mine", value=value_of(row(device="RTX4090", M=m)) / 1.5)
        for m in (512, 2048, 8192)
    ]
    after = value_of(asked, slower)
    assert before / 1.5 < after < before / 1.2
    (prediction,) = micro_rows.predict([asked], slower)
    assert prediction.evidence == "L1"
    assert "3 rows of your own" in prediction.basis


def test_many_rows_of_ones_own_make_a_curve_of_their_own() -> None:
    def seconds(m: int, n: int, k: int) -> float:
        return 8e-6 + 2 * m * n * k / 90e12

    def own(m: int, n: int, k: int, **cells: object) -> Row:
        return row(device="RTX4090", M=m, N=n, K=k, source_id="mine", unit="us", **cells)

    local = [
        own(m, n, 4096, value=seconds(m, n, 4096) * 1e6) for m in (64, 512, 2048, 8192) for n in (1024, 4096, 14336)
    ]
    asked = own(1024, 4096, 4096)
    assert value_of(asked, local) == pytest.approx(seconds(1024, 4096, 4096) * 1e6, rel=0.1)
    (prediction,) = micro_rows.predict([asked], local)
    assert prediction.evidence == "L0"
    assert "your own" in prediction.basis


def test_the_back_test_hides_what_it_asks_for_and_beats_the_roofline() -> None:
    (found,) = backtest_micro.groups(["llmcompass"], "matmul, a third of the rows")
    assert found["rows"] == 28
    assert found["median"] < 0.06
    assert found["p90"] < 0.2
    assert found["median"] < found["baselines"]["constant fraction"]["median"] / 2
    assert found["baselines"]["constant fraction"]["median"] <= found["baselines"]["roofline"]["median"]
    assert abs(found["bias"]) < 0.05
    assert 0.5 <= found["coverage80"] <= found["coverage90"] <= 1.0


def test_folds_hide_each_row_once_and_whole_shapes_together() -> None:
    chosen = [one for one in ROWS if one["source_id"] == "vidur" and one["kind"] == "gemm"]
    folds = backtest_micro.shape_folds(chosen)
    assert sorted(one["row_id"] for _, hidden in folds for one in hidden) == sorted(one["row_id"] for one in chosen)
    for seen, hidden in folds:
        shapes = {(one["device"], one["M"], one["N"], one["K"]) for one in seen}
        assert not any((one["device"], one["M"], one["N"], one["K"]) in shapes for one in hidden)


def test_bounds_of_a_left_out_row_hold_nine_times_in_ten() -> None:
    (found,) = backtest_micro.groups(["llmcompass"], "collective, a third")
    assert found["rows"] == 21
    assert 0.75 <= found["coverage90"] <= 1.0
    assert found["median"] < 0.05
    assert math.isfinite(found["factor"])

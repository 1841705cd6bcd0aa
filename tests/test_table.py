"""Tables: the rows that people and programs get, filtered and pivoted."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.analyze import table
from bench.errors import UserError

replace = msgspec.structs.replace
SIZES = [{"m": m, "n": 64, "k": 64, "dtype": dtype} for m in (64, 128) for dtype in ("float32", "bfloat16")]


@pytest.fixture
def file(build: Any) -> Any:
    """Four sizes of 1, 2, 3 and 4 ms, and one case that failed."""
    records = [build.record([1e-3 * number] * 6, params=params) for number, params in enumerate(SIZES, start=1)]
    return build.file([*records, build.failed("oom", params={**SIZES[0], "m": 4096})])


def cases(rows: list[table.Row]) -> list[int]:
    """Rows by their step in ms, 0 for the one that failed."""
    return [round(1e3 * (row["step_s"] or 0)) for row in rows]


def test_a_row_says_what_was_measured_where_with_what(file: Any) -> None:
    row = table.rows([file])[0]
    session = file.session
    expected = {
        "file": "planted.jsonl", "session": "a" * 16, "device": "Virtual GPU", "vendor": "virtual", "chip": None,
        "workload": "matmul", "case": "matmul m=64 n=64 k=64 dtype=float32", "m": 64, "dtype": "float32",
        "status": "ok", "reason": None, "rounds": 1, "step_s": 1e-3, "rate_unit": "FLOP/s", "flags": [],
        "torch": session.software["torch"], "method": session.harness.method, "accelmark": session.harness.version,
    }  # fmt: skip
    assert {field: row[field] for field in expected} == expected
    assert row["rate"] == row["flops_per_s"] == pytest.approx(2 * 64**3 / 1e-3)


def test_a_failed_case_is_a_row_with_its_reason(file: Any) -> None:
    row = table.rows([file])[-1]
    assert (row["status"], row["reason"], row["rounds"]) == ("oom", "oom, as planted", 0)
    assert [row[field] for field in ("step_s", "spread", "rate", "rate_unit", "of_measured", "of_datasheet")] == [
        None
    ] * 6


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("", [1, 2, 3, 4, 0]),
        ("dtype=float32", [1, 3, 0]),
        ("dtype!=float32", [2, 4]),
        ("step_s<0.003", [1, 2]),
        ("step_s<=0.003", [1, 2, 3]),
        ("step_s>0.003", [4]),
        ("step_s>=0.003", [3, 4]),
        ("m=64", [1, 2]),
        ("m=6.4e1", [1, 2]),
        ("m!=64", [3, 4, 0]),
        ("case~M=128", [3, 4]),
        ("device~virtual", [1, 2, 3, 4, 0]),
        ("status=oom", [0]),
        ("status!=ok,m>1000", [0]),
        (" m = 64 , dtype = float32 ", [1]),
        ("step_s!=0.001", [2, 3, 4, 0]),
        ("case~nothing like it", []),
        ("workload<rms_norm", []),
    ],
)
def test_where_keeps_the_rows_that_it_says(file: Any, where: str, left: list[int]) -> None:
    assert cases(table.rows([file], where)) == left


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("m", "'m' is no condition: write for example"),
        ("m=", "is no condition"),
        ("=64", "is no condition"),
        ("m==64", "m is a number, '=64' is none"),
        ("m<many", "m is a number, 'many' is none"),
        ("m=64 and n=64", "m is a number"),
        ("rows=5", "no row has a field 'rows': there are file, "),
        ("stepp_s<1", "no row has a field 'stepp_s'"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(file: Any, where: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table.rows([file], where)


def test_parameters_never_stand_in_for_facts(build: Any) -> None:
    """A workload of a stranger may name its parameters as it likes."""
    names = {"case": 5, "device": "fake", "status": "ok", "step_s": "fast", "m": 3, "flags": "x", "dtype": "float32"}
    one = build.failed("crash", params=names, work=build.record().work)
    row = table.rows([build.file([one])])[0]
    assert (row["device"], row["status"], row["step_s"], row["m"], row["flags"]) == (
        "Virtual GPU",
        "crash",
        None,
        3,
        [],
    )
    assert row["case"].startswith("matmul case=5")


def test_a_run_in_two_files_counts_once(build: Any, tmp_path: Path) -> None:
    for name in ("one.jsonl", "copy.jsonl"):
        build.write(tmp_path / name, build.file([build.record()]))
    assert len(table.rows(table.files([tmp_path]))) == 1


def test_a_folder_stands_for_every_file_below_it(build: Any, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for number, name in enumerate(("x.jsonl", "a/y.jsonl", "a/b/z.jsonl")):
        build.write(tmp_path / name, build.file([build.record()], id=str(number) * 16))
    (tmp_path / "a" / "notes.txt").write_text("not ours")
    assert [file.name for file in table.files([tmp_path])] == ["z.jsonl", "y.jsonl", "x.jsonl"]


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result files in .*: `accelmark run` makes one"):
        table.files([tmp_path])


# Pivot


def test_by_puts_the_values_of_a_field_across(file: Any) -> None:
    columns, lines = table.pivot(table.rows([file], "status=ok"), "dtype")
    assert columns == ["float32", "bfloat16"]
    assert [[line[0], *cases(line[1:])] for line in lines] == [
        ["matmul m=64 n=64 k=64", 1, 2],
        ["matmul m=128 n=64 k=64", 3, 4],
    ]


def test_by_leaves_a_gap_where_there_is_no_row(file: Any) -> None:
    _, lines = table.pivot(table.rows([file]), "dtype")
    assert lines[-1][0] == "matmul m=4096 n=64 k=64"
    assert lines[-1][2] is None


def test_by_device_compares_machines(build: Any) -> None:
    devices = [replace(build.session().devices[0], name=name) for name in ("Slow 1", "Fast 2")]
    records = [build.record([2.0]), build.record([1.0], device=1)]
    columns, lines = table.pivot(table.rows([build.file(records, devices=devices)]), "device")
    assert columns == ["Slow 1", "Fast 2"]
    assert len(lines) == 1


def test_by_a_field_that_is_not_there_is_refused(file: Any) -> None:
    with pytest.raises(UserError, match="no row has a field 'colour': there are file, session"):
        table.pivot(table.rows([file]), "colour")
    assert table.pivot([], "colour") == ([], [])


# Frame


def test_a_frame_holds_the_rows(planted: Path) -> None:
    pytest.importorskip("pandas")
    rows, found = table.rows(table.files([planted])), table.frame([planted])
    assert list(found.columns) == list(rows[0])
    assert found["case"].tolist() == [row["case"] for row in rows]
    assert found["step_s"].tolist() == [row["step_s"] for row in rows]
    assert len(table.frame([planted], "m=128")) == 1


def test_without_pandas_the_way_to_get_it_is_said(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"^pandas is not installed: \S+ -m pip install pandas pyarrow$"):
        table.frame([planted])


def test_percentiles_stand_only_where_an_interval_of_them_exists(build: Any) -> None:
    few, many = (
        table.rows([build.file([build.record([1e-3 + 1e-6 * at for at in range(number)])])])[0] for number in (367, 368)
    )
    assert (few["p95_s"] is None, few["p99_s"]) == (False, None)
    assert many["p99_s"] is not None
    assert few["min_s"] < few["q1_s"] < few["median_s"] < few["q3_s"]


def test_a_sample_ten_times_slower_is_counted_and_kept(build: Any) -> None:
    samples = [1e-3 + 1e-6 * (at % 5) for at in range(50)]
    (row,) = table.rows([build.file([build.record([*samples, 1e-2])])])
    assert (row["samples"], row["outliers_far"], row["slow_first"]) == (51, 1, False)
    assert row["step_s"] < 1.1e-3


def test_two_devices_do_not_share_a_cell(build: Any) -> None:
    other = replace(build.session().devices[0], name="Another")
    files = [build.file([build.record()], id="a" * 16), build.file([build.record()], id="b" * 16, devices=[other])]
    columns, lines = table.pivot(table.rows(files), "dtype")
    assert columns == ["float32"]
    assert [name.rpartition(" on ")[2] for name, _ in lines] == ["Virtual GPU", "Another"]
    columns, lines = table.pivot(table.rows(files), "device")
    assert len(lines) == 1
    assert columns == ["Virtual GPU", "Another"]

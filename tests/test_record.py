"""The format: everything written is read back, and everything else is refused in one sentence."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from bench import record
from bench.analyze import table
from bench.cli import main
from bench.errors import without_paths
from bench.record import BadFile, Record

Lines = list[bytes]


def refusal(path: Path) -> str:
    with pytest.raises(BadFile) as caught:
        record.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def with_change(path: Path, line: int, old: str, new: str) -> Path:
    """The file with the first `old` of that line replaced."""
    lines = path.read_bytes().split(b"\n")
    assert old.encode() in lines[line]
    lines[line] = lines[line].replace(old.encode(), new.encode("utf-8", "surrogatepass"), 1)
    path.write_bytes(b"\n".join(lines))
    return path


# Reading what was written


def test_what_is_written_is_read_back(tmp_path: Path, build: Any) -> None:
    file = build.file([build.record([1e-3, 2e-3], round=1), build.failed("oom", round=0)])
    found = record.read(build.write(tmp_path / "x.jsonl", file))
    assert (found.session, found.records, found.torn) == (file.session, file.records, False)


def test_every_float_survives_exactly(tmp_path: Path, build: Any) -> None:
    samples = [0.1, 1 / 3, 1e-9, 123456.789e-6, math.pi, 2.0, 5e-324, 1e30]
    found = record.read(build.write(tmp_path / "x.jsonl", build.file([build.record(samples)])))
    assert found.records[0].samples_s == samples


def test_format_1_reads_as_it_always_did(golden: Path) -> None:
    """`golden/format-1.*`: `python -m bench run --device virtual --rounds 2 --out tests/golden/format-1.jsonl`, then
    `python -m bench table --json tests/golden/format-1.jsonl`. A released format's files are never made anew.
    """
    expected = json.loads(golden.with_suffix(".table.json").read_text())
    rows = table.rows([record.read(golden)])
    assert len(rows) == len(expected)
    for row, before in zip(rows, expected, strict=True):
        for field, value in before.items():
            known = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert row[field] == known, (row["case"], field)


def test_the_golden_file_is_written_back_byte_for_byte(golden: Path) -> None:
    file = record.read(golden)
    assert b"".join(map(record.encode, [file.session, *file.records])) == golden.read_bytes()


def test_the_published_schema_is_that_of_the_program() -> None:
    """When it differs: `python -m bench list schema > results/schema.json`."""
    stored = Path(__file__).parents[1] / "results" / "schema.json"
    assert json.loads(stored.read_text()) == record.json_schema()
    assert CliRunner().invoke(main, ["list", "schema"]).stdout == stored.read_text()


# Files that were cut


def test_a_file_cut_at_any_byte_reads_up_to_its_last_whole_line(tmp_path: Path, build: Any) -> None:
    records = [build.record(round=0), build.record(round=1), build.failed("crash", round=2)]
    file = build.file(records, protocols={}, software={})  # short, for thousands of readings
    path = build.write(tmp_path / "x.jsonl", file)
    whole = path.read_bytes()
    first_line, last_two = whole.index(b"\n"), len(b"\n".join(whole.split(b"\n")[:-3])) + 1
    for size in [*range(0, last_two, 41), *range(last_two, len(whole) + 1)]:
        path.write_bytes(whole[:size])
        if size <= first_line:
            assert "whole line" in refusal(path)
            continue
        found = record.read(path)
        assert found.records == file.records[: whole[:size].count(b"\n") - 1]
        assert found.torn == (whole[size - 1 : size] != b"\n")


def test_the_golden_file_cut_anywhere_is_still_a_file(tmp_path: Path, golden: Path) -> None:
    whole, path = golden.read_bytes(), tmp_path / "x.jsonl"
    for size in range(whole.index(b"\n") + 1, len(whole), 997):
        path.write_bytes(whole[:size])
        assert len(record.read(path).records) == whole[:size].count(b"\n") - 1


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("0.001,", "NaN,", "malformed"),
        ("0.001,", "Infinity,", "malformed"),
        ("0.001,", "-0.001,", ">= 0"),
        ("0.001,", "1e999,", "out of range"),
        ("0.001,", "1e31,", "<= 1e+30"),
        ('"round":0', '"round":1.5', "Expected `int`, got `float`"),
        ('"round":0', '"round":true', "Expected `int`, got `bool`"),
        ('"round":0', '"round":"1"', "Expected `int`, got `str`"),
        ('"round":0', '"round":null', "Expected `int`, got `null`"),
        ('"round":0', '"round":-1', ">= 0"),
        ('"round":0', '"round":9007199254740993', "<= 9007199254740992"),
        ('"round":0', '"round":' + "9" * 30, "<= 9007199254740992"),
        ('"round":0', '"round":' + "9" * 6000, ""),
        ('"round":0', '"round":00', "malformed"),
        ('"m":64', '"m":9007199254740993', "<= 9007199254740992"),
        ('"m":64', '"m":[64]', "Expected"),
        ('"round":0', '"round":0,"rate":1', "unknown field `rate`"),
        ('"round":0,', "", "missing required field `round`"),
        ('"round":0', '"round":0,"round":0', "'round' stands twice"),
        ('"m":64', '"m":64,"m":65', "'m' stands twice"),
        ('"status":"ok"', '"status":"fine"', "Invalid enum value 'fine'"),
        ('"flags":[]', '"flags":["new"]', "Invalid enum value 'new'"),
        ('"kind":"record"', '"kind":"session"', "session"),
        ('"device":0', '"device":1', "device 1 of 1"),
        ('"started":"', '"started":"\ud800', ""),
        ('"started":"', '"started":"\\ud800', ""),
        ('"started":"', '"started":"\0', "malformed"),
        ('"started":"', '"started":"' + "x" * 300, "length <= 200"),
        ('"extras":{}', '"extras":' + "[" * 100_000 + "]" * 100_000, "nested deeper"),
        ('"extras":{}', '"extras":' + '{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        ('"flags":[]', '"flags":[]}{', ""),
        ('{"kind"', '\ufeff{"kind"', "malformed"),
        ('{"kind"', '[{"kind"', ""),
    ],
    ids=lambda text: repr(text[:30])[-34:],
)
def test_a_record_that_is_not_as_described_is_refused(planted: Path, old: str, new: str, reason: str) -> None:
    message = refusal(with_change(planted, 1, old, new))
    assert "line 2" in message
    assert reason in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no whole line"),
        (b"{}", "no whole line"),
        (b"\n", "line 1"),
        (b"{}\n", "missing required field"),
        (b"[]\n", "Expected `object`"),
        (b"null\n", "Expected `object`"),
        (b"\x00\x01\n", "line 1"),
        (b"\x1f\x8b\x08\x00\n", "line 1"),
        (b"a,b\n1,2\n", "line 1"),
        (b"\xff\xfe{\x00}\x00\n\x00", "line 1"),
        (b"\xef\xbb\xbf{}\n", "line 1"),
        (b'{"kind":"record","schema":1}\n', "'record'"),
        (b'{"kind":"session","schema":0}\n', "format 0 never existed"),
        (b'{"kind":"session","schema":2}\n', "update accelmark"),
        (b'{"kind":"session","schema":999,"anything":[{"new":1}]}\n', "update accelmark"),
        (b'{"kind":"session","schema":1e400}\n', "line 1"),
        (b'{"kind":"session","schema":' + b"9" * 40 + b"}\n", "update accelmark"),
    ],
    ids=lambda text: repr(text[:30])[-34:],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_utf_16_is_refused(planted: Path) -> None:
    planted.write_bytes(planted.read_text().encode("utf-16"))
    refusal(planted)


def test_two_documents_on_a_line_are_refused(planted: Path) -> None:
    lines = planted.read_bytes().split(b"\n")
    planted.write_bytes(b"\n".join([lines[0], lines[1] + lines[2], b""]))
    assert "line 2" in refusal(planted)


def test_line_ends_of_windows_do_no_harm(planted: Path) -> None:
    before = record.read(planted)
    planted.write_bytes(planted.read_bytes().replace(b"\n", b"\r\n"))
    assert record.read(planted) == before


def test_an_empty_line_in_between_is_refused(planted: Path) -> None:
    planted.write_bytes(planted.read_bytes().replace(b"\n", b"\n\n", 1))
    assert "line 2" in refusal(planted)


def test_two_sessions_in_one_file_are_refused(planted: Path) -> None:
    planted.write_bytes(planted.read_bytes() * 2)
    assert "line 6" in refusal(planted)


def test_a_line_beyond_the_limit_is_refused(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record.file, "MAX_LINE_BYTES", 1 << 10)
    assert "line 1: longer than" in refusal(planted)


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record.file, "MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "x.jsonl"
    with path.open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert "larger than 1 MiB" in refusal(path)


def test_a_file_of_exactly_the_limit_is_read(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record.file, "MAX_FILE_BYTES", planted.stat().st_size)
    assert record.read(planted).records
    monkeypatch.setattr(record.file, "MAX_FILE_BYTES", planted.stat().st_size - 1)
    assert "larger than" in refusal(planted)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    os.mkfifo(path)
    assert "not a regular file" in refusal(path)


def test_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    assert "a folder, not a file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "nothing.jsonl")


def test_a_name_that_no_system_has_is_refused_too() -> None:
    with pytest.raises(BadFile):
        record.read("x" * 5000)


def test_strings_that_never_end_are_refused_in_linear_time(planted: Path) -> None:
    """Scanned from each of its quotes, this line would take a day."""
    with_change(planted, 1, '"started":"', '"started":"' + '\\"' * 500_000)
    lines = planted.read_bytes().split(b"\n")
    planted.write_bytes(lines[0] + b"\n" + lines[1][:900_000] + b"\n")
    refusal(planted)


def test_brackets_within_strings_do_not_count_as_depth(planted: Path) -> None:
    with_change(planted, 1, '"reason":null', '"reason":"' + '[{\\"[' * 100 + '"')
    assert record.read(planted).records[0].reason == '[{"[' * 100


# Writing


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "change",
    [
        lambda one, number: msgspec.structs.replace(one, samples_s=[1e-3, number]),
        lambda one, number: msgspec.structs.replace(one, extras={"fact": number}),
        lambda one, number: msgspec.structs.replace(one, params={"x": number}),
        lambda one, number: msgspec.structs.replace(one, telemetry={"power_w": [number]}),
        lambda one, number: msgspec.structs.replace(one, check=msgspec.structs.replace(one.check, error=number)),
        lambda one, number: msgspec.structs.replace(one, timing=msgspec.structs.replace(one.timing, window_s=number)),
    ],
)
def test_a_number_that_is_not_finite_is_never_written(
    build: Any, change: Callable[[Record, float], Record], number: float
) -> None:
    with pytest.raises(ValueError, match=r"^\$\."):
        record.encode(change(build.record(), number))


def test_every_line_is_one_line_whatever_is_in_it(build: Any) -> None:
    line = record.encode(build.failed("crash", params={"m": "a\nb\r\u2028"}, work=build.record().work))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


# What tells records apart


def test_equal_cases_have_equal_keys_in_any_order_of_parameters(build: Any) -> None:
    one = build.record()
    other = build.record([5.0], params=dict(reversed(one.params.items())), round=3, started="later", flags=["xid"])
    assert one.key() == other.key()


@pytest.mark.parametrize(
    ("field", "value"),
    [("dtype", "bfloat16"), ("data", "zeros"), ("cache", "warm"), ("duty", "burst"), ("launch", "graph")],
)
def test_each_part_of_the_identity_makes_another_key(build: Any, field: str, value: str) -> None:
    one = build.record()
    assert getattr(one.identity, field) != value
    changed = msgspec.structs.replace(one.identity, **{field: value})
    assert msgspec.structs.replace(one, identity=changed).key() != one.key()
    assert field in record.Identity.__struct_fields__


def test_no_part_of_the_identity_is_left_untested() -> None:
    assert set(record.Identity.__struct_fields__) == {"dtype", "data", "cache", "duty", "launch"}


def test_workload_version_and_parameters_make_another_key(build: Any) -> None:
    one = build.record()
    others = [
        msgspec.structs.replace(one, workload="rms_norm"),
        msgspec.structs.replace(one, version=2),
        msgspec.structs.replace(one, params={**one.params, "m": 65}),
        msgspec.structs.replace(one, params={**one.params, "m": "64"}),
    ]
    assert len({one.key(), *(other.key() for other in others)}) == 5


def test_a_board_keeps_its_name_and_tells_nothing_else() -> None:
    name = record.anonymous("GPU-3d3dbb3b-7f0d-6f70-5de2-b3e3c5f5f0a1")
    assert name == "9abbdebd9dcdc7b6"  # sha256sum, cut
    assert name != record.anonymous("GPU-3d3dbb3b-7f0d-6f70-5de2-b3e3c5f5f0a2")


@pytest.mark.parametrize(
    ("status", "flags", "samples", "valid"),
    [
        ("ok", [], [1e-3], True),
        ("ok", ["not_steady", "host_noisy"], [1e-3], True),
        ("oom", [], [1e-3], False),
        ("ok", [], [], False),
        ("ok", [], [1e-3, 0.0], False),
        ("ok", [], [1e-320], False),
        ("ok", [], [1e30], False),
        *(("ok", [flag], [1e-3], False) for flag in sorted(record.INVALID_FLAGS)),
    ],
)
def test_what_cannot_be_a_measurement_does_not_count(
    build: Any, status: str, flags: list[str], samples: list[float], valid: bool
) -> None:
    assert build.record(samples, status=status, flags=flags).valid is valid


# Privacy


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("No such file: /home/alice/models/llama.toml", "No such file: llama.toml"),
        ('File "/home/alice/lab/train.py", line 3', 'File "train.py", line 3'),
        (r"C:\Users\alice\model.toml is missing", "model.toml is missing"),
        ("D:/work/alice/x.py:12", "x.py:12"),
        ("~/secret/lab/x.jsonl", "x.jsonl"),
        ("results/alice/x.jsonl", "x.jsonl"),
        ("../../alice/x.jsonl", "x.jsonl"),
        ("--out=/home/alice/r.jsonl", "--out=r.jsonl"),
        ("--set=model=/data/alice/m.toml", "--set=model=m.toml"),
        ("/home/alice/folder/", "folder"),
        ("(/opt/lab/a, /opt/lab/b)", "(a, b)"),
        ("1/2 of 312 TFLOP/s", "1/2 of 312 TFLOP/s"),
        ("plain words", "plain words"),
    ],
)
def test_no_path_goes_into_a_file(text: str, left: str) -> None:
    assert without_paths(text) == left


def test_cutting_paths_takes_linear_time() -> None:
    for text in ("a" * 10**6, "a/" * 10**6, "C:" * 10**6, "/" * 10**6):
        without_paths(text)


def test_the_golden_file_names_no_place_and_no_person(golden: Path) -> None:
    strings: list[str] = []

    def collect(tree: Any) -> None:
        if isinstance(tree, str):
            strings.append(tree)
        elif isinstance(tree, dict):
            collect(list(tree.keys()))
            collect(list(tree.values()))
        elif isinstance(tree, list):
            for part in tree:
                collect(part)

    for line in golden.read_text().splitlines():
        collect(json.loads(line))
    assert len(strings) > 1000
    assert [text for text in strings if without_paths(text) != text or text.startswith(("/", "~"))] == []

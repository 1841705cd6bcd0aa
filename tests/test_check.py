"""Check: sound files pass, and each way of not being sound is found and said."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import record, workload
from bench.analyze.check import Finding, check
from bench.record import Record

replace = msgspec.structs.replace


def messages(found: list[Finding], level: str) -> list[str]:
    return [finding.message for finding in found if finding.level == level]


def checked(build: Any, folder: Path, records: list[Record], **session: Any) -> list[Finding]:
    return check(build.write(folder / "x.jsonl", build.file(records, **session)))


def test_the_golden_file_is_accepted_without_a_word(golden: Path) -> None:
    assert check(golden) == []


def test_what_the_builder_makes_is_sound(build: Any, tmp_path: Path) -> None:
    records = [*build.rounds([1e-3, 2e-3]), build.failed("oom", round=2), build.failed("unsupported", round=3)]
    assert checked(build, tmp_path, records) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda one: replace(one, samples_s=[]), "status ok with 0 samples"),
        (lambda one: replace(one, status="oom", reason="full"), "status oom with 8 samples"),
        (lambda one: replace(one, status="crash", samples_s=[]), "status crash needs a reason"),
        (lambda one: replace(one, reason="why not"), "status ok needs no reason"),
        (lambda one: replace(one, timing=None, reasons={**one.reasons, "timing": "lost"}), "without a word on how"),
        (lambda one: replace(one, check=None), "check is unknown without a reason"),
        (lambda one: replace(one, reasons={}), "energy is unknown without a reason"),
        (lambda one: replace(one, telemetry=None), "telemetry is unknown without a reason"),
        (lambda one: replace(one, reasons={}), "peak_memory_bytes is unknown without a reason"),
        (lambda one: replace(one, contention=None), "contention is unknown without a reason"),
        (lambda one: replace(one, reasons={**one.reasons, "energy": ""}), "energy is unknown without a reason"),
        (lambda one: replace(one, samples_s=[1e-3, 0.0]), "took no time"),
        (lambda one: replace(one, samples_s=[1e-13]), "took no time"),
        (lambda one: replace(one, samples_s=[1e7]), "more than days"),
        (lambda one: replace(one, check=replace(one.check, error=1.0)), "error 1 over 0.001, not flagged"),
        (lambda one: replace(one, samples_s=[60.0]), "longer than the window"),
        (lambda one: replace(one, samples_s=[sample / 1000 for sample in one.samples_s]), "samples or repeats are not"),
        (lambda one: replace(one, work=replace(one.work, gemm_flops=1)), "not what these parameters come to"),
        (lambda one: replace(one, work=replace(one.work, bytes=one.work.bytes * 10)), "not what these parameters"),
        (lambda one: replace(one, work=replace(one.work, tokens=7)), "not what these parameters come to"),
        (lambda one: replace(one, params={**one.params, "m": "64"}), "m must be of type int"),
        (lambda one: replace(one, params={**one.params, "m": 64.0}), "m must be of type int"),
        (lambda one: replace(one, params={**one.params, "m": True}), "m must be of type int"),
        (lambda one: replace(one, params={**one.params, "dtype": 5}), "dtype must be of type str"),
    ],
)  # fmt: skip
def test_every_contradiction_is_an_error_on_its_line(
    build: Any, tmp_path: Path, spoil: Callable[[Record], Record], message: str
) -> None:
    found = checked(build, tmp_path, [build.record(round=0), spoil(build.record(round=1))])
    errors = [finding for finding in found if finding.level == "error"]
    assert any(message in finding.message for finding in errors), found
    assert {finding.line for finding in errors} == {3}
    assert all(finding.message.startswith("matmul m=") for finding in errors)


def test_a_wrong_output_that_is_flagged_is_a_note(build: Any, tmp_path: Path) -> None:
    wrong = replace(build.record().check, error=1.0)
    found = checked(build, tmp_path, [build.record(check=wrong, flags=["bad_output"])])
    assert messages(found, "error") == []
    assert "its output is wrong" in messages(found, "note")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workload": "of_another_lab"}, "no workload is named 'of_another_lab'"),
        ({"params": {"m": 64, "n": 64, "k": 64, "dtype": "float8"}}, "dtype='float8'"),
        ({"params": {"m": 0, "n": 64, "k": 64, "dtype": "float32"}}, "m=0: must be"),
        ({"params": {"m": 64, "n": 64, "dtype": "float32"}}, "needs a value for 'k'"),
        ({"params": {"m": 64, "n": 64, "k": 64, "dtype": "float32", "z": 1}}, "has no parameter 'z'"),
    ],
)
def test_work_that_cannot_be_computed_here_is_a_note(
    build: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    found = checked(build, tmp_path, [replace(build.record(), **change)])
    assert messages(found, "error") == []
    (note,) = messages(found, "note")
    assert "cannot be computed anew here" in note
    assert message in note


def test_work_of_another_version_is_not_judged(build: Any, tmp_path: Path) -> None:
    other = replace(build.record(), version=99, work=replace(build.record().work, gemm_flops=1))
    assert checked(build, tmp_path, [other]) == []


def test_rounds_that_never_came_are_counted(build: Any, tmp_path: Path) -> None:
    found = checked(build, tmp_path, build.rounds([1e-3, 1e-3]), rounds=5)
    assert messages(found, "note") == ["3 of 5 planned records are missing: continue with --resume"]
    assert messages(found, "error") == []


def test_a_cut_file_is_accepted_with_a_note(planted: Path) -> None:
    planted.write_bytes(planted.read_bytes()[:-1])
    found = check(planted)
    assert messages(found, "error") == []
    assert "the last line was cut off" in messages(found, "note")[0]


def test_speeds_that_are_not_one_for_each_device_are_noted(build: Any, tmp_path: Path) -> None:
    speeds = build.session().speeds
    found = checked(build, tmp_path, [build.record()], speeds=speeds * 2)
    assert messages(found, "note") == ["2 rough speeds for 1 devices"]


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    for path in (tmp_path / "x.jsonl", tmp_path / "nothing.jsonl", tmp_path):
        (finding,) = check(path)
        assert (finding.level, finding.line) == ("error", None)


def test_a_single_changed_character_of_the_golden_file_never_raises(golden: Path, tmp_path: Path) -> None:
    """Each is read and judged, or refused; which, depends on the character."""
    whole, path = golden.read_bytes(), tmp_path / "x.jsonl"
    lines = whole.split(b"\n")
    small = b"\n".join([lines[0], min(lines[1:-1], key=len), b""])
    for place in range(0, len(small), 23):
        for char in b'"9-}':
            path.write_bytes(small[:place] + bytes([char]) + small[place + 1 :])
            assert all(finding.message for finding in check(path))


HOSTILE = "\x1b[31mx\x1b]0;owned\x07\u202e\r\n\u2028<script>"


def test_control_characters_of_a_hostile_file_never_reach_a_finding(build: Any, tmp_path: Path) -> None:
    one = build.record()
    records = [
        replace(one, workload=HOSTILE),
        replace(one, params={**one.params, HOSTILE: 1}),
        replace(one, params={**one.params, "m": HOSTILE}),
        replace(one, params={**one.params, "dtype": HOSTILE}),
        replace(one, reason=HOSTILE),
        replace(one, workload="decode", params={"model": HOSTILE, "batch": 1, "context": 1, "dtype": "float32"}),
    ]
    found = checked(build, tmp_path, records)
    path = tmp_path / "\x1b[31m.jsonl"
    for text in (b'{"kind":"\\u001b[31m"}\n', b'{"\\u001b[31m":1,"\\u001b[31m":1}\n', b"\x1b[31m\n"):
        path.write_bytes(text)
        found += check(path)
    assert len(found) >= 8
    for finding in found:
        assert finding.message.isprintable()
        assert finding.file.isprintable()


@pytest.mark.parametrize("name", workload.names())
def test_parameters_of_any_size_are_judged_at_once(build: Any, tmp_path: Path, name: str) -> None:
    kind = workload.find(name)
    params = {
        key: (2**53 if isinstance(value, int) and not isinstance(value, bool) else value)
        for key, value in kind.smoke.items()
    }
    one = replace(build.record(), workload=name, params=params)
    started = time.monotonic()
    assert checked(build, tmp_path, [one])
    assert time.monotonic() - started < 1


def test_a_finding_says_where(build: Any, tmp_path: Path) -> None:
    (found,) = checked(build, tmp_path, [build.record([1e-3, 0.0])])
    assert dataclasses.asdict(found) == {
        "file": str(tmp_path / "x.jsonl"),
        "line": 2,
        "level": "error",
        "code": "sample",
        "message": "matmul m=64 n=64 k=64 dtype=float32: a step took no time, or more than days",
    }
    assert record.read(tmp_path / "x.jsonl").records[0].valid is False


def test_a_strangers_model_is_a_name_and_never_a_path(build: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.toml"
    secret.write_text("hidden_size = 1")
    params = {"model": "tiny", "batch": 1, "context": 8, "dtype": "float32"}
    sound = build.record(workload="decode", params=params)
    all_found = checked(build, tmp_path, [msgspec.structs.replace(sound, params={**params, "model": str(secret)})])
    (found,) = (one for one in all_found if one.code == "work")
    assert {one.level for one in all_found} == {"note"}
    assert "no model is named" in found.message


def test_a_round_stands_in_a_file_once_and_lies_in_its_session(build: Any, tmp_path: Path) -> None:
    found = checked(build, tmp_path, [build.record(), build.record(), build.record(round=99)], rounds=2)
    messages = [finding.message for finding in found if finding.level == "error"]
    assert any("a second record of round 0" in message for message in messages)
    assert any("round 99 of 2" in message for message in messages), messages

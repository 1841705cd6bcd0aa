"""Show: numbers as people read them, and strangers' strings as nothing but text."""

import csv
import io
from typing import Any

import msgspec
import pytest

from bench.analyze import compare, show, show_laboratory, show_verdicts, table
from bench.errors import UserError
from bench.record import Finding, ResultFile

replace = msgspec.structs.replace
HOSTILE = "\x1b[31m=1+1|<img src=x>\u202e\r\n`[a](b)"


@pytest.fixture
def hostile(build: Any) -> Any:
    """A file in which every string that its writer may choose is an attack."""
    session = build.session()
    device = replace(session.devices[0], name=HOSTILE, driver=HOSTILE, chip=HOSTILE, vendor=HOSTILE, uuid_hash=HOSTILE)
    host = replace(
        session.host, cpu=HOSTILE, kernel=HOSTILE, system=HOSTILE, governor=HOSTILE, settings={HOSTILE: HOSTILE}
    )
    params = {HOSTILE: HOSTILE, "m": HOSTILE}
    one = build.record(params=params, work=build.record().work, workload=HOSTILE)
    bad = build.failed("crash", params={"m": 2}, work=build.record().work)
    return build.file(
        [one, replace(bad, reason=HOSTILE)], devices=[device], host=host, software={"torch": HOSTILE, HOSTILE: HOSTILE},
        suite=HOSTILE, started=HOSTILE, preflight=[Finding(code=HOSTILE, message=HOSTILE)],
    )  # fmt: skip


def harmless(text: str) -> None:
    """Nothing but printable characters and line ends."""
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    text.encode()


def harmless_markdown(text: str) -> None:
    harmless(text)
    bare = text.replace("\\|", "").replace("\\[", "").replace("\\]", "").replace("\\`", "")
    assert "<" not in bare
    assert "[" not in bare and "`" not in bare
    assert len({line.count("|") for line in bare.splitlines() if line.startswith("|")}) <= 1
    assert all(line[0] in "|-" for line in bare.splitlines() if line)


def test_hostile_strings_reach_no_terminal(hostile: Any, golden: Any) -> None:
    rows = table.rows([hostile])
    found = msgspec.to_builtins(compare.compare([hostile], [hostile]))
    other = msgspec.to_builtins(compare.compare([hostile], table.files([golden])))
    parts = [
        show.table(rows),
        show.table(rows, by="device"),
        show.table(rows, by=HOSTILE),
        *show.headline(hostile.session),
    ]
    parts += [
        *show_verdicts.comparison(found),
        *show_verdicts.comparison(other),
        show.csv_text(rows),
        show.csv_text(found["rows"]),
    ]
    for text in parts:
        harmless(text)


def test_hostile_strings_break_no_markdown(hostile: Any, golden: Any) -> None:
    rows = table.rows([hostile])
    found = msgspec.to_builtins(compare.compare([hostile], table.files([golden])))
    harmless_markdown(show.table(rows, "github"))
    harmless_markdown(show.table(rows, "github", by="device"))
    harmless_markdown("\n".join(show.headline(hostile.session, "github")))
    harmless_markdown("\n".join(show_verdicts.comparison(found, "github")))


def test_hostile_strings_are_no_formula_in_a_spreadsheet(hostile: Any) -> None:
    rows = [
        {**row, "=1+1": "@SUM(A1)", "fullwidth": "\uff1d1", "minus": "-2+3", "number": -2.5}
        for row in table.rows([hostile])
    ]
    for line in csv.reader(io.StringIO(show.csv_text(rows))):
        assert not [
            cell for cell in line if cell[:1] in set("=+@\uff1d\uff0b\uff0d\uff20\t\r") or cell.startswith("-2+")
        ]
    assert "-2.5" in show.csv_text(rows)


def test_csv_keeps_si_units_and_every_digit(planted: Any) -> None:
    rows = table.rows(table.files([planted]))
    (header, *lines) = csv.reader(io.StringIO(show.csv_text(rows)))
    assert header == list(rows[0])
    assert [float(line[header.index("step_s")]) for line in lines] == [row["step_s"] for row in rows]
    assert lines[0][header.index("chip")] == ""


def test_lists_in_csv_are_words(build: Any) -> None:
    rows = table.rows([build.file([build.record(flags=["host_noisy", "page_faults"])])])
    assert "host_noisy page_faults" in show.csv_text(rows)
    both = msgspec.to_builtins(compare.compare([build.file([build.record()])], [build.file([build.record()])]))
    assert "1 1" in show.csv_text(msgspec.json.decode(msgspec.json.encode(both))["rows"])


@pytest.mark.parametrize(
    ("rate", "unit", "text"),
    [
        (312e12, "FLOP/s", "312 TFLOP/s"),
        (1.21e12, "B/s", "1.21 TB/s"),
        (10_600.0, "tok/s", "10,600 tok/s"),
        (250_000.0, "launch/s", "4.00 µs each"),
        (None, None, "oom"),
    ],
)
def test_rates_read_as_people_say_them(rate: float | None, unit: str | None, text: str) -> None:
    assert show.rate({"rate": rate, "rate_unit": unit, "status": "oom"}) == text


def test_a_table_shows_step_spread_rate_and_rounds(build: Any) -> None:
    text = show.table(table.rows([build.file(build.rounds([1e-3] * 3))]))
    header, _, line = text.splitlines()
    assert header.split() == ["case", "step", "±95", "%", "rate", "power", "rounds"]
    assert " ".join(line.split()) == "matmul m=64 n=64 k=64 dtype=float32 1.00 ms 0.0 % 524 MFLOP/s 579 W 3"


def test_what_went_wrong_stands_in_the_notes(build: Any) -> None:
    records = [
        build.record(flags=["host_noisy", "straggler"]),
        build.failed("oom", params={"m": 1}, work=build.record().work),
    ]
    rows = table.rows([build.file(records)])
    assert [show.notes(row) for row in rows] == [
        ["the host was busy: other programs or guests took CPU time", "straggler"],
        ["oom: oom, as planted"],
    ]


def test_devices_are_named_only_where_there_are_several(build: Any) -> None:
    devices = build.session().devices
    two = [devices[0], replace(devices[0], name="Second GPU")]
    one = table.rows([build.file([build.record()], devices=two)])
    both = table.rows([build.file([build.record(), build.record(device=1)], devices=two)])
    assert "Virtual GPU" not in show.table(one, devices=True)
    assert "Second GPU" in show.table(both, devices=True)


def test_rows_of_one_case_say_which_run_and_machine_they_are(build: Any) -> None:
    other = replace(build.session().devices[0], uuid_hash="another")
    runs = [
        build.file([build.record()], id="a" * 16, started="2026-11-27T19:05:49+00:00"),
        build.file([build.record()], id="b" * 16, started="2026-11-27T19:05:58+00:00"),
        build.file([build.record()], id="c" * 16, started="2026-11-27T20:05:49+00:00", devices=[other]),
    ]

    def names(files: list[ResultFile]) -> list[str]:
        return show.table(table.rows(files), devices=True).splitlines()[0].split()[:3]

    assert names(runs[:1]) == ["case", "step", "±95"]
    assert names(runs[1:]) == ["case", "machine", "started"]
    assert names(runs[:2]) == ["case", "started", "step"]
    text = show.table(table.rows(runs), devices=True)
    assert "2026-11-27 19:05:49" in text and "2026-11-27 19:05:58" in text
    later = show.table(table.rows([runs[0], replace(runs[1], session=runs[2].session)]))
    assert "2026-11-27 20:05 " in later and "20:05:49" not in later


def test_an_empty_table_is_a_table() -> None:
    assert show.table([]).startswith("device")
    assert show.csv_text([]) == "\n"
    assert show.table([], by="device")


def test_a_comparison_reads_as_a_sentence_each(build: Any) -> None:
    sides = [
        build.file(build.rounds([median] * 3, start=start), id=str(start))
        for median, start in ((1e-3, 0), (2e-3, 3600))
    ]
    lines = show_verdicts.comparison(msgspec.to_builtins(compare.compare(sides[:1], sides[1:])))
    (line,) = [line for line in lines[0].splitlines() if line.startswith("matmul")]
    assert "1.00 ms" in line and "2.00 ms" in line and "2.000" in line and "3 and 3" in line and line.endswith("slower")
    assert any("did not take turns" in line for line in lines)


def test_two_styles_at_once_are_refused() -> None:
    assert show.one_style(json=False, csv=True) == "csv"
    assert show.one_style(json=False, csv=False) is None
    with pytest.raises(UserError, match="--json and --csv exclude each other"):
        show.one_style(json=True, csv=True)


def test_a_plan_keeps_its_times_under_each_other() -> None:
    cases = [{"case": "matmul m=1", "estimate_s": 1.0, "device": "cpu:0"}, {"case": "x" * 97, "estimate_s": 70.0}]
    document = {
        "suite": "quick", "devices": ["cpu:0"], "rounds": 1, "estimate_s": 71.0, "cases": cases, "findings": [],
        "skipped": [{"case": "train_step", "reason": "needs about 128 GiB"}],
    }  # fmt: skip
    _, _, short, long, _ = show_laboratory.plan(document)
    assert len(short) == len(long)
    assert show_laboratory.plan({**document, "cases": [], "skipped": []})[0] == "suite quick on cpu:0"


def test_many_cases_left_out_for_one_reason_are_a_line() -> None:
    skipped = [{"case": f"{name} m={m}", "reason": "left out"} for name in ("rope", "matmul") for m in range(4)]
    other = {"case": "softmax n=1", "reason": "needs about 128 GiB"}
    document = {
        "suite": "quick", "devices": ["cpu:0"], "rounds": 1, "estimate_s": 1.0, "cases": [], "findings": [],
        "skipped": [*skipped, other],
    }  # fmt: skip
    assert show_laboratory.plan(document)[2:] == [
        "  softmax n=1  needs about 128 GiB",
        "  8 cases left out: matmul 4, rope 4",
    ]


def test_readings_of_memory_are_in_words_that_people_use() -> None:
    readings = {"host_memory_used_bytes": 3 * 2**30, "power_w": 71.25}
    (line,) = show_laboratory._capabilities({"capabilities": dict.fromkeys(readings, "ok"), "readings": readings})
    assert line == "host_memory_used_bytes 3.00 GiB, power_w 71.25"

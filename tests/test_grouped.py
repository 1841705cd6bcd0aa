"""Groups: each machine counts once, nothing unlike is put together, and a machine's place is where it was planted."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from bench import commands, record
from bench.analyze import grouped, show_groups, standing, table
from bench.analyze.row import Row
from bench.analyze.shared import place
from bench.cli import main
from bench.errors import UserError
from bench.record import Energy, ResultFile, Series, Telemetry

replace = msgspec.structs.replace
STEP = {"workload": "train_step", "params": {"model": "tiny", "batch": 1, "seq": 64, "dtype": "float32"}}


@pytest.fixture
def board(build: Any) -> Callable[..., ResultFile]:
    """A run of one board: its step time, clock and limit as planted."""

    def make(
        name: str, step_s: float, *, run: int = 0, chip: str | None = "l40s", limit_w: float = 350.0, **fields: Any
    ) -> ResultFile:
        facts = replace(
            build.session().devices[0], uuid_hash=name, chip=chip, name="NVIDIA L40S" if chip else "Unknown",
            readings={"power_limit_w": limit_w, "power_limit_default_w": 350.0},
        )  # fmt: skip
        clock_hz = [2e9 * limit_w / 350.0] * 3
        telemetry = Telemetry(
            window_s=1.0, period_s=0.1, busy=0.0, changes={"throttle_power_cap_s": 0.25}, state={},
            series={"clock_hz": Series(t_s=[0.0, 0.1, 0.2], values=clock_hz)},
        )  # fmt: skip
        one = build.record([step_s] * 6, telemetry=telemetry, **fields)
        return build.file([one], id=f"{name}-{run}", devices=[facts], name=f"{name}-{run}.jsonl")

    return make


def groups(files: Sequence[ResultFile], by: str | None = None, **options: Any) -> list[Row]:
    return grouped.groups(grouped.typical(table.rows(files), by), by, **options)


def ids(file: ResultFile) -> str:
    """The name of the folder that a run's machine has in the shared table."""
    return place.folder(file.session).name


# Groups


def test_a_machine_that_ran_often_counts_once(board: Any) -> None:
    files = [board("often", 4e-3, run=run) for run in range(9)]
    files += [board("second", 1e-3), board("third", 2e-3)]
    (one,) = groups(files)
    assert (one["machines"], one["runs"], one["step_s"]) == (3, 11, 2e-3)


def test_of_one_machines_runs_the_one_in_the_middle_stands_for_it(board: Any) -> None:
    files = [board("a", step_s, run=run) for run, step_s in enumerate([3e-3, 9e-3, 1e-3])]
    (one,) = grouped.typical(table.rows(files))
    assert (one["step_s"], one["file"], one["runs"]) == (3e-3, "a-0.jsonl", 3)


def test_few_machines_show_their_extremes_and_many_their_quartiles(board: Any) -> None:
    steps_s = [1e-3, 2e-3, 4e-3, 5e-3, 8e-3]
    files = [board(str(number), step_s) for number, step_s in enumerate(steps_s)]
    few, many = groups(files[:3])[0], groups(files)[0]
    work = few["rate"] * 2e-3
    assert (few["rate_low"], few["rate_high"]) == (work / 4e-3, work / 1e-3)
    assert (many["rate_low"], many["rate_high"]) == (work / 5e-3, work / 2e-3)


def test_outliers_do_not_move_the_median(board: Any) -> None:
    chance = random.Random(1)
    files = [board(str(number), 1e-3 * chance.uniform(0.99, 1.01)) for number in range(9)]
    files += [board("broken", 1.0), board("wrong", 1e-9)]
    assert groups(files)[0]["step_s"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"params": {"m": 128, "n": 64, "k": 64, "dtype": "float32"}},
    ],
)
def test_what_is_not_the_same_work_is_not_put_together(board: Any, change: Any) -> None:
    assert len(groups([board("a", 1e-3), board("b", 1e-3, **change)])) == 2


def test_a_case_that_failed_everywhere_says_so(build: Any) -> None:
    (one,) = groups([build.file([build.failed("oom")])])
    assert (one["status"], one["machines"], one["rate"]) == ("oom", 0, None)


def test_devices_of_different_models_stay_apart_unless_the_field_tells_them_apart(board: Any) -> None:
    files = [board("a", 1e-3), board("b", 2e-3, chip=None)]
    assert len(groups(files, "dtype")) == 2
    assert {one["chip"] for one in groups(files, "chip")} == {"l40s", None}


def test_the_condition_of_the_card_stands_beside_the_rate(board: Any) -> None:
    (one,) = groups([board("a", 1e-3, limit_w=175.0)])
    assert (one["power_limit_w"], one["power_limit_share"], one["clock_hz"], one["power_limited"]) == (
        175.0, 0.5, 1e9, 0.25,
    )  # fmt: skip


def test_tokens_for_a_joule_and_for_money(board: Any) -> None:
    energy = Energy(joules=100.0, window_s=10.0, method="counter_tick", boundary="gpu_board", uncertainty=0.05,
                    uncertainty_same_board=0.01)  # fmt: skip
    (one,) = groups([board("a", 0.064, energy=energy, **STEP)], price_per_hour=2.0)
    assert one["tokens_per_s"] == pytest.approx(1000)
    assert one["tokens_per_joule"] == pytest.approx(100)  # 10 W
    assert (one["tokens_per_money"], one["price_per_hour"]) == (pytest.approx(1000 * 3600 / 2), 2.0)
    (matmul,) = groups([board("a", 1e-3)], price_per_hour=2.0)
    assert matmul["tokens_per_money"] is None


def test_values_stand_across_where_they_are_few(board: Any) -> None:
    files = [board(name, 1e-3 * (number + 1)) for number, name in enumerate("abc")]
    text = show_groups.grouped(groups(files, "chip"), "chip")[0]
    assert text.splitlines()[0].split() == ["case", "l40s"]
    assert text.splitlines()[2].endswith("(3)")
    files += [board("d", 1e-3, params={"m": 128, "n": 64, "k": 64, "dtype": "float32"})]
    listed = show_groups.grouped(groups(files, "workload"), "workload")
    assert listed[0].splitlines()[0].split()[:3] == ["case", "matmul"]
    many = [board(f"board{number}", 1e-3) for number in range(table.WIDEST + 1)]
    assert show_groups.grouped(groups(many, "machine"), "machine")[0].splitlines()[0].split()[:2] == ["machine", "case"]


# Standing


def test_a_machine_is_placed_among_others_of_its_chip(board: Any) -> None:
    others = [board(f"other{number}", 1e-3 * (1 + 0.1 * number)) for number in range(8)]
    others += [board("elsewhere", 1e-9, chip=None), board("mine", 1e-9, run=1)]
    mine = board("mine", 1.25e-3, limit_w=300.0)
    (one,) = standing.standing(table.rows([mine]), grouped.typical(table.rows(others)))
    assert (one["others"], one["slower"], one["percentile"]) == (8, 5, 5 / 8)
    assert one["others_step_s"] == pytest.approx(1.35e-3)
    assert one["speed_to_others"] == pytest.approx(1.35 / 1.25)
    assert (one["power_limit_w"], one["others_power_limit_w"]) == (300.0, 350.0)
    assert one["clock_hz"] == pytest.approx(2e9 * 300 / 350)
    text = "\n".join(show_groups.standing([one]))
    assert len(ids(mine)) == 12
    assert "5 of 8" in text and "300 W" in text and "350 W" in text and f"machine {ids(mine)}" in text


def test_without_others_there_is_no_place(board: Any) -> None:
    (one,) = standing.standing(table.rows([board("mine", 1e-3)]), grouped.typical(table.rows([board("mine", 2e-3)])))
    assert (one["others"], one["percentile"], one["others_step_s"]) == (0, None, None)
    assert "no others" in show_groups.standing([one])[0]
    assert show_groups.standing([]) == ["nothing in this file has a valid time: there is nothing to place"]


def test_other_work_is_no_other(board: Any) -> None:
    others = [board("a", 1e-3, version=2)]
    (one,) = standing.standing(table.rows([board("mine", 1e-3)]), grouped.typical(table.rows(others)))
    assert one["others"] == 0


# Commands


@pytest.fixture
def results(board: Any, build: Any, tmp_path: Path) -> Path:
    for number in range(5):
        build.write(tmp_path / f"{number}.jsonl", board(f"board{number}", 1e-3 * (1 + number / 50)))
    return tmp_path


def accelmark(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], standalone_mode=False)


def test_the_commands_print_what_python_gives(results: Path) -> None:
    pairs: list[tuple[list[Any], Any]] = [
        (["--by", "chip"], commands.grouped([results], by="chip")),
        (["--price-per-hour", "2"], commands.grouped([results], price_per_hour=2.0)),
        (["--standing", results / "2.jsonl"], commands.standing(results / "2.jsonl", [results])),
        (["--errors"], []),
        (["--where", "machine~e"], commands.table([results], where="machine~e")),
    ]
    for options, document in pairs:
        said = accelmark("table", results, *options, "--json")
        assert json.loads(said.stdout) == document
        assert accelmark("table", results, *options, "--csv").stdout
        for style in ([], ["--markdown"]):
            assert accelmark("table", results, *options, *style).stdout.strip()
    assert commands.standing(results / "2.jsonl", [results])[0]["percentile"] == 0.5


def test_rows_name_a_machine_as_its_folder_does(results: Path, build: Any) -> None:
    file = record.read(results / "1.jsonl")
    (row,) = commands.table([results], where=f"machine={ids(file)}")
    assert row["file"] == "1.jsonl"
    bare = replace(file.session.devices[0], uuid_hash=None)
    unnamed = build.file([build.record()], devices=[bare])
    assert table.rows([unnamed])[0]["machine"] == ids(unnamed) != ids(file)
    both = build.file([build.record(), build.record(device=1)], devices=[bare, file.session.devices[0]])
    assert {row["machine"] for row in table.rows([both])} == {ids(unnamed), ids(file)}


def test_a_bad_file_in_a_folder_is_left_out_and_told(results: Path) -> None:
    (results / "bad.jsonl").write_text("{}\n")
    said = accelmark("table", results)
    assert said.stdout.rstrip().endswith("1 file was left out: --errors says why")
    (told,) = json.loads(accelmark("table", results, "--errors", "--json").stdout)
    assert told["file"] == str(results / "bad.jsonl") and "missing required field" in told["reason"]
    with pytest.raises(UserError, match="missing required field"):
        commands.table([results / "bad.jsonl"])


def test_views_exclude_each_other(results: Path) -> None:
    for options in (["--by", "chip", "--errors"], ["--standing", results / "1.jsonl", "--parquet", results / "x"]):
        said = accelmark("table", results, *options)
        assert isinstance(said.exception, UserError | SystemExit)


def test_long_tables_are_grouped_for_people_and_not_for_programs(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "too_long", lambda found, where: True)
    assert "middle half" in accelmark("table", results).stdout
    assert len(json.loads(accelmark("table", results, "--json").stdout)) == 5


def test_who_gives_a_price_sees_what_it_buys(board: Any) -> None:
    files = [board(name, 1e-3, chip=chip, **STEP) for name, chip in (("a", "l40s"), ("b", None))]
    header = show_groups.grouped(groups(files, by="chip", price_per_hour=2.0), "chip")[0].splitlines()[0]
    assert "tokens/money" in header


def test_a_chip_of_no_catalog_goes_by_the_name_of_its_device(board: Any) -> None:
    files = [board("a", 1e-3), board("b", 2e-3, chip=None)]
    made = groups(files, by="chip")
    assert [one["chip"] for one in made] == ["l40s", None]
    columns, lines = table.arranged(made, "chip")
    assert columns == ["l40s", "Unknown"] and len(lines) == 1
    assert not any("None" in line for line in show_groups.grouped(made, "chip"))


def test_a_case_in_quarantine_is_marked_and_in_no_median(board: Any, build: Any, tmp_path: Path) -> None:
    for number in range(5):
        file = board(f"board{number}", 1e-3 if number else 1e-5)
        build.write(tmp_path / file.name, file)
    rows = json.loads(CliRunner().invoke(main, ["table", str(tmp_path), "--json"]).output)
    machines = [ids(board(f"board{number}", 1e-3)) for number in range(5)]
    assert {one["machine"]: bool(one["quarantine"]) for one in rows} == {
        name: not number for number, name in enumerate(machines)
    }
    (one,) = commands.grouped([tmp_path], by="chip")
    assert (one["machines"], one["step_s"]) == (4, 1e-3)
    for view in ([], ["--by", "chip"]):
        printed = CliRunner().invoke(main, ["table", str(tmp_path), *view]).output
        assert "1 case is in quarantine and in no median" in printed
    assert "in quarantine: " in CliRunner().invoke(main, ["table", str(tmp_path)]).output


def test_a_case_that_the_first_run_skipped_has_its_unit(board: Any) -> None:
    skipped = board("a", 1e-3)
    left = [replace(one, status="skipped", samples_s=[], timing=None, reason="no time") for one in skipped.records]
    (one,) = groups([replace(skipped, records=left), board("b", 1e-3)])
    assert one["rate"] and one["rate_unit"] == "FLOP/s"


def test_boards_of_one_host_are_machines_and_their_hosts_are_counted(board: Any, build: Any) -> None:
    files = [board("a", 1e-3), board("b", 1.1e-3), board("c", 1.2e-3)]
    other = replace(build.session().host, memory_bytes=1 << 40)
    files[2] = replace(files[2], session=replace(files[2].session, host=other))
    found = groups(files)
    assert [(one["machines"], one["hosts"]) for one in found] == [(3, 2)]
    header, said = show_groups.grouped(found, None)[0].splitlines()[0], show_groups.grouped(found, None)
    assert "hosts" in header and "hosts: where several of the machines are boards of one host" in said[-1]
    assert "hosts" not in "".join(show_groups.grouped(groups(files[1:]), None))


def test_a_host_whose_kernel_reserves_more_stays_one_machine(build: Any) -> None:
    hosts = [replace(build.session().host, memory_bytes=(24 << 30) - lost) for lost in (0, 446_464)]
    devices = [replace(build.session().devices[0], uuid_hash=None)]
    files = [
        build.file([build.record()], id=str(number) * 16, devices=devices, host=host)
        for number, host in enumerate(hosts)
    ]
    assert len({one["machine"] for one in table.rows(files)}) == 1

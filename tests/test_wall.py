"""The log of a meter at the socket: planted power and a planted clock, which are found again or said not to be."""

import json
import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

import bench
from bench import record
from bench.analyze import wall
from bench.cli import main
from bench.errors import UserError
from bench.record import ResultFile

BEGIN_S = datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp()
REST_W, LOADS_W = 60.0, {64: 310.0, 128: 250.0}
STEP_S, SETTLE_S = 1e-3, 2.0
# When each window begins, how long it is, and of which size its case is. No two rests are alike, as in a run.
WINDOWS = [(30.0, 12.0, 64), (51.0, 11.0, 128), (80.0, 12.0, 128), (99.0, 14.0, 64), (131.0, 12.0, 64)]


@pytest.fixture
def ran(build: Any) -> ResultFile:
    """A run of two cases whose windows lie as planted."""
    rounds: dict[int, int] = {}
    records = []
    for begins_s, lasts_s, size in WINDOWS:
        rounds[size] = rounds.get(size, -1) + 1
        one = build.record(
            [STEP_S] * 8, params={"m": size, "n": 64, "k": 64, "dtype": "float32"}, round=rounds[size],
            started=datetime.fromtimestamp(BEGIN_S + begins_s - 5, UTC).isoformat(timespec="milliseconds"),
        )  # fmt: skip
        timing = msgspec.structs.replace(one.timing, begins_s=5.0, window_s=lasts_s, settle_s=SETTLE_S)
        records.append(msgspec.structs.replace(one, timing=timing))
    return build.file(records)  # type: ignore[no-any-return]


def drawn_w(moment_s: float) -> float:
    """What the machine draws, in the run's own time."""
    for begins_s, lasts_s, size in WINDOWS:
        if begins_s - SETTLE_S <= moment_s <= begins_s + lasts_s:
            return LOADS_W[size]
    return REST_W


def log(
    path: Path, *, ahead_s: float = 0.0, period_s: float = 1.0, from_s: float = -30.0, to_s: float = 220.0,
    noise_w: float = 3.0, line: str = "{iso},{watts:.1f}", head: str = "time,power_w",
) -> Path:  # fmt: skip
    """What a meter writes, each value the mean over the interval before it."""
    noise, lines = random.Random(0), [head]
    for number in range(int((to_s - from_s) / period_s)):
        moment_s = from_s + number * period_s
        watts = sum(drawn_w(moment_s - period_s * part / 10) for part in range(10)) / 10 + noise.gauss(0, noise_w)
        epoch_s = BEGIN_S + moment_s + ahead_s
        iso = datetime.fromtimestamp(epoch_s, UTC).replace(tzinfo=None).isoformat()
        lines.append(line.format(iso=iso, epoch=epoch_s, watts=watts, comma=f"{watts:.2f}".replace(".", ",")))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("ahead_s", [0.0, 7.3, -41.9, 3600.0])
@pytest.mark.parametrize("period_s", [0.5, 1.0, 2.0])
def test_a_clock_that_is_wrong_is_found_within_the_meters_interval(
    ahead_s: float, period_s: float, ran: ResultFile, tmp_path: Path
) -> None:
    found = wall.beside(ran, log(tmp_path / "log.csv", ahead_s=ahead_s, period_s=period_s))
    assert found.ahead_s == pytest.approx(ahead_s, abs=period_s)
    assert found.correlation > 0.9 and found.boundary == "wall"


def test_each_case_has_the_power_that_was_drawn_in_its_windows(ran: ResultFile, tmp_path: Path) -> None:
    found = wall.beside(ran, log(tmp_path / "log.csv", ahead_s=7.3))
    assert [row.power_w for row in found.rows] == pytest.approx([310.0, 250.0], rel=0.01)
    for row in found.rows:
        assert row.energy_per_step_j == pytest.approx(row.power_w * STEP_S)
        assert row.half_width < 0.01 and row.energy_per_token_j is None
        assert row.to_board == pytest.approx(row.power_w / 579, rel=0.01)  # which the board told in these records
    assert not found.too_short


def test_a_meter_too_slow_for_the_windows_gives_no_energy_and_says_so(ran: ResultFile, tmp_path: Path) -> None:
    found = wall.beside(ran, log(tmp_path / "log.csv", period_s=4.0))
    assert not found.rows and len(found.too_short) == 2


def test_a_log_of_something_else_fits_nowhere(ran: ResultFile, tmp_path: Path) -> None:
    path, noise = tmp_path / "log.csv", random.Random(1)
    lines = [f"{BEGIN_S + second},{200 + noise.gauss(0, 30):.1f}" for second in range(400)]
    path.write_text("\n".join(["time,power_w", *lines]))
    with pytest.raises(UserError, match="nothing of this run"):
        wall.beside(ran, path)


def test_a_log_that_has_the_run_twice_is_not_guessed_from(ran: ResultFile, tmp_path: Path) -> None:
    once = log(tmp_path / "once.csv").read_text().splitlines()
    head, values = once[0], [line.partition(",")[2] for line in once[1:]]
    lines = [f"{BEGIN_S + number},{watts}" for number, watts in enumerate(values * 2)]
    path = tmp_path / "twice.csv"
    path.write_text("\n".join([head, *lines]))
    with pytest.raises(UserError, match="more than one time"):
        wall.beside(ran, path)


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("Timestamp,Power (W)", "{iso},{watts}"),
        ("date;apower", "{iso}Z;{comma}"),
        ("time\tpower\tvoltage", "{epoch}\t{watts}\t230"),
        ("voltage,watts,time", "230,{watts},{iso}+00:00"),
    ],
)
def test_logs_come_in_many_forms(head: str, line: str, ran: ResultFile, tmp_path: Path) -> None:
    found = wall.beside(ran, log(tmp_path / "log.csv", head=head, line=line, ahead_s=5.0))
    assert found.ahead_s == pytest.approx(5.0, abs=1.0)


def test_kilowatts_and_milliseconds_are_told_by_what_they_are_called_and_by_size(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time,power_kw\n" + "".join(f"{1_767_261_600_000 + 1000 * n},0.25\n" for n in range(9)))
    found = wall.read(path)
    assert found == wall.Log(1_767_261_600.0, 1.0, [250.0] * 9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a head and values"),
        ("time,power\n", "a head and values"),
        ("time,volts\n1,2\n", "'power' in its name"),
        ("time,power,power_factor\n1,2,1\n", "'power' in its name"),
        ("time,power\nnoon,2\n", "line 2"),
        ("time,power\n1,n/a\n", "line 2"),
        ("time,power\n1\n", "line 2"),
        ("time,power\n" + "1,nan\n" * 9, "cannot be"),
        ("time,power\n" + "1e300,2\n" * 9, "cannot be"),
        ("time,power\n" + "x" * 200_000 + ",2\n", "field larger"),
        ("time,power\n" + "1,2\n" * 9, "in order of time"),
        ("time,power\n9,2\n8,2\n7,2\n6,2\n5,2\n4,2\n", "in order of time"),
        ("time,power\n" + "".join(f"{n},2\n" for n in (1, 2, 3, 4, 5, 60)), "no value for 55 s"),
        ("time,power\n" + "".join(f"{n * 1e-9},2\n" for n in range(9)) + "1,2\n", "no value|too many"),
        ("time,power\n" + "".join(f"{n},2\n" for n in range(9)), "the log lasts"),
    ],
)
def test_a_log_that_cannot_be_used_is_one_sentence(text: str, says: str, ran: ResultFile, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        wall.beside(ran, path)
    assert "\n" not in str(error.value)


def test_a_file_without_moments_has_no_place_in_a_log(build: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="when its samples were taken"):
        wall.beside(build.file([build.record()]), log(tmp_path / "log.csv"))


def test_the_file_of_a_stranger_breaks_nothing(build: Any, ran: ResultFile, tmp_path: Path) -> None:
    meter = log(tmp_path / "log.csv")
    timing = msgspec.structs.replace(ran.records[0].timing, begins_s=1e30, settle_s=1e30)
    for changed in ({"started": "<script>"}, {"timing": timing}):
        bad = [msgspec.structs.replace(one, **changed) for one in ran.records]
        with pytest.raises(UserError):
            wall.beside(build.file(bad), meter)


def test_show_prints_it_and_python_gives_the_same(build: Any, ran: ResultFile, tmp_path: Path) -> None:
    run, meter = build.write(tmp_path / "run.jsonl", ran), log(tmp_path / "log.csv", ahead_s=7.3)

    def shown(*more: str) -> Any:
        return CliRunner().invoke(main, ["show", str(run), "--wall", str(meter), *more])

    said = shown()
    assert said.exit_code == 0 and "310" in said.output and "at the wall" in said.output
    assert "from this machine's" in said.output
    assert json.loads(shown("--json").output)["wall"] == bench.show(run, wall=meter)["wall"]
    assert shown("--csv").exit_code != 0


def test_a_record_says_when_its_samples_began(tmp_path: Path) -> None:
    before_s = datetime.now(UTC).timestamp()
    sizes = {"m": ["64"], "n": ["64"], "k": ["64"], "dtype": ["float32"]}
    bench.run("matmul", suite="quick", device="cpu", rounds=1, out=tmp_path / "x.jsonl", settings=sizes)
    (one,) = record.read(tmp_path / "x.jsonl").records
    assert one.timing is not None and not isinstance(one.timing.begins_s, msgspec.UnsetType)
    began_s = datetime.fromisoformat(one.started).timestamp() + one.timing.begins_s
    ended_s = datetime.fromisoformat(one.ended).timestamp()
    assert before_s < began_s and began_s + one.timing.window_s <= ended_s + 0.05
    assert one.timing.begins_s >= 0.9 * (one.timing.settle_s + one.timing.cold_start_s)
    assert math.isfinite(began_s)


@pytest.mark.parametrize(("head", "watts"), [("power_mW", 0.25), ("Power (W)", 250.0), ("power [kW]", 250_000.0)])
def test_the_unit_of_a_log_is_in_its_head(head: str, watts: float, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"time,{head}\n" + "".join(f"{1_767_261_600 + n},250\n" for n in range(9)))
    assert wall.read(path).watts == pytest.approx([watts] * 9)


@pytest.mark.parametrize("head", ["Power (VA)", "power_kWh", "power_MW"])
def test_what_is_no_power_in_watts_is_refused(head: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"time,{head}\n" + "".join(f"{1_767_261_600 + n},250\n" for n in range(9)))
    with pytest.raises(UserError, match="is not in mW, W or kW"):
        wall.read(path)

"""`selfcheck energy` on a simulated board: it passes where the board is sound, and each fault shows in its own line."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from bench.device.virtual import Spec, Virtual
from bench.energy import Board, Trace
from bench.measure import powercheck
from bench.measure.attribution import Rises
from bench.measure.meter import Meter, SimulatedMeter
from bench.measure.powercheck import Verdict
from bench.measure.timer import Run

PERIODS_S = {"power_period_s": 0.1, "energy_period_s": 0.1}


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(powercheck, "PAIRS", 2)
    shorter = msgspec.structs.replace(powercheck._PROTOCOL, settle_s=0.05, min_time_s=0.05, max_time_s=0.1)
    monkeypatch.setattr(powercheck, "_PROTOCOL", shorter)


def verdicts(meter: type[SimulatedMeter] = SimulatedMeter, **traits: float) -> dict[str, Verdict]:
    # The clock stays up at rest, as a board's does for some tens of milliseconds: half busy is then half of the power.
    device = Virtual(Spec(idle_clock=1.0, **traits))
    return {one.name: one for one in powercheck.check(device, meter(device, 0), PERIODS_S)}


def shares(found: dict[str, Verdict]) -> Iterator[tuple[float, float]]:
    """By the mean of both levels: what the counter and what power make of a load that is busy half of the time."""
    for name, one in found.items():
        if name.startswith("half busy"):
            counter, power = one.measured.partition("counter ")[2].split(", power ")
            yield float(counter), float(power)


def test_a_sound_board_passes() -> None:
    found = verdicts()
    assert {one.verdict for one in found.values()} <= {"pass", "for information", "not applicable"}
    passed = {name for name, one in found.items() if one.verdict == "pass"}
    assert {"energy grows with the work", "windows of 5 s repeat", "the sampler's cost: a matrix product"} <= passed
    counters = [counter for counter, _ in shares(found)]
    assert counters == pytest.approx([1.0] * 3, rel=0.02)


def test_a_sensor_that_sees_a_quarter_of_the_time_shows_beside_the_counter() -> None:
    """As published for boards with means over 25 of 100 ms: in step with the load they see one half of it alone."""
    in_step, _, out_of_step = (power for _, power in shares(verdicts()))
    assert abs(in_step - 1) > 0.3 > abs(out_of_step - 1)


def test_a_counter_that_misses_a_part_shows_in_every_line_of_it() -> None:
    assert [counter for counter, _ in shares(verdicts(energy_gain=0.57))] == pytest.approx([0.57] * 3, rel=0.02)


class Forgetful(SimulatedMeter):
    """Its counter loses more of a long window than of a short one."""

    def end(self, hold: Run) -> None:
        super().end(hold)
        assert self.trace is not None
        if self.trace.window_s > 8:
            self.trace = msgspec.structs.replace(self.trace, ticks=[_less(tick, 0.8) for tick in self.trace.ticks])


def _less(tick: object, share: float) -> object:
    values = dict(tick.values)  # type: ignore[attr-defined]
    values["energy_j"] *= share
    return msgspec.structs.replace(tick, values=values)  # type: ignore[type-var]


def test_an_energy_that_does_not_grow_with_the_work_fails() -> None:
    assert verdicts(Forgetful)["energy grows with the work"].verdict == "fail"


@dataclass
class Answers(Meter):
    """A meter of which only the comparison of boards is asked."""

    found: Rises

    def __post_init__(self) -> None:
        super().__init__()
        self.board = Board(boundary="gpu_board")

    def rises(self, load: Run) -> Rises:
        load()
        return self.found

    def idle(self, seconds: float) -> Trace | None:
        return None


@pytest.mark.parametrize(
    ("found", "verdict", "measured"),
    [
        (Rises((80.0, 300.0), [(70.0, 71.0)]), "pass", "+220 W here, +1 W elsewhere"),
        (Rises((80.0, 300.0), []), "pass", "+220 W here, no power told elsewhere"),
        (Rises((80.0, 81.0), [(70.0, 300.0)]), "fail", "+1 W here, +230 W elsewhere"),
        (Rises((300.0, 301.0), [(70.0, 71.0)]), "inconclusive", "+1 W here, +1 W elsewhere"),
        (Rises(None, []), "not applicable", "the only board here, or one that tells no power"),
    ],
)
def test_which_board_the_load_is_on_is_a_line(found: Rises, verdict: str, measured: str) -> None:
    first = next(powercheck.check(Virtual(), Answers(found), {}))
    assert (first.name, first.verdict, first.measured) == ("the load is on this board", verdict, measured)


def test_a_board_that_tells_nothing_is_one_line() -> None:
    (only,) = powercheck.check(Virtual(), Meter("NVML: Driver Not Loaded"), {})
    assert only.verdict == "not applicable" and "Driver Not Loaded" in only.measured

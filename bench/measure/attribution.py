"""Attribution: which of several boards a load is on, by how their power rises under it. The sampler asks for it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bench.sensors import Lost, Sensors

if TYPE_CHECKING:
    from bench.measure.sampler import Clock

# Power at rest and under a load is taken over so long each time, of a load a little after its begin: some boards tell a
# mean over a second, and energy counters tick ten times in one.
RISE_S, RISE_LEAD_S = 1.5, 0.5
# A board with work draws more than at rest by at least so much, and by that share of it.
ROSE_W, ROSE = 10.0, 0.2
MISTAKEN = "another board's sensors"


class Rises(msgspec.Struct, frozen=True):
    """Power in watts at rest and under a load of ours: of the board that it should be on, and of the others there."""

    own_w: tuple[float, float] | None  # None where that board tells none, or is the only one
    others_w: list[tuple[float, float]]

    @property
    def confirmed(self) -> bool:
        """Whether the load is on that board."""
        return self.own_w is not None and _rose(self.own_w)

    @property
    def mistaken(self) -> str:
        """Why the load cannot be on that board, or nothing: its power stayed, and another one's rose.

        Where no power rose nothing follows: boards that others keep busy hardly change.
        """
        risen = [other for other in self.others_w if _rose(other)]
        if self.own_w is None or self.confirmed or not risen:
            return ""
        stayed, (rest_w, load_w) = self.own_w, max(risen, key=lambda pair: pair[1] - pair[0])
        return (
            f"{MISTAKEN}: under a load of ours they went from {stayed[0]:.0f} to {stayed[1]:.0f} W, and "
            f"another board's from {rest_w:.0f} to {load_w:.0f} W"
        )


def rises(sensors: Sensors, clock: "Clock", began: Callable[[], None]) -> Rises:
    """Power at rest and under a load that follows `began`, here and on the other boards; of none where this is the only
    one. Raises Lost.
    """
    others = [other for other in sensors.others() if _opened(other)]
    if not others:
        return Rises(None, [])
    boards = [sensors, *others]
    rests_w = _powers(boards, clock, 0.0)
    began()
    own, *told = map(_pair, rests_w, _powers(boards, clock, RISE_LEAD_S))
    return Rises(own, [pair for pair in told if pair])


def _opened(board: Sensors) -> bool:
    """Whether another board answers at all."""
    try:
        board.probe()
    except Lost:
        return False
    return True


def _powers(boards: Sequence[Sensors], clock: "Clock", lead_s: float) -> list[float | None]:
    """Of each board, by its counter, or by what it tells of power at the end."""
    clock.wait_until(clock.now_s() + lead_s)
    begun = [(_power_told(board).get("energy_j"), clock.now_s()) for board in boards]
    clock.wait_until(clock.now_s() + RISE_S)
    powers: list[float | None] = []
    for board, (before_j, before_s) in zip(boards, begun, strict=True):
        told = _power_told(board)
        power_w = told.get("power_w", told.get("power_average_w"))
        if before_j is not None and "energy_j" in told:
            power_w = (told["energy_j"] - before_j) / (clock.now_s() - before_s)
        powers.append(power_w)
    return powers


def _power_told(board: Sensors) -> dict[str, float]:
    """Nothing of a board that is gone."""
    try:
        return board.read(("energy_j", "power_w", "power_average_w"))
    except Lost:
        return {}


def _pair(rest_w: float | None, load_w: float | None) -> tuple[float, float] | None:
    return None if rest_w is None or load_w is None else (rest_w, load_w)


def _rose(pair: tuple[float, float]) -> bool:
    return pair[1] - pair[0] > max(ROSE_W, ROSE * pair[0])

"""Band: a case beside what other boards of the same chip measured by the same method. Far outside, it is quarantined.

Honest methods differ by 4 to 15 % on the same card, and identical boards by 8 % on average and 22 % at most (Sinha et
al., SC22, "Not all GPUs are created equal"). A rule that refuses such files would refuse a genuine card with its limit
lowered, so a case outside is kept and shown, and only calibrates nothing until somebody has looked.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence

from bench.analyze.check.finding import Doubt
from bench.analyze.shared import place
from bench.analyze.summary import Summary, summarize
from bench.record import ResultFile
from bench.stats import MAD_TO_SD, median

# Rates from 35 % below to 10 % above the median of the others pass, and more where they differ more among themselves.
BELOW, ABOVE, DEVIATIONS = 0.35, 0.10, 4.0
# Fewer other machines than these make no band.
FEWEST = 3
APPEAL = "if it is right, say why in the pull request, and those who keep the table can accept it (see SHARING.md)"

Key = tuple[str, ...]


class Bands:
    """Step times of the shared table by case and machine: each machine has one voice, the median of its runs."""

    def __init__(self, files: Iterable[ResultFile]) -> None:
        """Takes the numbers out of the files one by one, and keeps none of them."""
        self._times: dict[Key, dict[str, list[float]]] = {}
        for file in files:
            for one in summarize([file]):
                if one.step_s is not None:
                    board = place.board(one.session, one.first.device)
                    self._times.setdefault(_key(one), {}).setdefault(board, []).append(one.step_s)

    def others_s(self, one: Summary) -> list[float]:
        """What the other machines took for this case."""
        own = place.board(one.session, one.first.device)
        return [median(times_s) for board, times_s in self._times.get(_key(one), {}).items() if board != own]


def doubts(summaries: Sequence[Summary], bands: Bands) -> Iterator[Doubt]:
    """Each case that lies outside the band of the other machines."""
    for one in summaries:
        if one.step_s is None:
            continue
        others_s = bands.others_s(one)
        if len(others_s) < FEWEST:
            continue
        center_s = median(others_s)
        apart = DEVIATIONS * MAD_TO_SD * statistics.median(abs(other - center_s) for other in others_s) / center_s
        ratio = center_s / one.step_s  # of rates: above 1 is faster
        if ratio > 1 + max(ABOVE, apart) or ratio < 1 - max(BELOW, min(apart, 0.9)):
            how = f"{ratio:.2f} times the rate of the median of {len(others_s)} other machines"
            say = f"{one.step_s:.4g} s a step is {how} with this chip ({center_s:.4g} s)"
            yield Doubt(
                level="quarantine", code="band", records=tuple(one.valid),
                message=f"{one.case}: {say}{_condition(one)}: {APPEAL}",
            )  # fmt: skip


def _key(one: Summary) -> Key:
    """What must be equal for two machines to be set beside each other: power limits to a twentieth of the default."""
    facts, session = one.session.devices[one.first.device], one.session
    limit, usual = (facts.readings.get(name) for name in ("power_limit_w", "power_limit_default_w"))
    share = f"{round(20 * limit / usual)}" if limit and usual else ""
    threads = str(session.host.threads) if facts.vendor == "cpu" else ""
    return place.chip_name(facts), threads, share, str(session.harness.method), one.first.key()


def _condition(one: Summary) -> str:
    """What the board itself says that may explain it."""
    flags = {"power_limited", "thermal_limited", "shared_device", "host_noisy", "pcie_degraded"}.intersection(one.flags)
    clock = f", clock {one.clock_hz / 1e6:.0f} MHz" if one.clock_hz else ""
    return clock + (f", flagged {', '.join(sorted(flags))}" if flags else "")

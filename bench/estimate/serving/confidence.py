"""Confidence: how far an estimate of serving may be off, from how far such estimates were off before.

A back-test (backtest.py) leaves rows out, predicts them and notes for each class of evidence, and within it for each
laboratory and software, which factor held 80 and 90 % of them. Where the laboratory and software are among those, their
own factor is taken; where they are not, what holds nine in ten errors of a laboratory drawn anew (interval.py). Far
from every measured row it grows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench import units
from bench.estimate.interval import FEWEST_SOURCES_FOR_90, of_unknown_source
from bench.estimate.prediction import Evidence, Interval
from bench.estimate.serving import store
from bench.estimate.serving.jobs import Case

# What stands for the sigma of a row that lies on a measured one, and of one that is like none. Only their ratio counts.
_NEAR, _FAR = 0.5, 1.0
_FEWEST_ROWS = 10  # of a laboratory and software, below which their nine tenths are one row's luck
_UNKNOWN_SHAPE = 1.3  # a shape that was derived from a number of parameters alone
_CLASS_TEXT = {
    "L0": "rows of your own beside published rows of this software",
    "L1": "published rows of this software on this kind of device",
    "L2": "published rows of this kind of device or of this software on the same architecture",
    "L3": "datasheets and published rows of other devices and software",
}


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """An interval, and in words what it rests on."""

    interval: Interval | None
    basis: str


def sigma(nearness: float, known_shape: bool = True) -> float:
    """How unsure an estimate is beside others of its class, from how near it lies to a measured row."""
    return (_FAR + (_NEAR - _FAR) * min(1.0, max(0.0, nearness))) * (1.0 if known_shape else _UNKNOWN_SHAPE)


def group_of(case: Case) -> str:
    """Laboratory and software: whose errors resemble each other."""
    return f"{case.source}|{case.stack.framework}|{case.kind}"


def interval_of(case: Case, nearness: float, scores: Mapping[str, Mapping[str, float]]) -> Interval | None:
    """From one class's scores, by laboratory and software. None without any that has enough rows."""
    known = {name: one for name, one in scores.items() if one["rows"] >= _FEWEST_ROWS}
    if not known:
        return None
    wide = sigma(nearness, case.job.footprint.known)
    own = known.get(group_of(case))
    bounds = [(one["q80"], max(one["q80"], one["q90"])) for one in ([own] if own else known.values())]
    narrow, broad = bounds[0] if own else (of_unknown_source(bounds, level) for level in (0.80, 0.90))
    enough = own or len(bounds) >= FEWEST_SOURCES_FOR_90
    return Interval(factor80=math.exp(wide * narrow), factor90=math.exp(wide * broad) if enough else None)


def confidence(case: Case, evidence: Evidence, nearness: float) -> Confidence:
    """From the back-test that ships with the fit."""
    interval = interval_of(case, nearness, store.content()["scores"].get(evidence, {}))
    known = store.fitted().groups
    group = known.get(case.stack.key)
    kin = [group] if group else [one for one in known.values() if one.framework == case.stack.framework]
    basis = _CLASS_TEXT[evidence]
    if kin:
        sources = sorted({source for one in kin for source in one.sources})
        out = sum(store.content()["left_out"].get(one.key, 0) for one in kin)
        beside = f"; {out} more left out: faster than bytes and FLOPs allow" if out else ""
        basis += f" ({sum(one.rows for one in kin):,} rows of {', '.join(sources)}{beside})"
    if test := store.content()["summary"].get(evidence):
        basis += (
            f"; such estimates of left-out rows were {units.percent(test['median'], 0)} off in the median, "
            f"{units.percent(test['p90'], 0)} at p90"
        )
    return Confidence(interval=interval, basis=basis)

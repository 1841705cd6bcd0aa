"""Back-test: published inference rows predicted by what was fitted without them, in four ways of leaving out.

configurations  four in ten sweeps of each source (a sweep: one stack, model and number of devices), at random
device          all rows of a kind of device, for the software that other devices were measured with; those that decode
                one sequence are shown once more by themselves
source          all rows of a source
own rows        as the first, with ten rows of the stack's left-out ones given as one's own

Errors are max(p/m, m/p) - 1. Figures are taken per source, then their median over sources.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.estimate import backtest, published
from bench.estimate.interval import order_statistic
from bench.estimate.prediction import Interval
from bench.estimate.published import Row
from bench.estimate.serving import fitted as fits
from bench.estimate.serving import jobs as inference_jobs
from bench.estimate.serving import step as serving
from bench.estimate.serving.confidence import group_of, interval_of, sigma
from bench.estimate.serving.figures import figures, measured
from bench.estimate.serving.jobs import Case
from bench.estimate.serving.possible import TOLERANCE, impossible

_LEFT_OUT = 0.4
_OWN_ROWS = 10
_DECODE = "device, decode at batch 1"
_SECONDS = ("host_s", "expert_s", "sequence_s", "message_s")


@dataclass(frozen=True, kw_only=True)
class Known:
    """A row with its case and what it measured."""

    row: Row
    case: Case
    figures: Mapping[str, float]

    @property
    def main(self) -> str:
        """The figure that the row is about."""
        return "ttft" if self.case.kind == "ttft" else "rate"


@dataclass(frozen=True, kw_only=True)
class Held:
    """One left-out figure: what was expected, what was measured, and how the expectation came about."""

    known: Known
    figure: str
    predicted: float
    nearness: float
    evidence: str
    baselines: Mapping[str, float]

    @property
    def measured(self) -> float:
        """The truth."""
        return self.known.figures[self.figure]

    @property
    def error(self) -> float:
        """As issue 6 counts it."""
        return _off(self.predicted, self.measured)


def known_rows(rows: Sequence[Row] | None = None) -> list[Known]:
    """The trusted rows that are cases, measured something, and can have been."""
    return [one for one in _measured_rows(rows) if impossible(one.case, one.figures) is None]


def impossible_rows(rows: Sequence[Row] | None = None) -> list[Known]:
    """The others: trusted, but faster than any machine."""
    return [one for one in _measured_rows(rows) if impossible(one.case, one.figures) is not None]


def _measured_rows(rows: Sequence[Row] | None) -> list[Known]:
    found = []
    for row in published.rows("inference") if rows is None else rows:
        case = inference_jobs.read(row)
        if isinstance(case, str):
            continue
        values = measured(row, case)
        if values:
            found.append(Known(row=row, case=case, figures=values))
    return found


def fit(known: Sequence[Known], **options: Any) -> fits.Fitted:
    """Learns from them."""
    return fits.fit([one.case for one in known], [one.figures for one in known], **options)


def hold(fitted: fits.Fitted, out: Sequence[Known], local: Sequence[Known] = ()) -> list[Held]:
    """Expectations for left-out rows."""
    estimates = fits.estimate(
        fitted, [one.case for one in out], [one.case for one in local], [one.figures for one in local]
    )
    plain = baselines(estimates.table)
    return [
        Held(
            known=one,
            figure=name,
            predicted=float(estimates.values[name][index]),
            nearness=float(estimates.nearness[name][index]),
            evidence=estimates.evidence[index],
            baselines={which: float(values[name][index]) for which, values in plain.items()},
        )
        for index, one in enumerate(out)
        for name in one.figures
    ]


def baselines(of: Any) -> dict[str, dict[str, Any]]:
    """What one would say without any fit: the roofline of the datasheet, and the usual shares of it."""
    free = {"reach": 1e9, "experts": 1.0, "link": 1.0} | dict.fromkeys(_SECONDS, 0.0)
    plain = serving.Rates(weights=1.0, cache=1.0, compute=1.0, prefill=1.0, **free)
    rule = serving.Rates(weights=0.6, cache=0.6, compute=0.4, prefill=0.5, **free)
    return {"roofline": figures(of, plain), "bandwidth rule": figures(of, rule)}


def configurations(known: Sequence[Known], seed: int) -> tuple[list[Known], list[Known]]:
    """Kept and left out, by whole sweeps."""
    by_source: dict[str, set[str]] = defaultdict(set)
    for one in known:
        by_source[one.case.source].add(one.case.block)
    out: set[str] = set()
    for source in sorted(by_source):
        blocks = sorted(by_source[source])
        out.update(random.Random(f"{seed} {source}").sample(blocks, round(_LEFT_OUT * len(blocks))))  # noqa: S311
    return [one for one in known if one.case.block not in out], [one for one in known if one.case.block in out]


def own_rows(out: Sequence[Known], seed: int) -> Iterator[tuple[list[Known], list[Known]]]:
    """For each stack among the left-out rows: ten of them, and the others."""
    stacks: dict[tuple[str, str], list[Known]] = defaultdict(list)
    for one in out:
        stacks[one.case.source, one.case.stack.key].append(one)
    for key in sorted(stacks):
        rows = list(stacks[key])
        random.Random(f"{seed} {key}").shuffle(rows)  # noqa: S311
        if len(rows) > _OWN_ROWS:
            yield rows[:_OWN_ROWS], rows[_OWN_ROWS:]


def leave_out(known: Sequence[Known], of: Callable[[Known], str]) -> Iterator[tuple[list[Known], list[Known]]]:
    """For each value of `of`: the rows without it, and with it."""
    for value in sorted({of(one) for one in known}):
        yield [one for one in known if of(one) != value], [one for one in known if of(one) == value]


def everything(known: Sequence[Known], seeds: Sequence[int] = (0, 1)) -> dict[str, list[Held]]:
    """All four ways of leaving out."""
    found: dict[str, list[Held]] = {"configurations": [], "own rows": [], "device": [], "source": []}
    for seed in seeds:
        kept, out = configurations(known, seed)
        fitted = fit(kept)
        found["configurations"] += hold(fitted, out)
        for own, rest in own_rows(out, seed):
            found["own rows"] += hold(fitted, rest, own)
    for framework in sorted({one.case.stack.framework for one in known}):
        # Other software says next to nothing of these, and would take most of the time.
        rows = [one for one in known if one.case.stack.framework == framework]
        for kept, out in leave_out(rows, lambda one: one.case.stack.chip.name):
            if kept:
                found["device"] += hold(fit(kept), out)
    for kept, out in leave_out(known, lambda one: one.case.source):
        found["source"] += hold(fit(kept), out)
    return found


def _shown(found: Mapping[str, Sequence[Held]]) -> dict[str, Sequence[Held]]:
    """The ways of leaving out, and what is shown of one of them once more."""
    alone = [
        one for one in found.get("device", ()) if one.known.case.kind == "decode" and one.known.case.job.batch == 1
    ]
    return {**found, **({_DECODE: alone} if alone else {})}


def scores(held: Sequence[Held]) -> dict[str, dict[str, dict[str, float]]]:
    """By class of evidence, then by laboratory and software: what 80 and 90 % of the errors were within, over sigma."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in held:
        if one.figure == one.known.main:
            wide = sigma(one.nearness, one.known.case.job.footprint.known)
            found[one.evidence][group_of(one.known.case)].append(math.log1p(one.error) / wide)
    return {
        evidence: {
            group: {f"q{level}": round(order_statistic(s, level / 100), 4) for level in (80, 90)} | {"rows": len(s)}
            for group, s in sorted(groups.items())
        }
        for evidence, groups in sorted(found.items())
    }


def summary(held: Sequence[Held]) -> dict[str, float]:
    """Over sources: the median of their medians, and of their 90 % quantiles; main figures only."""
    import numpy as np

    by_source: dict[str, list[float]] = defaultdict(list)
    for one in held:
        if one.figure == one.known.main:
            by_source[one.known.case.source].append(one.error)
    return {
        "rows": sum(map(len, by_source.values())),
        "sources": len(by_source),
        "median": round(float(np.median([np.median(errors) for errors in by_source.values()])), 4),
        "p90": round(float(np.median([np.quantile(errors, 0.9) for errors in by_source.values()])), 4),
    }


def groups(held: Mapping[str, Sequence[Held]] | None = None) -> list[dict[str, Any]]:
    """A line for each way of leaving out and each source, and one for the median over its sources.

    Intervals are judged on one half of the sweeps with the scores of the other. Takes minutes, unless `held` is given.
    """
    lines = []
    for way, rows in _shown(everything(known_rows()) if held is None else held).items():
        mains = [one for one in rows if one.figure == one.known.main]
        covered = _covered(mains)
        by_source: dict[str, list[int]] = defaultdict(list)
        for index, one in enumerate(mains):
            by_source[one.known.case.source].append(index)
        each = [
            _line(f"{way}: {source}", [mains[i] for i in which], [covered[i] for i in which])
            for source, which in sorted(by_source.items())
        ]
        lines += [*each, _median_line(f"{way}: median over sources", each)]
    return lines


def cases(fast: bool) -> Iterator[backtest.Case]:
    """Predictions of rows left out, as scripts/backtest takes them; it all takes minutes, so nothing with `fast`."""
    found = {} if fast else _shown(everything(known_rows()))
    for way, rows in found.items():
        mains = [one for one in rows if one.figure == one.known.main]
        for one, bounds in zip(mains, _bounds(mains), strict=True):
            yield backtest.Case(
                group=f"serving: {way}",
                source=one.known.case.source,
                error=math.log(one.predicted / one.measured),
                factor80=bounds.factor80 if bounds else None,
                factor90=bounds.factor90 if bounds else None,
                baselines={name: math.log(value / one.measured) for name, value in one.baselines.items()},
            )


def remarks() -> list[str]:
    """What the table leaves out and why."""
    out = impossible_rows()
    sources = ", ".join(sorted({one.case.source for one in out}))
    return [
        f"serving: {len(out)} rows ({sources}) are neither fitted to nor asked: more than {TOLERANCE} times as fast as "
        "their bytes and FLOPs at the datasheet's peaks allow"
    ]


def _covered(held: Sequence[Held]) -> list[tuple[bool | None, bool | None, float | None]]:
    """Of each: whether it lies within 80 and 90 %, and the factor of the latter; None where no interval is given."""
    found: list[tuple[bool | None, bool | None, float | None]] = []
    for one, bounds in zip(held, _bounds(held), strict=True):
        off = 1.0 + one.error
        wide = bounds.factor90 if bounds else None
        found.append((off <= bounds.factor80 if bounds else None, off <= wide if wide else None, wide))
    return found


def _bounds(held: Sequence[Held]) -> list[Interval | None]:
    """The interval of each, by the scores of that half of the sweeps to which it does not belong."""
    halves = [random.Random(one.known.case.block).random() < 0.5 for one in held]  # noqa: S311
    by_half = {
        half: scores([one for one, other in zip(held, halves, strict=True) if other != half]) for half in (True, False)
    }
    return [
        interval_of(one.known.case, one.nearness, by_half[half].get(one.evidence, {}))
        for one, half in zip(held, halves, strict=True)
    ]


def _line(
    group: str, held: Sequence[Held], covered: Sequence[tuple[bool | None, bool | None, float | None]]
) -> dict[str, Any]:
    import numpy as np

    errors = [one.error for one in held]
    plain = {
        name: _rounded(np.median([_off(one.baselines[name], one.measured) for one in held]))
        for name in held[0].baselines
    }
    within80, within90, factors = ([x for x in column if x is not None] for column in zip(*covered, strict=True))
    return {
        "group": group,
        "rows": len(held),
        "sources": 1,
        "median": _rounded(np.median(errors)),
        "p90": _rounded(np.quantile(errors, 0.9)),
        "bias": _rounded(np.expm1(np.median([math.log(one.predicted / one.measured) for one in held]))),
        "coverage80": _rounded(np.mean(within80)) if within80 else None,
        "coverage90": _rounded(np.mean(within90)) if within90 else None,
        "factor": _rounded(np.median(factors)) if factors else None,
        "baselines": plain,
    }


def _median_line(group: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import numpy as np

    def middle(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return _rounded(np.median(known)) if known else None

    columns = ("median", "p90", "bias", "coverage80", "coverage90", "factor")
    return {
        "group": group,
        "rows": sum(line["rows"] for line in lines),
        "sources": len(lines),
        **{name: middle([line[name] for line in lines]) for name in columns},
        "baselines": {name: middle([line["baselines"][name] for line in lines]) for name in lines[0]["baselines"]},
    }


def _off(predicted: float, measured: float) -> float:
    return max(predicted / measured, measured / predicted) - 1.0


def _rounded(value: Any) -> float:
    return round(float(value), 4)

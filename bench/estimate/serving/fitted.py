"""Fitted: everything that measured rows taught about serving, and estimates from it. One object for the published rows.

Three layers, each for what the one above leaves: the physics with the rates of a stack (stacks.py), the remainder that
is alike among similar rows (residual.py), and rows of one's own, which move both for their stack.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.estimate.prediction import Evidence
from bench.estimate.serving import residual, stacks
from bench.estimate.serving import step as serving
from bench.estimate.serving.figures import Table, figures, table
from bench.estimate.serving.jobs import Case
from bench.estimate.serving.residual import Points, Scales
from bench.estimate.serving.stacks import Group

FIGURES = ("rate", "tpot", "ttft")
_ROUNDS = 2  # relatives know each other from the second on
# Rows of one's own: what they may move, beyond which the published ones are believed.
_LOCAL_SCALES = Scales(stack=0.20, work=0.15, layout=0.20, model=0.40, both=0.20, abroad=0.0, noise=0.03)


@dataclass(frozen=True, kw_only=True)
class Carried:
    """Remainders of one figure on the rows that measured it."""

    rows: Points
    weights: Any


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What rows taught."""

    groups: Mapping[str, Group]  # by the stack's key
    carried: Mapping[str, Carried]  # by figure
    scales: Scales


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """For many cases: figures, each an array, and how well they are known."""

    values: dict[str, Any]
    rates: serving.Rates  # of arrays
    table: Table
    nearness: dict[str, Any]  # of the nearest measured row, by figure
    evidence: list[Evidence]


def fit(cases: Sequence[Case], measured: Sequence[Mapping[str, float]], scales: Scales | None = None) -> Fitted:
    """Learns from rows: their cases and what each measured, by the names of FIGURES."""
    import numpy as np

    scales = scales or Scales()
    wanted = _wanted(measured)
    whole = table(cases)
    groups = _groups(cases, whole, wanted)
    given = figures(whole, stacks.rates_of(list(np.array([groups[case.stack.key].logs for case in cases]).T)))
    where = residual.points(cases)
    carried = {}
    for name, values in wanted.items():
        known = np.isfinite(values)
        if known.any():
            rows = where.take(known)
            left = np.log(values[known] / given[name][known])
            carried[name] = Carried(rows=rows, weights=residual.fit(rows, left, scales))
    return Fitted(groups=groups, carried=carried, scales=scales)


def estimate(
    fitted: Fitted,
    cases: Sequence[Case],
    local: Sequence[Case] = (),
    local_measured: Sequence[Mapping[str, float]] = (),
) -> Estimates:
    """Figures of these cases, from what was fitted and from rows of one's own."""
    import numpy as np

    known = dict(fitted.groups)
    own = {case.stack.key for case in local}
    everything = [*cases, *local]
    whole = table(everything)
    logs = _logs(known, everything)
    if local:
        _move(logs, everything, whole, len(cases), local_measured, known)
    rates = stacks.rates_of(list(logs.T))
    values = figures(whole, rates)
    where = residual.points(everything)
    nearness: dict[str, Any] = {}
    for name in values:
        values[name], nearness[name] = _with_remainders(fitted, name, values[name], where, len(cases), local_measured)
    evidence: list[Evidence] = [_evidence(case, known, own) for case in cases]
    first = slice(0, len(cases))
    return Estimates(
        values={name: value[first] for name, value in values.items()},
        rates=stacks.rates_of(list(logs[first].T)),
        table=select(whole, np.arange(len(cases))),
        nearness=nearness,
        evidence=evidence,
    )


def select(whole: Table, which: Any) -> Table:
    """Some rows of a table."""
    columns = {name: getattr(whole.ideal, name)[which] for name in whole.ideal.__dataclass_fields__}
    return Table(ideal=serving.Ideal(**columns), kind=whole.kind[which], tokens=whole.tokens[which])


def _wanted(measured: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    import numpy as np

    return {name: np.array([one.get(name, np.nan) for one in measured], float) for name in FIGURES}


def _groups(cases: Sequence[Case], whole: Table, wanted: dict[str, Any]) -> dict[str, Group]:
    """The rates of each stack, with what its relatives say as its prior."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        members[case.stack.key].append(index)
    groups: dict[str, Group] = {}
    for _ in range(_ROUNDS):
        before = list(groups.values())
        for key, which in members.items():
            stack = cases[which[0]].stack
            means, sds = stacks.expected(before, stack)
            part = {name: values[which] for name, values in wanted.items()}
            first = groups[key].logs if key in groups else None
            logs, precisions = stacks.fit(select(whole, which), part, means, sds, first)
            groups[key] = Group(
                variant=stack.variant,
                framework=stack.framework,
                weights=stack.weights,
                chip=stack.chip.name,
                vendor=stack.chip.vendor,
                generation=stack.chip.generation,
                memory_kind=stack.chip.memory_kind or "",
                logs=logs,
                precisions=precisions,
                rows=len(which),
                sources=tuple(sorted({cases[index].source for index in which})),
            )
    return groups


def _logs(known: Mapping[str, Group], cases: Sequence[Case]) -> Any:
    """Logarithms of the rates of each case's stack: its own, or those of its relatives."""
    import numpy as np

    found: dict[str, Sequence[float]] = {}
    for case in cases:
        key = case.stack.key
        if key not in found:
            one = known.get(key)
            found[key] = one.logs if one else stacks.expected(list(known.values()), case.stack)[0]
    return np.array([found[case.stack.key] for case in cases]).reshape(-1, len(serving.NAMES))


def _move(
    logs: Any,
    cases: Sequence[Case],
    whole: Table,
    split: int,
    measured: Sequence[Mapping[str, float]],
    known: Mapping[str, Group],
) -> None:
    """Moves the rates of stacks that nobody published to what one's own rows say. Others have enough rows already."""
    members: dict[str, list[int]] = defaultdict(list)
    for index in range(split, len(cases)):
        if cases[index].stack.key not in known:
            members[cases[index].stack.key].append(index)
    wanted = _wanted(measured)
    for key, which in members.items():
        means, sds = stacks.expected(list(known.values()), cases[which[0]].stack)
        part = {name: values[[index - split for index in which]] for name, values in wanted.items()}
        moved, _ = stacks.fit(select(whole, which), part, means, sds)
        for index, case in enumerate(cases):
            if case.stack.key == key:
                logs[index] = moved


def _with_remainders(
    fitted: Fitted, name: str, values: Any, where: Points, split: int, measured: Sequence[Mapping[str, float]]
) -> tuple[Any, Any]:
    import numpy as np

    nearness = np.zeros(len(where))
    if (published := fitted.carried.get(name)) is not None:
        left, nearness = residual.carried(where, published.rows, published.weights, fitted.scales)
        values = values * np.exp(left)
    wanted = _wanted(measured)[name]
    own = np.flatnonzero(np.isfinite(wanted))
    if len(own):
        rows = where.take(split + own)
        left = np.log(wanted[own] / values[split + own])
        weights = residual.fit(rows, left, _LOCAL_SCALES)
        more, near = residual.carried(where, rows, weights, _LOCAL_SCALES)
        values, nearness = values * np.exp(more), np.maximum(nearness, near)
    return values, nearness[:split]


def _evidence(case: Case, known: Mapping[str, Group], own: set[str]) -> Evidence:
    if case.stack.key in own:
        return "L0"
    if case.stack.key in known:
        return "L1"
    for group in known.values():
        same_device = group.chip == case.stack.chip.name
        if same_device or (group.framework == case.stack.framework and group.generation == case.stack.chip.generation):
            return "L2"
    return "L3"

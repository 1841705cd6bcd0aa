"""Order: what one case of a file says of another. More of the same work does not take less time."""

import json
from collections.abc import Iterator, Sequence

from bench.analyze.check.finding import Doubt
from bench.analyze.summary import Summary

# The larger case must do at least so much more of everything, and be faster by more than this and the noise of both.
LARGER, FASTER, MOST_SPREAD = 1.5, 1.10, 0.5
# A larger batch shares what it reads, so it costs at most its share of more; beyond this something gave out.
WORSE = 1.5
_BATCH = ("batch", "tokens", "rows")


def doubts(summaries: Sequence[Summary]) -> Iterator[Doubt]:
    """Pairs of cases of one workload that differ only in sizes."""
    groups: dict[str, list[Summary]] = {}
    for one in summaries:
        if one.step_s is not None:
            groups.setdefault(_kind(one), []).append(one)
    for group in groups.values():
        ordered = sorted(group, key=lambda one: (one.first.work.cost().flops, one.first.work.bytes))
        for place, small in enumerate(ordered):
            for large in ordered[place + 1 :]:
                yield from _pair(small, large)


def _kind(one: Summary) -> str:
    """Everything that is no size: what must be equal for sizes to be compared."""
    sizes = {key for key, value in one.first.params.items() if isinstance(value, int) and not isinstance(value, bool)}
    rest = {key: value for key, value in one.first.params.items() if key not in sizes}
    identity = one.first.identity
    parts = (one.first.workload, one.first.version, one.first.device, rest, identity.launch, identity.cache)
    return json.dumps((*parts, identity.duty, sorted(sizes)), sort_keys=True)


def _pair(small: Summary, large: Summary) -> Iterator[Doubt]:
    assert small.step_s is not None and large.step_s is not None
    noise = sum(min(one.spread or 0.0, MOST_SPREAD) for one in (small, large))
    if _more(small, large) and large.step_s * (FASTER + noise) < small.step_s:
        say = f"{small.step_s:.4g} s, and {large.case}, which is more work, takes {large.step_s:.4g} s"
        yield Doubt(
            level="quarantine", code="order", records=(*small.valid, *large.valid),
            message=f"{small.case}: {say}: one of them is wrong; measure both again in one run",
        )  # fmt: skip
    growth = _batches(small, large)
    if growth and large.step_s > small.step_s * growth * (WORSE + noise):
        say = f"{growth:g} times the batch of {small.case} takes {large.step_s / small.step_s:.2f} times as long"
        hint = "memory may have run out, or the smaller case may have stayed in a cache"
        yield Doubt(level="note", code="batch", message=f"{large.case}: {say}: {hint}", records=tuple(large.valid))


def _more(small: Summary, large: Summary) -> bool:
    """Whether the larger case does clearly more arithmetic and moves clearly more bytes, of what either does at all."""
    pairs = [
        (small.first.work.cost().flops, large.first.work.cost().flops),
        (small.first.work.bytes, large.first.work.bytes),
    ]
    counted = [(less, more) for less, more in pairs if less or more]
    return bool(counted) and all(less > 0 and more >= LARGER * less for less, more in counted)


def _batches(small: Summary, large: Summary) -> float | None:
    """By how much the batch grew, where nothing else did."""
    before, after = small.first.params, large.first.params
    changed = [key for key in after if before.get(key) != after[key]]
    if len(changed) != 1 or changed[0] not in _BATCH:
        return None
    less, more = before.get(changed[0]), after[changed[0]]
    return more / less if isinstance(less, int) and isinstance(more, int) and less > 0 else None

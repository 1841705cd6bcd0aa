"""Order: what one case of a file says of another. More of the same work does not take less time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.analyze.check.finding import Doubt
from bench.analyze.summary import Summary

# The larger case must do at least so much more of everything, and be faster by more than this and the noise of both.
LARGER, FASTER, MOST_SPREAD = 1.5, 1.10, 0.5
# A larger batch shares what it reads, so it costs at most its share of more; beyond this something gave out.
WORSE = 1.5
_BATCH = ("batch", "tokens", "rows")
# A suite has some tens of sizes of a kind, and each is set beside all larger ones. A hostile file has thousands, whose
# pairs took two minutes: then beside so many, evenly chosen.
MOST_BESIDE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sized:
    """A case with what pairs are judged by, computed once."""

    case: Summary
    flops: float
    bytes: float
    step_s: float
    noise: float


def doubts(summaries: Sequence[Summary]) -> Iterator[Doubt]:
    """Pairs of cases of one workload that differ only in sizes."""
    groups: dict[str, list[Summary]] = {}
    for one in summaries:
        if one.step_s is not None:
            groups.setdefault(_kind(one), []).append(one)
    for group in groups.values():
        ordered = sorted(map(_sized, group), key=lambda one: (one.flops, one.bytes))
        for place, small in enumerate(ordered):
            larger = ordered[place + 1 :]
            yield from _beside(small, larger[:: -(-len(larger) // MOST_BESIDE) or 1])


def _kind(one: Summary) -> str:
    """Everything that is no size: what must be equal for sizes to be compared."""
    sizes = {key for key, value in one.first.params.items() if isinstance(value, int) and not isinstance(value, bool)}
    rest = {key: value for key, value in one.first.params.items() if key not in sizes}
    identity = one.first.identity
    parts = (one.first.workload, one.first.version, one.first.device, rest, identity.launch, identity.cache)
    return json.dumps((*parts, identity.duty, sorted(sizes)), sort_keys=True)


def _sized(one: Summary) -> _Sized:
    assert one.step_s is not None
    noise = min(one.spread or 0.0, MOST_SPREAD)
    return _Sized(
        case=one, flops=one.first.work.cost().flops, bytes=one.first.work.bytes, step_s=one.step_s, noise=noise
    )


def _beside(small: _Sized, larger: Sequence[_Sized]) -> Iterator[Doubt]:
    """What is wrong with a case beside larger ones: one doubt of each kind, that names the worst of them."""
    faster = [
        large for large in larger
        if large.step_s * (FASTER + small.noise + large.noise) < small.step_s and _more(small, large)
    ]  # fmt: skip
    if faster:
        worst = min(faster, key=lambda one: one.step_s)
        say = f"{small.step_s:.4g} s, and {worst.case.case}, which is more work, takes {worst.step_s:.4g} s"
        say += f", and {len(faster) - 1} other larger cases are faster too" if len(faster) > 1 else ""
        records = [record for one in (small, *faster) for record in one.case.valid]
        yield Doubt(
            level="quarantine", code="order", records=tuple(records),
            message=f"{small.case.case}: {say}: one of them is wrong; measure both again in one run",
        )  # fmt: skip
    for large in larger:
        growth = _batches(small.case, large.case) if large.step_s > small.step_s * WORSE else None
        if growth and large.step_s > small.step_s * growth * (WORSE + small.noise + large.noise):
            times = f"{large.step_s / small.step_s:.2f} times as long"
            say = f"{growth:g} times the batch of {small.case.case} takes {times}"
            hint = "memory may have run out, or the smaller case may have stayed in a cache"
            message = f"{large.case.case}: {say}: {hint}"
            yield Doubt(level="note", code="batch", message=message, records=tuple(large.case.valid))
            return


def _more(small: _Sized, large: _Sized) -> bool:
    """Whether the larger case does clearly more arithmetic and moves clearly more bytes, of what either does at all."""
    pairs = [(small.flops, large.flops), (small.bytes, large.bytes)]
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

"""The evidence behind estimates of single operations: a curve for each machine that somebody measured.

A profile is one curve: of one source, chip, family and type, and for collectives of one topology and number of ranks.
`Evidences` holds all of them, fits them from rows, and keeps them in coefficients/micro.json. With the user's own rows
a profile is fitted anew together with what was published of the same source and chip; rows too few for a curve become
anchors, by which estimates from elsewhere are shifted.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.chip import Chip, find
from bench.estimate.operation.curves import BandwidthCurve, CollectiveTable, Gemm, GemmCurve, Pass
from bench.estimate.operation.tasks import Exchange, Family, Task, task_of
from bench.estimate.published import Row, number

Curve = GemmCurve | BandwidthCurve | CollectiveTable
Key = tuple[str, str, str, str, str]  # family, source, chip, type, topology

COEFFICIENTS = Path(__file__).parent.parent / "coefficients" / "micro.json"
DEFAULT_UNITS = 100  # of a chip whose sheet does not say over how many its work is spread
FEWEST = {"gemm": 12, "pass": 6, "collective": 3}  # points for a curve of the user's own


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One curve, and whose it is."""

    family: Family
    source: str
    chip: Chip
    dtype: str  # empty for collectives: bytes are bytes
    topology: str
    nodes: int
    curve: Curve
    local: bool = False

    @property
    def key(self) -> Key:
        """What rows of the same machine share."""
        return self.family, self.source, self.chip.name, self.dtype, self.topology


@dataclass(frozen=True, kw_only=True)
class Evidences:
    """All profiles; anchors of machines with few rows; and quantiles of |log error| / sigma in back-tests.

    Quantiles are (80 %, 90 %) by family, "gemm", and class, "gemm L2"; the second is None with too few machines.
    """

    profiles: tuple[Profile, ...]
    anchors: dict[Key, tuple[tuple[Task, float], ...]] = field(default_factory=dict)
    quantiles: dict[str, tuple[float, float | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Evidences":
        """A curve through the figures of each machine, however few."""
        return cls(profiles=tuple(_profile(tuple(members)) for members in _grouped(rows).values()))

    def with_local(self, rows: Sequence[Row]) -> "Evidences":
        """With the user's own measurements, in front of what was published."""
        known = {profile.key: profile for profile in self.profiles}
        new: dict[Key, Profile] = {}
        anchors: dict[Key, tuple[tuple[Task, float], ...]] = {}
        for key, members in _grouped(rows).items():
            if key in known:
                new[key] = _profile(tuple(members), known[key])
            elif len({task.shape for task, _, _ in members}) >= FEWEST[key[0]]:
                new[key] = replace(_profile(tuple(members)), local=True)
            else:
                anchors[key] = tuple((task, seconds) for task, seconds, _ in members)
        kept = tuple(profile for profile in self.profiles if profile.key not in new)
        return replace(self, profiles=(*new.values(), *kept), anchors=anchors)

    @functools.cached_property
    def by_key(self) -> dict[Key, Profile]:
        """Each machine's profile."""
        return {profile.key: profile for profile in self.profiles}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        profiles = [
            {
                **{name: getattr(profile, name) for name in ("family", "source", "dtype", "topology", "nodes")},
                "chip": profile.chip.name,
                "curve": profile.curve.to_dict(),
            }
            for profile in self.profiles
        ]
        return {"profiles": profiles, "quantiles": {name: list(pair) for name, pair in self.quantiles.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Evidences":
        """What `to_dict` gave."""
        kinds: dict[str, Any] = {"gemm": GemmCurve, "pass": BandwidthCurve, "collective": CollectiveTable}
        return cls(
            profiles=tuple(
                Profile(**(one | {"chip": find(one["chip"]), "curve": kinds[one["family"]].from_dict(one["curve"])}))
                for one in values["profiles"]
            ),
            quantiles={name: (low, high) for name, (low, high) in values["quantiles"].items()},
        )


@functools.cache
def published() -> Evidences:
    """What ships with the package, fitted to results/published/micro.csv by fit.py."""
    return Evidences.from_dict(json.loads(COEFFICIENTS.read_text(encoding="utf-8")))


def key_of(task: Task) -> Key:
    """Whose profile is of the same machine."""
    if isinstance(task.shape, Exchange):
        return "collective", task.source, task.chip.name, "", f"{task.shape.op} {task.shape.ranks}: {task.topology}"
    return task.family, task.source, task.chip.name, task.dtype, ""


Member = tuple[Task, float, float]  # what, seconds, to how many seconds the clock rounded


def _grouped(rows: Sequence[Row]) -> dict[Key, list[Member]]:
    groups: dict[Key, list[Member]] = {}
    for row in rows:
        task, value = task_of(row), number(row, "value")
        if isinstance(task, str) or value is None or value <= 0 or row.get("kind") == "layer_breakdown":
            continue
        if task.family in FEWEST:
            groups.setdefault(key_of(task), []).append((task, task.unit.seconds(value), _resolution_s(row)))
    return groups


@functools.lru_cache(maxsize=512)  # back-tests hide one machine after another and fit the others alike
def _profile(members: tuple[Member, ...], before: Profile | None = None) -> Profile:
    """The curve of one machine; with the points of an earlier one of the same machine."""
    task, resolution = members[0][0], max(member[2] for member in members)
    points = [(member[0].shape, member[1]) for member in members]
    curve: Curve
    if isinstance(task.shape, Gemm):
        old = [] if before is None else _points(before.curve)
        curve = GemmCurve.fit(
            [*old, *points],  # type: ignore[list-item]  # one family, one kind of shape
            num_units=task.chip.num_sms or DEFAULT_UNITS,
            bytes_per_element=task.bytes_per_element,
            resolution_s=resolution,
        )
    elif isinstance(task.shape, Pass):
        old = [] if before is None else _points(before.curve)
        curve = BandwidthCurve.fit([*old, *points], resolution_s=resolution)  # type: ignore[list-item]
    else:
        assert isinstance(task.shape, Exchange)
        sizes = [(shape.bytes, seconds) for shape, seconds in points if isinstance(shape, Exchange)]
        table = [] if before is None or not isinstance(before.curve, CollectiveTable) else list(before.curve.points)
        curve = CollectiveTable.fit([*table, *sizes], op=task.shape.op, ranks=task.shape.ranks)
    _, source, _, dtype, topology = key_of(task)
    return Profile(
        family=task.family,
        source=source,
        chip=task.chip,
        dtype=dtype,
        topology=topology,
        nodes=task.shape.nodes if isinstance(task.shape, Exchange) else 1,
        curve=curve,
        local=before is not None and before.local,
    )


def _points(curve: Curve) -> list[tuple[Any, float]]:
    return [(shape, seconds) for shape, seconds, count in curve.points for _ in range(count)]  # type: ignore[misc]


def _resolution_s(row: Row) -> float:
    """What the notes say of the clock: "resolution 1 us"."""
    return 1e-6 if "resolution 1 us" in row.get("notes", "") else 0.0

"""Summary: the rounds of one case on one device of one file, as one row with its spread, rate and ceilings.

Derived on demand and never stored. The unit of evidence is the round: each contributes its median, and the spread
between rounds, not that within one, says how far the number can be trusted.
"""

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal

import msgspec

from bench import chip, model, stats, workload
from bench.chip import Chip
from bench.cost import Cost
from bench.errors import UserError
from bench.record import Identity, Planned, Record, ResultFile, Session, Work
from bench.workload import label

# The roofs themselves, and what runs under none of them: traffic of one kind alone may pass a copy's.
_ROOFLESS = {
    "matmul", "memory_copy", "memory_read", "memory_write", "memory_triad", "host_copy", "launch_overhead",
}  # fmt: skip
# File, session, device, work, version and identity: records with all of them equal are rounds of one case.
_Key = tuple[str, str, int, bytes, int, Identity]
Rate = Literal["FLOP/s", "B/s", "tok/s", "launch/s"]


# Attention with fewer FLOP to a byte than this reads a cache for single queries: no chip computes so little so fast.
MEMORY_BOUND = 16


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One row of a table. Fractions are fractions; None is unknown."""

    file: str
    session: Session = field(repr=False)
    records: list[Record] = field(repr=False)  # of all rounds, whatever their status

    @property
    def first(self) -> Record:
        """A record to read off what they all share."""
        return self.records[0]

    @cached_property
    def valid(self) -> list[Record]:
        """The rounds that count."""
        return [record for record in self.records if record.valid]

    @cached_property
    def case(self) -> str:
        """The case as people read it, the launch mode named where it is not the plain one."""
        launch, stacked = self.first.identity.launch, self.first.extras.get("extrapolated_from_layers")
        derived = f" [from {stacked} layers]" if stacked and not self.first.params.get("layers") else ""
        return label(self.first.workload, self.first.params) + ("" if launch == "eager" else f" [{launch}]") + derived

    @property
    def device(self) -> str:
        """The device's own name."""
        return self.session.devices[self.first.device].name

    @cached_property
    def status(self) -> str:
        """`ok` when every round is valid; otherwise what went wrong first."""
        if len(self.valid) == len(self.records):
            return "ok"
        failed = next(record for record in self.records if not record.valid)
        return failed.status if failed.status != "ok" else "invalid"

    @cached_property
    def launches_s(self) -> list[float]:
        """The median step time of each valid round, in order."""
        return [stats.median(record.samples_s) for record in sorted(self.valid, key=lambda record: record.round)]

    @cached_property
    def step_s(self) -> float | None:
        """The median of the rounds' medians."""
        return stats.median(self.launches_s) if self.valid else None

    @property
    def spread(self) -> float | None:
        """Half the 95 % interval of the step time, relative: Student's t on the logarithms of two or more rounds;
        of a single round, what its own samples say, which leaves out how rounds differ.
        """
        if len(self.launches_s) >= 2:
            return relative_half_width(self.launches_s)
        return stats.location(self.valid[0].samples_s).relative_half_width if self.valid else None

    @cached_property
    def rate(self) -> tuple[float, Rate] | None:
        """Work by time. For whole steps that is total work by total time, for single operations work by the median."""
        step_s = self.step_s
        if step_s is None:
            return None
        work = self.first.work
        if work.launches:
            return work.launches / step_s, "launch/s"
        if work.tokens:
            steps = sum(len(record.samples_s) * _repeats(record) for record in self.valid)
            return work.tokens * steps / math.fsum(math.fsum(r.samples_s) * _repeats(r) for r in self.valid), "tok/s"
        if work.attention_flops and not work.gemm_flops and self.cost.flops < MEMORY_BOUND * work.bytes:
            return work.bytes / step_s, "B/s"
        if work.gemm_flops or work.attention_flops:
            return self.cost.flops / step_s, "FLOP/s"
        return work.bytes / step_s, "B/s"

    @property
    def flops_per_s(self) -> float | None:
        """The arithmetic that the task needs, by time."""
        step_s = self.step_s
        return None if step_s is None or not self.cost.flops else self.cost.flops / step_s

    @property
    def bytes_per_s(self) -> float | None:
        """The least traffic that the task needs, by time."""
        step_s = self.step_s
        return None if step_s is None or not self.first.work.bytes else self.first.work.bytes / step_s

    def utilization(self, peak_flops_per_s: float | None) -> tuple[float, float] | None:
        """MFU and HFU: the share of a dense peak that the model's own arithmetic takes, and the share with what was
        computed anew in the backward pass (Chowdhery et al. 2022, appendix B; Korthikanti et al. 2022, section 6).
        """
        work, step_s = self.first.work, self.step_s
        needed = work.gemm_flops + work.attention_flops
        if not peak_flops_per_s or not step_s or not needed or not work.tokens:
            return None
        return needed / step_s / peak_flops_per_s, (needed + work.recomputed_flops) / step_s / peak_flops_per_s

    @cached_property
    def cost(self) -> Cost:
        """The work of one step."""
        return self.first.work.cost()

    @cached_property
    def datasheet(self) -> Chip | None:
        """What the sheet says of the chip; None for one that the catalog lacks."""
        return _datasheet(self.session.devices[self.first.device].chip)

    @cached_property
    def datasheet_flops_per_s(self) -> float | None:
        """The chip's dense peak for this type; None for a chip that the catalog lacks."""
        return self.datasheet.peak_flops_per_s(self.first.identity.dtype) if self.datasheet else None

    @property
    def of_datasheet(self) -> float | None:
        """Share of the chip's dense peak or bandwidth, whichever binds; None for a chip that the catalog lacks."""
        if self.datasheet is None or self.step_s is None:
            return None
        return _share(self, self.datasheet_flops_per_s, self.datasheet.memory_bytes_per_s)

    @property
    def power_w(self) -> float | None:
        """Mean power while samples were taken, over all rounds, from what the board told of the moment."""
        return _mean(self._means("power_w")) or _mean(self._means("power_average_w"))

    @property
    def clock_hz(self) -> float | None:
        """Mean clock of the cores, over all rounds."""
        return _mean(self._means("clock_hz"))

    @property
    def temperature_c(self) -> float | None:
        """The highest temperature that was told."""
        return max((max(values) for values in self._told("temperature_c")), default=None)

    def limited(self, counter: str) -> float | None:
        """Share of the time in which a limit held the clock down, by the counter of it; None where none is told."""
        told = [one.telemetry for one in self.valid if one.telemetry and one.telemetry.window_s]
        return _mean([one.changes[counter] / one.window_s for one in told if counter in one.changes])

    @cached_property
    def metered(self) -> Record | None:
        """The round whose energy is known."""
        return next((one for one in self.valid if one.energy), None)

    @cached_property
    def energy_per_step_j(self) -> float | None:
        """Gross energy of a step: mean power between two ticks of the counter, times the step's time in that round."""
        record = self.metered
        if record is None or record.energy is None or not record.energy.window_s:
            return None
        return record.energy.joules / record.energy.window_s * stats.median(record.samples_s)

    @property
    def net_energy_per_step_j(self) -> float | None:
        """The same without what the idle board draws with a context on it; None where that was not measured."""
        record, gross_j = self.metered, self.energy_per_step_j
        idle = dict(enumerate(self.session.idle)).get(self.first.device)
        if record is None or gross_j is None or idle is None or idle.with_context_w is None:
            return None
        return gross_j - idle.with_context_w * stats.median(record.samples_s)

    def _means(self, name: str) -> list[float]:
        return [math.fsum(values) / len(values) for values in self._told(name)]

    def _told(self, name: str) -> list[list[float]]:
        """What each round was told of a quantity, where it was."""
        series = [one.telemetry.series.get(name) for one in self.valid if one.telemetry]
        return [one.values for one in series if one and one.values]

    @property
    def flags(self) -> list[str]:
        """What was found in any round."""
        return sorted({flag for record in self.records for flag in record.flags})


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What one device measured in one file: the roofs that its other results are seen against."""

    flops_per_s: dict[str, float]  # best matmul by dtype
    bytes_per_s: float | None  # best copy

    def share(self, summary: Summary) -> float | None:
        """How much of the binding roof a case reaches; None without a roof, and for the roofs themselves."""
        if summary.step_s is None or summary.first.workload in _ROOFLESS:
            return None
        return _share(summary, self.flops_per_s.get(summary.first.identity.dtype), self.bytes_per_s)


def summarize(files: Iterable[ResultFile]) -> list[Summary]:
    """A summary for each case, device and file, in the order of the plan; a run in two files counts once."""
    groups: dict[_Key, tuple[ResultFile, list[Record]]] = {}
    for file in _once(files):
        order = {(_work(one), one.device): place for place, one in enumerate(file.session.plan)}
        keyed = [(_work(one), one) for one in file.records]
        keyed.sort(key=lambda pair: (order.get((pair[0], pair[1].device), len(order)), pair[1].identity.launch))
        for work, record in keyed:
            key = (file.name, file.session.id, record.device, work, record.version, record.identity)
            groups.setdefault(key, (file, []))[1].append(record)
    return [Summary(file=file.name, session=file.session, records=records) for file, records in _merged(groups)]


def _work(one: Record | Planned) -> bytes:
    """Workload and parameters, as something to look up by: 1, 1.0 and true are three."""
    return msgspec.json.encode((one.workload, one.params), order="deterministic")


def extrapolated(summaries: Sequence[Summary]) -> list[Summary]:
    """Whole models from two stacks of their layers: what the layers between the two counts took is what the missing
    ones will take. Round by round, so that the spread is that of the measurements. Where in one round the larger stack
    was no slower, noise exceeds a layer's time and nothing follows: leaving that round out would bias the rest upward.
    """
    stacks: dict[tuple[str, int, str], dict[int, Summary]] = {}
    for one in summaries:
        layers = one.first.params.get("layers")
        if isinstance(layers, int) and layers and one.valid:
            rest = {key: value for key, value in one.first.params.items() if key != "layers"}
            place = (one.session.id, one.first.device, f"{one.first.workload} {rest} {one.first.identity}")
            stacks.setdefault(place, {})[layers] = one
    whole = []
    for found in stacks.values():
        if len(found) >= 2:
            less, more = sorted(found)[-2:]
            with contextlib.suppress(UserError):  # a model that is not known here
                whole.append(_whole(found[less], found[more], less, more))
    return [one for one in whole if one is not None]


def _whole(fewer: Summary, more: Summary, fewer_layers: int, more_layers: int) -> Summary | None:
    params = more.first.params | {"layers": 0}
    case = workload.case(more.first.workload, dict(params))
    missing = model.find(str(params["model"])).num_hidden_layers - more_layers
    by_round = {one.round: stats.median(one.samples_s) for one in fewer.valid}
    records = []
    for one in more.valid:
        if one.round in by_round:
            step_s = stats.median(one.samples_s)
            layer_s = (step_s - by_round[one.round]) / (more_layers - fewer_layers)
            if layer_s <= 0:
                return None
            records.append(
                msgspec.structs.replace(
                    one,
                    params=params,
                    work=Work.of(case.cost()),
                    extras=case.extras() | {"extrapolated_from_layers": more_layers},
                    samples_s=[step_s + missing * layer_s],
                    step_samples_s=[],
                    timing=None,
                    peak_memory_bytes=None,
                )
            )
    return Summary(file=more.file, session=more.session, records=records) if records else None


def ceilings(summaries: Sequence[Summary]) -> dict[tuple[str, int], Ceilings]:
    """The roofs of each session's devices."""
    found: dict[tuple[str, int], Ceilings] = {}
    for place in {(one.session.id, one.first.device) for one in summaries}:
        own = [one for one in summaries if (one.session.id, one.first.device) == place and one.step_s is not None]
        matmuls: dict[str, float] = {}
        for one in own:
            if one.first.workload == "matmul" and one.flops_per_s:
                dtype = one.first.identity.dtype
                matmuls[dtype] = max(matmuls.get(dtype, 0.0), one.flops_per_s)
        copies = [one.bytes_per_s for one in own if one.first.workload == "memory_copy" and one.bytes_per_s]
        found[place] = Ceilings(flops_per_s=matmuls, bytes_per_s=max(copies, default=None))
    return found


def relative_half_width(launches_s: Sequence[float]) -> float:
    """Half the 95 % t interval of the mean logarithm of two or more launches, as a factor minus one."""
    logs = [math.log(launch) for launch in launches_s]
    mean = math.fsum(logs) / len(logs)
    variance = math.fsum((value - mean) ** 2 for value in logs) / (len(logs) - 1)
    return math.expm1(stats.student_t_quantile(0.975, len(logs) - 1) * math.sqrt(variance / len(logs)))


@cache
def _datasheet(name: str | None) -> Chip | None:
    """By the names of the catalog alone: a stranger's file may name a path."""
    return chip.find(name) if name in chip.names() else None


def _once(files: Iterable[ResultFile]) -> list[ResultFile]:
    unique: dict[str, ResultFile] = {}
    for file in files:
        unique.setdefault(file.session.id, file)
    return list(unique.values())


def _merged(groups: dict[_Key, tuple[ResultFile, list[Record]]]) -> list[tuple[ResultFile, list[Record]]]:
    """Rounds that failed have no measured identity: they join the rounds of the same case that succeeded."""
    merged: dict[tuple[str, str, int, str, str], list[list[Record]]] = {}
    files: dict[tuple[str, str, int, str, str], ResultFile] = {}
    for (name, session, device, *_), (file, records) in groups.items():
        first = records[0]
        place = (name, session, device, label(first.workload, first.params), first.identity.launch)
        files[place] = file
        parts = merged.setdefault(place, [])
        if parts and any(one.status == "ok" for one in parts[-1]) and any(one.status == "ok" for one in records):
            parts.append(records)  # measured both ways, for example with another cache mode: two rows
        elif parts:
            parts[-1] += records
        else:
            parts.append(records)
    return [
        (files[place], sorted(records, key=lambda one: (one.status != "ok", one.round)))
        for place, parts in merged.items()
        for records in parts
    ]


def _repeats(record: Record) -> int:
    """Steps in one sample."""
    return record.timing.repeats if record.timing else 1


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _share(summary: Summary, flops_per_s: float | None, bytes_per_s: float | None) -> float | None:
    """Time at the roof by measured time, of the roof that allows less (Williams, Waterman & Patterson 2009)."""
    cost, step_s = summary.cost, summary.step_s
    assert step_s is not None
    matrix_flops = cost.gemm_flops + cost.attention_flops
    if (matrix_flops and flops_per_s is None) or (cost.bytes and bytes_per_s is None):
        return None  # the roof that is missing might be the one that binds
    bounds_s = [matrix_flops / flops_per_s if flops_per_s else 0.0, cost.bytes / bytes_per_s if bytes_per_s else 0.0]
    return max(bounds_s) / step_s if max(bounds_s) else None

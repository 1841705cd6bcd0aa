"""Every other line of a result file: one case in one round, whatever became of it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.cost import Cost
from bench.record.fields import (
    LONGEST_S,
    SHORTEST_S,
    Amount,
    Count,
    Flops,
    Fraction,
    Name,
    Number,
    Parameters,
    Samples,
    Strict,
    Text,
    Texts,
)

Status = Literal["ok", "oom", "timeout", "crash", "unsupported", "waived", "skipped"]
Flag = Literal[
    "bad_output",
    "below_timer_floor",
    "ci_not_reached",
    "ecc_uncorrectable",
    "energy_disagree",
    "alias_risk",
    "gpu_lost",
    "host_noisy",
    "hw_slowdown",
    "launch_bound",
    "needs_service",
    "not_steady",
    "page_faults",
    "pcie_degraded",
    "power_limited",
    "sampler_heavy",
    "shared_device",
    "straggler",
    "stream_mismatch",
    "strong_autocorrelation",
    "thermal_limited",
    "thermal_mismatch",
    "wallclock_stepped",
    "xid",
]
# `straggler` and `stream_mismatch` are reserved for work on several devices. `thermal_mismatch` is of two sides and not
# of a record: `compare` says it in words.
# A record with one of these is kept in the file and left out of tables, comparisons and calibration.
INVALID_FLAGS: frozenset[str] = frozenset(
    {"hw_slowdown", "gpu_lost", "ecc_uncorrectable", "xid", "bad_output", "stream_mismatch"}
)


class Identity(Strict, frozen=True):
    """What besides workload, version and parameters decides whether two results may be compared."""

    dtype: Name
    data: Name  # distribution of the inputs
    cache: Literal["cold_rotate", "cold_flush", "warm"]
    duty: Literal["sustained", "burst", "held"]
    launch: Literal["eager", "graph", "queued"]


class Work(Strict, frozen=True):
    """The step's cost as declared by its workload: see bench/cost.py."""

    gemm_flops: Flops
    attention_flops: Flops
    elementwise_flops: Flops
    bytes: Count
    tokens: Count
    launches: Count
    link_bytes: Count
    recomputed_flops: Flops = 0  # not among the others: done by the hardware and not needed by the task

    @classmethod
    def of(cls, cost: Cost) -> "Work":
        """The stored form of `cost`."""
        return cls(**{name: getattr(cost, name) for name in cls.__struct_fields__})

    def cost(self) -> Cost:
        """The cost with its derived quantities."""
        return Cost(**msgspec.structs.asdict(self))


class Timing(Strict, frozen=True):
    """How the samples came about."""

    clock: Literal["event", "host", "virtual"]
    repeats: Count  # steps in one sample
    input_sets: Count  # independent sets of inputs and outputs that the steps rotate through
    cold_start_s: Amount  # the very first call, with everything that is compiled or allocated in it
    settle_s: Amount  # load before the first sample
    window_s: Amount  # host clock round the samples
    event_floor_s: Amount  # what an empty sample reads
    enqueue_s: Amount | None  # host time to launch one step; null where work is done in the call itself
    stop: Literal["precise", "time", "samples"]
    begins_s: Amount | msgspec.UnsetType = msgspec.UNSET  # the first sample, after the record's `started`


class Contention(Strict, frozen=True):
    """What else the host did during the window."""

    cpu_share: Fraction | None  # own CPU time / (window x threads)
    involuntary_switches_per_s: Amount | None
    pressure: Fraction | None  # share of the window in which some task waited for a CPU
    stolen: Fraction | None  # share of CPU time that a hypervisor gave to others
    page_faults_per_step: Amount | None  # minor faults: memory that the allocator fetched from the kernel anew
    spin_slowdown: Amount | None  # a fixed spin before the round's cases: third quartile over fastest, minus one


class Check(Strict, frozen=True):
    """The output against a reference in higher precision; `error` is norm(out - reference) / norm(reference)."""

    error: Amount
    tolerance: Amount


class Energy(Strict, frozen=True):
    """Gross energy of part of the window, the load running before and after: nothing of idle is taken off.

    `uncertainty` is relative, the half width at 95 %; that of the same board leaves out the gain error that two of its
    energies share. Both are null for energies that the vendor computes from activity.
    """

    joules: Amount
    window_s: Amount
    method: Literal["counter_tick", "counter_window", "power_integral", "power_average"]
    boundary: Name  # what the energy covers, e.g. gpu_board
    uncertainty: Fraction | None
    uncertainty_same_board: Fraction | None
    integral_j: Amount | None = None  # instant power over as long a time, beside a counter


class Series(Strict, frozen=True):
    """One quantity over the window: seconds since its begin, and values in SI units."""

    t_s: Samples
    values: Annotated[list[Number], Meta(max_length=100_000)]


class Telemetry(Strict, frozen=True):
    """What the board's sensors told during the window, the load running all the time."""

    window_s: Amount
    period_s: Amount  # between two looks
    busy: Fraction  # share of the window that the sensors took to answer
    series: Annotated[dict[Name, Series], Meta(max_length=50)]
    changes: Annotated[dict[Name, Number], Meta(max_length=50)]  # by how much each counter rose in the window
    # At its end, still under load: links, memory, processes; and means over it of what a board counts by itself.
    state: Annotated[dict[Name, Number], Meta(max_length=50)]


class Record(Strict, frozen=True, tag_field="kind", tag="record"):
    """One case in one round, whatever became of it."""

    workload: Name
    version: Count
    params: Parameters
    identity: Identity
    device: Count  # index into the session's devices
    round: Count
    status: Status
    reason: Text | None  # why the status is not `ok`
    work: Work
    extras: Annotated[dict[Name, Number | Name], Meta(max_length=50)]  # facts of this workload, e.g. num_parameters
    samples_s: Samples  # time of one step, a sample each, in the order measured
    unsteady_s: Samples  # a first window that had not settled and was measured again
    step_samples_s: Samples  # single steps inside the blocks of a macro workload
    timing: Timing | None
    check: Check | None
    contention: Contention | None
    peak_memory_bytes: Count | None
    energy: Energy | None
    telemetry: Telemetry | None
    flags: Annotated[list[Flag], Meta(max_length=50)]
    reasons: Texts  # why a field above is null
    started: Name  # UTC, ISO 8601
    ended: Name

    @property
    def valid(self) -> bool:
        """Measured, and nothing found that forbids to use it."""
        samples_s = self.samples_s
        measured = bool(samples_s) and min(samples_s) >= SHORTEST_S and max(samples_s) <= LONGEST_S
        return self.status == "ok" and measured and not INVALID_FLAGS.intersection(self.flags)

    def key(self) -> str:
        """What this may be compared with, besides the device: workload, version, parameters and identity."""
        parts = (self.workload, self.version, self.params, self.identity)
        return msgspec.json.encode(parts, order="deterministic").decode()


def unmeasured(why: str, **known: Any) -> Record:
    """A record in which nothing was measured, and `why`: what else stands in it is `known`."""
    fields = ("timing", "check", "contention", "peak_memory_bytes", "energy", "telemetry")
    nothing: dict[str, Any] = {
        **dict.fromkeys(fields),
        "samples_s": [],
        "unsteady_s": [],
        "step_samples_s": [],
        "extras": {},
        "flags": [],
    }
    return Record(**{"device": 0, "round": 0, **nothing, "reasons": dict.fromkeys(fields, why), **known})


Key = tuple[str, int, str]  # one case in one run: the session's id, the device, and what `Record.key` gives

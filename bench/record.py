"""The result file: one session line, then one record for each case and round. The contract between stage 1 and stage 2.

A result file is JSON Lines in UTF-8. Every line is appended and flushed as soon as it is measured, so a file that was
cut at any byte is readable up to its last whole line. Raw is stored and derived is computed: no rate is ever in here.
A field that may be unknown is null, and its reason stands in `reasons` under the field's name.

Whoever reads a file reads a stranger's file: types, bounds and unknown fields are refused, nothing is executed.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from bench.cost import Cost
from bench.errors import UserError

# History of the format. Every version ever released stays readable.
#   1  first version (0.1.0)
SCHEMA = 1
# Version of the rules of measuring. Raised with every change that can move a number; rows of two methods never mix.
METHOD = 1

MAX_FILE_BYTES = 64 << 20  # a full suite is some hundred kilobytes
MAX_LINE_BYTES = 8 << 20
MAX_DEPTH = 16
# No step is shorter than a picosecond or longer than eleven days: outside, rates and their logarithms overflow.
SHORTEST_S, LONGEST_S = 1e-12, 1e6

Text = Annotated[str, Meta(max_length=1_000)]
Name = Annotated[str, Meta(max_length=200)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Flops = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # a training step of a large model passes 2**53
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Amount = Annotated[float, Meta(ge=0, le=1e30)]
Fraction = Annotated[float, Meta(ge=0, le=1e6)]
Samples = Annotated[list[Amount], Meta(max_length=100_000)]
Texts = Annotated[dict[Name, Text], Meta(max_length=200)]
Parameters = Annotated[
    dict[Name, bool | Annotated[int, Meta(ge=-(2**53), le=2**53)] | Number | Name], Meta(max_length=50)
]

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


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file: fields are exactly these, of exactly these types."""


class Harness(_Strict, frozen=True):
    """What measured: version, and where it runs from a git clone its commit and whether that was changed."""

    version: Name
    method: Count
    commit: Name | None
    dirty: bool | None


class DeviceFacts(_Strict, frozen=True):
    """One device as found, nothing of it set by us. `readings` has limits and clocks, each a number or a reason."""

    spec: Name  # how `--device` names it
    vendor: Name
    name: Name
    chip: Name | None  # of our catalog, by exact driver name
    uuid_hash: Name | None  # salted by nothing: the same board gives the same value in every file
    memory_bytes: Count | None
    last_level_cache_bytes: Count | None
    driver: Name | None
    readings: Annotated[dict[Name, Number], Meta(max_length=100)]
    capabilities: Texts  # quantity -> "ok", or why it cannot be read


class Host(_Strict, frozen=True):
    """The machine round the devices. No host name, user name, address or path."""

    cpu: Name
    architecture: Name
    cores: Count  # physical cores that this process may use
    threads: Count  # worker threads that are used
    memory_bytes: Count
    system: Name
    kernel: Name
    virtualisation: Name | None
    container: bool
    governor: Name | None
    settings: Texts  # transparent huge pages, allocator thresholds, relevant environment variables by allow-list


class Finding(_Strict, frozen=True):
    """Something that may disturb a measurement: what was seen, what it may mean, what to do."""

    code: Name
    message: Text


class Speeds(_Strict, frozen=True):
    """A first, rough measurement of a device, from which the sizes of cases are chosen. Never a result."""

    flops_per_s: Annotated[dict[Name, Amount], Meta(max_length=20)]  # matmul, by dtype
    bytes_per_s: Amount  # copy, read and write
    free_bytes: Count
    launch_s: Amount


class Protocol(_Strict, frozen=True):
    """How long a case is measured and how precisely; see "How time is measured" in the README."""

    settle_s: Amount
    min_samples: Count
    min_time_s: Amount
    max_time_s: Amount
    max_samples: Count
    half_width: Amount  # of the 95 % interval of the median, relative; measuring stops when it is reached
    sample_s: Amount  # a sample groups as many steps as last this long
    settle_steps: Count = 10  # run at least this many before the first sample
    energy_s: Amount = 0.0  # in the first round the load is held until energy was counted over so long; 0: never


class Planned(_Strict, frozen=True):
    """One case that a session set out to measure."""

    workload: Name
    params: Parameters
    device: Count
    protocol: Name = ""  # of the session's; empty: that of the workload's scale


class Idle(_Strict, frozen=True):
    """Power of a board on which nothing runs: before any program has it open, and with a context of ours on it."""

    without_context_w: Amount | None
    with_context_w: Amount | None
    temperature_c: Number | None  # at the end


class Session(_Strict, frozen=True, tag_field="kind", tag="session"):
    """First line of a result file: machine, software, settings and plan."""

    schema: Count
    id: Name
    started: Name  # UTC, ISO 8601
    harness: Harness
    argv: Annotated[list[Text], Meta(max_length=200)]
    seed: Count
    rounds: Count
    suite: Name | None
    protocols: Annotated[dict[Name, Protocol], Meta(max_length=10)]
    plan: Annotated[list[Planned], Meta(max_length=10_000)]
    devices: Annotated[list[DeviceFacts], Meta(max_length=64)]
    speeds: Annotated[list[Speeds], Meta(max_length=64)]  # one for each device
    host: Host
    software: Texts
    preflight: Annotated[list[Finding], Meta(max_length=100)]
    reasons: Texts  # why a field is null
    idle: Annotated[list[Idle], Meta(max_length=64)] = []  # one for each device, where it was measured
    # Only in the shared table: what its author can prove to have submitted it by, see bench/analyze/author.py.
    receipt: Name | msgspec.UnsetType = msgspec.UNSET


class Identity(_Strict, frozen=True):
    """What besides workload, version and parameters decides whether two results may be compared."""

    dtype: Name
    data: Name  # distribution of the inputs
    cache: Literal["cold_rotate", "cold_flush", "warm"]
    duty: Literal["sustained", "burst", "held"]
    launch: Literal["eager", "graph", "queued"]


class Work(_Strict, frozen=True):
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


class Timing(_Strict, frozen=True):
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


class Contention(_Strict, frozen=True):
    """What else the host did during the window."""

    cpu_share: Fraction | None  # own CPU time / (window x threads)
    involuntary_switches_per_s: Amount | None
    pressure: Fraction | None  # share of the window in which some task waited for a CPU
    stolen: Fraction | None  # share of CPU time that a hypervisor gave to others
    page_faults_per_step: Amount | None  # minor faults: memory that the allocator fetched from the kernel anew
    spin_slowdown: Amount | None  # a fixed spin before the round's cases: third quartile over fastest, minus one


class Check(_Strict, frozen=True):
    """The output against a reference in higher precision; `error` is norm(out - reference) / norm(reference)."""

    error: Amount
    tolerance: Amount


class Energy(_Strict, frozen=True):
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


class Series(_Strict, frozen=True):
    """One quantity over the window: seconds since its begin, and values in SI units."""

    t_s: Samples
    values: Annotated[list[Number], Meta(max_length=100_000)]


class Telemetry(_Strict, frozen=True):
    """What the board's sensors told during the window, the load running all the time."""

    window_s: Amount
    period_s: Amount  # between two looks
    busy: Fraction  # share of the window that the sensors took to answer
    series: Annotated[dict[Name, Series], Meta(max_length=50)]
    changes: Annotated[dict[Name, Number], Meta(max_length=50)]  # by how much each counter rose in the window
    # At its end, still under load: links, memory, processes; and means over it of what a board counts by itself.
    state: Annotated[dict[Name, Number], Meta(max_length=50)]


class Record(_Strict, frozen=True, tag_field="kind", tag="record"):
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


class ResultFile(msgspec.Struct, frozen=True, kw_only=True):
    """A result file as read."""

    name: str
    session: Session
    records: list[Record]
    torn: bool  # the last line was cut: everything before it is whole


class BadFile(UserError):
    """A file that is not a result file of ours, with the reason."""


Line = TypeVar("Line", Session, Record)


def encode(line: Session | Record) -> bytes:
    """The line to write, newline included. A number that is not finite is a bug of ours and raises ValueError."""
    tree = msgspec.to_builtins(line)
    _refuse_non_finite(tree, "$")
    return msgspec.json.encode(tree) + b"\n"


def append(descriptor: int, line: Session | Record) -> None:
    """Writes the line in one call and forces it to disk: it survives whatever happens next."""
    rest = memoryview(encode(line))
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def read(path: str | os.PathLike[str]) -> ResultFile:
    """The file at `path`. Raises BadFile with the line and the reason for anything that is not as described above."""
    return parse(Path(path).name, read_bytes(path))


def parse(name: str, content: bytes) -> ResultFile:
    """The file whose bytes these are; `name` is what messages call it. Raises BadFile, as `read` does."""
    lines = content.split(b"\n")
    torn = bool(lines.pop())  # what follows the last newline: nothing, or a line that was cut
    if not lines:
        raise BadFile(f"{name}: no whole line in it: not a result file, or the run ended before its first record")
    session = _decode(name, 1, lines[0], Session)
    records = [_decode(name, number, line, Record) for number, line in enumerate(lines[1:], start=2)]
    for number, record in enumerate(records, start=2):
        if record.device >= len(session.devices):
            raise BadFile(f"{name}, line {number}: device {record.device} of {len(session.devices)}")
    return ResultFile(name=name, session=session, records=records, torn=torn)


def json_schema() -> dict[str, Any]:
    """The format as a JSON Schema (2020-12); each line of a file is one `Session` or `Record`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Session | Record)}


def _refuse_non_finite(tree: Any, where: str) -> None:
    """Msgspec would write NaN and infinity as null, and a failed computation would turn into an unknown."""
    if isinstance(tree, float) and not math.isfinite(tree):
        raise ValueError(f"{where} is {tree}")
    if isinstance(tree, dict):
        for key, value in tree.items():
            _refuse_non_finite(value, f"{where}.{key}")
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _refuse_non_finite(value, f"{where}[{index}]")


def read_bytes(path: str | os.PathLike[str], *, most_bytes: int | None = None, links: bool = True) -> bytes:
    """The bytes of a regular file of at most `most_bytes`; a pipe does not block us and a huge file is not read.

    Without `links` a symbolic link is refused, so that what is judged is what lies there. Raises BadFile.
    """
    path, most_bytes = Path(path), most_bytes or MAX_FILE_BYTES
    wanted = ("O_NONBLOCK", "O_CLOEXEC", *(() if links else ("O_NOFOLLOW",)))
    if not links and os.path.islink(path):  # where the system has no O_NOFOLLOW, and for a clear word where it has
        raise BadFile(f"{path.name}: a symbolic link, not a file")
    try:
        descriptor = os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in wanted))
    except FileNotFoundError:
        raise BadFile(f"{path.name}: there is no such file") from None
    except OSError as error:
        raise BadFile(f"{path.name}: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadFile(f"{path.name or path}: not a regular file")
        parts, left = [], most_bytes + 1
        while left and (part := os.read(descriptor, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if not left:
        raise BadFile(f"{path.name}: larger than {most_bytes >> 20} MiB, the most that is read")
    return b"".join(parts)


# A string that never ends is taken to the end of the line, so that no input is scanned twice.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?')
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _decode(name: str, number: int, line: bytes, kind: type[Line]) -> Line:
    if len(line) > MAX_LINE_BYTES:
        raise BadFile(f"{name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        decoded = msgspec.json.decode(line, type=kind)  # what passes is no deeper than its type
        # Every fast reader takes the last of two equal keys and misses no "kind". A line that is written again exactly
        # as it stands is sound, and lines of ours are; anything else is read once more, which takes far longer.
        if msgspec.json.encode(decoded) != line:
            tree = json.loads(line, object_pairs_hook=_refuse_duplicates)
            if isinstance(tree, dict) and "kind" not in tree:
                raise BadFile(f"{name}, line {number}: Object missing required field `kind`")
        if isinstance(decoded, Session):
            _refuse_newer(name, decoded.schema)
    except BadFile:
        raise
    except (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError) as error:
        _refuse_deep(name, number, line)
        if kind is Session:
            _refuse_unreadable(name, line)
        raise BadFile(f"{name}, line {number}: {_twice(line) or error}") from None
    return decoded


def _refuse_deep(name: str, number: int, line: bytes) -> None:
    depth = 0
    for bracket in _STRING.sub(b"", line).translate(None, _BUT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise BadFile(f"{name}, line {number}: nested deeper than {MAX_DEPTH}")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Twice(f"the key '{twice[:80]}' stands twice in one object")
    return keys


class _Twice(ValueError):
    """A key that stands twice."""


def _twice(line: bytes) -> str:
    """Which key stands twice, where the strict reader stumbled over one of the two; nothing where none does."""
    try:
        json.loads(line, object_pairs_hook=_refuse_duplicates)
    except _Twice as error:
        return str(error)
    except (ValueError, RecursionError):
        pass
    return ""


class _Version(msgspec.Struct):
    kind: str
    schema: int


def _refuse_unreadable(name: str, line: bytes) -> None:
    """Says of a session that is not like ours that it is newer, where that is the reason."""
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        version = msgspec.json.decode(line, type=_Version)
        if version.kind == "session":
            _refuse_newer(name, version.schema)


def _refuse_newer(name: str, schema: int) -> None:
    if schema > SCHEMA:
        raise BadFile(f"{name}: written in format {schema}, this program reads up to {SCHEMA}: update accelmark")
    if schema < 1:
        raise BadFile(f"{name}: format {schema} never existed")


def anonymous(uuid: str) -> str:
    """A stable name for a board that does not tell its UUID: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(uuid.encode()).hexdigest()[:16]

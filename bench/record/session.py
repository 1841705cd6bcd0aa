"""The first line of a result file: machine, software, settings and plan."""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.record.fields import Amount, Count, Name, Number, Parameters, Strict, Text, Texts

# History of the format. Every version ever released stays readable.
#   1  first version (0.1.0)
SCHEMA = 1
# Version of the rules of measuring. Raised with every change that can move a number; rows of two methods never mix.
METHOD = 1


class Harness(Strict, frozen=True):
    """What measured: version, and where it runs from a git clone its commit and whether that was changed."""

    version: Name
    method: Count
    commit: Name | None
    dirty: bool | None


class DeviceFacts(Strict, frozen=True):
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


class Host(Strict, frozen=True):
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


class Finding(Strict, frozen=True):
    """Something that may disturb a measurement: what was seen, what it may mean, what to do."""

    code: Name
    message: Text


class Speeds(Strict, frozen=True):
    """A first, rough measurement of a device, from which the sizes of cases are chosen. Never a result."""

    flops_per_s: Annotated[dict[Name, Amount], Meta(max_length=20)]  # matmul, by dtype
    bytes_per_s: Amount  # copy, read and write
    free_bytes: Count
    launch_s: Amount


class Protocol(Strict, frozen=True):
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


class Planned(Strict, frozen=True):
    """One case that a session set out to measure."""

    workload: Name
    params: Parameters
    device: Count
    protocol: Name = ""  # of the session's; empty: that of the workload's scale


class Idle(Strict, frozen=True):
    """Power of a board on which nothing runs: before any program has it open, and with a context of ours on it."""

    without_context_w: Amount | None
    with_context_w: Amount | None
    temperature_c: Number | None  # at the end


class Session(Strict, frozen=True, tag_field="kind", tag="session"):
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
    # One for each device, where it was measured.
    idle: Annotated[list[Idle], Meta(max_length=64)] = []  # noqa: RUF012  msgspec gives each session its own
    # Only in the shared table: what its author can prove to have submitted it by, see bench/analyze/shared/author.py.
    receipt: Name | msgspec.UnsetType = msgspec.UNSET


def anonymous(uuid: str) -> str:
    """A stable name for a board that does not tell its UUID: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(uuid.encode()).hexdigest()[:16]

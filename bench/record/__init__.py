"""The result file: one session line, then one record for each case and round. The contract between stage 1 and stage 2.

A result file is JSON Lines in UTF-8. Every line is appended and flushed as soon as it is measured, so a file that was
cut at any byte is readable up to its last whole line. Raw is stored and derived is computed: no rate is ever in here.
A field that may be unknown is null, and its reason stands in `reasons` under the field's name.

Whoever reads a file reads a stranger's file: types, bounds and unknown fields are refused, nothing is executed.
"""

from bench.record.fields import LONGEST_S, SHORTEST_S
from bench.record.file import (
    MAX_DEPTH,
    MAX_FILE_BYTES,
    MAX_LINE_BYTES,
    BadFile,
    ResultFile,
    append,
    encode,
    json_schema,
    parse,
    read,
    read_bytes,
)
from bench.record.measured import (
    INVALID_FLAGS,
    Check,
    Contention,
    Energy,
    Flag,
    Identity,
    Key,
    Record,
    Series,
    Status,
    Telemetry,
    Timing,
    Work,
    unmeasured,
)
from bench.record.session import (
    METHOD,
    SCHEMA,
    DeviceFacts,
    Finding,
    Harness,
    Host,
    Idle,
    Planned,
    Protocol,
    Session,
    Speeds,
    anonymous,
)

__all__ = (
    "INVALID_FLAGS",
    "LONGEST_S",
    "MAX_DEPTH",
    "MAX_FILE_BYTES",
    "MAX_LINE_BYTES",
    "METHOD",
    "SCHEMA",
    "SHORTEST_S",
    "BadFile",
    "Check",
    "Contention",
    "DeviceFacts",
    "Energy",
    "Finding",
    "Flag",
    "Harness",
    "Host",
    "Identity",
    "Idle",
    "Key",
    "Planned",
    "Protocol",
    "Record",
    "ResultFile",
    "Series",
    "Session",
    "Speeds",
    "Status",
    "Telemetry",
    "Timing",
    "Work",
    "anonymous",
    "append",
    "encode",
    "json_schema",
    "parse",
    "read",
    "read_bytes",
    "unmeasured",
)

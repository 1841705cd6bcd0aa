"""The commands as functions: `bench.table(...)` gives the very objects that `accelmark table --json` prints.

Everything is imported where it is used: reading results needs no torch, and help needs nothing.
"""

from bench.commands.catalog import listing
from bench.commands.estimating import calibrate, estimate_rows, estimate_serving, estimate_training, plan
from bench.commands.measuring import (
    carry_out,
    devices,
    meter,
    plan_document,
    prepare_run,
    resume,
    run,
    run_document,
    selfcheck_aa,
    selfcheck_energy,
    selfcheck_timer,
)
from bench.commands.reading import (
    check,
    compare,
    frame,
    grouped,
    left_out,
    parquet,
    pytest_benchmark,
    report,
    results_folder,
    show,
    slower,
    source,
    standing,
    submit,
    table,
    too_long,
)

__all__ = (
    "calibrate",
    "carry_out",
    "check",
    "compare",
    "devices",
    "estimate_rows",
    "estimate_serving",
    "estimate_training",
    "frame",
    "grouped",
    "left_out",
    "listing",
    "meter",
    "parquet",
    "plan",
    "plan_document",
    "prepare_run",
    "pytest_benchmark",
    "report",
    "results_folder",
    "resume",
    "run",
    "run_document",
    "selfcheck_aa",
    "selfcheck_energy",
    "selfcheck_timer",
    "show",
    "slower",
    "source",
    "standing",
    "submit",
    "table",
    "too_long",
)

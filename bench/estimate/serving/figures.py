"""Figures: what a row would have measured, from a job's ideal terms and a stack's rates. One job, or arrays of many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bench.estimate.published import Row, number
from bench.estimate.serving import step as serving
from bench.estimate.serving.jobs import Case
from bench.estimate.serving.step import Ideal, Rates

# The measured columns that a kind of row may have, by what `figures` calls them.
COLUMNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "offline": (("rate", "tok_s_total"),),
    "output": (("rate", "tok_s_total"),),
    "online": (("rate", "tok_s_total"), ("tpot", "tpot_s")),
    "decode": (("rate", "tok_s_decode"),),
    "prefill": (("rate", "tok_s_prefill"),),
    "ttft": (("ttft", "ttft_s"),),
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Many jobs as columns."""

    ideal: Ideal
    kind: Any
    tokens: Any  # that the rate counts


def table(cases: Sequence[Case]) -> Table:
    """The columns of these cases."""
    import numpy as np

    ideals = [serving.ideal(case.job) for case in cases]
    columns = {one.name: np.array([getattr(each, one.name) for each in ideals], float) for one in fields(Ideal)}
    return Table(
        ideal=Ideal(**columns),
        kind=np.array([case.kind for case in cases]),
        tokens=np.array([_tokens(case) for case in cases], float),
    )


def _tokens(case: Case) -> float:
    batch = case.job.batch or 1.0
    return batch * {"offline": case.job.prompt + case.job.output, "prefill": case.job.prompt}.get(case.kind, 1.0)


def figures(of: Table, rates: Rates) -> dict[str, Any]:
    """Arrays over all jobs: "rate", tokens/s of the row's kind, and "tpot" and "ttft" in seconds."""
    import numpy as np

    prefill = serving.total(serving.prefill_s(of.ideal, rates))
    step = serving.total(serving.step_s(of.ideal, rates))
    first = prefill + of.ideal.sequences * rates.sequence_s
    latency = prefill + of.ideal.waves * of.ideal.steps * step
    # Sequences that end are replaced. Requests of one length that come together stay together: all prompts, then all
    # answers. Where they come one by one, prompts ride along with the others' answers.
    together = step + prefill / (of.ideal.waves * (of.ideal.steps + 1.0))
    pace = np.where(of.kind == "online", serving.mixed_step_s(of.ideal, rates), together)
    kind = of.kind
    seconds = np.select([kind == "offline", kind == "prefill", kind == "decode"], [latency, prefill, step], pace)
    counted = np.where((kind == "online") | (kind == "output") | (kind == "decode"), of.ideal.sequences, of.tokens)
    return {"rate": counted / seconds, "tpot": step, "ttft": first}


def measured(row: Row, case: Case) -> dict[str, float]:
    """What the row measured, by the names of `figures`."""
    found = {name: number(row, column) for name, column in COLUMNS[case.kind]}
    if case.kind == "prefill" and found["rate"] is None:
        found["rate"] = number(row, "tok_s_total")
    return {name: value for name, value in found.items() if value is not None and value > 0}

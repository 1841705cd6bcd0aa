"""Row: one case on one device of one run, flattened for tables, data frames and other programs. Unknown is None.

`brief` is what a table of thousands of files holds of it; `row` adds how single samples spread, what the step told of
itself, and the case's parameters as columns of their own.
"""

import functools
import hashlib
import math
from typing import Any

from bench import stats
from bench.analyze.shared import place
from bench.analyze.summary import Ceilings, Summary
from bench.record import DeviceFacts, Host

Row = dict[str, Any]


def row(summary: Summary, roofs: Ceilings) -> Row:
    """A summary flattened, everything included. A parameter never stands in for a column of ours."""
    facts = {key: value for one in summary.valid for key, value in one.extras.items()}
    own = brief(summary, roofs) | distribution(summary) | {"facts": facts, "quarantine": None}
    return own | {name: value for name, value in summary.first.params.items() if name not in own}


def brief(summary: Summary, roofs: Ceilings) -> Row:
    """What it is, what came out, in which state the board was."""
    rate = summary.rate
    session, first = summary.session, summary.first
    facts = session.devices[first.device]
    tokens_per_s = rate[0] if rate and rate[1] == "tok/s" else None
    return {
        "file": summary.file,
        "session": session.id,
        "started": session.started,
        "date": session.started[:10],
        "device": facts.name,
        "vendor": facts.vendor,
        "chip": facts.chip,
        "machine": place.one_board(session, first.device),
        "host": _described(session.host),
        "workload": first.workload,
        "version": first.version,
        "case": summary.case,
        "dtype": first.identity.dtype,
        "launch": first.identity.launch,
        "cache": first.identity.cache,
        "duty": first.identity.duty,
        "data": first.identity.data,
        "status": summary.status,
        "reason": next((one.reason for one in summary.records if one.reason), None),
        "rounds": len(summary.valid),
        "step_s": summary.step_s,
        "spread": summary.spread,
        "rate": rate[0] if rate else None,
        "rate_unit": rate[1] if rate else None,
        "tokens_per_s": tokens_per_s,
        "flops_per_s": summary.flops_per_s,
        "bytes_per_s": summary.bytes_per_s,
        "of_measured": roofs.share(summary),
        "of_datasheet": summary.of_datasheet,
        **_utilization(summary, roofs),
        "peak_memory_bytes": max(
            (one.peak_memory_bytes for one in summary.valid if one.peak_memory_bytes), default=None
        ),
        **_power(summary),
        **_condition(summary, facts),
        "flags": summary.flags,
        "torch": session.software.get("torch"),
        "driver": facts.driver,
        "threads": session.host.threads,
        "accelmark": session.harness.version,
        "method": session.harness.method,
    }


@functools.lru_cache(maxsize=64)
def _digest(described: str) -> str:
    return hashlib.sha256(described.encode(errors="replace")).hexdigest()[:16]


def _described(host: Host) -> str:
    """A name for a host of which no name is known: equal processors with equal memory share it. Memory is rounded:
    kernels reserve a little of it, another one after each update.
    """
    return _digest(f"{host.cpu}|{host.architecture}|{host.cores}|{round(host.memory_bytes / 2**30)}")


def _power(summary: Summary) -> Row:
    """Power and energy; the uncertainty is that of the absolute energy."""
    tokens, per_step_j, net_j = summary.first.work.tokens, summary.energy_per_step_j, summary.net_energy_per_step_j
    energy = summary.metered.energy if summary.metered else None
    per_token_j = per_step_j / tokens if per_step_j is not None and tokens else None
    return {
        "power_w": summary.power_w,
        "energy_per_step_j": per_step_j,
        "net_energy_per_step_j": net_j,
        "energy_per_token_j": per_token_j,
        "tokens_per_joule": 1 / per_token_j if per_token_j else None,
        "energy_uncertainty": energy.uncertainty if energy else None,
        "energy_method": energy.method if energy else None,
        "energy_boundary": energy.boundary if energy else None,
    }


def _condition(summary: Summary, facts: DeviceFacts) -> Row:
    """In which state the board was: its limit and what that mostly is, clock, temperature, what held it."""
    limit_w, default_w = facts.readings.get("power_limit_w"), facts.readings.get("power_limit_default_w")
    return {
        "power_limit_w": limit_w,
        "power_limit_default_w": default_w,
        "power_limit_share": limit_w / default_w if limit_w is not None and default_w else None,
        "clock_hz": summary.clock_hz,
        "temperature_c": summary.temperature_c,
        "power_limited": summary.limited("throttle_power_cap_s"),
        "thermally_limited": summary.limited("throttle_thermal_s"),
    }


def _utilization(summary: Summary, roofs: Ceilings) -> Row:
    """MFU and HFU of the datasheet's peak and of the best matrix product measured here."""
    made: Row = dict.fromkeys(("mfu_of_datasheet", "hfu_of_datasheet", "mfu_of_measured", "hfu_of_measured"))
    if summary.first.work.tokens:
        measured = roofs.flops_per_s.get(summary.first.identity.dtype)
        for name, peak in (("datasheet", summary.datasheet_flops_per_s), ("measured", measured)):
            if shares := summary.utilization(peak):
                made[f"mfu_of_{name}"], made[f"hfu_of_{name}"] = shares
    return made


def distribution(summary: Summary) -> Row:
    """How single samples spread, over all rounds: of whole steps where a workload has them, else of samples.

    Percentiles stand here only where a two-sided 95 % interval of them exists. Nothing is left out as an outlier; they
    are counted: beyond 1.5 and 3 interquartile ranges (Tukey 1977) and beyond 10 scaled median deviations.
    """
    samples = [time for one in summary.valid for time in (one.step_samples_s or one.samples_s)]
    if not samples:
        return {}
    found = stats.outliers(samples)
    percentiles = {"p90_s": 0.90, "p95_s": 0.95, "p99_s": 0.99}
    return {
        "samples": len(samples),
        "min_s": min(samples),
        "q1_s": stats.quantile(samples, 0.25),
        "median_s": stats.median(samples),
        "mean_s": math.fsum(samples) / len(samples),
        "q3_s": stats.quantile(samples, 0.75),
        **{
            name: stats.quantile(samples, p) if stats.quantile_interval(samples, p) else None
            for name, p in percentiles.items()
        },
        "outliers_mild": found.mild,
        "outliers_severe": found.severe,
        "outliers_far": found.far,
        "page_faults_per_step": max(
            (one.contention.page_faults_per_step or 0.0 for one in summary.valid if one.contention), default=None
        ),
        "slow_first": any(stats.outliers(one.samples_s).slow_first for one in summary.valid),
    }

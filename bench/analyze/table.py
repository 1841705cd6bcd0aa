"""Table: rows for people and programs from any number of result files. Plain rows; pandas only where asked for."""

import math
import operator
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench import record, stats
from bench.analyze.history import current
from bench.analyze.summary import Ceilings, Summary, ceilings, extrapolated, summarize
from bench.errors import UserError
from bench.record import ResultFile

Row = dict[str, Any]

_CONDITION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(!=|>=|<=|=|>|<|~)\s*(.+?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip


def files(paths: Iterable[str | os.PathLike[str]]) -> list[ResultFile]:
    """The result files at `paths`; a folder stands for every .jsonl below it. Raises UserError, as `expand` does."""
    return [record.read(path) for path in expand(paths)]


def expand(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are, and each .jsonl below a folder that no notice takes out. Raises UserError if there is none."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
        found += current(sorted(path.rglob("*.jsonl"))) if path.is_dir() else [path]
    if not found:
        raise UserError(f"no result files in {', '.join(map(str, paths)) or 'nothing'}: `accelmark run` makes one")
    return found


def rows(read: Iterable[ResultFile], where: str = "") -> list[Row]:
    """One row for each case, device and file, in SI units; a run that stands in two files counts once."""
    summaries = summarize(read)
    roofs = ceilings(summaries)
    everything = [*summaries, *extrapolated(summaries)]
    made = [row(summary, roofs[summary.session.id, summary.first.device]) for summary in everything]
    wanted = _filter(where, made)
    return [one for one in made if wanted(one)]


def row(summary: Summary, roofs: Ceilings) -> Row:
    """A summary flattened; unknown is None."""
    rate = summary.rate
    session, first = summary.session, summary.first
    facts = session.devices[first.device]
    own = {
        "file": summary.file,
        "session": session.id,
        "started": session.started,
        "device": facts.name,
        "vendor": facts.vendor,
        "chip": facts.chip,
        "workload": first.workload,
        "case": summary.case,
        "launch": first.identity.launch,
        "cache": first.identity.cache,
        "status": summary.status,
        "reason": next((one.reason for one in summary.records if one.reason), None),
        "rounds": len(summary.valid),
        "step_s": summary.step_s,
        "spread": summary.spread,
        "rate": rate[0] if rate else None,
        "rate_unit": rate[1] if rate else None,
        "flops_per_s": summary.flops_per_s,
        "bytes_per_s": summary.bytes_per_s,
        **distribution(summary),
        "of_measured": roofs.share(summary),
        "of_datasheet": summary.of_datasheet,
        **_utilization(summary, roofs),
        "peak_memory_bytes": max(
            (one.peak_memory_bytes for one in summary.valid if one.peak_memory_bytes), default=None
        ),
        **_power(summary),
        "facts": {key: value for one in summary.valid for key, value in one.extras.items()},
        "flags": summary.flags,
        "torch": session.software.get("torch"),
        "driver": facts.driver,
        "threads": session.host.threads,
        "accelmark": session.harness.version,
        "method": session.harness.method,
    }
    return own | {name: value for name, value in first.params.items() if name not in own}


def _power(summary: Summary) -> Row:
    """Power, energy and the state of the board under load; the uncertainty is that of the absolute energy."""
    tokens, per_step_j, net_j = summary.first.work.tokens, summary.energy_per_step_j, summary.net_energy_per_step_j
    energy = summary.metered.energy if summary.metered else None
    return {
        "power_w": summary.power_w,
        "energy_per_step_j": per_step_j,
        "net_energy_per_step_j": net_j,
        "energy_per_token_j": per_step_j / tokens if per_step_j is not None and tokens else None,
        "energy_uncertainty": energy.uncertainty if energy else None,
        "energy_method": energy.method if energy else None,
        "energy_boundary": energy.boundary if energy else None,
        "clock_hz": summary.clock_hz,
        "temperature_c": summary.temperature_c,
        "power_limited": summary.power_limited,
    }


def _utilization(summary: Summary, roofs: Ceilings) -> Row:
    """MFU and HFU of the datasheet's peak and of the best matrix product measured here."""
    dtype = summary.first.identity.dtype
    peaks = {"datasheet": summary.datasheet_flops_per_s, "measured": roofs.flops_per_s.get(dtype)}
    found = {name: summary.utilization(peak) for name, peak in peaks.items()}
    return {
        f"{kind}_of_{name}": shares[place] if shares else None
        for name, shares in found.items()
        for place, kind in enumerate(("mfu", "hfu"))
    }


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


def pivot(made: list[Row], by: str) -> tuple[list[str], list[list[Any]]]:
    """Cases down, values of field `by` across, rows in the cells; of several runs in one cell the latest."""
    _check_field(by, made)
    columns = list(dict.fromkeys(str(one.get(by)) for one in made))
    by_device = len({one["device"] for one in made}) > 1 and not _belongs_to_device(by, made)
    cells: dict[str, dict[str, Row]] = {}
    for one in sorted(made, key=lambda one: str(one["started"])):
        name = re.sub(rf" {re.escape(by)}=\S+", "", one["case"]) + (f" on {one['device']}" if by_device else "")
        cells.setdefault(name, {})[str(one.get(by))] = one
    return columns, [[name, *(found.get(column) for column in columns)] for name, found in cells.items()]


def _belongs_to_device(by: str, made: list[Row]) -> bool:
    """Whether each value of the field comes from one device: then its columns tell the devices apart."""
    devices: dict[str, set[str]] = {}
    for one in made:
        devices.setdefault(str(one.get(by)), set()).add(one["device"])
    return all(len(names) == 1 for names in devices.values())


def frame(paths: Iterable[str | os.PathLike[str]], where: str = "") -> Any:
    """The rows as a pandas DataFrame."""
    try:
        import pandas
    except ImportError:
        raise UserError("pandas is not installed: pip install 'accelmark[table]'") from None
    return pandas.DataFrame(rows(files(paths), where))


def _check_field(field: str, made: list[Row]) -> None:
    known = dict.fromkeys(key for one in made for key in one)
    if made and field not in known:
        raise UserError(f"no row has a field '{field}': there are {', '.join(known)}")


def _filter(where: str, made: list[Row]) -> Callable[[Row], bool]:
    """Conditions joined by commas: `workload=matmul, dtype!=float32, step_s<0.01, case~m=1024`; ~ is `contains`."""
    conditions = []
    for part in filter(None, (part.strip() for part in where.split(","))):
        found = _CONDITION.fullmatch(part)
        if not found:
            raise UserError(f"'{part}' is no condition: write for example workload=matmul,step_s<0.01,device~H100")
        _check_field(found[1], made)
        conditions.append(found.groups())
    return lambda one: all(_holds(one, *condition) for condition in conditions)


def _holds(one: Row, field: str, sign: str, text: str) -> bool:
    value = one.get(field)
    if isinstance(value, list) and sign in {"=", "!="}:
        return (text in value) == (sign == "=")
    if sign == "~":
        return text.lower() in str(value).lower()
    if isinstance(value, bool | str | list) or value is None:
        return _OPERATORS[sign](str(value), text) if sign in {"=", "!="} else False
    try:
        return _OPERATORS[sign](value, float(text))
    except ValueError:
        raise UserError(f"{field} is a number, '{text}' is none") from None

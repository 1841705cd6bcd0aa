"""Show: a result file as text for people, and how any table is drawn. The `show_` modules have the rest."""

from collections.abc import Callable, Sequence
from typing import Any

from bench import units
from bench.analyze import width
from bench.analyze.table import Row, pivot
from bench.errors import UserError
from bench.record import Session
from bench.text import plain

Cells = list[list[str]]

# Stored with every model: in `show` they would say the same on every line.
_PLAIN_FACTS = {"num_parameters", "optimizer"}

_WORDS = {
    "alias_risk": "steps are as long as the power sensor's period, or a part of it: the energy may be off",
    "bad_output": "output wrong: not counted",
    "below_timer_floor": "too short for the clock",
    "ci_not_reached": "samples spread more than asked within a round",
    "ecc_uncorrectable": "memory errors that were not corrected: not counted",
    "energy_disagree": "energy counter and power differ by more than 5 %",
    "gpu_lost": "the board left the bus: not counted",
    "host_noisy": "the host was busy: other programs or guests took CPU time",
    "hw_slowdown": "the hardware slowed itself down: not counted",
    "launch_bound": "bound by launches: the host sets the pace",
    "needs_service": "the board asks for service: memory rows to be remapped, or a reset",
    "not_steady": "did not settle: the time still drifted",
    "page_faults": "page faults took more than 1 % of the time",
    "pcie_degraded": "the PCIe link ran below what it can, or repeated packets",
    "power_limited": "held by the power limit",
    "sampler_heavy": "reading the sensors took more than 1 % of the time",
    "shared_device": "other programs were on the board",
    "strong_autocorrelation": "samples not independent",
    "thermal_limited": "held by its temperature",
    "wallclock_stepped": "clock was set",
    "xid": "the driver reported an error of the board (XID): not counted",
}


def headline(session: Session, style: str = "simple") -> list[str]:
    """What was measured on what, in a few lines."""
    host, lines = session.host, []
    for number, device in enumerate(session.devices):
        memory = f", {units.gibibytes(device.memory_bytes)}" if device.memory_bytes else ""
        chip = f", chip {device.chip}" if device.chip else ""
        driver = f", driver {device.driver}" if device.driver else ""
        lines.append(f"device {number}: {device.name}{memory}{chip}{driver}")
        if said := _idle(session, number):
            lines.append(f"device {number} at rest: {said}")
    lines.append(
        f"host: {host.cpu}, {host.threads} threads, {units.gibibytes(host.memory_bytes)}, {host.system} {host.kernel}"
    )
    versions = [
        f"{name} {session.software[name]}" for name in ("torch", "cuda", "hip", "python") if name in session.software
    ]
    lines.append(f"accelmark {session.harness.version}, method {session.harness.method}, {', '.join(versions)}")
    lines.append(
        f"run {session.id}, {session.started}, suite {session.suite}, {units.several(session.rounds, 'round')}"
    )
    lines += [f"note: {finding.message}" for finding in session.preflight]
    return styled([plain(line, 300) for line in lines], style)


def _idle(session: Session, number: int) -> str:
    """Power of an idle board, as far as it was measured."""
    idle = dict(enumerate(session.idle)).get(number)
    if idle is None:
        return ""
    told = {"": idle.without_context_w, " with a context on it": idle.with_context_w}
    return ", ".join(f"{power_w:.1f} W{which}" for which, power_w in told.items() if power_w is not None)


def table(rows: Sequence[Row], style: str = "simple", *, by: str | None = None, devices: bool = False) -> str:
    """The rows as text, notes as letters that are explained below; with `by`, cases down and its values across."""
    if by:
        return tabulate(*_pivot_cells(*pivot(list(rows), by)), style)
    several = devices and len({row["device"] for row in rows}) > 1
    if style != "simple":
        return tabulate(*_cells(rows, devices=several, marks={}), style)
    distinct = list(dict.fromkeys(note for row in rows for note in notes(row)))
    marks = {note: _letter(number) for number, note in enumerate(distinct)}
    legend = [f"{mark}  {note}" for note, mark in marks.items()]
    if any(cell for row in rows for cell in _utilization(row)):
        peak = "the datasheet's dense peak, or where it is unknown of " if any(row["chip"] for row in rows) else ""
        legend.append(
            f"MFU, HFU: share of {peak}this device's best matrix product, without and with what is recomputed"
        )
    return "\n".join([tabulate(*_cells(rows, devices=several, marks=marks)), *([""] * bool(legend)), *legend])


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else str(number)


def rate(row: Row) -> str:
    """The rate with its unit: 312 TFLOP/s, 1.21 TB/s, 10,600 tok/s; launches as time for one."""
    if row["rate"] is None:
        return plain(row["status"])
    if row["rate_unit"] == "launch/s":
        return f"{units.seconds(1 / row['rate'])} each"
    if row["rate_unit"] == "tok/s":
        return f"{units.significant(row['rate'])} tok/s"
    return units.scaled(row["rate"], row["rate_unit"])


def notes(row: Row) -> list[str]:
    """Status, where it is not plain, and flags in words."""
    words = [] if row["status"] == "ok" else [f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]]
    if row.get("quarantine"):
        words.append(f"in quarantine: {row['quarantine']}")
    if (row["of_measured"] or 0) > 1.05:
        words.append(
            "above the roof: the matrix product or copy of this file was measured too slow, or with other data"
        )
    return [plain(word, 200) for word in [*words, *(_WORDS.get(flag, flag) for flag in row["flags"])]]


def distributions(rows: Sequence[Row], style: str = "simple") -> str:
    """How single samples spread, for those who look closer."""
    fields = ("min_s", "q1_s", "median_s", "mean_s", "q3_s", "p90_s", "p99_s")
    body = [
        [
            plain(row["case"]),
            str(row["samples"]),
            *(or_blank(row[field], units.seconds) for field in fields),
            str(row["outliers_far"]),
            or_blank(row["page_faults_per_step"], lambda faults: f"{faults:.2f}"),
        ]
        for row in rows
        if row.get("samples")
    ]
    header = ["samples of", "number", "min", "q1", "median", "mean", "q3", "p90", "p99", "far out", "page faults"]
    return tabulate(*without_empty(header, body), style)


def facts(rows: Sequence[Row], style: str = "simple") -> list[str]:
    """What the steps told of themselves: kernels, where the time goes, how far memory reached."""
    lines = []
    for row in rows:
        told = {name: value for name, value in row["facts"].items() if name not in _PLAIN_FACTS}
        shares = {name: value for name, value in told.items() if name.startswith("share_")}
        words = [
            f"{name.removeprefix('share_')} {units.percent(float(value), 0)}"
            for name, value in sorted(shares.items(), key=lambda item: -float(item[1]))
        ]
        words += [
            f"{name.replace('_', ' ')} {units.significant(value, 6) if isinstance(value, float | int) else value}"
            for name, value in told.items()
            if name not in shares
        ]
        if words:
            lines.append(plain(f"{row['case']}: {', '.join(words)}", 300))
    return styled(lines, style)


def power(rows: Sequence[Row], style: str = "simple") -> str:
    """What the board drew and how it was held, for those who look closer; nothing where it tells nothing."""
    body = [
        [
            plain(row["case"]),
            or_blank(row["power_w"], lambda power_w: f"{power_w:.1f} W"),
            or_blank(row["energy_per_step_j"], units.joules),
            or_blank(row["net_energy_per_step_j"], units.joules),
            or_blank(row["energy_per_token_j"], units.joules),
            or_blank(row["energy_uncertainty"], units.percent),
            plain(", ".join(filter(None, (row["energy_method"], row["energy_boundary"])))),
            or_blank(row["clock_hz"], lambda clock_hz: units.scaled(clock_hz, "Hz")),
            or_blank(row["power_limited"], lambda share: units.percent(share, 0)),
            or_blank(row["temperature_c"], lambda celsius: f"{celsius:.0f} °C"),
        ]
        for row in rows
        if any(row[name] is not None for name in ("power_w", "energy_per_step_j", "clock_hz", "temperature_c"))
    ]
    header = ["power of", "mean", "energy of a step", "less idle", "of a token", "±95 %", "by", "clock"]
    header += ["held by the power limit", "at most"]
    return tabulate(*without_empty(header, body), style) if body else ""


def wall(found: dict[str, Any], style: str = "simple") -> list[str]:
    """What a meter at the socket saw of the cases, and how its log was brought to the run's time."""
    body = [
        [
            plain(one["case"]),
            f"{one['power_w']:.1f} W",
            units.joules(one["energy_per_step_j"]),
            or_blank(one["energy_per_token_j"], units.joules),
            units.percent(one["half_width"]),
            f"{one['seconds']:.0f} s",
            or_blank(one["to_board"], lambda ratio: f"{ratio:.2f}"),
        ]
        for one in found["rows"]
    ]
    header = ["at the wall", "mean", "energy of a step", "of a token", "±95 %", "over", "to the board's own"]
    said = (
        f"the meter's clock is {found['ahead_s']:+.1f} s from this machine's, to {found['period_s']:.2g} s: its power "
        f"and the run's load correlate by {found['correlation']:.2f}; its own error is in no figure here"
    )
    short = [f"too short for this meter: {plain(case)}" for case in found["too_short"]]
    drawn = [tabulate(*without_empty(header, body), style), ""] if body else []
    return [*drawn, *styled([said, *short], style)]


def tabulate(header: list[str], body: Cells, style: str = "simple") -> str:
    """Text columns as they are: numbers stand right, and nothing that looks like one is rewritten. On a terminal that
    is narrower than the table it is brought to the terminal's width.
    """
    from tabulate import tabulate as draw

    if style == "github":
        header, body = [_markdown(cell) for cell in header], [[_markdown(cell) for cell in line] for line in body]
    align = ["left" if width.wordy(body, column) else "right" for column in range(len(header))]
    text: str = draw(body, headers=header, tablefmt=style, disable_numparse=True, colalign=align if body else None)
    room = width.of_terminal() if style == "simple" else None
    if room is not None and body and any(len(line) > room for line in text.splitlines()):
        return width.fitted(header, body, room)
    return text


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as CSV in SI units. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    import csv
    import io

    out = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_csv, fields))
    for row in rows:
        writer.writerow([_csv(row.get(field)) for field in fields])
    return out.getvalue()


def one_style(**chosen: bool) -> str | None:
    """The one output style that was asked for. Raises UserError for two."""
    asked = [name for name, wanted in chosen.items() if wanted]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} exclude each other")
    return asked[0] if asked else None


def _cells(rows: Sequence[Row], *, devices: bool, marks: dict[str, str]) -> tuple[list[str], Cells]:
    """Case, step time with its spread, rate, shares of the roofs, rounds, what to know."""
    several, digits = _apart(rows)
    header = ["device", "case", "machine", "started", "step", "±95 %", "rate", "of measured", "of datasheet"]
    header += ["MFU", "HFU", "power", "energy", "rounds", "notes"]
    body = [
        [
            plain(row["device"]) if devices else "",
            plain(row["case"]),
            plain(row["machine"]) if several else "",
            plain(row["started"][:digits].replace("T", " ")),
            or_blank(row["step_s"], units.seconds),
            or_blank(row["spread"], lambda spread: units.percent(spread) if spread <= 1 else "> 100 %"),
            rate(row),
            or_blank(row["of_measured"], lambda share: units.percent(share, 0)),
            or_blank(row["of_datasheet"], lambda share: units.percent(share, 0)),
            *_utilization(row),
            or_blank(row["power_w"], lambda power_w: f"{power_w:.0f} W"),
            _energy(row),
            str(row["rounds"]),
            (" " if marks else "; ").join(marks.get(note, note) for note in notes(row)),
        ]
        for row in rows
    ]
    return without_empty(header, body)


def _apart(rows: Sequence[Row]) -> tuple[bool, int]:
    """Whether rows of one case are of several machines, and how many digits of their start tell its runs apart."""
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cases.setdefault((row["device"], row["case"]), []).append(row)

    def tells(digits: int) -> bool:
        starts = (({row["started"][:digits] for row in own}, {row["session"] for row in own}) for own in cases.values())
        return all(len(moments) == len(runs) for moments, runs in starts)

    several = any(len({row["machine"] for row in own}) > 1 for own in cases.values())
    minute, second = len("2026-11-27T19:05"), len("2026-11-27T19:05:49")
    return several, 0 if tells(0) else minute if tells(minute) else second


def _energy(row: Row) -> str:
    """Gross energy of a token, or of a step where there are none."""
    if row["energy_per_token_j"] is not None:
        return f"{units.joules(row['energy_per_token_j'])}/tok"
    return or_blank(row["energy_per_step_j"], units.joules)


def _utilization(row: Row) -> list[str]:
    """MFU and HFU of training steps, where the two differ: of the datasheet's peak, or of the one measured here."""
    for name in ("datasheet", "measured"):
        model, hardware = row[f"mfu_of_{name}"], row[f"hfu_of_{name}"]
        if model is not None:
            return [units.percent(model, 0), units.percent(hardware, 0)] if hardware > model else ["", ""]
    return ["", ""]


def _pivot_cells(columns: list[str], lines: list[list[Any]]) -> tuple[list[str], Cells]:
    body = [[plain(name), *(rate(row) if row else "" for row in found)] for name, *found in lines]
    return ["case", *map(plain, columns)], body


def _csv(value: Any) -> Any:
    if isinstance(value, dict):
        value = [f"{key}={one}" for key, one in value.items()]
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str):
        value = plain(value, 1000)
        return f"'{value}" if value[:1] in {"=", "+", "-", "@", "＝", "＋", "－", "＠"} else value  # noqa: RUF001
    return "" if value is None else value


def _markdown(cell: str) -> str:
    """No cell of a stranger's may end the table, open a tag or a link."""
    escaped = cell.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{char}" if char in "|`[]*_" else char for char in escaped)


def styled(lines: list[str], style: str) -> list[str]:
    """Lines round a table; in Markdown as a list, because it would run them together."""
    return [f"- {_markdown(line)}" for line in lines] if style == "github" else lines


def or_blank(value: Any, say: Callable[[Any], str]) -> str:
    """A cell of what may be unknown."""
    return "" if value is None else say(value)


def without_empty(header: list[str], body: Cells) -> tuple[list[str], Cells]:
    """Columns that nobody has a value in only push the others off the screen."""
    kept = [place for place in range(len(header)) if not body or any(line[place] for line in body)]
    return [header[place] for place in kept], [[line[place] for place in kept] for line in body]

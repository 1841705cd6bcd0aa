"""Words: what stands out, in plain sentences with their numbers, the gravest first.

Each rule looks at one thing and says nothing where there is nothing to say. A reader who stops here has the message.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from bench import units
from bench.analyze.report.evidence import Evidence, Kind, Machine, Middle, Result
from bench.analyze.report.figure import percent
from bench.analyze.report.roofline import best_copy, best_products
from bench.text import plain

_APART = 0.05  # a machine this far from the median of its kind, and outside its own interval, is named
_FEWEST = 3  # machines that a median is taken of
_MOST_NAMED = 3  # of one sort; of more the number is told
_WIDE = 0.10  # half of a 95 % interval from which on a result is called wide
_LIMITED = 0.01  # share of the time, as for the flag

_FAILED = {
    "oom": "did not fit into memory",
    "timeout": "took too long",
    "crash": "crashed",
    "invalid": "gave a wrong output, or ran on hardware that slowed itself down",
}


def stands_out(evidence: Evidence) -> list[str]:
    """At most a dozen sentences."""
    rules: tuple[Callable[[Evidence], Iterator[str]], ...] = (
        _refused,
        _failed,
        _lowered,
        _held,
        _apart,
        _reach,
        _noise,
    )
    return [sentence for rule in rules for sentence in rule(evidence)]


def headline(kind: Kind) -> list[tuple[str, str]]:
    """What most people want to know of a kind of device: names and values."""
    said: list[tuple[str, str]] = []
    sheet = kind.chip
    for dtype, rate in list(best_products(kind).items())[:2]:
        peak = sheet.peak_flops_per_s(dtype) if sheet else None
        said.append((f"best product, {plain(dtype, 20)}", _with_share(units.scaled(rate, "FLOP/s"), rate, peak)))
    if copy := best_copy(kind):
        said.append(("copy", _with_share(units.scaled(copy, "B/s"), copy, sheet.memory_bytes_per_s if sheet else None)))
    for workload, name in (("train_step", "training"), ("prefill", "prefill"), ("decode", "decode")):
        found = [one for machine in kind.machines if (one := machine.best(workload, "rate"))]
        if found:
            best = max(found, key=lambda one: float(one.row["rate"]))
            model = plain(str(best.row.get("model", "")), 30)
            said.append((f"{name}, {model}", f"{units.significant(best.row['rate'])} tok/s"))
    return said


def conditions(kind: Kind) -> str:
    """How many, since when, with what: one line."""
    sessions = {one.row["session"]: one.row for machine in kind.machines for one in machine.results}
    days = sorted(plain(row["started"], 40)[:10] for row in sessions.values())
    parts = [
        count(len(kind.machines), "machine"),
        count(len(sessions), "run"),
        days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
        count(sum(len(machine.latest) for machine in kind.machines), "case"),
    ]
    limits = sorted(
        {round(limit) for machine in kind.machines if (limit := machine.facts.readings.get("power_limit_w"))}
    )
    if limits:
        parts.append(f"limit {limits[0]} W" if len(limits) == 1 else f"limits {limits[0]} to {limits[-1]} W")
    drivers = sorted({plain(machine.facts.driver, 30) for machine in kind.machines if machine.facts.driver})
    if drivers:
        parts.append(f"driver {drivers[0]}" if len(drivers) == 1 else f"{len(drivers)} drivers")
    torches = sorted({plain(str(row["torch"]), 30) for row in sessions.values() if row["torch"]})
    if torches:
        parts.append(f"torch {torches[0]}" if len(torches) == 1 else f"{len(torches)} versions of torch")
    return ", ".join(parts)


def count(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def _with_share(words: str, rate: float, peak: float | None) -> str:
    return f"{words} ({percent(rate / peak)})" if peak else words


def _refused(evidence: Evidence) -> Iterator[str]:
    if evidence.refused:
        names = ", ".join(evidence.refused[:3]) + (" and more" if len(evidence.refused) > 3 else "")
        are = "is" if len(evidence.refused) == 1 else "are"
        yield (
            f"{len(evidence.refused)} of {count(evidence.num_files, 'file')} {are} refused by the check and left out "
            f"of everything here: {names}. The reasons stand under Findings."
        )


def _failed(evidence: Evidence) -> Iterator[str]:
    statuses = Counter(one.row["status"] for one in _all(evidence) if not one.measured)
    told = [f"{statuses[status]} {words}" for status, words in _FAILED.items() if statuses[status]]
    if told:
        yield f"Of {count(sum(1 for _ in _all(evidence)), 'case')}, {'; '.join(told)}."


def _lowered(evidence: Evidence) -> Iterator[str]:
    found = []
    for kind, machine in evidence.machines:
        limit, default = (machine.facts.readings.get(name) for name in ("power_limit_w", "power_limit_default_w"))
        if limit and default and limit < 0.99 * default:
            found.append(
                f"{kind.label(machine)} is set to {limit:.0f} W of {default:.0f} W: its results are those of a "
                "board with that limit."
            )
    yield from found[:_MOST_NAMED]
    if len(found) > _MOST_NAMED:
        yield f"{len(found) - _MOST_NAMED} more are set below their usual power limit: see Machines one by one."


def _held(evidence: Evidence) -> Iterator[str]:
    for kind in evidence.kinds:
        shares = [one.row["power_limited"] for machine in kind.machines for one in machine.latest.values()]
        held = [share for share in shares if share is not None and share > _LIMITED]
        if held:
            yield (
                f"{kind.short}: the power limit held back {len(held)} of {count(len(shares), 'result')}, at most "
                f"{percent(min(1.0, max(held)))} of the time."
            )
        hot = sum("thermal_limited" in one.row["flags"] for machine in kind.machines for one in machine.latest.values())
        if hot:
            yield f"{kind.short}: its temperature held back {count(hot, 'result')}: look at cooling first."


def _apart(evidence: Evidence) -> Iterator[str]:
    """Machines that are not like others of their kind, each by the case in which that shows most clearly."""
    found = sorted(
        (-further, sentence)
        for kind in evidence.kinds
        for machine in kind.machines
        for further, sentence in [_difference(kind, machine)]
        if sentence
    )
    yield from (sentence for _, sentence in found[:_MOST_NAMED])
    if len(found) > _MOST_NAMED:
        yield f"{len(found) - _MOST_NAMED} more machines differ from others of their kind: see Machines side by side."


def _difference(kind: Kind, machine: Machine) -> tuple[float, str]:
    """By what factor it differs from the median of its kind where that is most, and the sentence, if it matters."""
    apart: list[tuple[float, float, str]] = []
    for key, results in kind.results().items():
        one = machine.latest.get(key)
        if len(results) >= _FEWEST and one and one.measured:
            ratio = one.row["step_s"] / Middle.of([other.row["step_s"] for other in results]).median
            further = max(ratio, 1 / ratio)
            if further > 1 + max(_APART, 2 * (one.row["spread"] or 0.0)):
                apart.append((further, ratio, plain(one.row["case"], 80)))
    if not apart:
        return 1.0, ""
    further, ratio, case = max(apart)
    how = f"{percent(further - 1)} {'slower' if ratio > 1 else 'faster'}"
    return further, (
        f"{kind.label(machine)} differs from others of its kind in {count(len(apart), 'case')}, most in {case}: "
        f"{how} than their median."
    )


def _reach(evidence: Evidence) -> Iterator[str]:
    """How much of what is sold is delivered, over all kinds that the catalog has."""
    shares: list[tuple[float, str]] = []
    for kind in evidence.kinds:
        for dtype, rate in list(best_products(kind).items())[:1]:
            peak = kind.chip.peak_flops_per_s(dtype) if kind.chip else None
            if peak:
                shares.append((rate / peak, f"{percent(rate / peak)} on {kind.short} ({plain(dtype, 20)})"))
    shares.sort(reverse=True)
    if len(shares) == 1:
        yield f"Of the datasheet's peak the best matrix product reaches {shares[0][1]}."
    elif shares:
        yield f"Of the datasheet's peak the best matrix product reaches from {shares[-1][1]} to {shares[0][1]}."


def _noise(evidence: Evidence) -> Iterator[str]:
    measured = [one for one in _all(evidence) if one.measured]
    wide = sum((one.row["spread"] or 0.0) > _WIDE for one in measured)
    if measured and wide > len(measured) / 10:
        yield (
            f"{wide} of {count(len(measured), 'result')} have a 95 % interval wider than ±{percent(_WIDE)}: "
            "smaller differences than that mean nothing there."
        )
    busy = sum("host_noisy" in one.row["flags"] for one in measured)
    if measured and busy > len(measured) / 10:
        yield f"The host was busy with other things in {busy} of {count(len(measured), 'result')}."


def _all(evidence: Evidence) -> Iterator[Result]:
    return (one for _, machine in evidence.machines for one in machine.latest.values())


def who(evidence: Evidence) -> str:
    """What machines these are, as one sentence."""
    machines = count(len(evidence.machines), "machine")
    kinds = f" of {len(evidence.kinds)} kinds" if len(evidence.kinds) > 1 else ""
    cases = sum(len(machine.latest) for _, machine in evidence.machines)
    results = sum(len(machine.results) for _, machine in evidence.machines)
    latest = f"; of each case the latest is drawn, {cases} of them" if results > cases else ""
    return f"{machines}{kinds}, {count(results, 'result')} from {count(evidence.num_files, 'file')}{latest}."

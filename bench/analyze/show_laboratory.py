"""Show a laboratory: what is here, what can be measured, and what a run would do, as text for people."""

from collections import Counter
from typing import Any

from bench import units
from bench.analyze import show
from bench.text import plain

# Cases that are not measured for one and the same reason have a line each up to so many.
_MOST_LINES = 6


def devices(document: dict[str, Any]) -> list[str]:
    """What is here, what can be read, what is not here and why, what will disturb."""
    host, lines = document["host"], []
    for device in document["devices"]:
        memory = f", {units.gibibytes(device['memory_bytes'])}" if device["memory_bytes"] else ""
        chip = f", chip {device['chip']}" if device["chip"] else ""
        driver = f", driver {device['driver']}" if device["driver"] else ""
        lines.append(f"{device['spec']:<10} {plain(device['name'])}{memory}{chip}{driver}")
        lines += [f"{'':10}   {plain(line)}" for line in _capabilities(device)]
    lines += ["", "not here:"]
    lines += [f"{vendor:<10} {plain(reason)}" for vendor, reason in document["absent"].items()]
    kind = "".join([", virtual machine" * bool(host["virtualisation"]), ", container" * host["container"]])
    lines += [
        "",
        f"host       {plain(host['cpu'])}, {host['cores']} cores, {host['threads']} threads used, "
        f"{units.gibibytes(host['memory_bytes'])}, {plain(host['system'])} {plain(host['kernel'])}{kind}",
        "software   " + plain(", ".join(f"{name} {version}" for name, version in document["software"].items()), 500),
        "",
    ]
    disturbing = [f"  - {plain(finding['message'], 300)}" for finding in document["findings"]]
    return lines + (["what will disturb a measurement:", *disturbing] if disturbing else ["nothing seen that disturbs"])


def workloads(rows: list[dict[str, Any]]) -> str:
    """Two lines for each: a terminal's has room for one of its two texts."""
    lines = [line for row in rows for line in ([row["name"], row["summary"]], ["", f"set: {row['parameters']}"])]
    return show.tabulate(
        ["workload", "a step, and what --set takes"], [[plain(cell, 98) for cell in line] for line in lines]
    )


def listing(rows: list[dict[str, Any]]) -> str:
    """Suites, models or chips."""
    # Where a figure comes from and other names are for --json and for the file: they would push figures off the screen.
    header = [name for name in rows[0] if name not in ("source", "aliases")] if rows else ["nothing"]
    body = [[_listed(name, row[name]) for name in header] for row in rows]
    return show.tabulate([name.replace("_", " ") for name in header], body)


def plan(document: dict[str, Any]) -> list[str]:
    """What will be measured, and how long it will take."""
    several = len(document["devices"]) > 1
    single = [one for one in document["skipped"] if one["reason"] not in _common(document["skipped"])]
    width = max((len(plain(one["case"])) for one in [*document["cases"], *single]), default=0)
    return [
        f"suite {document['suite']} on {plain(', '.join(document['devices']), 500)}",
        f"{units.several(len(document['cases']), 'case')} in {units.several(document['rounds'], 'round')}, "
        "each round in a fresh process: "
        f"about {units.clock(document['estimate_s'])}",
        *(
            f"  {plain(one['case']):<{width}} {units.clock(one['estimate_s']):>7}"
            + (f"  on {one['device']}" if several else "")
            for one in document["cases"]
        ),
        *_skipped(document["skipped"], width),
        *(f"note: {plain(finding['message'], 300)}" for finding in document["findings"]),
    ]


def _common(skipped: list[dict[str, Any]]) -> list[str]:
    """The reasons that so many cases share that a line for each would push the rest off the screen."""
    counts = Counter(one["reason"] for one in skipped)
    return [reason for reason, count in counts.items() if count > _MOST_LINES]


def _skipped(skipped: list[dict[str, Any]], width: int) -> list[str]:
    """A line for each case that is not measured; for many with one reason, how many there are of each workload."""
    common = _common(skipped)
    lines = [
        f"  {plain(one['case']):<{width}}  {plain(one['reason'])}" for one in skipped if one["reason"] not in common
    ]
    for reason in common:
        kinds = Counter(one["case"].partition(" ")[0] for one in skipped if one["reason"] == reason)
        told = ", ".join(f"{name} {count}" if count > 1 else name for name, count in sorted(kinds.items()))
        lines.append(f"  {units.several(kinds.total(), 'case')} {plain(reason)}: {plain(told, 2000)}")
    return lines


def _capabilities(device: dict[str, Any]) -> list[str]:
    """Readings with their values, and each reason with the quantities that it keeps away."""
    if not device["capabilities"]:
        return ["no sensors are read from this kind of device"]
    readings = [
        f"{name} {units.gibibytes(value) if name.endswith('_bytes') else units.significant(value, 4)}"
        for name, value in device["readings"].items()
    ]
    reasons: dict[str, list[str]] = {}
    for name, state in device["capabilities"].items():
        if state != "ok":
            reasons.setdefault(state, []).append(name)
    missing = [f"unknown: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return ([", ".join(readings)] if readings else []) + missing


def _listed(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_per_s"):
        return units.scaled(value, "FLOP/s" if "flops" in name else "B/s")
    if name == "memory_bytes":
        return units.gibibytes(value)
    if name == "power_w":
        return f"{value:.0f} W"
    if name in {"parameters", "active_parameters"} and isinstance(value, int):
        return f"{value:,}"
    return plain(", ".join(value) if isinstance(value, list | tuple) else str(value), 90)

"""Show verdicts: comparisons, self-checks, and findings in files and submissions, as text for people."""

from collections.abc import Sequence
from typing import Any

from bench import units
from bench.analyze import show
from bench.analyze.show import or_blank
from bench.text import plain


def comparison(document: dict[str, Any], style: str = "simple") -> list[str]:
    """Verdicts as a table, then what else differs between the sides."""
    rows, body = document["rows"], []
    for row in rows:
        interval = "{:.3f} to {:.3f}".format(*row["interval95"]) if row["interval95"] else ""
        body.append(
            [
                plain(row["case"]),
                or_blank(row["before_s"], units.seconds),
                or_blank(row["after_s"], units.seconds),
                or_blank(row["ratio"], lambda ratio: f"{ratio:.3f}"),
                interval,
                f"{row['rounds'][0]} and {row['rounds'][1]}",
                row["verdict"] + (f": {plain(row['reason'])}" if row["reason"] else ""),
            ]
        )
    lines = [*_score(document["score"]), *map(plain, document["notes"])]
    lines += [f"only before: {plain(case)}" for case in document["only_before"]]
    lines += [f"only after: {plain(case)}" for case in document["only_after"]]
    lines += [f"also differs: {plain(difference)}" for difference in document["differences"]]
    one_machine = [row for row in rows if row["verdict"] != "not comparable" and max(row["machines"]) == 1]
    if any(not row["interleaved"] for row in one_machine):
        lines.append(
            "the sides did not take turns: intervals include the machine's drift between sittings; "
            "run them alternately, several times each, to see smaller differences"
        )
    header = ["case", "before", "after", "time ratio", "95 % interval", "rounds", "verdict"]
    if not body:
        return show.styled(["no case is on both sides: nothing can be compared", *lines], style)
    return [show.tabulate(header, body, style), "", *show.styled(lines, style)]


def _score(found: dict[str, Any] | None) -> list[str]:
    """All cases as one number, or why not."""
    if found is None:
        return []
    if found["ratio"] is None:
        return [f"no ratio over all cases: {found['reason']}"]
    low, high = found["interval95"]
    reason = plain(found["reason"])
    times = f"{units.seconds(found['before_s'])} and {units.seconds(found['after_s'])}"
    return [
        f"over all {found['cases']} cases: time ratio {found['ratio']:.3f}, 95 % interval {low:.3f} to {high:.3f} "
        f"(geometric mean); one step of each took {times}" + (f"; inconclusive: {reason}" if reason else "")
    ]


def timers(readings: Sequence[dict[str, Any]]) -> str:
    """Other timers beside ours."""
    body = [
        [
            one["name"], one["mode"], or_blank(one["median_s"], units.seconds), or_blank(one["ratio"], "{:.3f}".format),
            f"{one['lowest']:.2f} to {one['highest']:.2f}", _agrees(one), plain(one["reason"]),
        ]
        for one in readings
    ]  # fmt: skip
    drawn = show.tabulate(
        *show.without_empty(["timer", "calls", "median", "to ours", "agrees from", "verdict", ""], body)
    )
    lines = [drawn, ""]
    if any(one["ratio"] is not None for one in readings):
        lines.append(
            "to ours: each reading by our reading of the same turn, the median of the turns; not median by median"
        )
    if any(one["passed"] is False and not one["broken"] for one in readings):
        lines.append("on a busy machine timers differ by what others took meanwhile: stop other programs and repeat")
    return "\n".join(lines).rstrip()


def _agrees(reading: dict[str, Any]) -> str:
    if reading["passed"] is None:
        return "not applicable"
    return "agrees" if reading["passed"] else "FAILED" if reading["broken"] else "DIFFERS"


def verdicts(found: Sequence[dict[str, Any]]) -> str:
    """One line for each thing that must hold."""
    body = [[plain(one[key]) for key in ("name", "measured", "required", "verdict")] for one in found]
    return show.tabulate(["check", "measured", "required", "verdict"], body)


def findings(found: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """One line for each finding, and one for each file."""
    lines = []
    for name in map(plain, names):
        own = [finding for finding in found if finding["file"] == name]
        lines += [
            f"{name}{', line ' + str(one['line']) if one['line'] else ''}: {one['level']}: {one['message']}"
            for one in own
        ]
        levels = [one["level"] for one in own]
        say = "refused" if "error" in levels else "accepted"
        if "quarantine" in levels:
            say += "; nothing is calibrated by the cases in quarantine until somebody has looked"
        lines.append(f"{name}: {say}")
    return lines


def submission(document: dict[str, Any]) -> list[str]:
    """What was found in a run, what was taken out of it and what became of it: for standard error."""
    lines = [
        f"{one['file']}{', line ' + str(one['line']) if one['line'] else ''}: {one['level']}: {one['message']}"
        for one in document["findings"]
    ]
    if document["refused"]:
        return [*lines, "refused: nothing was written"]
    removed = ", ".join(f"{count} with a {kind}" for kind, count in sorted(document["removed"].items()))
    lines.append(f"taken out of its texts: {removed or 'nothing, there was nothing that identifies'}")
    lines += [f"{one['file']} is there already, as it would be written" for one in document["files"] if one["old"]]
    if document["proven"] is False:
        lines.append(
            "this computer did not submit that run, so the notice proves nothing: those who keep the table must ask"
        )
    if document["commit"]:
        lines.append(f"committed as {document['commit'][:12]}; push it with: {document['git'][-1]}")
    return [plain(line, 700) for line in lines]

"""Answers of `estimate` and `plan` as text: the figure, how far it may be off, what it rests on, how to verify it."""

from typing import Any

from bench import units
from bench.text import plain

Document = dict[str, Any]
_WIDTH = 14


def training(document: Document) -> list[str]:
    """`estimate train` and `estimate finetune` for people."""
    memory = document["memory"]
    batch = f"global batch {document['global_batch']} x {document['seq']} tokens"
    chosen = f"; the fastest of {document['num_layouts']} that fit" if document["num_layouts"] > 1 else ""
    lines = [
        _line("fits", f"{units.gibibytes(memory['bytes'])} of {units.gibibytes(memory['capacity_bytes'])} a device, "
              f"{units.percent(memory['probability_of_oom'], 0)} chance of running out"),
        _line("layout", f"{_layout(document)}, {batch}{chosen}"),
        _line("step", _spread(document["step_s"], units.seconds)),
        _line("throughput", _throughput(document)),
        _line("time", _spread(document["days"], _days)),
        _line("energy", _amount(document, "energy_kwh", _energy)),
        _line("electricity", _amount(document, "electricity", _money, "energy_kwh")),
        _line("rent", _amount(document, "money", _money)),
        _line("carbon", _amount(document, "carbon_kg", _mass, "energy_kwh")),
    ]  # fmt: skip
    return [_question(document), "", *lines, "", *_basis(document)]


def serving(document: Document) -> list[str]:
    """`estimate serve` for people."""
    memory = document["memory"]
    lines = [
        _line("fits", f"{units.gibibytes(memory['bytes'])} of {units.gibibytes(memory['capacity_bytes'])} a device; "
              f"up to {memory['largest_batch']} requests at a time"),
        _line("first token", _spread(document["ttft_s"], units.seconds) + ", without a queue"),
        _line("next token", _spread(document["tpot_s"], units.seconds)),
        _line("throughput", _spread(document["tokens_per_s"], lambda value: f"{units.significant(value)} tok/s")
              + f" for {document['batch']} at a time"),
        _line("energy per tok", _amount(document, "joules_per_token", units.joules)),
        _line("electricity", _per_million(document, "electricity_per_million_tokens", _money, "joules_per_token")),
        _line("rent", _per_million(document, "money_per_million_tokens", _money)),
        _line("carbon", _per_million(document, "carbon_kg_per_million_tokens", _mass, "joules_per_token")),
    ]  # fmt: skip
    if copies := document["copies"]:
        each = "one device" if copies["tp"] == 1 else f"{copies['tp']} devices"
        lines.append(
            _line("copies", f"{copies['num_copies']} on {each} each (--tp {copies['tp']}): "
                  f"{units.significant(copies['tokens_per_s'])} tok/s for {copies['num_copies'] * document['batch']} "
                  f"at a time, next token {units.seconds(copies['tpot_s'])}")
        )  # fmt: skip
    if users := document.get("users"):
        share = users["share_of_one_replica"]
        part, whole = f"{units.percent(share, 0)} of one replica", f"what {units.significant(share)} replicas give"
        much = part if share <= 1 else whole
        lines.append(
            _line("users", f"{users['users']:,} x {users['requests_per_hour']:g} requests an hour ask for {much}: "
                  f"take {users['replicas']:,}")
        )  # fmt: skip
    asked = (
        f"{plain(document['model'])}, {units.count(document['num_parameters'])} parameters, weights "
        f"{plain(document['weights'])}: {units.several(document['batch'], 'request')} of "
        f"{document['prompt']} + {document['output']} tokens on {document['num_devices']} x {plain(document['device'])}"
    )
    asked += "".join(f", {name} {document[name]}" for name in ("tp", "pp") if document[name] > 1)
    asked += f", one replica of {document['num_replicas']}" if document["num_replicas"] > 1 else ""
    return [asked, "", *lines, "", *_basis(document)]


def plan(document: Document) -> list[str]:
    """`plan` for people."""
    from bench.analyze.show import tabulate  # an estimate has no table and should not wait for it

    lines = [
        f"{document['num_devices']} x {plain(document['device'])}, {plain(document['limit'])}: what can be trained",
        "",
        tabulate(_HEADERS, [_trained(row) for row in document["models"]]),
        "",
    ]
    if document["what_if"]:
        lines += ["what would change it:", tabulate(_HEADERS, [_trained(row) for row in document["what_if"]]), ""]
    if document["elsewhere"]:
        lines += [
            "the same run as the first row, on other devices, the cheapest to rent first:",
            tabulate(*_elsewhere(document["elsewhere"])),
            "",
        ]
    lines += _LEGEND
    if factor := document["factor80"]:
        wide = f", {document['factor90']:.2f} in nine" if document["factor90"] else ""
        lines += [f"how sure: tokens are right within a factor of {factor:.2f} in eight of ten such plans{wide}"]
    lines += [f"rent or buy: {plain(document['rent_or_buy'], 300)}"]
    lines += [f"loss: {plain(document['scaling_law'], 300)}"]
    return [*lines, *_basis(document)]


_LEGEND = [
    "least loss: the best model that these machines reach; smaller, longer: nearly as good, cheaper to run ever after",
    "layout: dp devices with a copy of the model each, tp that share each layer, pp that have some layers each; zero1, "
    "zero2, zero3: copies share the optimizer's states, gradients too, weights too",
]
_HEADERS = ["", "model", "tokens", "tok/param", "loss", "days", "layout", "tok/s"]


def _trained(row: Document) -> list[str]:
    if row.get("reason"):
        return [plain(row["name"]), plain(row["reason"], 120), "", "", "", "", "", ""]
    return [
        plain(row["name"]), plain(row["model"]), units.count(row["tokens"]),
        units.significant(row["tokens"] / row["num_parameters"]), f"{row['loss']:.3f}", units.significant(row["days"]),
        _layout(row), units.significant(row["tokens_per_s"]),
    ]  # fmt: skip


def _elsewhere(rows: list[Document]) -> tuple[list[str], list[list[str]]]:
    cells = [
        [
            f"{row['num_devices']} x {plain(row['device'])}", units.significant(row["days"]),
            _energy(row["energy_kwh"]) if row["energy_kwh"] else "unknown",
            _money(row["money"]) if row["money"] else "no price known", row["evidence"] or "",
        ]
        for row in rows
    ]  # fmt: skip
    return ["device", "days", "energy", "rent", "evidence"], cells


def _question(document: Document) -> str:
    return (
        f"{plain(document['model'])}, {units.count(document['num_parameters'])} parameters, "
        f"{units.count(document['tokens'])} tokens, {document['method']} in {document['precision']} on "
        f"{document['num_devices']} x {plain(document['device'])}"
    )


def _throughput(document: Document) -> str:
    mfu = document["mfu"]
    share = f", MFU {units.percent(mfu, 0)}" if mfu is not None else ""
    each = f", {units.significant(document['tokens_per_s_per_device'])} a device" if document["num_devices"] > 1 else ""
    return f"{units.significant(document['tokens_per_s'])} tok/s{each}{share}"


def _layout(document: Document) -> str:
    layout = document["layout"]
    spread = [f"{name} {layout[name]}" for name in ("dp", "tp", "pp", "cp", "ep") if layout[name] > 1]
    sharding = [] if layout["sharding"] == "none" else [layout["sharding"]]
    recompute = [] if document["recompute"] == "none" else [f"recompute {document['recompute']}"]
    return ", ".join([*spread, *sharding, f"micro-batch {document['micro_batch']}", *recompute])


def _basis(document: Document) -> list[str]:
    lines = []
    terms = [term for term in document.get("terms", []) if term.get("share") and term["share"] >= 0.005]
    if terms:
        shares = sorted(terms, key=lambda term: -term["share"])
        lines.append("where the time goes: " + ", ".join(f"{t['name']} {units.percent(t['share'], 0)}" for t in shares))
    if document.get("assumed"):
        lines += ["assumed:", *(f"  {plain(note, 200)}" for note in document["assumed"])]
    lines.append(f"evidence {document['evidence'] or 'none'}: {plain(document['basis'], 500)}")
    if document.get("power_basis"):
        lines.append(f"power: {plain(document['power_basis'], 300)}")
    lines.append(f"verify, on one such device: {plain(document['verify'], 300)}")
    return lines


def _amount(document: Document, name: str, said: Any, reason_of: str = "") -> str:
    value = document[name]
    if value is None:
        return f"unknown: {plain(document['reasons'].get(reason_of or name, 'nothing to base it on'), 200)}"
    return _spread(value, said)


def _per_million(document: Document, name: str, said: Any, reason_of: str = "") -> str:
    return _amount(document, name, said, reason_of) + (", for 1 M tokens" if document[name] else "")


def _spread(one: Document, said: Any) -> str:
    text = f"{said(one['value']):<18} {_between(one['lo80'], one['hi80'], said)} (80 %)"
    if one["lo90"] is not None:
        text += f", {_between(one['lo90'], one['hi90'], said)} (90 %)"
    return text


def _between(low: float, high: float, said: Any) -> str:
    """Two figures, their unit once where it is the same."""
    (less, _, unit), (more, _, other) = said(low).partition(" "), said(high).partition(" ")
    return f"{less} to {more} {unit}".strip() if unit == other else f"{said(low)} to {said(high)}"


def _line(name: str, text: str) -> str:
    return f"  {name:<{_WIDTH}} {text}"


def _days(value: float) -> str:
    if value < 1:
        return f"{units.significant(value * 24)} hours"
    return f"{units.significant(value)} days"


def _energy(kwh: float) -> str:
    return f"{units.significant(kwh / 1e3)} MWh" if kwh >= 1e4 else f"{units.significant(kwh)} kWh"


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _mass(kg: float) -> str:
    return f"{units.significant(kg / 1e3)} t CO2e" if kg >= 1e3 else f"{units.significant(kg)} kg CO2e"

"""Calibrated: a calibration for people, from the document that `accelmark calibrate --json` prints."""

from typing import Any

from tabulate import tabulate

from bench import units
from bench.text import plain

Document = dict[str, Any]


def lines(document: Document) -> list[str]:
    """Machine, terms, factors, full steps, power, and what nobody measured."""
    machine = document["machine"]
    cache = f", {units.gibibytes(machine['cache_bytes'])} of cache" if machine["cache_bytes"] else ""
    said = [
        f"{plain(machine['name'])}, {machine['threads']} threads{cache}, torch {plain(machine['torch'])}: "
        f"{units.several(document['num_rows'], 'case')} of {units.several(len(document['sessions']), 'session')}",
    ]
    if document["left_out"]:
        reasons = ", ".join(f"{count} {plain(reason)}" for reason, count in document["left_out"].items())
        said.append(f"left out: {reasons}")
    said += ["", *_terms(document).splitlines(), "", *_factors(document).splitlines()]
    if document["full_steps"]:
        said += ["", *_steps(document).splitlines()]
    if document["power_w"]:
        said += ["", "power: " + ", ".join(f"{name} {watts:.0f} W" for name, watts in document["power_w"].items())]
    said += ["", "not measured:"] if document["missing"] else []
    return said + [f"  {term}: {plain(what)}" for term, what in document["missing"].items()]


def _terms(document: Document) -> str:
    body = [
        [
            term["term"],
            _rate(term["value"], term["unit"]),
            _half_width(term["spread"]),
            str(term["num_rows"]),
            "" if term["median_error"] is None else units.percent(term["median_error"]),
        ]
        for term in document["terms"]
    ]
    return _table(body, ["term", "largest rate", "±95 %", "points", "fit error"], 4)


def _factors(document: Document) -> str:
    """What an operation takes inside a step, over what it takes alone; and each class of step besides."""
    names = {"train": "all training", "prefill": "all prompts", "decode": "all decoding"}
    body = [
        [names.get(name, name), f"{factor['value']:.2f}", _half_width(factor["spread"])]
        for name, factor in document["factors"].items()
    ]
    return _table(body, ["inside a step", "factor", "±95 %"], 2)


def _steps(document: Document) -> str:
    body = [
        [
            plain(step["case"]),
            units.seconds(step["measured_s"]),
            units.seconds(step["predicted_s"]),
            units.percent(step["held_out_error"], 0),
        ]
        for step in document["full_steps"]
    ]
    return _table(body, ["full step", "measured", "fitted", "error if left out"], 3)


def _rate(value: float, unit: str) -> str:
    return f"{units.seconds(1 / value)} each" if unit == "launch/s" else units.scaled(value, unit)


def _half_width(spread: float | None) -> str:
    """1.96 standard deviations of a logarithm, as a percentage."""
    return "" if spread is None else units.percent(1.96 * spread, 0)


def _table(body: list[list[str]], header: list[str], numbers: int) -> str:
    return str(tabulate(body, header, disable_numparse=True, colalign=("left", *["right"] * numbers)))

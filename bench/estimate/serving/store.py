"""Store: what was fitted to the published inference rows, as a file that ships with the package, and back again."""

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.estimate.serving.fitted import Carried, Fitted
from bench.estimate.serving.residual import Points, Scales
from bench.estimate.serving.stacks import Group

FILE = Path(__file__).parent.parent / "coefficients" / "inference.json"

_NAMES = ("variant", "stack", "model", "devices")


def text(fitted: Fitted, extra: Mapping[str, Any]) -> str:
    """The fit as JSON, a line for each entry, so that a new fit shows as a small difference."""
    names: dict[str, list[str]] = {}
    content = {
        **extra,
        "scales": dataclasses.asdict(fitted.scales),
        "groups": [dataclasses.asdict(_rounded(one)) for _, one in sorted(fitted.groups.items())],
        "carried": {name: _rows(one, names) for name, one in sorted(fitted.carried.items())},
        "names": names,
    }
    lines = [f"{json.dumps(key)}: {_block(value)}" for key, value in content.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def content() -> Any:
    """The file, read once."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@cache
def fitted() -> Fitted:
    """The fit that ships with the package."""
    import numpy as np

    stored = content()
    groups = [_group(one) for one in stored["groups"]]
    names = {key: np.array(values, object) for key, values in stored["names"].items()}
    carried = {}
    for figure, rows in stored["carried"].items():
        columns = np.array(rows, float)
        codes = {name: names[name][columns[:, index].astype(int)] for index, name in enumerate(_NAMES)}
        carried[figure] = Carried(
            rows=Points(**codes, work=columns[:, 4:7], shape=columns[:, 7:10]), weights=columns[:, 10]
        )
    return Fitted(groups={one.key: one for one in groups}, carried=carried, scales=Scales(**stored["scales"]))


def _group(stored: Mapping[str, Any]) -> Group:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Group(**fields)


def _rounded(group: Group) -> Group:
    return dataclasses.replace(
        group,
        logs=tuple(round(value, 4) for value in group.logs),
        precisions=tuple(round(value, 1) for value in group.precisions),
    )


def _rows(carried: Carried, names: dict[str, list[str]]) -> list[list[float]]:
    """One list a row: codes of its names, work, shape, weight."""
    codes = []
    for name in _NAMES:
        known = names.setdefault(name, [])
        index = {value: position for position, value in enumerate(known)}
        column = []
        for value in getattr(carried.rows, name):
            if value not in index:
                index[value] = len(known)
                known.append(str(value))
            column.append(index[value])
        codes.append(column)
    sizes = zip(carried.rows.work.tolist(), carried.rows.shape.tolist(), carried.weights.tolist(), strict=True)
    named = zip(*codes, strict=True)
    return [[*code, *work, *shape, round(weight, 4)] for code, (work, shape, weight) in zip(named, sizes, strict=True)]


def _block(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return "[\n" + ",\n".join(json.dumps(one, separators=(",", ":")) for one in value) + "\n]"
    if isinstance(value, dict) and value and isinstance(next(iter(value.values())), list | dict):
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {_block(one)}" for key, one in value.items()) + "\n}"
    return json.dumps(value, ensure_ascii=False)

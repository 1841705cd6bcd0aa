"""The commands that say what would be: `calibrate`, `estimate`, `plan`."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.commands.reading import Document, Paths, results_folder

if TYPE_CHECKING:
    from collections.abc import Container

    from bench.estimate.answer.ask import Where
    from bench.record import Key, ResultFile


def estimate_training(*, method: str = "pretrain", tokens: str | int, **options: Any) -> Document:
    """What a training run takes: `estimate train` and `estimate finetune`. `options` are the command's own."""
    from bench import units
    from bench.estimate.answer import ask
    from bench.estimate.answer.layouts import Fixed

    where, rest = _where(options)
    free = ("dp", "tp", "pp", "cp", "ep", "sharding", "recompute", "micro_batch")
    fixed = Fixed(**{name: rest.pop(name, None) for name in free})
    count = units.parse_count(tokens) if isinstance(tokens, str) else tokens
    return ask.training(ask.Training(tokens=count, method=cast(Any, method), fixed=fixed, **rest), where)


def estimate_serving(*, model: str, **options: Any) -> Document:
    """What serving a model takes: `estimate serve`. `options` are the command's own."""
    from bench.estimate.answer import ask

    where, rest = _where(options)
    defaults: Document = {
        "batch": 1, "prompt": 512, "output": 256, "tp": None, "precision": None, "weights": "full", "users": None,
        "requests_per_hour": 20.0,
    }  # fmt: skip
    return ask.serving(model, where, **{**defaults, **rest})


def estimate_rows(source: str | os.PathLike[str], target: str | os.PathLike[str], local: Any = None) -> Document:
    """One estimate for each row of a CSV, into another: how many have a number, how many a reason."""
    from bench.estimate.answer import ask

    return ask.rows(Path(source), Path(target), Path(local) if local else None)


def plan(
    *, days: float | None = None, budget_money: float | None = None, kwh: float | None = None, seq: int = 2048,
    precision: str | None = None, purchase_price: str | float | None = None, **options: Any,
) -> Document:  # fmt: skip
    """What can be trained on these machines within a limit: `plan`. `options` are the command's own."""
    from bench.estimate.answer import ask
    from bench.estimate.answer.plan import Limit

    where, rest = _where({**options, "seq": seq})
    if unknown := rest.keys() - {"seq"}:
        raise TypeError(f"plan() has no {', '.join(sorted(unknown))}")
    limit = Limit(days=days, money=budget_money, kwh=kwh)
    return ask.planned(where, limit, seq=seq, precision=cast(Any, precision), purchase=purchase_price)


def calibrate(paths: Paths = ()) -> list[Document]:
    """What single operations and whole steps take on each machine in these files, the best measured first."""
    from bench.estimate.own import calibration

    made = calibration.calibrations(*_evidence(paths or [results_folder()]))
    return [calibration.document(one) for one in made]


def _where(options: Document) -> "tuple[Where, Document]":
    """The machines and what is supposed of them, and the options that are left."""
    from bench.estimate.answer.ask import Where

    _refuse_impossible(options)
    rest = dict(options)
    paths = rest.pop("local", ())
    own, in_quarantine = _evidence(paths) if paths else ((), ())
    supposed = {
        name: rest.pop(name, None)
        for name in ("price_per_hour", "electricity_price", "pue", "carbon_intensity", "goodput")
    }
    where = Where(
        device=rest.pop("device"), count=rest.pop("count", 1), per_node=rest.pop("per_node", 8),
        link_bytes_per_s=rest.pop("link", None), network_bytes_per_s=rest.pop("network", None),
        stack=rest.pop("stack", ""), local=own, in_quarantine=in_quarantine, supposed=supposed,
    )  # fmt: skip
    return where, rest


def _evidence(paths: Paths) -> "tuple[Sequence[ResultFile], Container[Key]]":
    """The files at `paths`, and their cases that nothing may be calibrated by."""
    from bench.analyze import table as tables
    from bench.analyze.check import quarantined
    from bench.analyze.shared import history

    files = tables.files(paths)
    looked_at = {one for path in map(Path, paths) if path.is_dir() for one in history.accepted(path)}
    return files, quarantined(files, accepted=looked_at)


_FLAGS = {"lora_rank": "rank", "prompt": "input"}  # where the option is called otherwise
_COUNTS = (
    "count", "per_node", "dp", "tp", "pp", "cp", "ep", "micro_batch", "global_batch", "virtual_stages", "lora_rank",
    "seq", "batch", "prompt", "output", "users",
)  # fmt: skip
_AMOUNTS = ("link", "network", "requests_per_hour")


def _refuse_impossible(options: Document) -> None:
    """Raises UserError for a count below 1, and for an amount that is no finite number above 0."""
    from bench.errors import UserError

    for name in (*_COUNTS, *_AMOUNTS):
        value = options.get(name)
        if value is not None and not (value >= 1 if name in _COUNTS else 0 < value < math.inf):
            flag = _FLAGS.get(name, name).replace("_", "-")
            raise UserError(f"--{flag} {value}: it is {'1 or more' if name in _COUNTS else 'a number above 0'}")

"""Files as real boards would have written them: the builder's, with a device and a clock that exist."""

from collections.abc import Sequence
from typing import Any

import msgspec

from bench import chip, workload
from bench.record import Energy, Idle, Record, ResultFile, Series, Telemetry

H100 = "NVIDIA H100 80GB HBM3"
replace = msgspec.structs.replace


def board(build: Any, name: str = H100, uuid: str = "0" * 16, **fields: Any) -> Any:
    """A device with that driver name; `readings` are added to those that every board has."""
    known = chip.match(name)
    readings = {
        "power_limit_w": 700.0,
        "power_limit_default_w": 700.0,
        "clock_max_hz": 1.98e9,
        **fields.pop("readings", {}),
    }
    return replace(
        build.session().devices[0],
        **{
            "spec": "nvidia:0",
            "vendor": "nvidia",
            "name": name,
            "chip": known.name if known else None,
            "uuid_hash": uuid,
            "driver": "580.1",
            "readings": readings,
            "last_level_cache_bytes": 50 << 20,
            **fields,
        },
    )


def timed(build: Any, step_s: float | Sequence[float] = 1e-3, **fields: Any) -> Record:
    """A record of these samples, timed by events, in a window that holds them."""
    samples_s = [step_s] * 8 if isinstance(step_s, float) else list(step_s)
    fields.setdefault("version", workload.find(fields.get("workload", "matmul")).version)
    one = build.record(samples_s, **fields)
    timing = replace(one.timing, clock="event", repeats=1, window_s=sum(samples_s) * 1.005, cold_start_s=samples_s[0])
    return replace(
        one, timing=fields.get("timing", timing), started=fields.get("started", "2026-11-25T10:00:00.000+00:00")
    )


def rounds(build: Any, step_s: float, count: int = 3, **fields: Any) -> list[Record]:
    """That many rounds, a thousandth apart."""
    return [timed(build, step_s * (1 + 1e-3 * number), round=number, **fields) for number in range(count)]


def run(
    build: Any, records: Sequence[Record], *, devices: Any = None, session: str = "a" * 16, **fields: Any
) -> ResultFile:
    """The file of a run of these records on one board."""
    fields.setdefault("idle", [Idle(without_context_w=70.0, with_context_w=110.0, temperature_c=30.0)])
    made = build.file(records, devices=devices or [board(build)], id=session, **fields)
    return made  # type: ignore[no-any-return]


def metered(build: Any, power_w: float, *, told_w: float | None = None, flags: Sequence[str] = ()) -> Record:
    """A record with energy, and what the power sensor told meanwhile."""
    energy = Energy(
        joules=power_w * 5.2,
        window_s=5.2,
        method="counter_tick",
        boundary="gpu_board",
        uncertainty=0.05,
        uncertainty_same_board=0.01,
    )
    values = [told_w or power_w] * 52
    series = {"power_w": Series(t_s=[0.1 * n for n in range(52)], values=values)}
    telemetry = Telemetry(window_s=5.3, period_s=0.1, busy=0.0, series=series, changes={}, state={})
    return replace(timed(build), energy=energy, telemetry=telemetry, flags=list(flags))

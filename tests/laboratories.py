"""Result files of many machines, made up by seed: what a table of fifty labs' submissions would hold.

Each chip reaches a share of its datasheet that grows with the size of the work; each machine of it is a little faster
or slower than the next, and the third of every chip is 12 % slow, which a report must find.
"""

import math
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from bench import chip, record, workload
from bench.record import (
    DeviceFacts,
    Energy,
    Finding,
    Identity,
    Idle,
    Planned,
    Record,
    ResultFile,
    Series,
    Session,
    Telemetry,
    Work,
)  # fmt: skip

CHIPS = ("h100-sxm", "a100-sxm-80", "rtx-4090", "l40s", "mi300x", "rtx-3090", "v100-sxm2-32", "t4", "b200", "a10")
SLOW = 3  # of each chip, the machine that is slow
GOLDEN = Path(__file__).parent / "golden" / "format-1.jsonl"
replace = msgspec.structs.replace


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """About what the standard suite has."""
    for dtype in ("float32", "bfloat16"):
        for size in (256, 512, 1024, 2048, 4096, 8192):
            yield "matmul", {"m": size, "n": size, "k": size, "dtype": dtype}
    for m in (1, 16, 64, 256, 1024, 4096):
        yield "matmul", {"m": m, "n": 14336, "k": 4096, "dtype": "bfloat16"}
    for num_bytes in (1 << 20, 1 << 26, 1 << 30):
        yield "memory_copy", {"num_bytes": num_bytes, "dtype": "float32"}
    for backward in (False, True):
        for kv in (8, 32):
            for seq in (128, 512, 2048, 8192):
                shape = {"batch": 1, "num_heads": 32, "num_kv_heads": kv, "seq": seq, "head_dim": 128}
                yield "attention", {**shape, "dtype": "bfloat16", "backward": backward}
    for tokens in (2048, 16384):
        yield "rms_norm", {"tokens": tokens, "hidden_size": 4096, "dtype": "bfloat16"}
        yield "swiglu", {"tokens": tokens, "intermediate_size": 14336, "dtype": "bfloat16"}
    for batch in (1, 4, 16, 64):
        for context in (512, 2048, 8192):
            yield "decode", {"model": "llama-3.2-1b", "batch": batch, "context": context, "dtype": "bfloat16"}
    for prompt in (512, 2048):
        yield "prefill", {"model": "llama-3.2-1b", "batch": 1, "prompt": prompt, "dtype": "bfloat16"}
    yield "train_step", {"model": "llama-3.2-1b", "batch": 2, "seq": 2048, "dtype": "bfloat16"}


def files(
    num_machines: int = 50, seed: int = 0, rounds: int = 2, chips: tuple[str, ...] = CHIPS
) -> Iterator[ResultFile]:
    """One file for each machine, the chips in turn."""
    golden = record.read(GOLDEN)
    like = next(one for one in golden.records if one.workload == "matmul")
    planned = [workload.case(name, params) for name, params in cases()]
    for number in range(num_machines):
        random_ = random.Random(f"{seed} {number}")
        sheet = chip.find(chips[number % len(chips)])
        slow = 1.12 if number // len(chips) + 1 == SLOW else 1.0
        session = _session(golden.session, sheet, number, rounds)
        records = []
        for round_ in range(rounds):
            for place, case in enumerate(planned):
                records.append(_record(like, case, sheet, slow * random_.gauss(1, 0.01), random_, round_, place))
        plan = [Planned(workload=case.name, params=case.params(), device=0) for case in planned]
        yield ResultFile(name=f"{number:02d}.jsonl", session=replace(session, plan=plan), records=records, torn=False)


def write(folder: Path, num_machines: int = 50, **options: Any) -> list[Path]:
    """The files on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in files(num_machines, **options):
        path = folder / file.name
        path.write_bytes(b"".join(record.encode(line) for line in (file.session, *file.records)))
        written.append(path)
    return written


def _session(golden: Session, sheet: chip.Chip, number: int, rounds: int) -> Session:
    limit_w = sheet.power_w or 300.0
    facts = DeviceFacts(
        spec="nvidia:0", vendor=sheet.vendor.lower(), name=sheet.driver_names[0], chip=sheet.name,
        uuid_hash=f"{number:016x}", memory_bytes=sheet.memory_bytes, last_level_cache_bytes=50_000_000,
        driver=f"5{50 + number % 3 * 10}.54.1{number % 10}",
        readings={"power_limit_w": limit_w, "power_limit_default_w": limit_w / (0.7 if number % 17 == 16 else 1.0)},
        capabilities={"power_w": "ok", "energy_j": "ok"},
    )  # fmt: skip
    return replace(
        golden, id=f"{number:016x}", started=f"2026-11-{1 + number // 2 % 28:02d}T10:00:00+00:00", rounds=rounds,
        suite="standard", devices=[facts], speeds=[],
        idle=[Idle(without_context_w=0.1 * limit_w, with_context_w=0.15 * limit_w, temperature_c=40.0)],
        preflight=[Finding(code="virtual_machine", message="this is a virtual machine")] if number % 9 == 0 else [],
    )  # fmt: skip


def _record(like: Record, case: Any, sheet: chip.Chip, factor: float, random_: random.Random,
            round_: int, place: int) -> Record:  # fmt: skip
    params, cost = case.params(), case.cost()
    dtype = str(params["dtype"])
    peak = sheet.peak_flops_per_s(dtype) or sheet.peak_flops_per_s("float16") or 1e13
    compute_s = (cost.gemm_flops + cost.attention_flops) / peak / (0.75 if cost.gemm_flops else 0.5)
    memory_s = cost.bytes / sheet.memory_bytes_per_s / 0.9
    step_s = (max(compute_s, memory_s) + 0.2 * min(compute_s, memory_s) + 8e-6) * factor
    metered = round_ == 0 and case.name in {"train_step", "decode", "prefill", "matmul"}
    samples_s = [step_s * random_.gauss(1, 0.002) for _ in range(30)]
    assert like.timing is not None
    timing = replace(like.timing, clock="event", window_s=1.1 * math.fsum(samples_s) * like.timing.repeats)
    started = datetime(2026, 11, 1, 10, tzinfo=UTC) + timedelta(seconds=100 * round_ + place)
    ended = started + timedelta(seconds=timing.cold_start_s + timing.settle_s + timing.window_s + 6)
    return replace(
        like, workload=case.name, version=case.version, params=params, round=round_, work=Work.of(cost),
        identity=Identity(dtype=dtype, data="normal", cache="cold_rotate", duty="sustained", launch="eager"),
        samples_s=samples_s, timing=timing, extras={},
        telemetry=_telemetry(sheet, random_, metered), energy=_energy(sheet, random_) if metered else None,
        reasons=like.reasons | ({} if metered else {"energy": "measured in the first round"}),
        flags=["power_limited"] if metered and sheet.name == "h100-sxm" else [],
        started=started.isoformat(timespec="milliseconds"), ended=ended.isoformat(timespec="milliseconds"),
    )  # fmt: skip


def _telemetry(sheet: chip.Chip, random_: random.Random, metered: bool) -> Telemetry:
    window_s = 5.2 if metered else 1.0
    times = [0.1 * number for number in range(int(10 * window_s))]
    limit_w = sheet.power_w or 300.0
    power = [limit_w * (0.92 - 0.3 * math.exp(-t) + 0.02 * random_.random()) for t in times]
    clock = [1.2e9 + 0.6e9 * math.exp(-t) + 1e7 * random_.random() for t in times]
    held_s = 0.4 * window_s if sheet.name == "h100-sxm" else 0.0
    return Telemetry(
        window_s=window_s, period_s=0.1, busy=0.001, state={}, changes={"throttle_power_cap_s": held_s},
        series={
            "power_w": Series(t_s=times, values=power),
            "clock_hz": Series(t_s=times, values=clock),
            "temperature_c": Series(t_s=times[::5], values=[60.0 + t for t in times[::5]]),
        },
    )  # fmt: skip


def _energy(sheet: chip.Chip, random_: random.Random) -> Energy:
    watts = (sheet.power_w or 300.0) * (0.9 + 0.02 * random_.random())
    return Energy(
        joules=watts * 5.2, window_s=5.2, method="counter_tick", boundary="gpu_board", uncertainty=0.05,
        uncertainty_same_board=0.005,
    )  # fmt: skip


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)

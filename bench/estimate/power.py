"""Power: what devices and their node draw, from how busy a job keeps them.

    P_device / limit = idle + compute · (share of the dense peak) + memory · (share of bandwidth)
                            + communication · (share of the time waiting for links),   at most 1
    P_node (wall)    = (n · P_device + host) / efficiency of the power supplies

The weights are fitted to metered rows by least squares with no weight below zero (ML.ENERGY's servers, by the GPUs' own
counters) and kept in coefficients/power.json. Of a kind that nobody metered the mean of all is taken.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.chip import Chip
from bench.estimate import residual, serving
from bench.estimate.fitted import Carried, Estimates
from bench.estimate.inference_jobs import Case
from bench.estimate.residual import Scales

_FILE = Path(__file__).parent / "coefficients" / "power.json"

# Of a node with eight boards of 700 W: processors, memory, network cards, fans. MLPerf Training v4.0 meters 7,162 W at
# the wall for eight H100 that compute all the time, of which 8 x 700 W x 1.025 are the boards' at most; mlcommons/
# training_results_v4.0 at 6fe9543, power logs. Scaled with the number of boards.
HOST_W_PER_DEVICE = 180.0
# Direct over alternating current: the same systems metered on both sides differ by 2 to 3 % (smc-ac, smc-dc there).
SUPPLY_EFFICIENCY = 0.975


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Shares of a board's limit."""

    idle: float
    compute: float
    memory: float
    communication: float


def device_power(chip: Chip, *, compute: float, memory: float, communication: float = 0.0) -> float | None:
    """Watts of one device; None where no sheet gives its limit.

    `compute` is the share of the dense peak and `memory` that of the datasheet's bandwidth, both over all the time;
    `communication` is the share of the time spent waiting for links.
    """
    if chip.power_w is None:
        return None
    draw = draw_of(chip.generation)
    share = draw.idle + draw.compute * compute + draw.memory * memory + draw.communication * communication
    return chip.power_w * most(share)


def of_serving(cases: Sequence[Case], estimates: Estimates, carried: Carried | None, scales: Scales) -> list[float | None]:
    """Watts of all devices of each job together, without their host."""
    import numpy as np

    shares = shares_of(estimates)
    watts = [
        None
        if (one := device_power(case.stack.chip, compute=compute, memory=memory, communication=communication)) is None
        else one * case.job.devices
        for case, (compute, memory, communication) in zip(cases, shares, strict=True)
    ]
    if carried is None:
        return watts
    more, _ = residual.carried(residual.points(cases), carried.rows, carried.weights, scales)
    return [None if one is None else one * float(np.exp(left)) for one, left in zip(watts, more, strict=True)]


def shares_of(estimates: Estimates) -> Any:
    """(compute, memory, communication) of each job, over the time that it takes."""
    import numpy as np

    ideal, rates = estimates.table.ideal, estimates.rates
    prefill, step = serving.prefill_s(ideal, rates), serving.step_s(ideal, rates)
    answers = ideal.waves * (ideal.steps + 1.0)
    kind = estimates.table.kind
    alone = (kind == "prefill") | (kind == "ttft")
    decodes = np.where(alone, 0.0, 1.0)
    prefills = np.where(kind == "decode", 0.0, np.where(alone, 1.0, 1.0 / answers))
    seconds = decodes * serving.total(step) + prefills * serving.total(prefill)
    online = (kind == "online") | (kind == "output")
    seconds = np.where(online, ideal.sequences / estimates.values["rate"], seconds)
    compute = decodes * ideal.decode_flops + prefills * (ideal.prefill_flops + ideal.prefill_expert_flops)
    memory = decodes * (ideal.decode_weights + ideal.decode_experts + ideal.decode_cache) + prefills * ideal.prefill_activations
    waiting = decodes * step["communication"] + prefills * prefill["communication"]
    return np.stack([compute, memory, waiting], axis=1) / seconds[:, None]


def node_power(device_w: float, devices: int, host_w: float | None = None) -> float:
    """Watts at the wall of a node with so many devices."""
    host = HOST_W_PER_DEVICE * devices if host_w is None else host_w
    return (devices * device_w + host) / SUPPLY_EFFICIENCY


def most(share: Any) -> Any:
    """A share of the limit, held to it softly: boards are throttled as they come near."""
    return (share**-12.0 + 1.0) ** (-1.0 / 12.0)


def draw_of(generation: str) -> Draw:
    """The weights of that generation of chips, or of all."""
    known = _fitted()
    return known.get(generation, known["all"])


@cache
def _fitted() -> Mapping[str, Draw]:
    return {name: Draw(**weights) for name, weights in json.loads(_FILE.read_text(encoding="utf-8"))["draws"].items()}


def fit(shares: Any, generations: Sequence[str]) -> dict[str, Draw]:
    """Weights for each generation and for all, from rows of (compute, memory, communication, power over limit).

    Each generation is drawn towards all: it has the weight of its own rows and of `_PRIOR_ROWS` that say what all say.
    """
    import numpy as np
    from scipy.optimize import nnls

    def solve(rows: Any, more: Sequence[tuple[Any, Any]] = ()) -> Any:
        inputs = np.column_stack([np.ones(len(rows)), rows[:, :3]])
        inputs = np.concatenate([inputs / rows[:, 3:], *(block for block, _ in more)])
        return nnls(inputs, np.concatenate([np.ones(len(rows)), *(target for _, target in more)]))[0]

    names = np.array(generations)
    whole = solve(shares)
    draws = {"all": _draw(whole)}
    for name in sorted(set(generations)):
        tie = math.sqrt(_PRIOR_ROWS) * np.eye(4)
        draws[name] = _draw(solve(shares[names == name], [(tie, tie @ whole)]))
    return draws


_PRIOR_ROWS = 1.0


def _draw(weights: Any) -> Draw:
    idle, compute, memory, communication = (round(float(weight), 4) for weight in weights)
    return Draw(idle=idle, compute=compute, memory=memory, communication=communication)

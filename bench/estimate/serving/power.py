"""Power: what devices and their node draw, from how busy a job keeps them.

    P_device / limit = (1 - w) · (base + compute · √u_c + memory · √u_m) + w · waiting,   at most 1
    P_node (wall)    = (n · P_device + host) / efficiency of the power supplies

w is the share of the time that devices wait for links; u_c and u_m are the shares of the dense peak and of the
bandwidth that are used in the rest of it. The roots say that a kernel which reaches half of a peak draws more than
half of what that peak costs. The weights are fitted to metered servers by least squares with no weight below zero, and
kept in coefficients/power.json; a generation of chips that nobody metered gets those of all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.chip import Chip
from bench.estimate.serving import residual
from bench.estimate.serving import step as serving
from bench.estimate.serving.fitted import Carried, Estimates, Fitted, estimate
from bench.estimate.serving.jobs import Case
from bench.estimate.serving.residual import Scales

FILE = Path(__file__).parent.parent / "coefficients" / "power.json"

# Of a node with eight boards of 700 W: processors, memory, network cards, fans. MLPerf Training v4.0 meters 7,162 W at
# the wall for eight H100 that compute all the time, of which 8 x 700 W x 1.025 are the boards' at most; mlcommons/
# training_results_v4.0 at 6fe9543, power logs. Scaled with the number of boards.
HOST_W_PER_DEVICE = 180.0
# Of a board that waits for links: chosen so that the communication-bound nodes of the same logs, 5,808 W with 64 boards
# and 5,068 W with 512, come out if a third and two thirds of their time are waiting, which the logs do not say.
WAITING = 0.45
# Direct over alternating current: the same systems metered on both sides differ by 2 to 3 % (smc-ac, smc-dc there).
SUPPLY_EFFICIENCY = 0.975


_SOURCE = "ML.ENERGY benchmark v3, ml-energy/leaderboard at 0cd52da: the GPUs' own counters, mean over a steady state"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Shares of a board's limit."""

    base: float  # busy with kernels that neither compute nor read much
    compute: float
    memory: float


def device_power(chip: Chip, *, compute: float, memory: float, communication: float = 0.0) -> float | None:
    """Watts of one device; None where no sheet gives its limit.

    `compute` is the share of the dense peak and `memory` that of the datasheet's bandwidth, both over all the time;
    `communication` is the share of the time spent waiting for links.
    """
    if chip.power_w is None:
        return None
    return float(chip.power_w * most(share_of(draw_of(chip.generation), compute, memory, communication)))


def of_serving(
    cases: Sequence[Case], estimates: Estimates, carried: Carried | None, scales: Scales
) -> list[float | None]:
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
    memory = (
        decodes * (ideal.decode_weights + ideal.decode_experts + ideal.decode_cache)
        + prefills * ideal.prefill_activations
    )
    waiting = decodes * step["communication"] + prefills * prefill["communication"]
    return np.minimum(np.stack([compute, memory, waiting], axis=1) / seconds[:, None], [1.0, 1.0, 0.95])


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
    return {name: Draw(**weights) for name, weights in json.loads(FILE.read_text(encoding="utf-8"))["draws"].items()}


def text(draws: Mapping[str, Draw], rows: int) -> str:
    """The weights as JSON."""
    content = {"rows": rows, "source": _SOURCE, "draws": {name: asdict(draw) for name, draw in sorted(draws.items())}}
    return json.dumps(content, indent=1) + "\n"


def learn(known: Sequence[tuple[Case, float, bool]], fitted: Fitted) -> tuple[dict[str, Draw], Carried]:
    """Weights, and the remainders about them, from jobs, their watts, and whether these are of just their devices.

    Rows whose watts may hold more, idle neighbours for one, have a part in the remainders of their own stack alone.
    """
    import numpy as np

    known = [one for one in known if one[0].stack.chip.power_w]
    cases = [case for case, _, _ in known]
    measured = np.array([watts / (case.job.devices * (case.stack.chip.power_w or np.nan)) for case, watts, _ in known])
    alone = np.array([exact for _, _, exact in known])
    shares = shares_of(estimate(fitted, cases))
    generations = [case.stack.chip.generation for case in cases]
    draws = fit(shares[alone], measured[alone], [name for name, exact in zip(generations, alone, strict=True) if exact])
    given = [
        most(share_of(draws.get(name, draws["all"]), *used)) for name, used in zip(generations, shares, strict=True)
    ]
    rows = residual.points(cases)
    return draws, Carried(rows=rows, weights=residual.fit(rows, np.log(measured / np.array(given)), fitted.scales))


def share_of(draw: Draw, compute: float, memory: float, communication: float) -> float:
    """Of the limit, before it is held to it."""
    base, roots, waiting = _inputs(compute, memory, communication)
    return float(draw.base * base + draw.compute * roots[0] + draw.memory * roots[1] + WAITING * waiting)


def fit(shares: Any, measured: Any, generations: Sequence[str]) -> dict[str, Draw]:
    """Weights for each generation and for all, from (compute, memory, communication) and power over the limit.

    Each generation is drawn towards all: one row more says of each weight what all say.
    """
    import numpy as np
    from scipy.optimize import nnls

    base, roots, waiting = _inputs(*shares.T)
    inputs = np.column_stack([base, *roots]) / measured[:, None]
    target = 1.0 - WAITING * waiting / measured
    whole = nnls(inputs, target)[0]
    draws = {"all": _draw(whole)}
    names = np.array(generations)
    for name in sorted(set(generations)):
        mine = names == name
        tied = nnls(np.concatenate([inputs[mine], np.eye(3)]), np.concatenate([target[mine], whole]))[0]
        draws[name] = _draw(tied)
    return draws


def _inputs(compute: Any, memory: Any, communication: Any) -> tuple[Any, tuple[Any, Any], Any]:
    """What the weights are multiplied with: busy time, and in it the roots of the shares; and the time waiting."""
    busy = 1.0 - communication
    return busy, ((compute * busy) ** 0.5, (memory * busy) ** 0.5), 1.0 - busy


def _draw(weights: Any) -> Draw:
    base, compute, memory = (round(float(weight), 4) for weight in weights)
    return Draw(base=base, compute=compute, memory=memory)

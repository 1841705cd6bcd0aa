"""Calibration: one machine's laws and stack factors, from its result files. What estimates of its own steps rest on.

    micro rows  ──►  laws of single operations (fitting.py)  ──┐
                                                               ├──►  terms of any step  ──►  x factors  ──►  seconds
    full steps  ──►  factors of the stack (stack.py)  ─────────┘

Works with a `quick` file; more files make it better. Deterministic: the same files give the same figures.
"""

import math
import statistics
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from bench import stats, workload
from bench.errors import UserError
from bench.estimate.own import fitting, stack
from bench.estimate.own import step_memory as own_memory
from bench.estimate.own.cases import shape_of
from bench.estimate.own.fitting import TermFit
from bench.estimate.own.laws import Laws
from bench.estimate.own.observed import Machine, Observations, Observed, machines
from bench.estimate.own.operations import operations
from bench.estimate.own.stack import FullStep, StackFactors
from bench.estimate.own.step import Attend, Operation, Product, ReadCache, StepShape, Update
from bench.record import Key, ResultFile

# Full steps, and the class that each is of.
CLASSES = {
    "train_step": "train", "finetune_step": "train", "moe_train_step": "train",
    "prefill": "prefill", "decode": "decode", "moe_decode": "decode",
}  # fmt: skip
# A profiler's kinds of operations (workloads/_profile.py); all others pass over memory.
_SHARES = {"gemm": "matmul", "attention": "attention", "optimizer": "optimizer"}
# What autograd adds to a call: a node for each operation forward, and the engine's walk backward (tiny steps here).
_AUTOGRAD = 1.5
# Which load each kind of power is read from.
_POWER = {
    "matmul": ("matmul",), "memory": ("memory_copy", "memory_triad"), "train": ("train_step",),
    "prefill": ("prefill",), "decode": ("decode",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One machine, ready to predict from."""

    machine: Machine
    sessions: tuple[str, ...]
    num_rows: int
    left_out: dict[str, int]
    laws: Laws
    fits: tuple[TermFit, ...]
    stack: StackFactors
    full_steps: tuple[FullStep, ...]
    noise: float  # by how much rounds of one case differ: the median standard deviation of their logarithms
    power_w: dict[str, float]  # by class; empty where no board tells
    peaks: dict[str, tuple[float, float]]  # of full steps: bytes by own_memory.py, and as the device counted them
    missing: dict[str, str]  # terms without rows, and what to measure

    @property
    def memory_factor(self) -> float:
        """What a device allocates over what the tensors of a step come to: the median of its own full steps, else 1."""
        return stats.median([measured / counted for counted, measured in self.peaks.values()]) if self.peaks else 1.0

    def peak_bytes(self, step: StepShape) -> float:
        """Peak memory of a step of ours."""
        return own_memory.of_step(step, on_cpu=self.machine.is_cpu).num_bytes * self.memory_factor

    def terms(self, step: StepShape) -> dict[str, float]:
        """Seconds of each kind of operation by the laws alone. Raises UserError for a type that was not measured."""
        return terms(self.laws, step)


def calibrations(files: Iterable[ResultFile], in_quarantine: Container[Key] = ()) -> list[Calibration]:
    """One for each machine in the files, the one with the most rows first. Raises UserError with what is missing.

    `in_quarantine`: cases that are no evidence (`machines`).
    """
    return [calibrate(seen) for seen in machines(files, in_quarantine)]


def calibrate(seen: Observations) -> Calibration:
    """The laws and factors of one machine."""
    laws, fits = fitting.laws(seen)
    steps = [step for one in seen.rows if (step := _full_step(laws, one)) is not None]
    return Calibration(
        machine=seen.machine,
        sessions=seen.sessions,
        num_rows=len(seen.rows),
        left_out=seen.left_out,
        laws=laws,
        fits=tuple(fits),
        stack=stack.fit(steps, overlap=seen.machine.asynchronous),
        full_steps=tuple(steps),
        noise=_noise(seen),
        power_w=_powers(seen),
        peaks=_peaks(seen),
        missing=_missing(seen, steps),
    )


def terms(laws: Laws, step: StepShape) -> dict[str, float]:
    """Seconds of each kind of operation of a step."""
    if step.dtype not in laws.products:
        raise UserError(
            f"no matrix product of {step.dtype} was measured here, only of {', '.join(laws.products)}: "
            f"`accelmark run matmul --set dtype={step.dtype}`"
        )
    found = dict.fromkeys(stack.TERMS, 0.0)
    resident = _resident_bytes(step) < laws.cache_bytes / 2
    for one in operations(step):
        _check(laws, one)
        found[_term(one)] += laws.seconds(one, resident=resident)
        found["launch"] += laws.launch_s * _launches(one) * (_AUTOGRAD if step.kind == "train" else 1.0)
    return found


def _check(laws: Laws, one: Operation) -> None:
    if isinstance(one, Product) and one.weights in ("int8", "int4") and one.weights not in laws.quantised:
        raise UserError(
            f"no product with weights in {one.weights} was measured here: "
            f"`accelmark run dequantised_matmul --set weights={one.weights}`"
        )
    if isinstance(one, Attend) and not laws.attention:
        raise UserError("no attention was measured here: `accelmark run attention`")


def _term(one: Operation) -> str:
    if isinstance(one, Product):
        return "matmul"
    if isinstance(one, Attend | ReadCache):
        return "attention"
    return "optimizer" if isinstance(one, Update) else "memory"


def _launches(one: Operation) -> float:
    """Calls: of a product or an attention one; of an optimizer's step one a tensor."""
    if isinstance(one, Update):
        return float(one.tensors)
    return one.count * (getattr(one, "launches", 1.0))


def _resident_bytes(step: StepShape) -> float:
    """What a step goes through again and again: weights, with their gradients and states where it trains."""
    each = 16 if step.kind == "train" and step.method == "full" else step.width
    return each * step.model.total_parameters


def _full_step(laws: Laws, one: Observed) -> FullStep | None:
    """A measured row of a whole step; None for other rows, and for compiled steps, whose operations are fused."""
    if one.workload not in CLASSES or one.params.get("compiled") or one.launch != "eager":
        return None
    step = shape_of(workload.case(one.workload, one.params))
    try:
        found = terms(laws, step)
    except UserError:
        return None
    return FullStep(
        label=one.label,
        step_class=CLASSES[one.workload],
        kind=one.workload,
        size=float(one.cost.flops),
        terms=found,
        measured_s=one.step_s,
        noise=one.noise,
        shares=_shares(one.facts),
    )


def _shares(facts: dict[str, Any]) -> dict[str, float]:
    """Of the time of all operations, by term, as a profiler saw one step; empty where none looked on."""
    told = {name[6:]: float(value) for name, value in facts.items() if name.startswith("share_")}
    found: dict[str, float] = {}
    for name, value in told.items():
        term = _SHARES.get(name, "memory")
        found[term] = found.get(term, 0.0) + value
    return found


def _noise(seen: Observations) -> float:
    """0 where no case was measured twice."""
    return statistics.median([one.spread for one in seen.rows if one.num_rounds > 1] or [0.0])


def _powers(seen: Observations) -> dict[str, float]:
    """Watts of the board by class, the highest of its rows; idle as it was measured with a context."""
    found: dict[str, float] = {} if seen.idle_w is None else {"idle": seen.idle_w}
    for name, workloads in _POWER.items():
        told = [one.power_w for one in seen.of(*workloads) if one.power_w is not None]
        if told:
            found[name] = max(told)
    return found


def _peaks(seen: Observations) -> dict[str, tuple[float, float]]:
    found = {}
    for one in seen.of(*CLASSES):
        if one.peak_memory_bytes and not one.params.get("compiled"):
            step = shape_of(workload.case(one.workload, one.params))
            counted = own_memory.of_step(step, on_cpu=seen.machine.is_cpu).num_bytes
            found[one.label] = (counted, float(one.peak_memory_bytes))
    return found


def _missing(seen: Observations, steps: list[FullStep]) -> dict[str, str]:
    """Terms for which something else stands in, and what would measure them."""
    wanted = {
        "attention": ("attention",), "decode attention": ("decode_attention",), "optimizer": ("optimizer_step",),
        "passes over memory": ("rms_norm", "layer_norm", "rope", "swiglu", "cross_entropy", "embedding"),
        "quantised products": ("dequantised_matmul",),
    }  # fmt: skip
    found = {
        term: f"accelmark run {' '.join(name for name in names if not seen.of(name))}"
        for term, names in wanted.items()
        if not all(seen.of(name) for name in names)
    }
    found |= {
        f"factor of {name}": f"accelmark run {name if name != 'train' else 'train_step'}"
        for name in ("train", "prefill", "decode")
        if not any(step.step_class == name for step in steps)
    }
    if not any(one.power_w is not None for one in seen.rows):
        found["power"] = "no sensor of this board or host tells power: a wall meter would"
    return found | {"collectives": "no workload measures them yet, so estimates are of one device"}


def document(made: Calibration) -> dict[str, Any]:
    """As `accelmark calibrate --json` prints it."""
    laws = made.laws
    return {
        "machine": vars(made.machine),
        "sessions": list(made.sessions),
        "num_rows": made.num_rows,
        "left_out": made.left_out,
        "terms": [
            {
                "term": fit.term, "value": fit.value, "unit": fit.unit, "spread": fit.spread,
                "num_rows": len(fit.rows), "rows": list(fit.rows), "median_error": fit.median_error,
                "hull": {name: list(ends) for name, ends in fit.hull.items()},
            }
            for fit in made.fits
        ],
        "products": {dtype: vars(law) for dtype, law in laws.products.items()},
        "factors": {
            name: {"value": value, "spread": made.stack.spreads.get(name)}
            for name, value in {**made.stack.terms, **made.stack.classes, **made.stack.kinds}.items()
        },
        "noise": made.noise,
        "full_steps": [
            {
                "case": one.label, "class": one.step_class, "measured_s": one.measured_s,
                "predicted_s": math.fsum(
                    made.stack.seconds(one.terms, one.step_class, one.kind).values()
                ),
                "held_out_error": math.expm1(abs(made.stack.held_out[one.label])),
            }
            for one in made.full_steps
        ],
        "power_w": made.power_w or None,
        "peak_memory": {
            label: {"counted_bytes": counted, "measured_bytes": measured}
            for label, (counted, measured) in made.peaks.items()
        },
        "missing": made.missing,
    }  # fmt: skip

"""Possible: whether any machine can have produced a row, by the bytes and FLOPs that its tokens cannot do without.

The floor is generous. All devices work at their datasheets' peaks, the links between them cost nothing, the experts of
one token serve all, and reading hides behind arithmetic. What beats it did other work than its row says: a run that
stopped after the prompt, tokens that were counted twice, or several tokens for each reading of the weights (speculative
decoding), which estimates of serving know nothing of.
"""

from collections.abc import Mapping

from bench.estimate.serving import step as serving
from bench.estimate.serving.jobs import Case
from bench.estimate.serving.step import WEIGHT_BYTES, Serving

# Sheets are at boost clocks, boards run up to 12 % above them, and `check` allows as much. Of the published rows the
# fastest that ran as it says reaches 0.87 of the floor's rate, and the slowest of those that did not 1.9.
TOLERANCE = 1.15


def impossible(case: Case, figures: Mapping[str, float]) -> str | None:
    """Why these figures cannot be those of that row; None where they can."""
    times = max((_times_too_fast(case, name, value) for name, value in figures.items()), default=0.0)
    if times <= TOLERANCE:
        return None
    return f"{times:.3g} times as fast as the datasheet allows token by token: it stopped early, or guesses ahead"


def _times_too_fast(case: Case, figure: str, value: float) -> float:
    job = case.job
    if figure == "tpot":
        return _step_s(job) / value
    prefill = 2.0 * _batch(job) * job.prompt * _s_per_flop(job)
    prefill *= job.footprint.active_parameters - job.footprint.head_parameters
    if figure == "ttft":
        return prefill / value
    if case.kind == "offline":
        seconds = prefill + max(0.0, job.output - 1.0) * _step_s(job)
        return value * seconds / (_batch(job) * (job.prompt + job.output))
    if case.kind == "prefill":
        return value * prefill / (_batch(job) * job.prompt)
    if job.batch is None:  # how many there were at once is not known, nor then how often weights were read
        return value * 2.0 * job.footprint.active_parameters * _s_per_flop(job)
    return value * _step_s(job) / job.batch


def _batch(job: Serving) -> float:
    return job.batch or 1.0


def _step_s(job: Serving) -> float:
    """Of one decode step: the weights of a token's own experts, the caches, or the arithmetic."""
    model, batch = job.footprint, _batch(job)
    cache = batch * job.cache_bytes * model.cached(job.prompt + job.output / 2)
    read = (WEIGHT_BYTES[job.weights] * model.active_parameters + cache) / (job.chip.memory_bytes_per_s * job.devices)
    return max(read, 2.0 * batch * model.active_parameters * _s_per_flop(job))


def _s_per_flop(job: Serving) -> float:
    """Of all devices together; 0 where no sheet gives a rate, for then nothing is known to be too fast."""
    if not job.chip.flops_per_s:
        return 0.0
    return 1.0 / (serving.peak_flops_per_s(job.chip, job.weights, job.half_sums) * job.devices)

"""Ask: from the words of a command line to jobs, and from jobs to the documents that `--json` prints."""

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import chip as chips
from bench import model as models
from bench.arithmetic import Model
from bench.chip import Chip
from bench.errors import UserError
from bench.estimate.answer import assumptions, evidence, layouts, plan, scaling, sizes
from bench.estimate.answer import serving as serving_answer
from bench.estimate.answer import training as answer
from bench.estimate.answer.assumptions import Assumptions, Range
from bench.estimate.answer.layouts import Candidate, Fixed
from bench.estimate.job import Cluster, Layout, Method, Precision, ServingJob, Stack, TrainingJob
from bench.estimate.serving.step import WEIGHT_BYTES
from bench.estimate.training.frameworks import habits

if TYPE_CHECKING:
    from bench.record import Key, ResultFile

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Where:
    """The machines, as told on the command line, and what is supposed about them."""

    device: str
    count: int = 1
    per_node: int = 8
    link_bytes_per_s: float | None = None
    network_bytes_per_s: float | None = None
    stack: str = ""
    local: "Sequence[ResultFile]" = ()  # of this very machine
    in_quarantine: "Container[Key]" = ()  # cases of these files that are no evidence
    supposed: dict[str, str | float | None] = field(default_factory=dict)  # prices and overheads, as given


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run, as told on the command line; None is chosen or has a default, which the answer names."""

    model: str
    tokens: int
    method: Method = "pretrain"
    lora_rank: int = 16
    seq: int | None = None
    global_batch: int | None = None
    precision: Precision | None = None
    fixed: Fixed = field(default_factory=Fixed)
    virtual_stages: int = 1


def training(asked: Training, where: Where) -> Document:
    """The answer to `estimate train` and `estimate finetune`. Raises UserError where there is none, with the reason."""
    if asked.tokens < 1:
        raise UserError("--tokens must be 1 or more")
    model, cluster = model_of(asked.model), cluster_of(where)
    job = _training_job(asked, model, cluster, where)
    means = evidence.training_means(cluster, where.local, where.in_quarantine)
    chosen, number = _chosen(job, asked.fixed, means)
    supposed = assumed(where.supposed, cluster.chip)
    found = answer.training(asked.tokens, chosen, means, supposed)
    return {
        **answer.document(found),
        "num_layouts": number,
        "assumed": [*_stranger(where.stack, bool(habits(where.stack).framework)), *supposed.notes],
        "verify": _verify_training(chosen.job, asked.model),
    }


def serving(
    model_name: str, where: Where, *, batch: int, prompt: int, output: int, tp: int | None, precision: Precision | None,
    weights: str, users: int | None, requests_per_hour: float,
) -> Document:  # fmt: skip
    """The answer to `estimate serve`. Raises UserError where there is none, with the reason."""
    for name, value in (("--batch", batch), ("--input", prompt), ("--output", output), ("--users", users or 1)):
        if value < 1:
            raise UserError(f"{name} must be 1 or more")
    if weights not in WEIGHT_BYTES:
        raise UserError(f"no weights are stored as '{weights:.40}': there are {', '.join(WEIGHT_BYTES)}")
    model, cluster = model_of(model_name), cluster_of(where)
    width = tp or cluster.num_devices
    by_layers = evidence.splits_by_layers(where.stack)
    if by_layers and width > model.num_hidden_layers:
        raise UserError(f"{width} devices are more stages than the model has layers, {model.num_hidden_layers}")
    if not by_layers and model.num_attention_heads % width:
        raise UserError(f"tp {width} does not divide the {model.num_attention_heads} attention heads")
    if cluster.num_devices % width:
        raise UserError(f"tp {width} does not divide the {cluster.num_devices} devices")
    replica = replace(cluster, num_devices=width)
    layout = Layout(pp=width) if by_layers else Layout(tp=width)
    precision = precision or _precision(cluster.chip)
    if weights == "full" and precision in ("fp8", "fp4"):
        weights = precision
    job = ServingJob(
        model=model, cluster=replica, layout=layout, stack=Stack(framework=where.stack), prompt=prompt,
        output=output, batch=batch, precision=precision, weights=weights,
        kv_bytes=evidence.cache_bytes(where.stack, "fp32" if precision == "fp32" else weights),
    )  # fmt: skip
    means = evidence.serving_means(replica, where.local, where.in_quarantine)
    supposed = assumed(where.supposed, cluster.chip, untold=("goodput",))
    found = serving_answer.serving(job, means, supposed)
    if isinstance(found, str):
        raise UserError(f"no estimate: {found}")
    if found.largest_batch < batch:
        what = f"at most {found.largest_batch} fit" if found.largest_batch else "not even one fits"
        raise UserError(
            f"{model.name} with {batch} requests of {prompt + output} tokens does not fit on {width} x "
            f"{cluster.chip.name}: {what}; take more devices, --weights int4 or a smaller --batch"
        )
    document = {**serving_answer.document(found), "num_replicas": cluster.num_devices // width}
    document["copies"] = None if tp or by_layers else _copies(job, where, supposed, found.tokens_per_s.value)
    if users:
        share, replicas = serving_answer.replicas_for(found, users, requests_per_hour)
        document["users"] = {
            "users": users, "requests_per_hour": requests_per_hour, "share_of_one_replica": share, "replicas": replicas,
        }  # fmt: skip
    return {
        **document,
        "assumed": [*_stranger(where.stack, evidence.serves_with(where.stack)), *supposed.notes],
        "verify": _verify_serving(job, model_name),
    }


def _copies(job: ServingJob, where: Where, supposed: Assumptions, tokens_per_s: float) -> Document | None:
    """Copies of the model on fewer devices each, the fewest that it fits on, where all together serve more; or None."""
    num_devices = job.cluster.num_devices
    heads = job.model.num_attention_heads
    for tp in (tp for tp in range(1, num_devices) if num_devices % tp == 0 and heads % tp == 0):
        cluster = replace(job.cluster, num_devices=tp)
        one = replace(job, cluster=cluster, layout=Layout(tp=tp))
        means = evidence.serving_means(cluster, where.local, where.in_quarantine)
        found = serving_answer.serving(one, means, supposed)
        if not isinstance(found, str) and found.largest_batch >= job.batch:
            together = num_devices // tp * found.tokens_per_s.value
            figures = {
                "tp": tp,
                "num_copies": num_devices // tp,
                "tokens_per_s": together,
                "tpot_s": found.tpot_s.value,
            }
            return figures if together > tokens_per_s else None
    return None


def planned(
    where: Where, limit: plan.Limit, *, seq: int, precision: Precision | None, purchase: str | float | None
) -> Document:
    """The answer to `plan`. Raises UserError where there is none, with the reason."""
    bought = None if purchase is None else assumptions.parse(purchase, "purchase_price")
    if bought is not None and bought.low == 0:
        raise UserError("--purchase-price: it is above 0")
    cluster = cluster_of(where)
    asked = Training(model="1b", tokens=1, seq=seq, precision=precision)
    template = _training_job(asked, model_of("1b"), cluster, where)
    means = evidence.training_means(cluster, where.local, where.in_quarantine)
    supposed = assumed(where.supposed, cluster.chip)
    if limit.money is not None and supposed.price_per_hour is None:
        raise UserError(
            f"--budget-money needs a price, and none is known for {cluster.chip.name}: give --price-per-hour"
        )
    found = plan.best(cluster, limit, template, means, supposed)
    first = found[0]
    rows = [_trained("least loss", first)]
    rows += [_trained("smaller, longer", one) for one in plan.overtrained(found)]
    changes = plan.what_if(cluster, limit, template, means, supposed, first.num_parameters)
    others = [chips.find(name) for name in assumptions.priced() if name != cluster.chip.name]
    elsewhere = plan.cheapest(
        first.candidate.job, int(first.tokens), [(other, assumed(where.supposed, other)) for other in others], means
    )
    prediction = first.candidate.prediction
    return {
        "device": cluster.chip.name,
        "num_devices": cluster.num_devices,
        "limit": _limit(limit),
        "models": rows,
        "what_if": [
            _trained(name, one) if one else {"name": name, "reason": "nothing fits, or there is no evidence"}
            for name, one in changes
        ],
        "elsewhere": elsewhere[:8],
        "rent_or_buy": _rent_or_buy(supposed, means, first, bought),
        "scaling_law": f"{scaling.SOURCE}; differences mean more than values",
        "factor80": prediction.interval.factor80 if prediction.interval else None,
        "factor90": prediction.interval.factor90 if prediction.interval else None,
        "assumed": [*_stranger(where.stack, bool(habits(where.stack).framework)), *supposed.notes],
        "evidence": prediction.evidence,
        "basis": prediction.basis,
        "verify": _verify_training(first.candidate.job, first.candidate.job.model.name),
    }


def model_of(text: str) -> Model:
    """A model of the catalog, a .toml file or a config.json, or one given by its sizes. Raises UserError."""
    return sizes.of(text) if sizes.is_size(text) else models.find(models.adopt(text))


def cluster_of(where: Where) -> Cluster:
    """The machines. Raises UserError for a device that nobody knows, and counts that cannot be."""
    if where.count < 1 or where.per_node < 1:
        raise UserError("--count and --per-node must be 1 or more")
    found = chips.find(where.device) if where.device.endswith(".toml") else chips.resolve(where.device)
    return Cluster(
        chip=found, num_devices=where.count, devices_per_node=min(where.per_node, where.count),
        link_bytes_per_s=where.link_bytes_per_s, network_bytes_per_s=where.network_bytes_per_s,
    )  # fmt: skip


def _stranger(stack: str, known: bool) -> list[str]:
    """A note where a stack was named of which nothing is known, be it new or mistyped."""
    return [] if known or not stack else [f"stack '{stack:.40}' is not known here: taken for one like others"]


def assumed(given: dict[str, str | float | None], chip: Chip, *, untold: Collection[str] = ()) -> Assumptions:
    """Prices and overheads: as given, else by default, the price from the chip's own file or our list."""
    if chip.price_per_hour:
        price = assumptions.Range(low=chip.price_per_hour, high=chip.price_per_hour)
        own = chip.sources.get("price_per_hour", "the chip's own file")
        return assumptions.assume(given, price, own, untold=untold)
    return assumptions.assume(given, *assumptions.listed_price(chip.name), untold=untold)


def _training_job(asked: Training, model: Model, cluster: Cluster, where: Where) -> TrainingJob:
    seq = asked.seq or min(2048, model.max_position_embeddings)
    if seq < 1 or seq > model.max_position_embeddings:
        raise UserError(f"--seq {seq}: {model.name} takes 1 to {model.max_position_embeddings} tokens")
    fixed = asked.fixed
    least = (fixed.dp or 1) * (fixed.micro_batch or 1)
    batch = asked.global_batch or _default_batch(asked.method, model, seq, max(least, 1), cluster.num_devices)
    return TrainingJob(
        model=model, cluster=cluster, stack=Stack(framework=where.stack), method=asked.method,
        lora_rank=asked.lora_rank, seq=seq, micro_batch=fixed.micro_batch or 1, global_batch=batch,
        precision=asked.precision or _precision(cluster.chip), recompute=fixed.recompute or "none",
        layout=Layout(dp=cluster.num_devices, virtual_stages=asked.virtual_stages),
    )  # fmt: skip


def _default_batch(method: Method, model: Model, seq: int, least: int, devices: int) -> int:
    """The batch that models of this size were pretrained with; 64 sequences to fine-tune; at least one a device."""
    if method == "pretrain":
        return plan.global_batch_for(model.total_parameters, seq, max(least, devices))
    return least * max(1, 64 // least, -(-devices // least))


def _chosen(job: TrainingJob, fixed: Fixed, means: answer.Means) -> tuple[Candidate, int]:
    """The fastest layout that fits, and of how many. Raises UserError with what is missing."""
    named = [getattr(fixed, name) for name in ("dp", "tp", "pp", "cp")]
    if any(named):
        dp = fixed.dp or max(1, job.cluster.num_devices // ((fixed.tp or 1) * (fixed.pp or 1) * (fixed.cp or 1)))
        if all(named) or fixed.dp:
            whole = Layout(dp=dp, tp=fixed.tp or 1, pp=fixed.pp or 1, cp=fixed.cp or 1, ep=fixed.ep or 1)
            layouts.check(replace(job, layout=whole, micro_batch=fixed.micro_batch or 1))
    if fixed.tp and job.model.num_attention_heads % fixed.tp:
        raise UserError(f"tp {fixed.tp} does not divide the {job.model.num_attention_heads} attention heads")
    if fixed.pp and fixed.pp > job.model.num_hidden_layers:
        raise UserError(f"pp {fixed.pp} is more stages than the model has layers, {job.model.num_hidden_layers}")
    if fixed.ep and fixed.ep > 1 and (job.model.num_experts or 1) % fixed.ep:
        raise UserError(f"ep {fixed.ep} does not divide the model's {job.model.num_experts or 1} experts")
    found, number = layouts.fastest(job, fixed, means)
    if found:
        return found, number
    least = layouts.smallest(job, fixed, means.bytes_of)
    if least is None:
        raise UserError(
            f"no layout divides {job.cluster.num_devices} devices, {job.model.num_attention_heads} heads, "
            f"{job.model.num_hidden_layers} layers and a global batch of {job.global_batch} sequences as asked: "
            "leave out --tp, --pp, --cp, --dp or --virtual-stages, or change --global-batch"
        )
    lean, need_bytes = least
    if need_bytes > layouts.USABLE * job.cluster.chip.memory_bytes:
        raise UserError(f"it does not fit: {answer.advice(lean, need_bytes)}")
    raise UserError(f"no estimate: {means.step_of(lean).reason}")


def _precision(chip: Chip) -> Precision:
    """bf16 where the chip multiplies it, else fp16, else fp32."""
    preferred: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
    for precision in preferred:
        if chip.peak_flops_per_s(precision):
            return precision
    return "bf16"


def _trained(name: str, one: plan.Trained) -> Document:
    job = one.candidate.job
    return {
        "name": name,
        "model": job.model.name,
        "num_parameters": one.num_parameters,
        "tokens": one.tokens,
        "loss": one.loss,
        "days": one.days,
        "tokens_per_s": job.global_batch * job.seq / one.candidate.step_s,
        "num_devices": job.cluster.num_devices,
        "micro_batch": job.micro_batch,
        "global_batch": job.global_batch,
        "recompute": job.recompute,
        "layout": {key: getattr(job.layout, key) for key in ("dp", "tp", "pp", "cp", "ep", "sharding")},
    }


def _limit(limit: plan.Limit) -> str:
    if limit.days is not None:
        return f"{limit.days:g} days"
    return f"{limit.money:g} of money" if limit.money is not None else f"{limit.kwh:g} kWh"


def _rent_or_buy(supposed: Assumptions, means: answer.Means, first: plan.Trained, purchase: Range | None) -> str:
    price = supposed.price_per_hour
    power = means.power_of(first.candidate.job, first.candidate.prediction)
    if price is None or purchase is None or power is None:
        missing = [
            name for name, known in (
                ("--price-per-hour", price), ("--purchase-price", purchase), ("the board's power", power)
            ) if known is None
        ]  # fmt: skip
        return f"unknown without {' and '.join(missing)}"
    low, high = (
        plan.break_even_hours(one, price.middle, power.watts, supposed.electricity_price.middle, supposed.pue.middle)
        for one in (purchase.low, purchase.high)
    )
    if low is None or high is None:
        return f"renting at {price.middle:g} an hour costs less than the electricity of owning"
    a_year = 24 * 365.25
    return (
        f"a device bought for {_between(purchase.low, purchase.high, ',.0f')} has paid for itself after "
        f"{_between(low, high, ',.0f')} hours of use at a rent of {price.middle:g} an hour, "
        f"{_between(low / a_year, high / a_year, '.1f')} years without a pause (electricity counted; no interest, "
        "staff, space or resale)"
    )


def _between(low: float, high: float, form: str) -> str:
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"


def _verify_training(job: TrainingJob, name: str) -> str:
    if sizes.is_size(name):
        return "accelmark run --suite standard"
    workload = "train_step" if job.method == "pretrain" else f"finetune_step --set method={job.method}"
    recompute = f" --set recompute={job.recompute}" if job.recompute != "none" else ""
    return f"accelmark run {workload} --model {name} --set batch={job.micro_batch} --set seq={job.seq}{recompute}"


def _verify_serving(job: ServingJob, name: str) -> str:
    if sizes.is_size(name):
        return "accelmark run --suite standard"
    return f"accelmark run prefill decode --model {name} --set batch={job.batch}"


def rows(source: Path, target: Path, local: Path | None) -> Document:
    """`estimate --rows`: how many rows have a number now."""
    from bench.estimate.rows import estimate_rows

    return dict(estimate_rows(source, target, local))

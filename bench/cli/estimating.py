"""Commands that answer what a job will take: calibrate, estimate, plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.cli.group import Command, as_json, main, paths, print_json, print_lines

_PRECISIONS = ["fp32", "tf32", "bf16", "fp16", "fp8", "fp4"]
_PARALLEL = [("dp", "Data"), ("tp", "Tensor"), ("pp", "Pipeline"), ("cp", "Context"), ("ep", "Expert")]


def _supposed(command: Command) -> Command:
    """Adds prices, overheads and what is known of the machine."""
    options: list[Callable[[Command], Command]] = [
        click.option("--local", metavar="FILE", multiple=True, help="Result files of this very machine."),
        click.option(
            "--stack", default="", metavar="NAME", help="Framework: megatron, torch-fsdp, vllm, llama.cpp, ..."
        ),
        click.option("--per-node", default=8, metavar="N", help="Devices in a node.  [default: 8]"),
        click.option("--link", metavar="BYTES/S", type=float, help="Within a node, one way.  [default: the chip's]"),
        click.option("--network", metavar="BYTES/S", type=float, help="Between nodes, each device, one way."),
        click.option("--price-per-hour", metavar="X|X..Y", help="Rent of one device.  [default: the chip's, if known]"),
        click.option("--electricity-price", metavar="X|X..Y", help="A kWh.  [default: 0.10..0.30]"),
        click.option("--pue", metavar="X|X..Y", help="Facility by machines.  [default: 1.2..1.6]"),
        click.option("--carbon-intensity", metavar="X|X..Y", help="kg CO2e a kWh.  [default: 0.38..0.58]"),
        as_json,
    ]
    for option in reversed(options):
        command = option(command)
    return command


_goodput = click.option("--goodput", metavar="X|X..Y", help="Share of time in steps that count.  [default: 0.90..0.98]")


def _job(command: Command) -> Command:
    """Adds what decides the time of a training step."""
    options: list[Callable[[Command], Command]] = [
        click.option("--model", required=True, metavar="NAME|FILE|SIZE", help="Of the catalog, a file, 7b, layers=..."),
        click.option("--tokens", required=True, metavar="N", help="For example 1T."),
        click.option("--device", required=True, metavar="CHIP", help="A chip of the catalog, or a .toml file."),
        click.option("--count", default=1, metavar="N", help="Devices.  [default: 1]"),
        click.option("--seq", type=int, metavar="N", help="Tokens of a sequence.  [default: 2048]"),
        click.option("--micro-batch", type=int, metavar="N", help="Sequences at a time.  [default: the fastest]"),
        click.option("--global-batch", type=int, metavar="N", help="Sequences of a step.  [default: by size]"),
        click.option("--precision", type=click.Choice(_PRECISIONS), help="[default: bf16 where there is it]"),
        *(
            click.option(f"--{name}", type=int, metavar="N", help=f"{what} parallelism.  [default: the fastest]")
            for name, what in _PARALLEL
        ),
        click.option(
            "--virtual-stages", type=int, default=1, metavar="N", help="Of each pipeline stage.  [default: 1]"
        ),
        click.option("--sharding", type=click.Choice(["none", "zero1", "zero2", "zero3"]), help="zero3 is FSDP."),
        click.option("--recompute", type=click.Choice(["none", "selective", "full"]), help="[default: the least]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command(short_help="Fit what a machine's operations and steps take, for estimates.")
@paths("sources", nargs=-1)
@as_json
def calibrate(sources: tuple[Path, ...], as_json: bool) -> None:
    """Fit what operations and whole steps take on the machines in files and folders.  [default: the results folder]

    A quick run is enough, more runs make it better. Estimates for these machines rest on it.
    """
    from bench import commands
    from bench.analyze import calibrated

    documents = commands.calibrate(sources)
    if as_json:
        print_json(documents)
    else:
        print_lines(
            [line for number, one in enumerate(documents) for line in [*[""] * (number > 0), *calibrated.lines(one)]]
        )


@main.group(invoke_without_command=True, short_help="Estimate time, energy and money of a job.")
@click.option("--rows", type=click.Path(path_type=Path), metavar="FILE.csv", help="One estimate for each row.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.csv", help="Where the rows go, with --rows.")
@click.option("--local", type=click.Path(path_type=Path), metavar="FILE.csv", help="Measured rows, with --rows.")
@click.pass_context
def estimate(ctx: click.Context, rows: Path | None, out: Path | None, local: Path | None) -> None:
    """Estimate what a job takes, with an interval, the evidence behind it, and a command that verifies it."""
    from bench import commands
    from bench.errors import UserError

    if ctx.invoked_subcommand is not None:
        if rows or out or local:
            raise UserError("--rows, --out and --local before a command are for `accelmark estimate --rows` alone")
        return
    if rows is None or out is None:
        raise UserError("write estimate train, finetune or serve, or estimate --rows FILE.csv --out FILE.csv")
    print_json(commands.estimate_rows(rows, out, local))


@estimate.command("train")
@_job
@_goodput
@_supposed
def estimate_train(as_json: bool, **options: Any) -> None:
    """Estimate a pretraining run: does it fit, how long, how many kWh, how much money."""
    _estimate_training(as_json, "pretrain", 16, options)


@estimate.command("finetune")
@click.option("--method", type=click.Choice(["full", "lora", "qlora"]), required=True)
@click.option("--rank", default=16, metavar="N", help="Of LoRA's matrices.  [default: 16]")
@_job
@_goodput
@_supposed
def estimate_finetune(as_json: bool, method: str, rank: int, **options: Any) -> None:
    """Estimate a fine-tuning run: full, LoRA or QLoRA."""
    _estimate_training(as_json, method, rank, options)


def _estimate_training(as_json: bool, method: str, rank: int, options: dict[str, Any]) -> None:
    from bench import commands
    from bench.analyze import answers

    document = commands.estimate_training(method=method, lora_rank=rank, **options)
    print_json(document) if as_json else print_lines(answers.training(document))


@estimate.command("serve")
@click.option("--model", required=True, metavar="NAME|FILE|SIZE", help="Of the catalog, a file, 7b, layers=...")
@click.option("--device", required=True, metavar="CHIP", help="A chip of the catalog, or a .toml file.")
@click.option("--count", default=1, metavar="N", help="Devices.  [default: 1]")
@click.option("--batch", default=1, metavar="N", help="Requests at a time.  [default: 1]")
@click.option("--input", "prompt", default=512, metavar="N", help="Tokens of a prompt.  [default: 512]")
@click.option("--output", default=256, metavar="N", help="Tokens of an answer.  [default: 256]")
@click.option("--tp", type=int, metavar="N", help="Devices of one replica.  [default: all]")
@click.option("--precision", type=click.Choice(_PRECISIONS), help="[default: bf16 where there is it]")
@click.option("--weights", default="full", metavar="FORMAT", help="full, int8, int4, Q4_K_M, ...  [default: full]")
@click.option("--users", type=int, metavar="N", help="How many replicas so many people need.")
@click.option("--requests-per-hour", default=20.0, metavar="X", help="Of each user.  [default: 20]")
@_supposed
def estimate_serve(as_json: bool, **options: Any) -> None:
    """Estimate serving: does it fit, time to the first and the next token, tokens/s, energy and money a token."""
    from bench import commands
    from bench.analyze import answers

    document = commands.estimate_serving(**options)
    print_json(document) if as_json else print_lines(answers.serving(document))


@main.command(short_help="What these machines can train within a limit.")
@click.option("--device", required=True, metavar="CHIP", help="A chip of the catalog, or a .toml file.")
@click.option("--count", default=1, metavar="N", help="Devices.  [default: 1]")
@click.option("--days", type=float, metavar="T", help="Until when.")
@click.option("--budget-money", type=float, metavar="X", help="For rent.")
@click.option("--kwh", type=float, metavar="E", help="At the wall of the facility.")
@click.option("--seq", type=int, default=2048, metavar="N", help="Tokens of a sequence.  [default: 2048]")
@click.option("--precision", type=click.Choice(_PRECISIONS), help="[default: bf16 where there is it]")
@click.option("--purchase-price", metavar="X|X..Y", help="Of one device, to weigh renting against buying.")
@_goodput
@_supposed
def plan(as_json: bool, **options: Any) -> None:
    """Plan: the best model that these machines can train within a limit, and what would change it."""
    from bench import commands
    from bench.analyze import answers

    document = commands.plan(**options)
    print_json(document) if as_json else print_lines(answers.plan(document))

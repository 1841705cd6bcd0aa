"""Whole models from stacks of their layers, held against whole models that do fit."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench import device as devices
from bench import model, workload

FEWER, MORE, WHOLE = 2, 4, 8  # layers
SIZES: dict[str, dict[str, workload.Scalar]] = {
    "train_step": {"batch": 1, "seq": 64},
    "prefill": {"batch": 1, "prompt": 128},
    "decode": {"batch": 1, "context": 128},
}


@pytest.fixture(autouse=True)
def _eight_layers_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, because a busy machine disturbs those most that wait for one another; and a model of eight layers
    that are many times as large as its head.
    """
    monkeypatch.setenv("ACCELMARK_MODEL_FILES", "")
    path = tmp_path / "eight.toml"
    eight = dataclasses.replace(model.find("small"), vocab_size=1000, num_parameters=None)
    path.write_text(model.text(eight))
    model.adopt(str(path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def steps(name: str) -> dict[int, Any]:
    """The step of each stack and of the whole, once run."""
    (cpu,) = devices.find("cpu")
    cpu.seed(0)
    made = {
        layers: cpu.prepare(
            workload.case(name, {"model": "eight", "dtype": "float32", **SIZES[name], "layers": layers % WHOLE})
        ).run
        for layers in (FEWER, MORE, WHOLE)
    }
    for run in made.values():
        run()
    return made


def extrapolated(amounts: dict[int, float]) -> float:
    """What the whole takes by its stacks, as tables derive it."""
    return amounts[MORE] + (WHOLE - MORE) * (amounts[MORE] - amounts[FEWER]) / (MORE - FEWER)


@pytest.mark.parametrize("name", SIZES)
def test_operations_and_flop_of_a_whole_model_are_those_that_two_stacks_tell(name: str) -> None:
    calls: dict[int, float] = {}
    flops: dict[int, float] = {}
    for layers, run in steps(name).items():
        with Calls() as seen:
            run()
        with FlopCounterMode(display=False) as counted:
            run()
        calls[layers], flops[layers] = seen.count, counted.get_total_flops()
    assert extrapolated(flops) == flops[WHOLE]
    assert extrapolated(calls) == calls[WHOLE]


@pytest.mark.parametrize("name", SIZES)
def test_the_time_of_a_whole_model_is_about_what_two_stacks_tell(name: str) -> None:
    """The processor's time on one thread, within a factor of 2; METHOD.md has what a quiet machine showed."""
    made = steps(name)
    fastest = dict.fromkeys(made, float("inf"))
    for _ in range(5):
        for layers, run in made.items():
            start = time.thread_time()
            run()
            fastest[layers] = min(fastest[layers], time.thread_time() - start)
    assert 0.5 < extrapolated(fastest) / fastest[WHOLE] < 2.0


class Calls(TorchDispatchMode):  # type: ignore[misc]  # torch's types are not followed
    """Counts the operations that are called inside it."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return operation(*args, **(kwargs or {}))

"""Layouts: values stay as they are, whichever order is chosen."""

import pytest
import torch

from bench import device as devices
from bench import model
from workloads.models import layout
from workloads.models.transformer import Transformer


@pytest.mark.parametrize("columns", [True, False])
def test_a_weight_keeps_its_values_and_gets_the_faster_order(columns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_faster", lambda x_TK, first, second: columns)
    (cpu,) = devices.find("cpu")
    transformer = Transformer(model.find("tiny"), cpu, "float32", 16).requires_grad_(False)
    before = {name: weight.clone() for name, weight in transformer.state_dict().items()}
    said = layout.choose_layouts(transformer, 1)
    turned = [
        one for one in transformer.modules() if isinstance(one, torch.nn.Linear) and not one.weight.is_contiguous()
    ]
    assert bool(turned) == columns and said.startswith(f"{len(turned)} of ")
    for name, weight in transformer.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_of_weights_in_other_types_nothing_is_said() -> None:
    (cpu,) = devices.find("cpu")
    transformer = Transformer(model.find("tiny"), cpu, "bfloat16", 16).requires_grad_(False)
    assert layout.choose_layouts(transformer, 1) == ""


def test_the_order_that_is_read_faster_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([0.0, 1.0, 1.0, 3.0] + [0.0, 2.0, 2.0, 5.0] * 9)
    monkeypatch.setattr(layout.time, "perf_counter", lambda: next(calls))
    x_TK, weights = torch.ones(1, 4), [torch.ones(2, 4)]
    assert layout._faster(x_TK, weights, weights)

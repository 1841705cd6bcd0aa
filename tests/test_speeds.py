"""The first look at a device, where other programs disturb it."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from bench.device.virtual import Virtual
from bench.measure import choice, speeds


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        ({"float32": [30e9, 321e9], "float16": [50e9, 315e9]}, "float32"),  # busy, then not, as it was seen
        ({"float32": [300e9, 310e9], "bfloat16": [250e9, 600e9]}, "bfloat16"),  # busy when the narrow type had its turn
        ({"float32": [300e9], "float16": [20e9]}, "float32"),  # emulated: no second look
        ({"float32": [60e12], "bfloat16": [900e12], "float16": [890e12]}, "bfloat16"),
    ],
)
def test_a_busy_moment_does_not_choose_the_type(
    looks: dict[str, list[float]], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: dict[str, Iterator[float]] = {dtype: iter(rates) for dtype, rates in looks.items()}

    def rate(step_s: Callable[[int], float]) -> float:
        assert isinstance(step_s, partial)
        return next(left[step_s.args[0]])

    monkeypatch.setattr(speeds, "_matmul_rate", rate)
    monkeypatch.setattr(Virtual, "supports", lambda _device, dtype: dtype in looks)
    measured = speeds.measure(Virtual())
    assert choice.fast_dtype(measured) == found
    assert measured.flops_per_s == {dtype: max(rates) for dtype, rates in looks.items()}
    assert not [rate for rates in left.values() for rate in rates]  # as many looks as were expected

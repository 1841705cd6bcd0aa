"""What conditions change in a time, on simulated devices whose cache and clock are known."""

import msgspec
import pytest

from bench.device.cpu import Cpu
from bench.device.virtual import Spec, Virtual
from bench.measure import conditions


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = msgspec.structs.replace(
        conditions._PROTOCOL, settle_s=0.2, min_samples=6, min_time_s=0.01, max_time_s=0.05
    )
    monkeypatch.setattr(conditions, "_PROTOCOL", protocol)
    monkeypatch.setattr(conditions, "TURNS", 1)


@pytest.mark.parametrize(("speedup", "verdict"), [(4.0, "pass"), (1.0, "fail")])
def test_a_cache_shows_in_a_small_copy_and_not_in_a_large_one(speedup: float, verdict: str) -> None:
    small, large, _ = conditions.check(Virtual(Spec(cache_speedup=speedup, ramp_s=1e-3)))
    assert (small.name, small.verdict) == ("a copy that the cache holds", verdict)
    assert (large.name, large.verdict) == ("a copy that no cache holds", "pass")


def test_a_clock_that_falls_at_rest_shows_in_what_comes_after() -> None:
    awake = conditions._rested(Virtual(Spec(ramp_s=1e-3, idle_clock=1.0)))
    asleep = conditions._rested(Virtual(Spec(ramp_s=0.05, idle_clock=0.3)))
    assert 0.98 < float(awake.measured.split()[0]) < 1.02
    assert float(asleep.measured.split()[0]) > 1.1


def test_a_cpu_has_none_of_these() -> None:
    assert list(conditions.check(Cpu(vendor="cpu", index=0, name="a CPU", backend="cpu"))) == []

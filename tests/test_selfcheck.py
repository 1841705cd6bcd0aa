"""Self-checks: what is known is kept, whatever becomes of the worker, and what cannot be compared has its reason."""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.analyze import show_verdicts
from bench.device.cpu import Cpu
from bench.errors import Unsupported, UserError
from bench.measure import messages, peers, runner, selfcheck
from bench.measure.powercheck import Verdict
from bench.measure.progress import Silent

AGREES = peers.Agreement(name="a timer", mode="eager", median_s=1e-3, ratio=1.01, lowest=0.97, highest=1.03)
HOLDS = Verdict(name="energy grows", measured="R2 = 1", required="R2 above 0.999", verdict="pass")
CHECKS = pytest.mark.parametrize(
    ("check", "first"),
    [
        (selfcheck.timers, messages.TimerCompared(AGREES)),
        (selfcheck.power, messages.PowerChecked(HOLDS)),
    ],
)


def answers(monkeypatch: pytest.MonkeyPatch, *replies: Any) -> None:
    """A worker that answers so; an exception is what becomes of it."""
    left = list(replies)

    def reply(*_: Any) -> Any:
        one = left.pop(0)
        if isinstance(one, BaseException):
            raise one
        return one

    monkeypatch.setattr(selfcheck, "WorkerProcess", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(selfcheck, "ask", reply)
    monkeypatch.setattr(selfcheck, "answer", reply)


@CHECKS
def test_a_worker_that_dies_costs_the_rest_and_not_what_is_known(
    check: Any, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, first, UserError("the worker ended: CUDA error: device-side assert triggered"))
    known, rest = check("cpu", 0, Silent())
    assert known in (AGREES, HOLDS)
    if check is selfcheck.power:
        assert rest.verdict == "fail" and "device-side assert" in rest.measured
    else:
        assert rest.passed is False and "device-side assert" in rest.reason


@CHECKS
def test_an_interruption_keeps_what_is_known(check: Any, first: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, first, KeyboardInterrupt())
    assert check("cpu", 0, Silent()) in ([AGREES], [HOLDS])


@CHECKS
def test_where_nothing_is_known_yet_the_reason_is_for_the_user(
    check: Any, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, UserError("no nvidia device is here"))
    with pytest.raises(UserError, match="no nvidia device"):
        check("nvidia", 0, Silent())


class Driven(Cpu):
    """The CPU in the place of an accelerator that has events, no graphs and no CUDA."""

    clock = "event"

    def capture(self, run: Any) -> Any:
        raise Unsupported("no graph capture")


def timers(monkeypatch: pytest.MonkeyPatch) -> list[peers.Agreement]:
    """What the peers come to where none is really timed."""
    monkeypatch.setattr(peers, "_in_turns", lambda ours, theirs, mode, allowed: iter(()))
    return list(peers.timers(Driven(vendor="cpu", index=0, name="A Board", backend="cpu")))


def test_a_torch_whose_own_timer_lacks_a_package_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports setuptools, which a virtual environment of Python 3.12 does not have."""
    monkeypatch.setitem(sys.modules, "torch.utils.benchmark", None)
    found = {one.name: one for one in timers(monkeypatch)}
    assert found["torch.utils.benchmark"].passed is None and "torch.utils" in found["torch.utils.benchmark"].reason


def test_without_triton_its_timers_have_a_reason_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.testing", None)
    for one in timers(monkeypatch):
        assert one.passed is None and "triton" in one.name and "ModuleNotFoundError" in one.reason


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Failed to find C compiler"), AssertionError("libcuda.so cannot found!"), OSError("no gcc")],
)
def test_a_triton_that_cannot_compile_its_own_part_has_a_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do_bench(*_: Any, **__: Any) -> float:
        raise error

    testing = SimpleNamespace(do_bench=do_bench, do_bench_cudagraph=do_bench)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(testing=testing))
    monkeypatch.setitem(sys.modules, "triton.testing", testing)
    eager, graph = timers(monkeypatch)
    assert eager.passed is None and str(error) in eager.reason
    assert graph.passed is None and "no graph capture" in graph.reason
    monkeypatch.setattr(Driven, "capture", lambda self, run: run)
    _, graph = timers(monkeypatch)
    assert graph.passed is None and str(error) in graph.reason


def test_timers_that_differ_come_with_what_to_do() -> None:
    one = {"name": "x", "mode": "eager", "median_s": 1.0, "ratio": 1.1, "lowest": 0.97, "highest": 1.03, "reason": ""}
    differs = show_verdicts.timers([{**one, "passed": False, "broken": False}])
    assert differs.endswith("stop other programs and repeat")
    agrees = show_verdicts.timers([{**one, "passed": True, "broken": False}])
    assert "repeat" not in agrees and "of the same turn" in agrees


def test_a_profiler_that_sees_no_kernel_is_no_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Cpu(vendor="cpu", index=0, name="A Board", backend="cpu")
    monkeypatch.setattr(peers, "LARGE", 64)
    (one,) = peers._kernels(device)
    assert one.passed is None and "no kernel" in one.reason


@pytest.mark.parametrize(("kernel_us", "passed"), [(990.0, True), (1005.0, True), (900.0, False), (1100.0, False)])
def test_kernels_alone_take_what_our_timer_reads_less_small_gaps(
    kernel_us: float, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 1 ms has one kernel; what a profiler says of the host's side does not count."""
    ran: list[int] = []

    class Profile:
        def __init__(self, **_: Any) -> None:
            self.before = len(ran)

        def __enter__(self) -> "Profile":
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def key_averages(self) -> list[Any]:
            calls = len(ran) - self.before
            kernel = SimpleNamespace(
                device_type="DeviceType.CUDA", self_device_time_total=calls * kernel_us, count=calls
            )
            host = SimpleNamespace(device_type="DeviceType.CPU", self_device_time_total=1e9, count=calls)
            return [host, kernel]

    monkeypatch.setattr("torch.profiler.profile", Profile)
    monkeypatch.setattr(peers, "_product", lambda *_: lambda: ran.append(1))
    monkeypatch.setattr(peers, "_host_loop", lambda *_: 0.0)
    monkeypatch.setattr(peers.timer, "measure", lambda *_: SimpleNamespace(median_s=1e-3))
    ours, theirs = peers._kernels(Cpu(vendor="cpu", index=0, name="A Board", backend="cpu"))
    assert ours.ratio == 1.0 and theirs.ratio == pytest.approx(kernel_us / 1000)
    assert theirs.passed is passed
    assert theirs.lowest == pytest.approx(1 - peers.AGREEMENT - peers.KERNEL_GAP_S / 1e-3)


def test_the_table_tells_a_reason_from_a_difference() -> None:
    def document(one: peers.Agreement) -> dict[str, Any]:
        return {"passed": one.passed, **{name: getattr(one, name) for name in one.__struct_fields__}}

    lacking = peers.without("triton do_bench", "no C compiler")
    broken = peers.without("all other timers", "the worker ended", broken=True)
    text = show_verdicts.timers([document(AGREES), document(lacking), document(broken)]).splitlines()[2:5]
    for line, words in zip(
        text, (["1.010", "agrees"], ["not applicable", "no C comp"], ["FAILED", "ended"]), strict=True
    ):
        assert all(word in line for word in words)


@pytest.mark.parametrize(("ended_in", "turns"), [(1, 0), (4, 0), (5, 2), (6, 2), (7, 3)])
def test_an_interruption_keeps_the_turns_that_are_whole(
    ended_in: int, turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []

    def carry_out(laboratory: Any, planned: Any, session: Any, path: Path, progress: Any) -> Any:
        begun.append(path)
        return SimpleNamespace(interrupted=len(begun) == ended_in)

    monkeypatch.setattr(runner, "new_session", lambda *_, **__: SimpleNamespace(id=f"run-{len(begun)}"))
    monkeypatch.setattr(runner, "carry_out", carry_out)
    nothing: Any = None
    with contextlib.nullcontext() if turns else pytest.raises(KeyboardInterrupt):
        before, after = selfcheck.identical(nothing, nothing, tmp_path, seed=0, turns=3, progress=Silent())
        assert len(before) == len(after) == turns
        assert not {*before} & {*after} and {*before, *after} <= {*begun[: ended_in - 1]}

"""The contract of every vendor's file, found by its name; data from the CPU."""

import contextlib
import importlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from bench import device as devices
from bench.device import Absence, Device, Reading, amd, apple, ascend, base, cpu, intel, nvidia
from bench.device.amd import Amd
from bench.device.apple import Apple
from bench.device.base import ASSUMED_FREE_BYTES, FALLBACK_CACHE_BYTES
from bench.device.cpu import Cpu
from bench.device.intel import Intel
from bench.device.nvidia import Nvidia
from bench.errors import Unsupported, UserError

VENDORS = devices.vendors()


def module(vendor: str) -> ModuleType:
    return importlib.import_module(f"bench.device.{vendor}")


def the_cpu() -> Cpu:
    (found,) = devices.find("cpu")
    assert isinstance(found, Cpu)
    return found


# The contract of every vendor


def test_there_is_a_file_for_each_vendor_and_nothing_else() -> None:
    assert {"cpu", "nvidia", "virtual"} <= set(VENDORS)
    assert not {"base", "__init__"} & set(VENDORS)


@pytest.mark.parametrize("vendor", VENDORS)
def test_detection_finds_devices_or_none_and_says_why(vendor: str) -> None:
    found = module(vendor).detect()
    assert isinstance(found, list)
    for index, device in enumerate(found):
        assert isinstance(device, Device)
        assert (device.vendor, device.index, device.spec) == (vendor, index, f"{vendor}:{index}")
        assert device.name
        assert device.clock in {"event", "host", "virtual"}
        assert device.cache_bytes() > 0
        for reading in device.read_sensors().values():
            assert (reading.value is None) == bool(reading.reason)
    assert is_a_reason(module(vendor).why_not())


@pytest.mark.parametrize("vendor", [vendor for vendor in VENDORS if vendor not in {"cpu", "virtual"}])
def test_without_torch_there_is_no_accelerator_and_that_is_the_reason(
    vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "torch_npu"):
        monkeypatch.setitem(sys.modules, name, None)
    assert module(vendor).detect() == []
    absence = module(vendor).why_not()
    assert is_a_reason(absence)
    assert "torch" in absence.reason
    assert "not installed" in absence.reason


def is_a_reason(absence: Absence) -> bool:
    return bool(absence.reason.strip()) and "\n" not in absence.reason and isinstance(absence.hardware, bool)


def torch_with(**parts: Any) -> SimpleNamespace:
    """A torch with two devices of each back end named, and none of the others."""
    none = SimpleNamespace(is_available=lambda: False, init=lambda: None)
    two = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: f"Board {index}"
    )
    version = {"cuda": None, "hip": None, "xpu": None} | parts.pop("version", {})
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False, is_built=lambda: True))
    return SimpleNamespace(
        __version__="2.9.0",
        version=SimpleNamespace(**version),
        backends=parts.pop("backends", backends),
        **{name: two if parts.get(name) else none for name in ("cuda", "xpu", "npu")},
    )


TORCHES = {
    "nvidia": lambda: torch_with(cuda=True, version={"cuda": "12.9"}),
    "amd": lambda: torch_with(cuda=True, version={"hip": "6.4"}),  # ROCm keeps CUDA's names
    "intel": lambda: torch_with(xpu=True, version={"xpu": "20250000"}),
    "ascend": lambda: torch_with(npu=True),
}


@pytest.mark.parametrize("vendor", TORCHES)
def test_each_build_of_torch_gives_its_own_vendor_s_devices_and_no_other_s(
    vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", TORCHES[vendor]())
    monkeypatch.setitem(sys.modules, "torch_npu", ModuleType("torch_npu") if vendor == "ascend" else None)
    found = devices.accelerators()
    assert [(device.spec, device.name) for device in found] == [(f"{vendor}:0", "Board 0"), (f"{vendor}:1", "Board 1")]
    assert [device.spec for device in devices.find("default")] == [f"{vendor}:0", f"{vendor}:1"]
    assert [device.spec for device in devices.find(f"{vendor}:1")] == [f"{vendor}:1"]
    assert [device.spec for device in devices.find(f"{vendor}:1,0")] == [f"{vendor}:1", f"{vendor}:0"]
    assert [device.spec for device in devices.find("all")][-1] == "cpu:0"
    with pytest.raises(UserError, match=f"{vendor}:0, {vendor}:1"):
        devices.find(f"{vendor}:2")


def test_apple_silicon_is_timed_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = SimpleNamespace(is_available=lambda: True, is_built=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", torch_with(backends=SimpleNamespace(mps=mps)))
    (device,) = apple.detect()
    assert (device.spec, device.clock, device.asynchronous) == ("apple:0", "host", True)


@pytest.mark.parametrize(
    ("vendor", "torch_there", "reason"),
    [
        (nvidia, torch_with(), "without CUDA"),
        (nvidia, torch_with(version={"cuda": "12.9"}), "CUDA 12.9 finds no device"),
        (amd, torch_with(), "without ROCm"),
        (amd, torch_with(version={"hip": "6.4"}), "/dev/kfd"),
        (intel, torch_with(), "without XPU"),
        (intel, torch_with(version={"xpu": "20250000"}), "Level Zero"),
        (apple, torch_with(), "macOS"),
        (ascend, torch_with(), "torch_npu is not installed"),
    ],
)
def test_the_reason_names_what_is_missing(
    vendor: Any, torch_there: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "torch", torch_there)
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    assert vendor.detect() == []
    assert reason in vendor.why_not().reason


def test_what_keeps_cuda_from_starting_is_told_in_torch_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("Error 802: system not yet initialized\n(more)")

    torch_there = torch_with(version={"cuda": "12.9"})
    torch_there.cuda.init = init
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "torch", torch_there)
    absence = nvidia.why_not()
    assert "Error 802: system not yet initialized" in absence.reason and is_a_reason(absence)


def test_devices_hidden_by_the_environment_are_said_to_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_with(version={"cuda": "12.9"}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" in nvidia.why_not().reason


def test_an_accelerator_that_torch_cannot_use_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {nvidia: "/dev/nvidiactl", amd: "/dev/kfd", ascend: "/dev/davinci_manager"}
    for there in (False, True):
        monkeypatch.setattr(Path, "exists", lambda path, there=there: there and str(path) in marks.values())
        monkeypatch.setattr(Path, "is_dir", lambda path: False)
        assert [vendor.why_not().hardware for vendor in marks] == [there] * 3


def test_what_one_vendor_s_package_breaks_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def detect() -> list[Device]:
        raise RuntimeError("libascendcl.so: version mismatch in /home/someone/driver")

    monkeypatch.setattr(ascend, "detect", detect)
    assert devices.find("default")
    absence = devices.absences()["ascend"]
    assert "RuntimeError: libascendcl.so: version mismatch" in absence.reason
    assert "someone" not in absence.reason
    assert absence.hardware


def test_a_vendor_is_absent_exactly_if_it_has_no_device() -> None:
    absences = devices.absences()
    assert absences.keys() == {vendor for vendor in VENDORS if not module(vendor).detect()}
    assert not {"cpu", "virtual"} & absences.keys()


# Names of devices


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor in VENDORS:
        if vendor not in {"cpu", "virtual"}:
            monkeypatch.setattr(module(vendor), "detect", lambda: [])


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize(
    ("spec", "specs"),
    [
        ("cpu", ["cpu:0"]),
        ("cpu:0", ["cpu:0"]),
        ("virtual", ["virtual:0"]),
        ("virtual:0", ["virtual:0"]),
        ("default", ["cpu:0"]),
        ("all", ["cpu:0"]),  # the virtual one is asked for by name only
    ],
)
def test_a_device_is_found_by_name(spec: str, specs: list[str]) -> None:
    assert [device.spec for device in devices.find(spec)] == specs


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize(
    ("spec", "asked", "exists"),
    [
        ("tpu", "'tpu'", VENDORS),
        ("", "''", VENDORS),
        ("base", "'base'", VENDORS),
        ("../cpu", "'../cpu'", VENDORS),
        ("nvidia", "nvidia", ["cpu", "accelmark devices"]),
        ("nvidia:0", "nvidia", ["cpu"]),
        ("virtual:7", "virtual:7", ["virtual:0"]),
        ("virtual:-1", "virtual:-1", ["virtual:0"]),
        ("cpu:0,1", "cpu:1", ["cpu:0"]),
        ("cpu:x", "cpu:x", ["cpu:0"]),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_sentence_with_what_is(
    spec: str, asked: str, exists: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        devices.find(spec)
    message = str(refused.value)
    assert "\n" not in message
    assert asked in message
    assert all(name in message for name in exists)


@pytest.mark.usefixtures("no_accelerator")
def test_several_devices_are_named_with_spaces_between_them() -> None:
    assert [device.spec for device in devices.find("virtual cpu:0")] == ["virtual:0", "cpu:0"]
    with pytest.raises(UserError, match="virtual:7"):
        devices.find("cpu virtual:7")


# Time and memory as the back end's module of torch gives them: no test may ask for torch.accelerator, which older ones
# lack


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Device]:
    """A device whose module of torch has only these functions."""
    monkeypatch.delattr(torch, "accelerator")

    def made(index: int = 1, **functions: Any) -> Device:
        monkeypatch.setattr(torch, "npu", SimpleNamespace(**functions), raising=False)
        monkeypatch.setattr(Device, "torch_device", property(lambda self: f"{self.backend}:{self.index}"))
        return Device(vendor="some", index=index, name="Some", backend="npu")

    return made


class Events:
    """Stands in for `torch.Event`: each is recorded 250 ms after the one before it."""

    made: list["Events"]

    def __init__(self, device: torch.device, *, enable_timing: bool = False) -> None:
        self.device, self.enable_timing = device, enable_timing
        self.at_ms: float | None = None
        self.made.append(self)

    def record(self) -> None:
        self.at_ms = 250.0 * len([event for event in self.made if event.at_ms is not None])

    def elapsed_time(self, end: "Events") -> float:
        assert self.enable_timing and end.enable_timing
        assert self.at_ms is not None and end.at_ms is not None
        return end.at_ms - self.at_ms


def test_events_are_recorded_on_the_device_and_read_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Events, "made", [], raising=False)
    monkeypatch.setattr(torch, "Event", Events)
    device = Device(vendor="some", index=1, name="Some", backend="xpu")
    first, _, third = (device.event() for _ in range(3))
    assert {str(event.device) for event in Events.made} == {"xpu:1"}
    assert device.seconds_between(first, third) == 0.5


def test_on_the_host_clock_a_mark_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    device = Apple(vendor="apple", index=0, name="M9", backend="mps")
    start, end = device.event(), device.event()
    assert waited == ["mps", "mps"]
    assert device.seconds_between(start, end) == pytest.approx((end - start) / 1e9)
    assert device.seconds_between(1_000_000_000, 1_250_000_000) == 0.25


def test_the_host_clock_is_the_one_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    device = the_cpu()
    before, event = device.now_s(), device.event()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # as if set back to 1970
    assert device.now_s() >= before
    assert 0 <= device.seconds_between(event, device.event()) < 5


def test_a_device_is_driven_by_its_own_module_of_torch(backend: Any) -> None:
    called = []
    names = ("synchronize", "set_device", "reset_peak_memory_stats", "empty_cache")
    device = backend(**{name: lambda *on, name=name: called.append((name, *on)) for name in names})
    device.use()
    device.synchronize()
    device.reset_peak_memory()
    device.release()
    assert called == [
        ("set_device", 1), ("synchronize", "npu:1"), ("reset_peak_memory_stats", "npu:1"), ("empty_cache",),
    ]  # fmt: skip
    backend().reset_peak_memory()  # MPS has no peak to reset


def test_memory_is_read_in_bytes_free_first(backend: Any) -> None:
    memory = {"npu:1": (10, 80)}
    device = backend(mem_get_info=memory.__getitem__, max_memory_allocated={"npu:1": 7}.__getitem__)
    assert (device.free_bytes(), device.memory_bytes(), device.peak_memory()) == (10, 80, Reading(7.0))
    memory["npu:1"] = (0, 80)
    assert device.free_bytes() == 0  # nothing free is not the same as unknown


def test_apple_s_memory_is_what_metal_recommends_less_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Apple(vendor="apple", index=0, name="M9", backend="mps")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 80)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 30)
    assert (device.free_bytes(), device.memory_bytes()) == (50, 80)
    device.use()  # there is nothing to choose, and torch.mps could not
    device.reset_peak_memory()
    peak = device.peak_memory()
    assert peak.value is None
    assert "mps" in peak.reason


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, NotImplementedError])
def test_memory_that_cannot_be_read_is_unknown(error: type[Exception], backend: Any) -> None:
    def fail(device: torch.device) -> None:
        raise error("not here")

    for device in (backend(mem_get_info=fail, max_memory_allocated=fail), backend()):
        assert (device.free_bytes(), device.memory_bytes()) == (ASSUMED_FREE_BYTES, None)
        peak = device.peak_memory()
        assert peak.value is None
        assert "npu" in peak.reason


def test_a_device_says_of_itself_only_what_it_knows() -> None:
    device = Device(vendor="some", index=0, name="Some", backend="xpu")
    assert (device.uuid(), device.driver(), device.board()) == (None, None, None)
    assert {reading.value for reading in device.read_sensors().values()} == {None}
    assert device.cache_bytes() == FALLBACK_CACHE_BYTES
    with pytest.raises(Unsupported, match="some: no graph"):
        device.capture(lambda: None)


@pytest.mark.parametrize(("reported", "expected"), [({"last_level_cache_size": 5 << 20}, 5 << 20), ({}, None)])
def test_a_cache_size_that_is_not_told_is_assumed_too_large(
    reported: dict[str, int], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda index: SimpleNamespace(**reported))
    device = Intel(vendor="intel", index=0, name="Arc", backend="xpu")
    assert device.cache_bytes() == (expected or FALLBACK_CACHE_BYTES)
    # ROCm's L2 is not the Infinity Cache, so it is not even asked for.
    assert Amd(vendor="amd", index=0, name="MI", backend="cuda").cache_bytes() == FALLBACK_CACHE_BYTES


# The CPU


def test_the_cpu_works_in_the_call_itself() -> None:
    device = the_cpu()
    assert (device.clock, device.asynchronous, str(device.torch_device)) == ("host", False, "cpu")
    filler = device.filler(1 << 20)
    out = filler()
    assert isinstance(out, torch.Tensor)
    assert (out.numel(), int(out.sum())) == (1 << 20, 0)
    assert device.peak_memory().value is None
    assert device.peak_memory().reason
    total = device.memory_bytes()
    assert total is not None
    assert 0 < device.free_bytes() <= total


def test_types_that_torch_cannot_multiply_are_not_supported() -> None:
    device = the_cpu()
    assert device.supports("float32")
    assert not device.supports("bool")


def test_a_device_that_is_lost_does_not_pass_for_one_that_lacks_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "ones", lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        the_cpu().supports("float32")


PRIVATE = [("1", "48K", 1), ("2", "2048K", 1)]


@pytest.mark.parametrize(
    ("caches", "allowed", "expected"),
    [
        ([*PRIVATE, ("3", "30720K", 8)], range(8), 30 << 20),
        ([*PRIVATE, ("3", "30720K", 4)], range(8), 60 << 20),  # two sockets
        ([*PRIVATE, ("3", "30720K", 4)], [0, 1, 2], 30 << 20),  # of which the process may use one
        ([*PRIVATE, ("3", "30720K", 4)], [3, 4], 60 << 20),
        (PRIVATE, range(8), 16 << 20),  # the last level is each core's own
        ([("1", "32K", 1), ("3", "491520K", 2)], range(2), 64 << 20),  # a host's cache, of which a guest holds a part
        ([("1", "32K", 1), ("3", "491520K", 8)], [5], 32 << 20),
        ([("1", "4M", 1), ("2", "512K", 1)], [0], 512 << 10),  # no size that we can read; the last level it is
        ([], range(64), 256 << 20),
        ([], range(2), 64 << 20),
    ],
)
def test_the_cache_of_a_cpu_is_all_last_levels_of_its_cores_within_reason(
    caches: list[tuple[str, str, int]],
    allowed: Iterable[int],
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for core in range(8):
        for index, (level, size, sharing) in enumerate(caches):
            folder = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            first = core // sharing * sharing
            shared = f"{first}-{first + sharing - 1}"
            for name, text in (("level", level), ("size", size), ("shared_cpu_list", shared)):
                (folder / name).write_text(text + "\n")
    monkeypatch.setattr(cpu, "_CPUS", tmp_path)
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda process: set(allowed))
    assert the_cpu().cache_bytes() == expected
    monkeypatch.delattr(cpu.os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(cpu.os, "cpu_count", lambda: len(list(allowed)))
    assert the_cpu().cache_bytes() > 0


@pytest.mark.parametrize(
    ("group", "limits", "free"),
    [
        ("0::/batch/job/step\n", {}, 1000),
        ("0::/batch/job/step\n", {"batch/job": ("600", "150")}, 450),
        ("0::/batch/job/step\n", {"batch/job": ("600", "150"), "batch/job/step": ("max", "150")}, 450),
        ("0::/batch/job/step\n", {"batch": ("700", "100"), "batch/job/step": ("300", "100")}, 200),
        ("0::/batch/job/step\n", {"batch": ("200", "100"), "batch/job/step": ("300", "100")}, 100),
        ("0::/batch/job/step\n", {"batch/job": ("100", "150")}, 0),
        ("0::/batch/job/step\n", {"batch/job": ("5000", "150")}, 1000),  # more than there is
        ("0::/batch/job/step\n", {"batch/other": ("10", "5")}, 1000),
        ("0::/\n", {".": ("400", "100")}, 300),  # in a container
        ("4:memory:/old\n0::/batch\n", {"batch": ("400", "100")}, 300),
        ("4:memory:/batch\n1:cpu:/\n", {}, 1000),  # the first version alone
        (None, {"batch": ("400", "100")}, 1000),
    ],
)
def test_a_cpu_has_free_what_a_batch_system_or_a_container_leaves(
    group: str | None,
    limits: dict[str, tuple[str, str]],
    free: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for folder, (limit, used) in limits.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(limit + "\n")
        (tmp_path / folder / "memory.current").write_text(used + "\n")
    honest = Path.read_text

    def read(path: Path, *arguments: Any) -> str:
        if str(path) != "/proc/self/cgroup":
            return honest(path, *arguments)
        if group is None:
            raise FileNotFoundError(path)
        return group

    device = the_cpu()
    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(cpu, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cpu.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000, total=2000))
    assert (device.free_bytes(), device.memory_bytes()) == (free, 2000)


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2.00GHz\n", "Some CPU @ 2.00GHz"),
        ("processor\t: 0\nBogoMIPS\t: 108.00\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5"),
    ],
)
def test_a_processor_has_the_name_it_gives_itself(cpuinfo: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    assert cpu.model_name() == name


@pytest.mark.parametrize("cpuinfo", [None, "processor\t: 0\n"])
def test_a_processor_without_a_name_has_one_all_the_same(cpuinfo: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> str:
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read)
    assert cpu.model_name()


# Data


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_data_are_normal(dtype: str, rounding: float) -> None:
    device = the_cpu()
    device.seed(1)
    values = device.normal(1000, 1000, dtype=dtype)
    assert (values.dtype, tuple(values.shape)) == (getattr(torch, dtype), (1000, 1000))
    x = values.double().flatten()
    spread = 5 / math.sqrt(x.numel())  # five standard errors
    assert abs(float(x.mean())) < spread
    assert float(x.std()) == pytest.approx(1, abs=spread + rounding)
    assert float((x**4).mean() / x.var() ** 2) == pytest.approx(3, abs=spread * math.sqrt(24) + 10 * rounding)
    assert float((x[:-1] * x[1:]).mean()) == pytest.approx(0, abs=spread)  # neighbours do not know of each other


def test_data_follow_from_the_seed_and_from_nothing_else() -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        device = the_cpu()
        device.seed(seed)
        return [device.normal(64, 64, dtype="float32") for _ in range(3)] + [device.tokens(100, vocab_size=1000)]

    torch.rand(10)  # whatever else was drawn before
    first, again, other = drawn(7), drawn(7), drawn(8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_data_start_anew_with_the_same_seed_on_the_same_device() -> None:
    device = the_cpu()
    drawn = []
    for seed in (3, 3, 4, 3):
        device.seed(seed)
        drawn.append(device.normal(1000, dtype="float32"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0], drawn[3])


def test_two_tensors_share_nothing_but_their_distribution() -> None:
    device = the_cpu()
    device.seed(0)
    a, b = device.normal(100_000, dtype="float32"), device.normal(100_000, dtype="float32")
    assert abs(float((a * b).mean())) < 5 / math.sqrt(100_000)


def test_data_may_be_larger_than_the_block_they_are_cut_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_POOL_ELEMENTS", 1 << 12)
    device = the_cpu()
    device.seed(0)
    x = device.normal(100_003, dtype="float32")
    assert x.isfinite().all()
    assert float(x.std()) == pytest.approx(1, abs=0.05)  # that of the block, which is small here


def test_a_scale_is_a_scale() -> None:
    device = the_cpu()
    device.seed(0)
    plain = device.normal(1000, dtype="float32")
    device.seed(0)
    assert torch.equal(device.normal(1000, dtype="float32", std=0.5), plain * 0.5)


def test_tokens_are_uniform_over_the_vocabulary() -> None:
    device = the_cpu()
    device.seed(0)
    tokens = device.tokens(100, 1000, vocab_size=10)
    assert tokens.dtype == torch.int64
    counts = torch.bincount(tokens.flatten(), minlength=10).double()
    assert len(counts) == 10
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 27.9  # chi squared, 9 degrees of freedom, 0.1 %


def test_the_product_that_is_tried_is_laid_out_as_the_workload_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS of CUDA 13.0 multiplies int8 only by a second factor whose columns are contiguous."""
    whole = torch._int_mm

    def of_cuda_13(a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
        if b_KN.is_contiguous() or a_MK.shape[0] <= 16:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED")
        return whole(a_MK, b_KN)

    monkeypatch.setattr(torch, "_int_mm", of_cuda_13)
    assert base.Device.supports(the_cpu(), "int8")


class Graph:
    """Stands in for torch's graphs: while one is recorded its stream's work fails where the test says so."""

    def __init__(self) -> None:
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: contextlib.nullcontext())


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (None, None),
        (RuntimeError("operation not permitted when stream is capturing\nmore"), Unsupported),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    ],
)
def test_a_capture_that_failed_spoils_the_process(error: Exception | None, raised: Any) -> None:
    calls = []

    def run() -> None:
        calls.append(1)
        if error and len(calls) > 3:  # three to warm up
            raise error

    device = Nvidia(vendor="nvidia", index=0, name="A Board", backend="cuda")
    with pytest.raises(raised) if raised else contextlib.nullcontext() as refused:
        device.capture(run)()
    assert len(calls) == 4
    assert device.spoilt == bool(error)
    if raised is Unsupported:
        assert str(refused.value) == "graph capture: operation not permitted when stream is capturing"
    other = Nvidia(vendor="nvidia", index=1, name="A Board", backend="cuda")
    assert not other.spoilt


@pytest.mark.usefixtures("graphs")
def test_a_capture_that_failed_leaves_the_stream_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own context goes back to it only when the end of the capture succeeds."""
    before, restored = SimpleNamespace(wait_stream=lambda other: None), []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: before)
    monkeypatch.setattr(torch.cuda, "set_stream", restored.append)
    calls = itertools.count()

    def run() -> None:
        if next(calls) == 3:  # three to warm up
            raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(Unsupported, match="previous error"):
        Nvidia(vendor="nvidia", index=0, name="A Board", backend="cuda").capture(run)
    assert restored == [before]

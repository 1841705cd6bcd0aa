"""What only an accelerator can show. Skipped where there is none; run by scripts/gpu_acceptance where there is one."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from bench import device as devices
from bench import energy, stats, workload
from bench.errors import Unsupported
from bench.measure import attribution, contention, meter, powercheck, timer
from bench.measure import case as cases
from bench.measure.messages import Job
from bench.record import Protocol, Record

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here"),
]
SHORT = Protocol(
    settle_s=0.2, min_samples=10, min_time_s=0.1, max_time_s=1.0, max_samples=200, half_width=0.01, sample_s=1e-4
)
TYPES = ("float32", "bfloat16", "float16", "tf32", "float8_e4m3fn", "int8")


@pytest.fixture(scope="module")
def device() -> Any:
    found = devices.find("default")[0]
    found.use()
    return found


@pytest.fixture
def watching(device: Any) -> Iterator[meter.Meter]:
    found = meter.of(device, 0)
    yield found
    found.close()


@pytest.fixture
def metered(watching: meter.Meter) -> meter.Meter:
    if watching.board.boundary is None:
        pytest.skip("this board tells neither power nor energy")
    return watching


def skip_if_exclusive(said: str) -> None:
    """A compute mode of one process at a time, which only an administrator may change, refuses the second like this."""
    if "busy or unavailable" in said:
        pytest.skip("the compute mode lets one process at a time use this GPU")


def records_of(device: Any, name: str, **params: Any) -> list[Record]:
    """What a worker would send of one case."""
    job = Job(workload=name, params=params, device=0, round=0, protocol=SHORT)
    return list(cases.measure(device, job, 0, cases.Witnesses(contention.HostWatch(1, 1e-3), meter.Meter())))


def ran(device: Any, case: workload.Workload) -> workload.Step:
    """A step of the case, called once; the test is skipped where the device lacks it."""
    device.use_precision(case.dtype)
    device.seed(0)
    try:
        step = device.prepare(case)
        step.run()
    except Unsupported as error:
        pytest.skip(str(error))
    return step


def test_events_agree_with_the_hosts_clock(device: Any) -> None:
    step = device.prepare(workload.case("matmul", {"m": 4096, "n": 4096, "k": 4096, "dtype": "float32"}))
    measured = timer.measure(device, [step.run], SHORT)
    start = device.now_s()
    for _ in range(20):
        step.run()
    device.synchronize()
    host_s = (device.now_s() - start) / 20
    assert measured.median_s == pytest.approx(host_s, rel=0.1)


def test_twice_the_calls_take_twice_the_time(device: Any) -> None:
    step = device.prepare(workload.case("matmul", {"m": 2048, "n": 2048, "k": 2048, "dtype": "float32"}))

    def twice() -> None:
        step.run()
        step.run()

    one, two = (timer.measure(device, [run], SHORT).median_s for run in (step.run, twice))
    assert two / one == pytest.approx(2.0, abs=0.05)


def test_a_kernel_of_known_length_is_read_as_such(device: Any, watching: meter.Meter) -> None:
    """One block spins for so many cycles: by events that is the clock of the cores, which the driver tells too."""
    if device.vendor != "nvidia":
        pytest.skip("such a kernel is CUDA's")
    cycles = 2_000_000  # about a millisecond

    def spin(count: int = cycles) -> None:
        torch.cuda._sleep(count)

    two_s = timer.measure(device, [lambda: spin(2 * cycles)], SHORT).median_s
    held = msgspec.structs.replace(SHORT, settle_s=1.0, min_time_s=1.2, max_time_s=2.5)
    one_s = timer.measure(device, [spin], held, observer=watching).median_s
    assert two_s / one_s == pytest.approx(2.0, abs=0.05)
    assert 0.2e9 < cycles / one_s < 4e9
    trace = watching.trace
    if trace is None:
        pytest.skip(watching.reason)
    if clocks := [value for _, value in trace.series("clock_hz")]:
        assert cycles / one_s == pytest.approx(stats.median(clocks), rel=0.05)
    if active := [value for _, value in trace.series("kernel_active")]:
        assert stats.median(active) > 0.9  # there was a kernel all the time
    if (multiprocessors := trace.last.get("sm_active")) is not None:
        assert multiprocessors < 0.05  # and nearly all of the GPU was idle


@pytest.mark.parametrize("name", workload.names())
@pytest.mark.parametrize("dtype", TYPES)
def test_every_workload_is_right(device: Any, name: str, dtype: str) -> None:
    kind = workload.find(name)
    if dtype not in kind.dtypes:
        pytest.skip(f"{name} knows no {dtype}")
    if name == "memory_frontier":
        pytest.skip("its step is that of train_step, and its processes take long: a part of scripts/gpu_acceptance")
    if not device.supports(dtype):
        pytest.skip(f"no {dtype} here")
    case = workload.case(name, {**kind.smoke, "dtype": dtype})
    assert ran(device, case).error() <= case.tolerance()


ATTENTION = {"batch": 1, "num_heads": 8, "num_kv_heads": 8, "seq": 1024, "head_dim": 128, "dtype": "bfloat16"}
PRODUCT = {"m": 1, "n": 4096, "k": 4096}
GROUPED = {"num_experts": 8, "tokens": 1000, "n": 1536, "k": 1024, "dtype": "bfloat16", "imbalance": "skewed"}
# In the sizes of a model, because torch's own kernels refuse the small ones above: a case, and what it should tell of
# the kernel that did it on Hopper.
REAL: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("matmul", {**PRODUCT, "m": 512, "dtype": "float8_e4m3fn"}, {}),
    ("matmul", {**PRODUCT, "m": 512, "dtype": "int8"}, {}),
    ("dequantised_matmul", {**PRODUCT, "weights": "int4", "dtype": "bfloat16"}, {"kernel": "int4pack"}),
    ("dequantised_matmul", {**PRODUCT, "weights": "int8", "dtype": "bfloat16"}, {}),
    ("grouped_matmul", GROUPED, {"kernel": "grouped_mm"}),
    ("attention", {**ATTENTION, "num_kv_heads": 2}, {}),
    *(
        ("attention", {**ATTENTION, "backward": backward, "backend": backend}, {"backend": backend})
        for backend in ("flash", "cudnn", "efficient", "math")
        for backward in (False, True)
    ),
    ("moe_train_step", {"model": "tiny-moe", "batch": 2, "seq": 100, "dtype": "bfloat16"}, {}),
    ("decode", {"model": "small", "batch": 1, "context": 256, "dtype": "bfloat16", "weights": "int4"}, {}),
]


@pytest.mark.parametrize(("name", "params", "told"), REAL, ids=lambda one: one if isinstance(one, str) else "")
def test_real_sizes_are_right_by_the_kernels_they_are_meant_for(
    device: Any, name: str, params: dict[str, Any], told: dict[str, str]
) -> None:
    case = workload.case(name, params)
    if not device.supports(case.dtype):
        pytest.skip(f"no {case.dtype} here")
    step = ran(device, case)
    assert step.error() <= case.tolerance()
    hopper = device.vendor == "nvidia" and torch.cuda.get_device_capability(device.index)[0] == 9
    facts = step.facts()
    for key, words in told.items() if hopper else ():
        assert words in str(facts[key]), facts


def test_a_graph_does_what_its_step_does(device: Any) -> None:
    case = workload.case("launch_overhead", {"num_launches": 50, "dtype": "float32"})
    step = device.prepare(case)
    try:
        replay = device.capture(step.run)
    except Unsupported as error:
        pytest.skip(str(error))
    eager, graph = (timer.measure(device, [run], SHORT) for run in (step.run, replay))
    assert graph.median_s < eager.median_s
    assert step.error() == 0.0


def test_running_out_of_memory_is_a_record_and_leaves_the_device_usable(device: Any) -> None:
    too_much = (device.free_bytes() // 4096 + 1) * 4096
    (full,) = records_of(device, "memory_copy", num_bytes=too_much, dtype="float32")
    assert full.status == "oom" and full.reason
    for record in records_of(device, "memory_copy", num_bytes=1 << 26, dtype="float32"):
        assert record.status == "ok", record.reason
        assert record.check is not None and record.check.error == 0


def test_a_worker_that_is_killed_leaves_no_memory_behind(device: Any) -> None:
    before = device.free_bytes()
    program = (
        "import sys, torch; from bench import device; d = device.find('default')[0]; d.use(); "
        "kept = torch.ones(1 << 30, dtype=torch.uint8, device=d.torch_device); d.synchronize(); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryFile() as errors:
        holder = subprocess.Popen(
            [sys.executable, "-c", program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        assert holder.stdout is not None
        first = holder.stdout.readline()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    skip_if_exclusive(said)
    assert first == b"ready\n", said[-2000:]
    assert device.free_bytes() < before - (1 << 29)
    holder.kill()
    holder.wait()
    for _ in range(50):  # a driver takes a moment to notice
        if device.free_bytes() > before - (64 << 20):
            return
        device.wait(0.1)
    pytest.fail(f"{(before - device.free_bytes()) / 2**20:.0f} MiB are still taken")


def test_the_sampler_costs_no_time(device: Any, metered: meter.Meter) -> None:
    step = device.prepare(workload.case("launch_overhead", {"num_launches": 200, "dtype": "float32"}))
    ratios = []
    for pair in range(8):
        seen = {}
        for on in (True, False) if pair % 2 else (False, True):
            observer = metered if on else timer.Observer()
            seen[on] = timer.measure(device, [step.run], SHORT, observer=observer).median_s
        ratios.append(seen[True] / seen[False])
    found = stats.paired_ratio([1.0] * len(ratios), ratios)
    assert found is not None
    assert found.interval95.low < 1.005  # fails only where a cost of more than half a percent is shown


def test_sensors_are_numbers_or_reasons(device: Any) -> None:
    for name, reading in device.read_sensors().items():
        assert (reading.value is None) == bool(reading.reason), name
        assert reading.value is None or reading.value >= 0, name


def test_the_board_is_the_same_however_it_is_named(device: Any) -> None:
    """By index, by UUID and by the beginning of it; processes side by side, because each takes seconds to start."""
    if device.vendor != "nvidia":
        pytest.skip("CUDA only")
    uuid = device.uuid()
    assert uuid is not None
    if device.read_sensors()["mig"].value:
        pytest.skip("with MIG on, it is a slice that has a name")
    program = (
        "from bench import device; d = device.find('nvidia')[0]; print(d.uuid(), d.read_sensors()['power_limit_w'])"
    )
    index = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for visible in (index, uuid, uuid[:12])
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert all(uuid in one and "finds no board" not in one for one in said), said
    assert len(set(said)) == 1


def test_a_load_is_on_the_board_whose_sensors_are_read(device: Any, metered: meter.Meter) -> None:
    found = powercheck.rises(device, metered)
    if found.own_w is None:
        pytest.skip("the only board here, or one that tells no power")
    assert not found.mistaken
    assert found.own_w[1] - found.own_w[0] > attribution.ROSE_W, found


def test_a_board_that_is_well_reports_no_error(device: Any) -> None:
    sensors = device.sensors()
    sensors.probe()
    sensors.since_last()
    device.wait(0.2)
    assert "xid" not in sensors.since_last()
    sensors.close()


def test_the_sampler_sees_the_load(device: Any, metered: meter.Meter) -> None:
    idle = metered.idle(2.0)
    step = device.prepare(workload.case("matmul", {"m": 4096, "n": 4096, "k": 4096, "dtype": "bfloat16"}))
    long = msgspec.structs.replace(SHORT, settle_s=1.0, min_time_s=1.2, max_time_s=2.5)
    timer.measure(device, [step.run], long, observer=metered)
    assert idle is not None and metered.trace is not None
    rest_w, load_w = energy.mean_power(idle), energy.mean_power(metered.trace)
    assert rest_w is not None and load_w is not None and load_w > 1.2 * rest_w


def test_twice_the_work_takes_twice_the_energy(device: Any, metered: meter.Meter) -> None:
    run = device.prepare(workload.case("matmul", {"m": 8192, "n": 8192, "k": 8192, "dtype": "bfloat16"})).run
    powercheck._for(device, run, 2.0)  # as warm in the first window as in the second
    steps = int(metered.board.held_s(5.2) / powercheck._step_s(device, run))
    per_step_j = []
    for count in (steps, 2 * steps):

        def work(count: int = count) -> None:
            for place in range(count):
                run()
                if place % 64 == 63:
                    device.synchronize()
            device.synchronize()

        trace = powercheck._watched(device, metered, device.synchronize, work)
        assert trace is not None, metered.reason
        found = energy.energy(trace, metered.board)
        assert found.joules is not None, found.reason
        assert not found.disagrees, f"counter {found.joules} J, power {found.integral_j} J"
        per_step_j.append(found.joules / (count * found.window_s / trace.window_s))
    assert per_step_j[1] == pytest.approx(per_step_j[0], rel=0.03)


# Last, because before torch 2.12 a capture that fails leaves its mark on the process.


def test_a_capture_that_fails_is_said_so_and_work_goes_on() -> None:
    program = (
        "import torch; from bench import device; from bench.errors import Unsupported; "
        "d = device.find('default')[0]; d.use(); x = torch.ones(4, device=d.torch_device)\n"
        "try:\n    d.capture(lambda: x.sum().item())\n"
        "except Unsupported as error:\n    print(error)\n"
        "y = x + 1; d.synchronize(); print(y.sum().item())"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    skip_if_exclusive(ran.stderr)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = ran.stdout.splitlines()
    assert said[-1] == "8.0" and len(said) == 2


@pytest.mark.parametrize("name", workload.names())
def test_every_workload_is_right_in_a_graph(device: Any, name: str) -> None:
    kind = workload.find(name)
    dtype = "bfloat16" if "bfloat16" in kind.dtypes else kind.dtypes[0]
    one = workload.case(name, {**kind.smoke, "dtype": dtype})
    if not one.capturable or not device.supports(dtype):
        pytest.skip("never in a graph")
    device.use_precision(dtype)
    device.seed(0)
    step = device.prepare(one)
    step.run()
    outputs: list[Any] = []

    def run() -> None:
        outputs[:] = [step.run()]

    try:
        replay = device.capture(run)
    except Unsupported as error:
        if "no graph capture" in str(error):  # on any device of this kind
            pytest.skip(str(error))
        raise
    replay()
    assert cases._replay_error(step, replay, outputs[0]) <= max(one.tolerance(), 1e-6)
    assert step.error() <= one.tolerance()

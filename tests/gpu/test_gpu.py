"""What only an accelerator can show. Skipped where there is none; run by scripts/gpu_acceptance where there is one."""

import os
import subprocess
import sys
from typing import Any

import pytest

from bench import device as devices
from bench import energy, stats, workload
from bench.errors import Unsupported
from bench.measure import meter, timer
from bench.record import Protocol

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here"),
]
SHORT = Protocol(
    settle_s=0.2, min_samples=10, min_time_s=0.1, max_time_s=1.0, max_samples=200, half_width=0.01, sample_s=1e-4
)


@pytest.fixture(scope="module")
def device() -> Any:
    found = devices.find("default")[0]
    found.use()
    return found


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


def test_a_kernel_of_known_length_is_read_as_such(device: Any) -> None:
    if device.vendor != "nvidia":
        pytest.skip("a kernel that spins for so many cycles is CUDA's")
    cycles = 2_000_000  # about a millisecond
    one, two = (
        timer.measure(device, [lambda count=count: torch.cuda._sleep(count)], SHORT).median_s
        for count in (cycles, 2 * cycles)
    )
    assert two / one == pytest.approx(2.0, abs=0.05)
    assert 0.2e9 < cycles / one < 4e9  # the clock of the cores that it implies


@pytest.mark.parametrize("name", workload.names())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "tf32", "float8_e4m3fn", "int8"])
def test_every_workload_is_right(device: Any, name: str, dtype: str) -> None:
    kind = workload.find(name)
    if dtype not in kind.dtypes:
        pytest.skip(f"{name} knows no {dtype}")
    if not device.supports(dtype):
        pytest.skip(f"no {dtype} here")
    case = workload.case(name, {**kind.smoke, "dtype": dtype})
    device.use_precision(dtype)
    device.seed(0)
    step = device.prepare(case)
    step.run()
    assert step.error() <= case.tolerance()


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


def test_running_out_of_memory_leaves_the_device_usable(device: Any) -> None:
    with pytest.raises(Exception, match=r"(?i)memory"):
        torch.empty(1 << 50, dtype=torch.uint8, device=device.torch_device)
    device.release()
    test_twice_the_calls_take_twice_the_time(device)


def test_a_worker_that_is_killed_leaves_no_memory_behind(device: Any) -> None:
    before = device.free_bytes()
    program = (
        "import sys, torch; from bench import device; d = device.find('default')[0]; d.use(); "
        "kept = torch.ones(1 << 30, dtype=torch.uint8, device=d.torch_device); d.synchronize(); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    holder = subprocess.Popen([sys.executable, "-c", program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    assert device.free_bytes() < before - (1 << 29)
    holder.kill()
    holder.wait()
    for _ in range(50):  # a driver takes a moment to notice
        if device.free_bytes() > before - (64 << 20):
            return
        device.wait(0.1)
    pytest.fail(f"{(before - device.free_bytes()) / 2**20:.0f} MiB are still taken")


def test_the_sampler_costs_no_time(device: Any) -> None:
    watching = meter.of(device, 0)
    try:
        if watching.board.boundary is None:
            pytest.skip("this board tells neither power nor energy")
        step = device.prepare(workload.case("launch_overhead", {"num_launches": 200, "dtype": "float32"}))
        ratios = []
        for pair in range(8):
            seen = {}
            for on in (True, False) if pair % 2 else (False, True):
                seen[on] = timer.measure(
                    device, [step.run], SHORT, observer=watching if on else timer.Observer()
                ).median_s
            ratios.append(seen[True] / seen[False])
        found = stats.paired_ratio([1.0] * len(ratios), ratios)
        assert found is not None
        assert found.interval95.low < 1.005  # fails only where a cost of more than half a percent is shown
    finally:
        watching.close()


def test_sensors_are_numbers_or_reasons(device: Any) -> None:
    for name, reading in device.read_sensors().items():
        assert (reading.value is None) == bool(reading.reason), name
        assert reading.value is None or reading.value >= 0, name


@pytest.mark.parametrize("form", ["index", "uuid"])
def test_the_board_is_the_same_however_it_is_named(device: Any, form: str) -> None:
    if device.vendor != "nvidia":
        pytest.skip("CUDA only")
    uuid = device.uuid()
    program = (
        "from bench import device; d = device.find('nvidia')[0]; print(d.uuid(), d.read_sensors()['power_limit_w'])"
    )
    visible = "0" if form == "index" else uuid
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": os.getcwd()}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert uuid in ran.stdout
    assert "not found" not in ran.stdout


def test_the_sampler_sees_the_load_and_its_energy(device: Any) -> None:
    watching = meter.of(device, 0)
    try:
        if watching.board.boundary is None:
            pytest.skip("this board tells neither power nor energy")
        idle = watching.idle(2.0)
        size = {"m": 4096, "n": 4096, "k": 4096, "dtype": "bfloat16"}
        step = device.prepare(workload.case("matmul", size))
        watching.energy_s = 5.2
        measured = timer.measure(device, [step.run], SHORT, observer=watching)
        assert idle is not None and watching.trace is not None
        found = energy.energy(energy.gate(watching.trace, watching.board).trace, watching.board)
        assert found.joules is not None, found.reason
        assert not found.disagrees
        rest_w, load_w = energy.mean_power(idle), energy.mean_power(watching.trace)
        assert rest_w is not None and load_w is not None and load_w > 1.2 * rest_w
        assert found.joules / found.window_s * measured.median_s > 0
    finally:
        watching.close()

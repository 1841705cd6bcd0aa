"""Every kind of machine and every way to fail, from the driver to the record: a real case, a real sampler process, the
real binding over a compiled driver. The timing is kept, and what is not known is null with a reason.
"""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench import energy, record, workload
from bench.device.cpu import Cpu
from bench.measure import case, contention, draft, environment, laboratory, messages, meter, preflight, rest, worker
from bench.measure.attribution import Rises
from bench.record import DeviceFacts, Protocol, Record, Speeds

UUID = "GPU-11111111-2222-3333-4444-555555555555"
OTHER = "GPU-99999999-2222-3333-4444-555555555555"
WATTS = 300  # of the compiled board, always
PROTOCOL = Protocol(
    settle_s=0.0, min_samples=3, min_time_s=0.0, max_time_s=0.05, max_samples=5, half_width=1.0, sample_s=1e-5,
    settle_steps=1, energy_s=0.7,
)  # fmt: skip


class Card(Cpu):
    """A device that computes as a CPU and whose sensors are a board's."""

    uuid_told = UUID

    def board(self) -> str | None:
        return self.uuid_told

    def cache_bytes(self) -> int:
        return 1  # nothing has to be flushed, and each sample is the load itself


@pytest.fixture(scope="module")
def libraries(fake_nvml: Callable[..., Path]) -> dict[bool, Path]:
    return {old: fake_nvml(*["OLD_DRIVER"] * old) for old in (False, True)}


@pytest.fixture
def measured(libraries: dict[bool, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Record]:
    """The record of a case on a machine in the modes asked for. Windows of half a second are enough here."""
    monkeypatch.setattr(energy, "SHORTEST_S", 0.5)
    monkeypatch.setattr(energy, "FEWEST_TICKS", 4)
    monkeypatch.setattr(energy, "STALE_S", 0.4)
    monkeypatch.setattr(meter, "ANSWER_LIMIT_S", 3.0)

    def measure(modes: str, after_s: float = 0.0, *, held_s: float = 0.7, old_driver: bool = False) -> Record:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries[old_driver]))
        monkeypatch.setenv("FAKE_NVML", modes)
        monkeypatch.setenv("FAKE_NVML_AFTER_S", str(after_s))
        device = Card(vendor="nvidia", index=0, name="A Board", backend="cpu")
        watching = meter.ProcessMeter(device, seed=0)
        params = dict(workload.find("rms_norm").smoke)
        protocol = msgspec.structs.replace(PROTOCOL, energy_s=held_s)
        job = messages.Job(workload="rms_norm", params=params, device=0, round=0, protocol=protocol)
        try:
            (one,) = case.measure(device, job, 0, draft.Witnesses(contention.HostWatch(1, 1e-3), watching))
        finally:
            watching.close()
        return one

    return measure


TOLD = [  # modes, method, boundary, flags
    ("", "counter_tick", "gpu_board", set()),
    ("mig", "counter_tick", "whole_gpu", set()),
    ("vgpu", "power_integral", "gpu_board", set()),
    ("wsl", "counter_tick", "gpu_board", set()),
    ("gb10", "counter_tick", "gpu_board", set()),
    ("gh200", "counter_tick", "module", set()),
    ("frozen", "power_integral", "gpu_board", set()),
    ("falling", "power_integral", "gpu_board", set()),
    ("absurd", "counter_tick", "gpu_board", set()),
    ("noevents", "counter_tick", "gpu_board", set()),
    ("xid", "counter_tick", "gpu_board", {"xid"}),
]


@pytest.mark.parametrize(("modes", "method", "boundary", "flags"), TOLD, ids=[one[0] or "healthy" for one in TOLD])
def test_what_a_machine_tells_is_true_and_the_rest_is_null(
    modes: str, method: str, boundary: str, flags: set[str], measured: Callable[..., Record]
) -> None:
    one = measured(modes)
    sound(one)
    assert one.energy is not None
    assert (one.energy.method, one.energy.boundary) == (method, boundary)
    assert one.energy.joules / one.energy.window_s == pytest.approx(WATTS, rel=0.1)
    assert {"xid", "gpu_lost", "needs_service", "hw_slowdown"}.intersection(one.flags) == flags
    assert one.valid == (not flags)


@pytest.mark.parametrize(
    ("modes", "after_s", "says"),
    [
        ("nopower", 0.0, "neither power nor energy .Not Supported."),
        ("mismatch", 0.0, "neither power nor energy .*reboot"),
        ("lost", 0.0, "neither power nor energy .*GPU is lost"),
        ("hang", 1.0, "did not answer"),
    ],
)
def test_what_goes_wrong_costs_the_energy_and_not_the_timing(
    modes: str, after_s: float, says: str, measured: Callable[..., Record]
) -> None:
    one = measured(modes, after_s, held_s=2.5)
    sound(one)
    assert one.energy is None and re.search(says, one.reasons["energy"])
    assert one.valid


def test_a_board_that_is_lost_while_it_works_makes_the_record_invalid(measured: Callable[..., Record]) -> None:
    one = measured("lost", after_s=1.0, held_s=2.5)
    sound(one)
    assert "gpu_lost" in one.flags and not one.valid


def test_an_old_driver_without_field_values_counts_energy_all_the_same(measured: Callable[..., Record]) -> None:
    one = measured("", old_driver=True)
    sound(one)
    assert one.energy is not None and one.energy.method == "counter_tick"
    assert one.telemetry is not None and "power_w" not in one.telemetry.series


def test_a_sampler_that_cannot_be_started_costs_the_energy_and_not_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(meter.subprocess, "Popen", refuses)
    device = Card(vendor="nvidia", index=0, name="A Board", backend="cpu")
    watching = meter.of(device, seed=0)
    params = dict(workload.find("rms_norm").smoke)
    job = messages.Job(workload="rms_norm", params=params, device=0, round=0, protocol=PROTOCOL)
    (one,) = case.measure(device, job, 0, draft.Witnesses(contention.HostWatch(1, 1e-3), watching))
    sound(one)
    assert "could not be started" in one.reasons["energy"]
    monkeypatch.setattr(rest, "REST_QUIET_S", 0.0)
    idle, why = rest.measure(device, watching, 0.0, lambda: None)
    assert idle.without_context_w is None and "could not be started" in why


def sound(one: Record) -> None:
    """The timing is there, nothing is null without a reason, and nothing that is told stands for unknown."""
    assert one.status == "ok" and one.samples_s and one.timing is not None
    for name in ("energy", "telemetry", "check", "peak_memory_bytes"):
        assert getattr(one, name) is not None or one.reasons[name], name
    assert msgspec.json.decode(record.encode(one), type=Record) == one
    for name, series in one.telemetry.series.items() if one.telemetry else ():
        assert series.values, name
        if name.startswith(("power", "clock", "temperature")):
            assert min(series.values) > 0, name
        if name.startswith("power"):
            assert max(series.values) < 1e4
    if one.telemetry:
        assert not {-1.0, 424242.0, 424.242}.intersection(one.telemetry.state.values())


def test_an_xid_of_the_board_is_named_and_one_of_a_program_is_not(measured: Callable[..., Record]) -> None:
    one = measured("xid")
    assert "XID 79" in one.reasons["xid"] and "31" not in one.reasons["xid"]


# Which board


@pytest.fixture
def answering(
    libraries: dict[bool, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str, int, str], Rises]:
    """What a meter on the board of a UUID sees where a load is on the board of that number."""

    def seen(uuid: str, loaded: int, modes: str) -> Rises:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries[False]))
        monkeypatch.setenv("FAKE_NVML", modes)
        monkeypatch.setenv("FAKE_NVML_LOAD", str(tmp_path / "load"))
        device = Card(vendor="nvidia", index=0, name="A Board", backend="cpu")
        device.uuid_told = uuid
        watching = meter.ProcessMeter(device, seed=0)

        def load() -> None:
            (tmp_path / "new").write_text(str(loaded))
            (tmp_path / "new").replace(tmp_path / "load")  # whoever reads meanwhile finds all of it
            device.wait(0.02)

        try:
            return watching.rises(load)
        finally:
            watching.close()

    return seen


@pytest.mark.parametrize(("uuid", "loaded"), [(UUID, 0), (OTHER, 1)])
def test_a_load_raises_the_power_of_its_own_board(
    uuid: str, loaded: int, answering: Callable[[str, int, str], Rises]
) -> None:
    found = answering(uuid, loaded, "two")
    assert found == Rises((80.0, 300.0), [(80.0, 80.0)]) and not found.mistaken


def test_a_load_that_raises_another_board_s_power_is_on_another_board(
    answering: Callable[[str, int, str], Rises],
) -> None:
    found = answering(UUID, 1, "two")
    assert "from 80 to 80 W" in found.mistaken and "from 80 to 300 W" in found.mistaken


def test_the_only_board_is_not_asked(answering: Callable[[str, int, str], Rises]) -> None:
    assert answering(UUID, 0, "") == Rises(None, [])


@pytest.mark.parametrize(
    ("rises", "mistaken"),
    [
        (Rises((80.0, 300.0), [(80.0, 400.0)]), False),  # somebody else began as well
        (Rises((400.0, 400.0), [(400.0, 395.0)]), False),  # both are busy: nothing follows
        (Rises((80.0, 85.0), [(70.0, 79.0)]), False),
        (Rises(None, [(70.0, 300.0)]), False),
        (Rises((80.0, 81.0), [(70.0, 71.0), (70.0, 300.0)]), True),
    ],
)
def test_only_a_power_that_stays_while_another_rises_is_a_mistake(rises: Rises, mistaken: bool) -> None:
    assert bool(rises.mistaken) == mistaken


WHY = Rises((80.0, 81.0), [(70.0, 300.0)]).mistaken


def test_where_the_sensors_are_another_board_s_nothing_of_them_is_in_a_record() -> None:
    device = Card(vendor="nvidia", index=0, name="A Board", backend="cpu")
    server = worker._Server([device], 1, 0)
    params = dict(workload.find("rms_norm").smoke)
    job = messages.Job(workload="rms_norm", params=params, device=0, round=0, protocol=PROTOCOL, mistaken=WHY)
    first, *_ = server.serve(job)
    assert server._meter is not None
    server._meter.close()
    assert isinstance(first, messages.Measured)
    sound(first.record)
    assert first.record.reasons["energy"] == first.record.reasons["telemetry"] == WHY


def test_where_the_sensors_are_another_board_s_nothing_of_them_is_said_of_the_device() -> None:
    facts = DeviceFacts(
        spec="nvidia:0", vendor="nvidia", name="A Board", chip=None, uuid_hash=None, memory_bytes=1,
        last_level_cache_bytes=None, driver=None, readings={"power_w": 70.0, "memory_used_bytes": 1e12},
        capabilities={"power_w": "ok", "memory_used_bytes": "ok", "energy_j": "Not Supported"},
    )  # fmt: skip
    speeds = Speeds(flops_per_s={}, bytes_per_s=1.0, free_bytes=1, launch_s=0.0)
    right, wrong = (
        laboratory._as_seen(facts, messages.Probed(speeds, {"power_period_s": 0.1}, why)) for why in ("", WHY)
    )
    assert right.readings == facts.readings | {"power_period_s": 0.1}
    assert right.capabilities["power_period_s"] == "ok"
    assert not wrong.readings and set(wrong.capabilities.values()) == {WHY}
    findings = [one for one in preflight.findings(environment.host(1), [wrong], {}) if "A Board" in one.message]
    assert [one.code for one in findings] == ["other_board", "unknown_chip"]

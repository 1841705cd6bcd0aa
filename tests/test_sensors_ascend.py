"""Ascend by a scripted DCMI, and by texts as two versions of npu-smi print them."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

import bench.sensors
from bench.sensors import Lost, Sensors, Withheld, ascend

CHIPS = """\
    NPU ID                         Chip ID                        Chip Logic ID                  Chip Name
    2                              0                              0                              Ascend 310P3
    2                              1                              1                              Ascend 310P3
    2                              2                              -                              Mcu
    5                              0                              2                              Ascend 310P3
    5                              1                              3                              Ascend 310P3
"""
# One chip asked for, and no more said of it.
SHORT = {
    "power": "\tNPU Real-time Power(W)         : 9.1\n",
    "temp": "\tTemperature (C)                : 50\n",
    "usages": """\
\tMemory Capacity(MB)            : 10810
\tMemory Usage Rate(%)           : 46
\tHugepages Total(page)          : 1304
\tAicore Usage Rate(%)           : 37
\tAicpu Usage Rate(%)            : 9
\tMemory Bandwidth Usage Rate(%) : 1
""",
}
# Every chip of the card, its ID after what it tells, and the card's controller at the end.
LONG = {
    "power": """
        NPU ID                         : 2
        Chip Count                     : 2

        NPU Real-time Power(W)         : 88.4
        Chip ID                        : 0

        NPU Real-time Power(W)         : 103.5
        Chip ID                        : 1

        Power Dissipation(W)           : 216.9
        NPU Real-time Power(W)         : 217.0
        Chip Name                      : MCU
""",
    "temp": """
        NPU ID                         : 2
        Chip Count                     : 2

        NPU Temperature (C)            : 41
        Chip ID                        : 0

        NPU Temperature (C)            : 39
        Chip ID                        : 1

        LM75A_TE (C)                   : 36
        Temperature(C)                 : 48
        Chip Name                      : MCU
""",
    "usages": """
        NPU ID                         : 2
        Chip Count                     : 2

        Aicore Usage Rate(%)           : 0
        HBM Usage Rate(%)              : 5
        Chip ID                        : 0

        Aicore Usage Rate(%)           : 62
        HBM Usage Rate(%)              : 7
        Chip ID                        : 1
""",
}


class Dcmi:
    """libdcmi.so with one chip: logic ID 3 is chip 1 of card 4."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.asked: list[tuple[Any, ...]] = []

    def _answer(self, function: str, place: tuple[int, int], pointer: Any, value: int) -> int:
        self.asked.append((function, *place))
        if code := self.codes.get(function, 0):
            return code
        pointer._obj.value = value
        return 0

    def dcmi_init(self) -> int:
        return self.codes.get("dcmi_init", 0)

    def dcmi_get_card_id_device_id_from_logicid(self, card: Any, chip: Any, index: int) -> int:
        if index != 3:
            return -8007
        card._obj.value, chip._obj.value = 4, 1
        return 0

    def dcmi_get_device_power_info(self, card: int, chip: int, pointer: Any) -> int:
        return self._answer("dcmi_get_device_power_info", (card, chip), pointer, 3107)

    def dcmi_get_device_temperature(self, card: int, chip: int, pointer: Any) -> int:
        return self._answer("dcmi_get_device_temperature", (card, chip), pointer, 47)

    def dcmi_get_device_utilization_rate(self, card: int, chip: int, kind: int, pointer: Any) -> int:
        return self._answer("dcmi_get_device_utilization_rate", (card, chip), pointer, {2: 85}[kind])

    def dcmi_get_device_frequency(self, card: int, chip: int, kind: int, pointer: Any) -> int:
        return self._answer("dcmi_get_device_frequency", (card, chip), pointer, {6: 1600, 7: 960, 9: 1800}[kind])

    def dcmi_get_device_hbm_info(self, card: int, chip: int, pointer: Any) -> int:
        if code := self.codes.get("dcmi_get_device_hbm_info", 0):
            return code
        pointer._obj.memory_usage, pointer._obj.temp = 3000, 52
        return 0


@pytest.fixture
def dcmi(monkeypatch: pytest.MonkeyPatch) -> Dcmi:
    fake = Dcmi()
    monkeypatch.setattr(ascend, "_library", lambda: fake)
    monkeypatch.setattr(subprocess, "run", missing)
    return fake


def missing(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    raise FileNotFoundError(2, "No such file or directory", command[0])


def text_only(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str], chips: str = CHIPS) -> list[list[str]]:
    """No DCMI, and an npu-smi that prints these. Gives the commands, as they come to be."""
    commands: list[list[str]] = []

    def run(command: list[str], *, timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        assert timeout == 5
        commands.append(command)
        text = chips if command[2] == "-m" else texts[command[3]]
        return subprocess.CompletedProcess(command, 0, text, "")

    monkeypatch.setattr(ascend, "_LIBRARIES", ("/nowhere/libdcmi.so",))
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def ask(sensors: Sensors, name: str) -> float:
    return sensors.asks()[name]()


# DCMI


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("power_w", 310.7),
        ("temperature_c", 47),
        ("kernel_active", 0.85),
        ("clock_hz", 960e6),
        ("clock_max_hz", 1800e6),
        ("memory_clock_hz", 1600e6),
        ("memory_temperature_c", 52),
        ("memory_used_bytes", 3000 * 2**20),
    ],
)
def test_dcmi_is_told_in_si_units(dcmi: Dcmi, name: str, value: float) -> None:
    assert ask(ascend.open_board("3"), name) == pytest.approx(value)


def test_a_chip_is_asked_by_its_place_and_not_by_its_index(dcmi: Dcmi) -> None:
    ask(ascend.open_board("3"), "power_w")
    assert dcmi.asked == [("dcmi_get_device_power_info", 4, 1)]


def test_energy_is_withheld_since_no_counter_is_documented(dcmi: Dcmi) -> None:
    sensors = ascend.open_board("3")
    assert sensors.boundary == "npu_chip"
    with pytest.raises(Withheld, match="no counter of energy"):
        ask(sensors, "energy_j")


@pytest.mark.parametrize(
    ("code", "reason"), [(-8002, "not permitted"), (-8255, "not supported"), (-8005, "code -8005")]
)
def test_a_refused_quantity_says_why_and_the_others_are_told(dcmi: Dcmi, code: int, reason: str) -> None:
    dcmi.codes["dcmi_get_device_power_info"] = code
    readings = ascend.open_board("3").probe()
    assert readings["power_w"].value is None and reason in readings["power_w"].reason
    assert readings["temperature_c"].value == 47


def test_a_part_without_hbm_tells_nothing_of_it(dcmi: Dcmi) -> None:
    dcmi.codes["dcmi_get_device_hbm_info"] = -8255
    readings = ascend.open_board("3").probe()
    assert readings["memory_used_bytes"].value is None
    assert readings["memory_temperature_c"].value is None


def test_a_chip_that_is_gone_is_lost(dcmi: Dcmi) -> None:
    sensors = ascend.open_board("3")
    sensors.probe()
    dcmi.codes["dcmi_get_device_power_info"] = -8008
    with pytest.raises(Lost, match="does not exist"):
        sensors.read(["power_w"])


def test_a_library_without_a_function_is_a_reason(dcmi: Dcmi, monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = ascend.open_board("3")
    monkeypatch.delattr(Dcmi, "dcmi_get_device_frequency")
    with pytest.raises(Withheld, match="no dcmi_get_device_frequency"):
        ask(sensors, "clock_hz")


def test_where_dcmi_does_not_start_the_text_is_read(dcmi: Dcmi, monkeypatch: pytest.MonkeyPatch) -> None:
    text_only(monkeypatch, SHORT)
    dcmi.codes["dcmi_init"] = -8002
    assert ask(ascend.open_board("3"), "power_w") == 9.1


# The text of npu-smi


@pytest.mark.parametrize(
    ("texts", "power_w", "temperature_c", "kernel_active"), [(SHORT, 9.1, 50, 0.37), (LONG, 103.5, 39, 0.62)]
)
def test_each_layout_tells_the_chip_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    texts: dict[str, str],
    power_w: float,
    temperature_c: float,
    kernel_active: float,
) -> None:
    commands = text_only(monkeypatch, texts)
    readings = ascend.open_board("1").probe()
    assert readings["power_w"].value == power_w
    assert readings["temperature_c"].value == temperature_c
    assert readings["kernel_active"].value == kernel_active
    assert readings["energy_j"].value is None
    assert ["npu-smi", "info", "-t", "power", "-i", "2", "-c", "1"] in commands


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\tNPU Real-time Power(W)         : NA\n",
        "\tNPU Real-time Power(W)         :\n",
        "\tNPU Real-time Power(W)         : nan\n",
        "\tRated Power Dissipation(W)     : 12.8\n",
        "\tPower Dissipation(W)           : 16.9\n",
        "\tNPU Real-time Power(W)         : 9.1\n\n\tNPU Real-time Power(W)         : 9.2\n",
        "This device does not support querying power.\n",
    ],
)
def test_what_is_not_one_number_after_the_label_is_no_power(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    text_only(monkeypatch, {**SHORT, "power": text})
    with pytest.raises(Withheld, match="npu-smi"):
        ask(ascend.open_board("1"), "power_w")


@pytest.mark.parametrize("chips", ["", "NPU ID    Slot ID    Chip ID    Chip Phy-ID\n1    22    0    1\n", CHIPS])
def test_a_chip_that_is_not_listed_by_its_logic_id_is_not_guessed(monkeypatch: pytest.MonkeyPatch, chips: str) -> None:
    text_only(monkeypatch, SHORT, chips)
    with pytest.raises(Withheld, match=r"libdcmi\.so.*lists no chip with the logic ID 7"):
        ascend.open_board("7")


def failing(answer: Callable[[list[str]], subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return answer(command)

    return run


def test_a_hanging_npu_smi_is_given_up_after_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str]) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 5)

    text_only(monkeypatch, SHORT)
    sensors = ascend.open_board("1")
    monkeypatch.setattr(subprocess, "run", failing(hangs))
    with pytest.raises(Withheld, match="no answer in 5 s"):
        ask(sensors, "power_w")
    with pytest.raises(Withheld, match="no answer in 5 s"):
        ascend.open_board("1")


def test_a_failing_npu_smi_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    text_only(monkeypatch, SHORT)
    sensors = ascend.open_board("1")
    answer = subprocess.CompletedProcess(["npu-smi"], 1, "Error parameter of -t\nmore\n", "")
    monkeypatch.setattr(subprocess, "run", failing(lambda command: answer))
    with pytest.raises(Withheld, match=r"Error parameter of -t$"):
        ask(sensors, "power_w")


def test_with_neither_library_nor_command_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascend, "_LIBRARIES", ("/nowhere/libdcmi.so",))
    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(Withheld, match=r"DCMI: .*npu-smi: No such file"):
        ascend.open_board("0")


# The interface


@pytest.mark.parametrize("board", [None, "", "-1", "npu:0", "GPU-1f"])
def test_what_is_no_index_finds_no_chip(dcmi: Dcmi, board: str | None) -> None:
    with pytest.raises(Withheld, match="index"):
        ascend.open_board(board)


@pytest.mark.parametrize("texts", [SHORT, LONG, dict.fromkeys(SHORT, "")])
def test_every_quantity_is_a_number_or_a_reason(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> None:
    text_only(monkeypatch, texts)
    for reading in bench.sensors.open_board("ascend", "1").probe().values():
        assert (reading.value is None) == bool(reading.reason)

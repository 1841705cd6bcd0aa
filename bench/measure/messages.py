"""What a parent asks of a worker and what it answers: one JSON line each."""

import msgspec

from bench.device import Absence
from bench.measure.peers import Agreement
from bench.measure.powercheck import Verdict
from bench.record import DeviceFacts, Idle, Protocol, Record, Speeds
from bench.workload import Scalar


class Describe(msgspec.Struct, tag="describe", frozen=True):
    """Asks what the devices are."""


class Probe(msgspec.Struct, tag="probe", frozen=True):
    """Asks for rough speeds of the worker's device, to choose sizes by."""


class Job(msgspec.Struct, tag="case", frozen=True, kw_only=True):
    """Asks for the records of one case."""

    workload: str
    params: dict[str, Scalar]
    device: int
    round: int
    protocol: Protocol
    periods_s: dict[str, float] = {}  # how often the board publishes power and energy, where that was seen
    checked: bool = False  # the output of an earlier round was right, and this one need not be looked at


class Rest(msgspec.Struct, tag="rest", frozen=True):
    """Asks for the power of the idle device, over so long each time. The first order of a worker, or it is too late."""

    seconds: float


class CompareTimers(msgspec.Struct, tag="timers", frozen=True):
    """Asks how other timers read the same call."""


class CheckPower(msgspec.Struct, tag="power", frozen=True):
    """Asks whether power and energy are what they are taken for."""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The worker has started and found its device: from here on the time of a case counts."""


class Described(msgspec.Struct, tag="described", frozen=True, kw_only=True):
    """The devices that the worker's `--device` names, and the software it runs on."""

    specs: list[str]
    facts: list[DeviceFacts]
    absences: dict[str, Absence]
    software: dict[str, str]


class Probed(msgspec.Struct, tag="probed", frozen=True):
    """First, rough speeds, and how often the board published its power and energy meanwhile."""

    speeds: Speeds
    periods_s: dict[str, float]


class Rested(msgspec.Struct, tag="rested", frozen=True):
    """Power at rest, and why where it is not known."""

    idle: Idle
    reason: str


class Measured(msgspec.Struct, tag="measured", frozen=True):
    """One record of the case at hand, sent as soon as there is one."""

    record: Record


class Finished(msgspec.Struct, tag="finished", frozen=True):
    """The case has no more records. `spoilt`: the next case should not run in this process."""

    spoilt: bool


class TimersCompared(msgspec.Struct, tag="agreements", frozen=True):
    """How they read it."""

    agreements: list[Agreement]


class PowerChecked(msgspec.Struct, tag="verdict", frozen=True):
    """One thing that holds or does not, sent as soon as it is known. None follows the last."""

    verdict: Verdict | None


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """The user can put it right: shown as it is."""

    message: str


Order = Describe | Probe | Rest | Job | CompareTimers | CheckPower
Reply = Ready | Described | Probed | Rested | Measured | Finished | TimersCompared | PowerChecked | Refused

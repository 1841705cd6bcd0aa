"""Worker: the only process that touches the device. One lives for one round; it is told a case at a time.

Jobs arrive on standard input and replies leave on a descriptor of their own, one JSON line each. Whatever a library
prints goes to standard error. When the parent dies, standard input ends and so does the worker, even in mid-case.
"""

import argparse
import gc
import itertools
import os
import signal
from collections.abc import Iterator

import msgspec

from bench import device as devices
from bench.device import Device
from bench.errors import UserError
from bench.measure import case, conditions, contention, draft, environment, meter, peers, powercheck, rest, speeds
from bench.measure.messages import (
    CheckPower,
    CompareTimers,
    Describe,
    Described,
    Finished,
    Measured,
    Order,
    PowerChecked,
    Probe,
    Probed,
    Ready,
    Refused,
    Reply,
    Rest,
    Rested,
    TimerCompared,
)
from bench.measure.orders import until_the_parent_dies
from bench.record import Speeds


def main() -> None:
    """Serves orders until standard input ends."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", required=True)
    arguments.add_argument("--threads", type=int, required=True)
    arguments.add_argument("--seed", type=int, required=True)
    options = arguments.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # a batch system sends it to all of us; the parent decides
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a library's print must not look like a reply
    orders = until_the_parent_dies(Order)

    def reply(answer: Reply) -> None:
        replies.write(msgspec.json.encode(answer) + b"\n")

    try:
        found = devices.find(options.device)
        server = _Server(found, options.threads, options.seed)
        reply(Ready())
        while True:
            for answer in server.serve(orders.get()):
                reply(answer)
    except UserError as error:
        reply(Refused(str(error)))


class _Server:
    """Answers orders on one device, or describes several."""

    def __init__(self, found: list[Device], threads: int, seed: int) -> None:
        self._found = found
        self._device = found[0]
        self._threads = threads
        self._seed = seed
        self._meter: meter.Meter | None = None
        self._spin: float | None = None
        self._ready = False

    def serve(self, order: Order) -> Iterator[Reply]:
        """The answers to one order."""
        if isinstance(order, Describe):
            facts = [environment.device_facts(device) for device in self._found]
            specs = [device.spec for device in self._found]
            absences = devices.absences()
            yield Described(specs=specs, facts=facts, absences=absences, software=environment.software())
            return
        if self._meter is None:  # before the first context: what opens it must not count as load
            self._meter = meter.of(self._device, self._seed)
        if isinstance(order, Rest):
            yield Rested(*rest.measure(self._device, self._meter, order.seconds, self._get_ready))
            return
        self._get_ready()
        # What lives now outlives the case, torch's modules above all: collections would walk over it, 0.15 s each here.
        gc.collect()
        gc.freeze()
        if isinstance(order, Probe):
            mistaken = powercheck.rises(self._device, self._meter).mistaken
            found: list[Speeds] = []
            periods_s = self._meter.periods(lambda: found.append(speeds.measure(self._device)))
            yield Probed(found[0], periods_s, mistaken)
            return
        if isinstance(order, CompareTimers):
            for agreement in peers.timers(self._device):
                yield TimerCompared(agreement)
            yield TimerCompared(None)
            return
        if isinstance(order, CheckPower):
            periods_s = self._meter.periods(lambda: speeds.measure(self._device))
            lines = (powercheck.check(self._device, self._meter, periods_s), conditions.check(self._device))
            for verdict in itertools.chain(*lines):
                yield PowerChecked(verdict)
            yield PowerChecked(None)
            return
        if self._spin is None:
            self._spin = contention.spin()
        watching = meter.Meter(order.mistaken) if order.mistaken else self._meter
        seen = draft.Witnesses(contention.HostWatch(self._threads, self._spin), watching)
        for record in case.measure(self._device, order, self._seed, seen):
            yield Measured(record)
        yield Finished(spoilt=self._device.spoilt)

    def _get_ready(self) -> None:
        if not self._ready and self._device.clock != "virtual":
            import torch

            torch.set_num_threads(self._threads)
            self._device.use()
        self._ready = True


if __name__ == "__main__":
    main()

"""A time limit ends the tests as Ctrl-C does: what passed and failed until then is said."""

import signal
from typing import Any


def pytest_configure() -> None:
    def interrupt(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # `timeout` sends two
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)

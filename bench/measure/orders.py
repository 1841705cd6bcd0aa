"""Orders: what a process of ours is told by the one that started it, a JSON line each on standard input."""

import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec


def until_the_parent_dies(kind: Any, *, last: Sequence[Any] = (), grace_s: float = 0.0) -> "queue.SimpleQueue[Any]":
    """Orders of that type as they come. When standard input ends, the process ends, whatever it is doing: at once, or
    `grace_s` after the `last` orders, which are given then.

    The thread that reads sleeps in the kernel while the main one works.
    """
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    decoder = msgspec.json.Decoder(kind)

    def read() -> None:
        # Unbuffered: the interpreter's own reader holds a lock that no exit of the main thread could take.
        with open(0, "rb", buffering=0, closefd=False) as stream:
            while line := stream.readline():
                orders.put(decoder.decode(line))
        for order in last:
            orders.put(order)
        time.sleep(grace_s)
        os._exit(0)  # not sys.exit: the main thread may hang in a driver

    threading.Thread(target=read, daemon=True).start()
    return orders

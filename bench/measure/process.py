"""A worker as its parent sees it: started in a session of its own, asked, listened to with a time limit, ended."""

import contextlib
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO

import msgspec

from bench.errors import UserError, without_paths
from bench.measure import environment
from bench.measure.messages import Order, Ready, Refused, Reply

# A first import of torch from a network file system takes minutes.
START_LIMIT_S = 600.0


def allocator_settings() -> dict[str, str]:
    """Two thresholds of glibc's allocator, fixed before a worker starts.

    By default glibc gives a freed block of some megabytes back to the kernel at once, or does not, depending on what
    the process did before; fetching it anew costs a page fault for each 4 KiB, up to ten times as long as the work.
    With these a freed block stays. glibc refused a threshold of more than 32 MiB, and then kept 128 KiB, up to at least
    2.31; it takes 1 GiB in 2.36 as seen here. In between the careful choice stands.
    """
    name, version = platform.libc_ver()
    old = name == "glibc" and tuple(map(int, version.split(".")[:2])) < (2, 35)
    return {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str((32 << 20) if old else (1 << 30))}


class WorkerDied(Exception):
    """The worker ended without answering; the message says how, and what it last wrote to standard error."""


class WorkerHung(Exception):
    """No answer within the limit; the worker was ended."""


class WorkerProcess:
    """One worker on one device, for one round."""

    def __init__(self, spec: str, threads: int, seed: int) -> None:
        """Starts it. The session of its own keeps Ctrl-C from it: the parent decides what becomes of a case."""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the worker
        command = [
            sys.executable, "-P", "-m", "bench.measure.worker",
            "--device", spec, "--threads", str(threads), "--seed", str(seed),
        ]  # fmt: skip
        counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**environment.for_children(), **allocator_settings(), **counts},
            start_new_session=True,
        )
        self._replies: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        self._ready = False
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, order: Order) -> None:
        """Sends an order, the first when the worker has started. Raises as `answer` does when it does not start."""
        if not self._ready:
            assert isinstance(self.answer(START_LIMIT_S), Ready)
            self._ready = True
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()

    def answer(self, limit_s: float) -> Reply:
        """The next reply. Raises WorkerHung, WorkerDied, or UserError for what the user can put right."""
        try:
            reply = self._replies.get(timeout=limit_s)
        except queue.Empty:
            self.close()
            raise WorkerHung(f"no answer within {limit_s:.0f} s") from None
        if reply is None:
            raise WorkerDied(self._last_words())
        if isinstance(reply, Refused):
            raise UserError(reply.message)
        return reply

    def close(self) -> None:
        """Ends the worker and whatever it started."""
        with contextlib.suppress(OSError):  # it may be gone
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver not even SIGKILL ends it
            self._process.wait(timeout=10)
        # Not standard output: while the other thread reads it, closing it waits for the worker's end.
        for stream in (self._process.stdin, self._errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        decoder = msgspec.json.Decoder(Reply)
        try:
            for line in self._process.stdout:
                self._replies.put(decoder.decode(line))
        except (msgspec.MsgspecError, ValueError, OSError):
            pass  # a line cut by the worker's death
        self._process.stdout.close()
        self._replies.put(None)

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the worker closed its pipe and does not end"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        if code == -signal.SIGKILL:
            how += ", as the kernel sends when memory is short"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4000))
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        last = f": {without_paths(lines[-1])[:300]}" if lines else ""
        return f"the worker ended with {how}{last}"

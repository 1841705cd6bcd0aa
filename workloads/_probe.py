"""One training step in a process of its own: exit status 0 when it fits into memory, 3 when it does not."""

import json
import sys
from pathlib import Path

from bench import device, workload
from bench.errors import is_out_of_memory


def main() -> None:
    """Reads the order from standard input: parameters of `train_step`, the device, and how much a CPU may take."""
    order = json.load(sys.stdin)
    found = device.find(order["device"])[0]
    found.use()
    try:
        if order["limit_bytes"]:
            _limit(order["limit_bytes"])
        found.seed(0)
        step = found.prepare(workload.case("train_step", order["params"]))
        step.run()
        step.run()  # AdamW's moments exist from the end of the first step on
        found.synchronize()
    except Exception as error:
        if is_out_of_memory(error):
            sys.exit(3)
        raise


def _limit(more_bytes: int) -> None:
    """At most so much memory beyond what is held already; where the system can count it."""
    try:
        import resource

        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        held = int(status["VmData"].split()[0]) << 10  # the kernel writes kB
        resource.setrlimit(resource.RLIMIT_DATA, (held + more_bytes, resource.RLIM_INFINITY))
    except (ImportError, OSError, KeyError, ValueError):
        return


if __name__ == "__main__":
    main()

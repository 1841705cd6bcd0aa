"""Device: the one seam between the method and what runs the work.

The timer, the statistics and the runner know only this. `Device` itself drives any accelerator that torch has, with
events where the backend has them and the host clock where it has not; a vendor's file adds detection and sensors.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench import sensors
from bench.cost import Cost
from bench.errors import Unsupported
from bench.sensors import Reading, Sensors

if TYPE_CHECKING:
    import torch

# Where a driver does not tell its cache size we assume this much, which no accelerator's last level exceeds by far.
FALLBACK_CACHE_BYTES = 256 << 20
ASSUMED_FREE_BYTES = 4 << 30
# Inputs are cut from one block of this many normal numbers: generating each anew would take longer than measuring.
_POOL_ELEMENTS = 1 << 24
# The largest number that a type of one byte holds.
_NARROW = {"float8_e4m3fn": 448.0, "int8": 127.0}


Facts = dict[str, float | str]


@dataclass(frozen=True)
class Absence:
    """Why torch can use no device of a vendor; `hardware` when the machine seems to have one all the same."""

    reason: str
    hardware: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One prepared unit of work, with inputs and outputs of its own.

    `run` is what is timed: it enqueues the work, returns without synchronizing, and gives its output where it has one.
    `error` runs the step once more on the same inputs and gives ||out - reference|| / ||reference|| against a reference
    in higher precision, infinity for an output that is not finite or not written; of gradients too where it makes some.
    `facts` says what is worth keeping of how the work was done, such as which kernel did it; asked after the load.
    `shares` says where its time goes; asked last of all and in one round only, because a profiler that has looked at a
    process may slow down all that follows in it.
    """

    run: Callable[[], object]
    error: Callable[[], float]
    facts: Callable[[], Facts] = dict
    shares: Callable[[], Facts] = dict


class Case(Protocol):
    """What a device must know of a workload's case."""

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element."""

    def cost(self) -> Cost:
        """The least that one step must do."""

    def memory_bytes(self) -> int:
        """About what one prepared step keeps allocated."""

    def prepare(self, device: "Device") -> Step:
        """Allocates and gives the step."""


class Device:
    """One accelerator as torch drives it, or by overriding, the CPU or a simulation."""

    vendor: str
    clock: Literal["event", "host", "virtual"] = "event"
    # Whether a call returns before its work is done, so that launch and execution are two times.
    asynchronous: bool = True
    # Whether something left the process in a state that other cases should not meet, such as a capture that failed.
    spoilt: bool = False

    def __init__(self, *, vendor: str, index: int, name: str, backend: str) -> None:
        """`backend` is torch's name of the device type: cuda, xpu, mps, npu, cpu."""
        self.vendor = vendor
        self.index = index
        self.name = name
        self.backend = backend
        self._pool: torch.Tensor | None = None
        self._seed = 0

    @property
    def spec(self) -> str:
        """How `--device` names this device."""
        return f"{self.vendor}:{self.index}"

    # Time. An event is a point in the order of the device's work; on the host clock it is a moment.

    def now_s(self) -> float:
        """The clock that durations on the host are taken from: monotonic, never adjusted."""
        return time.perf_counter_ns() / 1e9

    def event(self) -> Any:
        """A mark after the work enqueued so far."""
        import torch

        if self.clock == "host":
            self.synchronize()
            return time.perf_counter_ns()
        event = torch.Event(self.torch_device, enable_timing=True)
        event.record()
        return event

    def seconds_between(self, start: Any, end: Any) -> float:
        """Time from one mark to a later one, both passed by the device: synchronize first."""
        if self.clock == "host":
            return float((end - start) / 1e9)
        return float(start.elapsed_time(end) / 1e3)  # torch reports milliseconds

    def synchronize(self) -> None:
        """Waits until everything enqueued is done."""
        self._module().synchronize(self.torch_device)

    def use(self) -> None:
        """Makes this the device of the process, before the first allocation."""
        self._module().set_device(self.index)

    def _module(self) -> Any:
        """torch.cuda, torch.xpu, torch.npu: they share these names in every version since 2.6, whereas
        torch.accelerator got its memory functions only later, and a lab's torch is what it is.
        """
        import torch

        return getattr(torch, self.backend)

    # Work

    def prepare(self, case: Case) -> Step:
        """One prepared step of `case`; each call brings inputs and outputs of its own."""
        return case.prepare(self)

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """`run` as one launch, recorded once and replayed. Raises Unsupported where the backend has no graphs."""
        raise Unsupported(f"{self.vendor}: no graph capture")

    def filler(self, num_bytes: int) -> Callable[[], object]:
        """Work that writes `num_bytes` of its own memory: it empties a cache, or keeps the queue busy for a while."""
        import torch

        buffer = torch.empty(num_bytes, dtype=torch.uint8, device=self.torch_device)
        return lambda: buffer.zero_()

    def supports(self, dtype: str) -> bool:
        """Whether the device multiplies matrices of this type. Raises RuntimeError where it does nothing any more."""
        import torch

        torch.ones(1, device=self.torch_device).item()  # a device that is lost must not pass for one that lacks a type
        if dtype == "tf32":
            return False  # a mode of NVIDIA's matrix units
        try:
            tensor = torch.ones(32, 32, device=self.torch_device).to(getattr(torch, dtype))
            if dtype == "float8_e4m3fn":
                scale = torch.ones((), device=self.torch_device)
                product = torch._scaled_mm(tensor, tensor.T, scale, scale, out_dtype=torch.bfloat16)
            else:
                # The second factor by columns, as in a linear layer: cuBLAS of CUDA 13.0 has no other product of int8.
                product = torch._int_mm(tensor, tensor.T) if dtype == "int8" else tensor @ tensor
            product.sum().item()
        except (RuntimeError, TypeError, AttributeError, ValueError):
            return False
        return True

    def use_precision(self, dtype: str) -> None:
        """How products of float32 are computed from here on: with all their bits, or for `tf32` with fewer."""

    def wait(self, seconds: float) -> None:
        """Lets time pass and touches nothing, not even to open the device."""
        time.sleep(seconds)

    def rest(self, seconds: float) -> None:
        """Leaves the device idle."""
        self.synchronize()
        self.wait(seconds)

    # Data

    @property
    def torch_device(self) -> "torch.device":
        """Where tensors go."""
        import torch

        return torch.device(self.backend, self.index)

    def seed(self, seed: int) -> None:
        """Starts the device's data anew: the same seed and the same calls give the same numbers."""
        import torch

        torch.manual_seed(seed)
        if seed != self._seed:
            self._pool = None
        self._seed = seed

    def normal(self, *shape: int, dtype: str, std: float = 1.0) -> "torch.Tensor":
        """Seeded normal numbers. Zeros and constants draw less power and run at higher clocks than real inputs do.

        Every tensor is cut at a random offset from one block of normal numbers; one larger than the block repeats it.
        """
        import torch

        tensor = torch.empty(shape, device=self.torch_device, dtype=getattr(torch, dtype))
        flat, done = tensor.view(-1), 0
        if self._pool is None:
            generator = torch.Generator(device=self.torch_device).manual_seed(self._seed)
            self._pool = torch.randn(_POOL_ELEMENTS, device=self.torch_device, generator=generator)
        while done < tensor.numel():
            count = min(tensor.numel() - done, _POOL_ELEMENTS // 2)
            start = int(torch.randint(_POOL_ELEMENTS - count + 1, ()).item())
            drawn = self._pool[start : start + count]
            if dtype in _NARROW:  # no arithmetic in such types: scaled before they are rounded, to what they can hold
                drawn = (drawn * std).clamp(-_NARROW[dtype], _NARROW[dtype])
            flat[done : done + count].copy_(drawn.round() if dtype == "int8" else drawn)
            done += count
        return tensor if std == 1.0 or dtype in _NARROW else tensor.mul_(std)

    def tokens(self, *shape: int, vocab_size: int) -> "torch.Tensor":
        """Seeded token ids, uniform over the vocabulary."""
        import torch

        return torch.randint(vocab_size, shape).to(self.torch_device)

    # Memory

    def memory_bytes(self) -> int | None:
        """All memory of the device."""
        return self._memory_info()[1]

    def free_bytes(self) -> int:
        """What could be allocated now; where torch does not tell, what the smallest accelerators can spare."""
        free = self._memory_info()[0]
        return ASSUMED_FREE_BYTES if free is None else free

    def cache_bytes(self) -> int:
        """Size of the last-level cache, or an assumption that is too large rather than too small."""
        return FALLBACK_CACHE_BYTES

    def reset_peak_memory(self) -> None:
        """Starts the peak anew."""
        if hasattr(self._module(), "reset_peak_memory_stats"):
            self._module().reset_peak_memory_stats(self.torch_device)

    def peak_memory(self) -> Reading:
        """Most memory that torch held allocated since the peak was reset, in bytes."""
        try:
            return Reading(float(self._module().max_memory_allocated(self.torch_device)))
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            return Reading(None, f"torch does not count it on {self.backend} ({type(error).__name__})")

    def release(self) -> None:
        """Gives cached memory back, after a case."""
        self._module().empty_cache()

    def _memory_info(self) -> tuple[int | None, int | None]:
        """Free and all memory in bytes, None where torch does not tell."""
        try:
            free, total = self._module().mem_get_info(self.torch_device)
        except (AttributeError, RuntimeError, NotImplementedError):
            return None, None
        return int(free), int(total)

    # Facts

    def uuid(self) -> str | None:
        """The board's own identity, the only one that survives a reboot; None where the driver has none."""
        return None

    def driver(self) -> str | None:
        """Version of the driver."""
        return None

    def board(self) -> str | None:
        """How the driver's own tools know the board, for its sensors to be found by: never an index of torch's."""
        return self.uuid()

    def sensors(self) -> Sensors:
        """What the board tells of itself. Opened without torch, so that another process can do the same."""
        return sensors.open_board(self.vendor, self.board())

    def read_sensors(self) -> dict[str, Reading]:
        """Every quantity that this vendor's boards may tell, each a number or a reason."""
        opened = self.sensors()
        try:
            return opened.probe()
        except sensors.Lost as error:
            return dict.fromkeys(sensors.TICK, Reading(None, str(error)))
        finally:
            opened.close()

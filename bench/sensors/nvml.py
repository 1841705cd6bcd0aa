"""NVML beside its single values: activity that a GPU counts between two samples, and errors that its driver reports."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from bench.sensors.base import Lost, Withheld

_GPM_METRICS = {
    "sm_active": "NVML_GPM_METRIC_SM_UTIL",
    "sm_occupancy": "NVML_GPM_METRIC_SM_OCCUPANCY",
    "tensor_active": "NVML_GPM_METRIC_ANY_TENSOR_UTIL",
    "dram_active": "NVML_GPM_METRIC_DRAM_BW_UTIL",
}
_GPM_APART_S = 0.1  # the header asks for as much between two samples
_MOST_EVENTS = 100  # read at a time: a board in trouble may report without end


@contextmanager
def asking(nvml: ModuleType) -> Iterator[None]:
    """Within it NVML's errors, and names that this binding lacks, are Withheld, or Lost."""
    try:
        yield
    except nvml.NVMLError as error:
        gone = error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)
        raise (Lost if gone else Withheld)(str(error)) from error
    except AttributeError as error:
        raise Withheld(f"this nvidia-ml-py is older than it: {error}") from error


class Gpm:
    """What ran between two samples of the GPU's own counters (GPM; Hopper and newer, on Linux), as fractions."""

    def __init__(self, nvml: ModuleType, board: Any, now: Callable[[], float]) -> None:
        self._nvml, self._board, self._now = nvml, board, now
        with asking(nvml):
            if not nvml.nvmlGpmQueryDeviceSupport(board).isSupportedDevice:
                raise Withheld("this GPU has no GPM counters")
            self._older, self._newer = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
            nvml.nvmlGpmSampleGet(board, self._older)
        self._taken_s = now()

    def read(self) -> dict[str, float]:
        """Fractions of the time since the last reading; a metric that is withheld is left out.

        Raises Withheld where that was less than 0.1 s ago, and Lost.
        """
        if (apart_s := self._now() - self._taken_s) < _GPM_APART_S:
            raise Withheld(f"samples {apart_s:.3f} s apart: GPM needs {_GPM_APART_S} s")
        with asking(self._nvml):
            self._nvml.nvmlGpmSampleGet(self._board, self._newer)
            self._taken_s = self._now()
            request = self._nvml.c_nvmlGpmMetricsGet_t()
            request.version, request.numMetrics = self._nvml.NVML_GPM_METRICS_GET_VERSION, len(_GPM_METRICS)
            request.sample1, request.sample2 = self._older, self._newer
            self._older, self._newer = self._newer, self._older
            for index, constant in enumerate(_GPM_METRICS.values()):
                request.metrics[index].metricId = getattr(self._nvml, constant)
            metrics = self._nvml.nvmlGpmMetricsGet(request).metrics
        told = {name: metrics[index] for index, name in enumerate(_GPM_METRICS)}
        return {
            name: metric.value / 100
            for name, metric in told.items()
            if metric.nvmlReturn == self._nvml.NVML_SUCCESS and math.isfinite(metric.value)
        }

    def close(self) -> None:
        """Frees both samples."""
        for sample in (self._older, self._newer):
            with asking(self._nvml):
                self._nvml.nvmlGpmSampleFree(sample)


class Xids:
    """The errors that the driver reports of a GPU (Linux only), from when this was made: events wait until read."""

    def __init__(self, nvml: ModuleType, board: Any) -> None:
        self._nvml = nvml
        with asking(nvml):
            self._events = nvml.nvmlEventSetCreate()
        try:
            with asking(nvml):
                nvml.nvmlDeviceRegisterEvents(board, nvml.nvmlEventTypeXidCriticalError, self._events)
        except (Withheld, Lost):
            self.close()
            raise

    def read(self) -> list[int]:
        """Those that came since the last reading; none is waited for. Raises Withheld, and Lost."""
        found: list[int] = []
        with asking(self._nvml):
            while len(found) < _MOST_EVENTS:
                try:
                    found.append(int(self._nvml.nvmlEventSetWait(self._events, 0).eventData))
                except self._nvml.NVMLError as error:
                    if error.value == self._nvml.NVML_ERROR_TIMEOUT:  # no more
                        break
                    raise
        return found

    def close(self) -> None:
        """Frees the set of events."""
        with asking(self._nvml):
            self._nvml.nvmlEventSetFree(self._events)

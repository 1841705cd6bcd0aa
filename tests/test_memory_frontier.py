"""The memory frontier: the search against memories of known size, and one real search under a limit."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from bench import device as devices
from bench import workload
from bench.errors import Unsupported

SMOKE = {"model": "tiny", "batch": 1, "seq": 32, "dtype": "float32"}


def frontier_module() -> Any:
    workload.find("memory_frontier")
    return sys.modules["workloads.memory_frontier"]


def holding(capacity: int, tried: list[int]) -> Callable[[int], bool]:
    def fits(size: int) -> bool:
        tried.append(size)
        return size <= capacity

    return fits


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 8, 100, 1023, 1024, 5000])
def test_the_search_finds_the_largest_size_exactly(capacity: int) -> None:
    tried: list[int] = []
    sizes = frontier_module()._Sizes(1, 4096, 1)
    largest, failed, tries = sizes.frontier(holding(capacity, tried))
    assert largest == min(capacity, 4096)
    assert failed == (largest + 1 if capacity < 4096 else None)
    assert tries == len(tried) == len(set(tried)) <= 2 * capacity.bit_length() + 1


def test_nothing_above_a_size_that_failed_is_tried_again() -> None:
    tried: list[int] = []
    frontier_module()._Sizes(1, 1 << 20, 1).frontier(holding(300, tried))
    failures = [size for size in tried if size > 300]
    assert failures == sorted(failures, reverse=True)


def test_a_long_sequence_is_found_to_its_grain() -> None:
    largest, failed, _ = frontier_module()._Sizes(32, 131072, 64).frontier(holding(5000, []))
    assert largest <= 5000 < failed <= largest + 64 and largest % 64 == 0


def test_a_least_size_that_does_not_fit_is_out_of_memory() -> None:
    with pytest.raises(MemoryError, match="already at 8"):
        frontier_module()._Sizes(8, 64, 1).frontier(lambda _: False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process may take")
def test_a_real_step_is_tried_in_a_process_with_a_limit() -> None:
    module, cpu = frontier_module(), devices.find("cpu")[0]
    assert module._fits(SMOKE, cpu, 2 << 30)
    assert not module._fits(SMOKE | {"batch": 4096, "seq": 512}, cpu, 256 << 20)
    with pytest.raises(Unsupported, match="a trial step failed"):
        module._fits(SMOKE | {"model": "no such model"}, cpu, 1 << 30)

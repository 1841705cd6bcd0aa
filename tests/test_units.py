"""Units: the one place with prefixes and percents."""

import math

import pytest

from bench import units
from bench.errors import UserError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1.00"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345, "12,300"), (0.01234, "0.0123"),
        (9.999, "10.0"), (99.99, "100"), (999.9, "1,000"), (0.09999, "0.100"), (-1.234, "-1.23"), (1e-6, "0.00000100"),
    ],
)  # fmt: skip
def test_three_digits_are_three_digits(value: float, text: str) -> None:
    assert units.significant(value) == text


def test_rounding_never_changes_a_value_by_more_than_half_a_digit() -> None:
    for exponent in range(-12, 13):
        for mantissa in (1.0, 1.0049, 1.005, 3.14159, 9.94999, 9.995, 9.9999):
            value = mantissa * 10.0**exponent
            assert float(units.significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 FLOP/s"), (1, "1.00 FLOP/s"), (999, "999 FLOP/s"), (999.4, "999 FLOP/s"), (999.6, "1.00 kFLOP/s"),
        (1e3, "1.00 kFLOP/s"), (312e12, "312 TFLOP/s"), (1.979e15, "1.98 PFLOP/s"), (2e18, "2,000 PFLOP/s"),
        (0.5, "0.500 FLOP/s"),
    ],
)  # fmt: skip
def test_rates_have_one_to_three_digits_before_the_point(value: float, text: str) -> None:
    assert units.scaled(value, "FLOP/s") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (812e-9, "812 ns"), (12.34e-6, "12.3 µs"), (4.56e-3, "4.56 ms"), (1.234, "1.23 s"), (61.5, "61.5 s"),
        (0.99999, "1.00 s"), (999.96e-6, "1.00 ms"), (0.5e-9, "0.500 ns"), (0, "0 ns"),
    ],
)  # fmt: skip
def test_times_read_in_the_unit_that_fits(value: float, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0s"), (42, "42s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (3599.6, "1h 00m"), (3725, "1h 02m")],
)
def test_waiting_times_never_show_sixty(value: float, text: str) -> None:
    assert units.clock(value) == text


def test_memory_is_binary_and_says_so() -> None:
    assert units.gibibytes(80e9) == "74.5 GiB"
    assert units.gibibytes(2**30) == "1.00 GiB"
    assert units.gibibytes(2**20) == "1.00 MiB"


def test_percents_have_their_digits() -> None:
    assert [units.percent(0.123), units.percent(0.123, 0), units.percent(1)] == ["12.3 %", "12 %", "100.0 %"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("45", 45), (" 1.5h ", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5s", "5 d", "1h30m", "nan", "inf", "1e3", "s", "٣s٣", "9" * 400])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="is not a duration: write for example 90s, 10m or 2h"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        ("350M", 350_000_000),
        ("1.5T", 1_500_000_000_000),
        ("7B", 7 * 10**9),
        ("7g", 7 * 10**9),
        ("2k", 2000),
    ],
)
def test_counts_take_suffixes(text: str, count: int) -> None:
    assert units.parse_count(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1.5.2", "K", "nan", "1 KB", "0x10", "9" * 400])
def test_what_is_no_count_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="is not a count: write for example"):
        units.parse_count(text)


def test_a_large_count_is_exact() -> None:
    assert units.parse_count("9007199254740993") == 9007199254740993
    assert math.log10(units.parse_count("15T")) == pytest.approx(13.176, abs=1e-3)


def test_one_is_not_several() -> None:
    said = [units.several(number, "row") for number in (0, 1, 2, 1909)]
    assert said == ["0 rows", "1 row", "2 rows", "1,909 rows"]

"""Intervals from past errors: what they cover, and that no source outvotes another."""

import math
import random

import pytest

from bench.estimate.interval import Residual, interval, of_unknown_source, order_statistic, pooled_quantile


def _sources(generator, count, rows=40):
    """Errors whose size differs from source to source."""
    scales = [math.exp(generator.gauss(0.0, 0.5)) for _ in range(count)]
    return [[abs(generator.gauss(0.0, scale)) for _ in range(rows)] for scale in scales]


def test_a_new_source_is_covered_as_often_as_was_said():
    generator, covered = random.Random(1), []
    for _ in range(300):
        *past, new = _sources(generator, 12)
        bound = pooled_quantile(past, 0.90)
        covered += [error <= bound for error in new]
    assert sum(covered) / len(covered) == pytest.approx(0.90, abs=0.03)


def test_a_large_source_does_not_outvote_the_others():
    small = [[0.1] * 5 + [1.0] * 5 for _ in range(9)]
    assert pooled_quantile([*small, [0.01] * 10_000], 0.60) == pytest.approx(1.0)


def test_one_error_more_lies_below_the_order_statistic_as_often_as_was_said():
    chance = random.Random(2)
    below = [chance.random() <= order_statistic([chance.random() for _ in range(19)], 0.90) for _ in range(4000)]
    assert sum(below) / len(below) == pytest.approx(0.90, abs=0.02)
    assert order_statistic([3.0, 1.0, 2.0], 0.90) == 3.0


def test_ninety_percent_are_not_claimed_from_a_few_sources():
    few = interval([Residual(source=name, score=1.0) for name in "abc"], 0.2)
    many = interval([Residual(source=name, score=1.0) for name in "abcdefghij"], 0.2)
    assert few is not None and few.factor90 is None and few.factor80 == pytest.approx(math.exp(0.2))
    assert many is not None and many.factor90 == pytest.approx(math.exp(0.2))
    assert interval([], 0.2) is None


def test_a_new_laboratory_lies_within_what_known_ones_say_as_often_as_promised():
    """Laboratories whose errors are normal, each with a spread of its own, of which ten are known."""
    chance = random.Random(3)
    within: dict[float, list[bool]] = {0.8: [], 0.9: []}
    for _ in range(300):
        spreads = [math.exp(chance.gauss(0.0, 0.6)) for _ in range(10)]
        bounds = [(1.2816 * one, 1.6449 * one) for one in spreads]
        new = math.exp(chance.gauss(0.0, 0.6))
        for level, found in within.items():
            bound = of_unknown_source(bounds, level)
            found += [abs(chance.gauss(0.0, new)) <= bound for _ in range(20)]
    for level, found in within.items():
        assert level - 0.01 <= sum(found) / len(found) <= level + 0.06

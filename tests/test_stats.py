"""Planted truths, published tables and seeded simulations for every claim that `bench.stats` makes."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from bench import stats
from bench.stats import Interval, Ratio

Array = np.ndarray


def autoregressive(rng: np.random.Generator, num_series: int, n: int, phi: float) -> Array:
    """Series of unit variance whose neighbours correlate by `phi`."""
    noise = rng.standard_normal((num_series, n))
    noise[:, 1:] *= math.sqrt(1 - phi * phi)
    for i in range(1, n):
        noise[:, i] += phi * noise[:, i - 1]
    return noise


def holds(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    return interval.low <= truth <= interval.high


# Quantiles and their intervals


@pytest.mark.parametrize("n", [1, 2, 5, 6, 31])
@pytest.mark.parametrize("p", [0, 0.25, 0.5, 0.9, 0.99, 1])
def test_quantiles_agree_with_numpy_in_any_order(n: int, p: float) -> None:
    values = np.random.default_rng(n).lognormal(size=n)
    assert stats.quantile(values.tolist(), p) == pytest.approx(float(np.quantile(values, p)), rel=1e-14)


def test_a_number_is_never_made_from_nothing() -> None:
    for promise in (stats.median, stats.location, stats.steadiness, stats.outliers, stats.geometric_mean):
        with pytest.raises(ValueError, match="needs"):
            promise([])
    with pytest.raises(ValueError, match="p = 2"):
        stats.quantile([1.0], 2)


@pytest.mark.parametrize(
    ("n", "ranks"), [(6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (30, (10, 21)), (50, (18, 32)), (70, (27, 44))]
)
def test_median_ranks_are_those_of_le_boudec_table_a1(n: int, ranks: tuple[int, int]) -> None:
    assert stats.order_statistic_ranks(n) == ranks


@pytest.mark.parametrize("p", [0.5, 0.25, 0.9])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_no_closer_ranks_reach_the_confidence(p: float, confidence: float) -> None:
    for n in range(2, 90):
        ranks = stats.order_statistic_ranks(n, p, confidence)
        if ranks is None:
            assert max(p, 1 - p) ** n > (1 - confidence) / 2
            continue
        low, high = ranks
        chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        assert 1 <= low < high <= n
        assert sum(chance[low:high]) >= confidence - 1e-12
        narrower = high - low - 1
        assert all(sum(chance[j : j + narrower]) < confidence for j in range(1, n - narrower + 1))


@pytest.mark.parametrize(("p", "fewest"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.1, 36)])
def test_an_interval_exists_from_the_sample_size_where_both_ends_can_hold_their_half_of_the_error(
    p: float, fewest: int
) -> None:
    assert stats.order_statistic_ranks(fewest - 1, p) is None
    assert stats.order_statistic_ranks(fewest, p) is not None
    assert stats.quantile_interval(range(fewest - 1), p) is None
    assert holds(stats.quantile_interval(range(fewest), p), p * fewest - 0.5)


@pytest.mark.parametrize("n", [20_000, 100_000])
@pytest.mark.parametrize("p", [0.5, 0.99])
def test_ranks_of_long_series_approach_the_normal_ones(n: int, p: float) -> None:
    low, high = stats.order_statistic_ranks(n, p) or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(n * p * (1 - p)), abs=3)
    assert (low + high) / 2 == pytest.approx(n * p, abs=3)


BIMODAL_MEDIAN = NormalDist(1.0, 0.01).inv_cdf(0.5 / 0.6)  # 60 % of the values lie at 1.0, the others far above


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng, shape: rng.lognormal(0, 0.5, shape), 1.0),
        (lambda rng, shape: 10 + rng.standard_t(1.5, shape), 10.0),
        (lambda rng, shape: np.where(rng.random(shape) < 0.6, 1.0, 1.2) + 0.01 * rng.standard_normal(shape), None),
    ],
    ids=["lognormal", "heavy-tailed", "bimodal"],
)
@pytest.mark.parametrize("n", [10, 30, 100])
def test_the_interval_covers_the_median_of_any_distribution(
    draw: Callable[[np.random.Generator, tuple[int, int]], Array], truth: float | None, n: int
) -> None:
    target = BIMODAL_MEDIAN if truth is None else truth
    rows = draw(np.random.default_rng(n), (2500, n)).tolist()
    assert 0.94 <= np.mean([holds(stats.median_interval(row), target) for row in rows]) <= 0.99


# Correlated samples


def test_lag1_autocorrelation_recovers_the_planted_one() -> None:
    series = autoregressive(np.random.default_rng(5), 1, 20_000, 0.5)[0].tolist()
    assert stats.lag1_autocorrelation(series) == pytest.approx(0.5, abs=0.02)
    assert stats.lag1_autocorrelation([1, -1] * 50) == pytest.approx(-0.99)
    assert stats.lag1_autocorrelation([0.1] * 7) is None
    assert stats.lag1_autocorrelation([1.0, 2.0]) is None


@pytest.mark.parametrize(
    ("phi", "plain_low", "plain_high"), [(0.0, 0.94, 0.99), (0.2, 0.87, 0.94), (0.5, 0.75, 0.86), (0.8, 0.50, 0.65)]
)
def test_blocks_keep_the_coverage_that_correlation_takes_from_the_plain_interval(
    phi: float, plain_low: float, plain_high: float
) -> None:
    rows = autoregressive(np.random.default_rng(11), 3000, 100, phi).tolist()
    assert plain_low <= np.mean([holds(stats.median_interval(row), 0) for row in rows]) <= plain_high
    locations = [stats.location(row) for row in rows]
    assert 0.93 <= np.mean([holds(location.interval, 0) for location in locations]) <= 0.99
    if phi >= 0.5:
        assert np.mean([location.method == "block-median" for location in locations]) > 0.97


def test_location_says_which_interval_it_gives_and_whether_one_exists() -> None:
    noise = np.random.default_rng(2).standard_normal(400)
    plain = stats.location((100 + noise).tolist())
    assert plain.method == "order-statistic"
    assert plain.interval == stats.median_interval((100 + noise).tolist())
    assert plain.relative_half_width == pytest.approx(0.00125, rel=0.6)

    wandering = stats.location((100 + np.cumsum(noise)).tolist())
    assert wandering.method == "block-median"
    assert wandering.rho1 is not None
    assert wandering.rho1 > 0.9
    assert holds(wandering.interval, wandering.median)

    ramp = stats.location([float(i) for i in range(19)])
    assert (ramp.median, ramp.interval, ramp.method) == (9, None, "block-median")
    assert stats.location([float(i) for i in range(20)]).interval is not None

    # Every block but the last holds a 1 and a 10, so that nine of the ten block medians lie above the median of all.
    alternating = stats.location([1.0, 10.0] * 9 + [1.0, 1.0])
    assert (alternating.median, alternating.interval) == (1, Interval(low=1, high=5.5))

    constant = stats.location([3.0] * 6)
    assert constant.interval == Interval(low=3, high=3)
    assert constant.relative_half_width == 0
    assert stats.location([3.0] * 5).relative_half_width is None


# Steadiness


def share_unsteady(rows: Array) -> float:
    return float(np.mean([stats.steadiness(row).steady is False for row in rows.tolist()]))


@pytest.mark.parametrize("n", [20, 60, 200, 1000])
@pytest.mark.parametrize("sd", [0.005, 0.05])
def test_noise_is_not_a_drift(n: int, sd: float) -> None:
    assert share_unsteady(1 + sd * autoregressive(np.random.default_rng(n), 1500 if n < 1000 else 500, n, 0.3)) <= 0.02


def test_noise_of_an_ugly_shape_is_not_a_drift() -> None:
    rng = np.random.default_rng(21)
    assert share_unsteady(np.exp(0.1 * rng.standard_normal((600, 60)))) <= 0.02
    assert share_unsteady(1 + 0.01 * rng.standard_t(1.5, (600, 60))) <= 0.02
    assert share_unsteady(np.where(rng.random((600, 60)) < 0.15, 1.3, 1.0)) <= 0.02


@pytest.mark.parametrize("n", [60, 200, 1000])
def test_a_drift_of_2_percent_or_a_step_of_3_percent_is_found(n: int) -> None:
    clean = 1 + 0.005 * autoregressive(np.random.default_rng(n), 2000 if n < 200 else 300, n, 0.3)
    window = np.linspace(0, 1, n)
    assert share_unsteady(clean + 0.02 * window) >= 0.99
    assert share_unsteady(clean - 0.02 * window) >= 0.99
    for start in (0.15, 0.4, 0.7):
        assert share_unsteady(clean + 0.03 * (window >= start)) >= 0.99
    assert share_unsteady(clean + 0.05 * np.exp(-window / 0.2)) >= 0.99  # clocks that settle during the window


def test_drift_and_step_are_signed_fractions_of_the_median() -> None:
    ramp = stats.steadiness([99 + 2 * i / 399 for i in range(400)])
    assert ramp.steady is False
    assert ramp.drift == pytest.approx(0.02 * 19 / 20, rel=0.01)
    drop = stats.steadiness([2.0] * 100 + [1.9] * 300)
    assert (drop.steady, drop.drift) == (False, 0)
    assert drop.step == pytest.approx(-0.1 / 1.9)
    below_limit = stats.steadiness([100 + 0.9 * i / 399 for i in range(400)])
    assert below_limit.steady is True


def test_ten_samples_are_the_fewest_to_judge_steadiness_by() -> None:
    unknown = stats.Steadiness(steady=None, drift=None, step=None)
    assert stats.steadiness([1.0, 2.0] * 4 + [1.0]) == unknown
    assert stats.steadiness([0.0] * 50) == unknown
    assert stats.steadiness([1.0] * 10) == stats.Steadiness(steady=True, drift=0, step=0)
    assert stats.steadiness([1 + i / 100 for i in range(10)]).steady is False


# Outliers


@pytest.mark.parametrize(
    ("values", "far"),
    [
        ([50.0], 0),
        ([1000.0, 0.0], 0),
        ([-0.2, 0.0, 0.2], 0),
        ([-0.2, 0.0, 0.2, 4.0], 1),
        ([0.5, 0.30, 0.29, 0.31, 0.30], 1),
        ([10.0] * 7 + [100.0], 1),
        ([10.0] * 7 + [100.0] * 2, 2),
        ([10.0] * 7 + [10.1] * 2, 0),  # one tick of a coarse timer
        ([0.0] * 7 + [0.1], 1),
    ],
)
def test_far_samples_are_those_that_hyperfine_would_count(values: list[float], far: int) -> None:
    assert stats.outliers(values).far == far


def test_mild_and_severe_follow_tukeys_fences() -> None:
    values = [float(i) for i in range(1, 10)]
    assert stats.outliers(values) == stats.Outliers(mild=0, severe=0, far=0, slow_first=False)
    for stray, mild, severe in [
        (14.5, 0, 0),
        (15, 1, 0),
        (21, 1, 0),
        (22, 0, 1),
        (-4.5, 0, 0),
        (-5, 1, 0),
        (-12, 0, 1),
    ]:
        # Quartiles 3.25 and 7.75, or 2.25 and 6.75 with a low stray: fences at 14.5 and 21.25, or at -4.5 and -11.25.
        found = stats.outliers([*values, float(stray)])
        assert (found.mild, found.severe) == (mild, severe), stray


def test_a_planted_sample_of_ten_times_is_counted_once_and_moves_the_median_by_less_than_a_rank() -> None:
    values = np.random.default_rng(8).normal(1, 0.01, 101).tolist()
    before = stats.outliers(values)
    for place in (0, 50, 101):
        planted = [*values[:place], 10.0, *values[place:]]
        after = stats.outliers(planted)
        assert (after.far, after.severe) == (before.far + 1, before.severe + 1)
        assert after.slow_first is (place == 0)
        assert sorted(values)[50] <= stats.median(planted) <= sorted(values)[51]
    assert not stats.outliers([0.1, *values]).slow_first


# Student's t


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [
        (0.975, 1, 12.7062047364),
        (0.975, 2, 4.30265272991),
        (0.975, 4, 2.77644510520),
        (0.95, 10, 1.81246112281),
        (0.975, 10, 2.22813885196),
        (0.995, 30, 2.74999565357),
        (0.975, 120, 1.97993040505),
        (0.975, math.inf, 1.95996398454),
    ],
)
def test_t_quantiles_are_those_of_the_tables(p: float, df: float, t: float) -> None:
    assert stats.student_t_quantile(p, df) == pytest.approx(t, rel=1e-10)
    assert stats.student_t_quantile(1 - p, df) == pytest.approx(-t, rel=1e-10)
    assert stats.student_t_cdf(t, df) == pytest.approx(p, abs=1e-10)


def integral_of_t_density(t: float, df: float) -> float:
    """P(0 < T < t) by Simpson's rule, after T = sqrt(df) tan(angle)."""
    angle = np.linspace(0, math.atan(t / math.sqrt(df)), 20_001)
    heights = np.cos(angle) ** (df - 1)
    weights = np.ones_like(angle)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    return scale * float(heights @ weights) * float(angle[1]) / 3


@pytest.mark.parametrize("df", [1.1, 2.5, 3.7, 17.3, 412.5, 20_000.5])
@pytest.mark.parametrize("t", [1e-6, 0.3, 1.7, 1.8, 5.0])
def test_the_t_distribution_is_the_integral_of_its_density_for_broken_degrees_of_freedom(df: float, t: float) -> None:
    assert stats.student_t_cdf(t, df) == pytest.approx(0.5 + integral_of_t_density(t, df), abs=1e-10)
    assert stats.student_t_cdf(-t, df) == pytest.approx(0.5 - integral_of_t_density(t, df), abs=1e-10)


@pytest.mark.parametrize("df", [0.5, 1, 2.5, 9, 1e3, 2.9e5, 3e5, 1e9, math.inf])
@pytest.mark.parametrize("p", [1e-8, 0.025, 0.4999, 0.5, 0.75, 0.975, 0.9999])
def test_t_quantile_and_distribution_are_inverse(p: float, df: float) -> None:
    assert stats.student_t_cdf(stats.student_t_quantile(p, df), df) == pytest.approx(p, rel=1e-10)


def test_the_two_forms_of_t_meet() -> None:
    below, above = (stats.student_t_quantile(0.975, df) for df in (stats.NORMAL_DF * (1 - 1e-9), stats.NORMAL_DF))
    assert below == pytest.approx(above, abs=1e-9)
    for p, df in [(0.0, 3.0), (1.0, 3.0), (0.5, 0.0), (0.5, math.nan)]:
        with pytest.raises(ValueError, match="df > 0"):
            stats.student_t_quantile(p, df)
    with pytest.raises(ValueError, match="df > 0"):
        stats.student_t_cdf(1.0, 0.0)


# Comparing launches


def welch(before: Array, after: Array, **extra: float) -> Ratio:
    ratio = stats.welch_ratio(before.tolist(), after.tolist(), **extra)
    assert ratio is not None
    return ratio


def test_welch_ratio_follows_the_textbook() -> None:
    # Logs 0, 1, 2 and 2, 4, 6, 8: means 1 and 5, variances of the means 1/3 and 5/3.
    ratio = welch(np.exp([0.0, 1, 2]), np.exp([2.0, 4, 6, 8]))
    df = 2**2 / ((1 / 3) ** 2 / 2 + (5 / 3) ** 2 / 3)
    assert ratio.ratio == pytest.approx(math.exp(4))
    assert ratio.standard_error_log == pytest.approx(math.sqrt(2))
    assert ratio.df == pytest.approx(df)
    assert ratio.p_value == pytest.approx(2 * (1 - stats.student_t_cdf(4 / math.sqrt(2), df)))
    reach = math.sqrt(2) * stats.student_t_quantile(0.975, df)
    assert ratio.interval95.low == pytest.approx(math.exp(4 - reach))
    assert ratio.interval95.high == pytest.approx(math.exp(4 + reach))
    assert ratio.interval90.width < ratio.interval95.width


def test_paired_ratio_follows_the_textbook() -> None:
    before = np.exp([0.0, 10, -5])
    ratio = stats.paired_ratio(before.tolist(), (before * np.exp([1.0, 2, 3])).tolist())
    assert ratio is not None
    assert (ratio.method, ratio.df) == ("paired", 2)
    assert ratio.ratio == pytest.approx(math.exp(2))
    assert ratio.standard_error_log == pytest.approx(1 / math.sqrt(3))
    assert ratio.p_value == pytest.approx(2 * (1 - stats.student_t_cdf(2 * math.sqrt(3), 2)))
    assert stats.paired_ratio([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="zip"):
        stats.paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_identical_inputs_give_exactly_one(sd: float) -> None:
    values = (0.1 * np.exp(sd * np.random.default_rng(3).standard_normal(7))).tolist()
    for ratio in (stats.welch_ratio(values, values[::-1]), stats.paired_ratio(values, values)):
        assert ratio is not None
        assert (ratio.ratio, ratio.p_value) == (1, 1)
    no_spread = stats.welch_ratio([5e-4] * 3, [5e-4] * 5)  # a plain mean of three such logs is an ulp off
    assert no_spread is not None
    assert (no_spread.ratio, no_spread.p_value, no_spread.interval95) == (1, 1, Interval(low=1, high=1))


def test_a_difference_without_any_spread_is_certain() -> None:
    ratio = stats.welch_ratio([0.1] * 3, [0.3] * 5)
    assert ratio is not None
    assert (ratio.p_value, ratio.standard_error_log) == (0, 0)
    assert ratio.ratio == ratio.interval95.low == ratio.interval95.high == pytest.approx(3)
    assert stats.verdict(ratio) == "slower"


@pytest.mark.parametrize("paired", [False, True])
def test_swapping_the_sides_inverts_the_ratio_and_mirrors_its_intervals(paired: bool) -> None:
    rng = np.random.default_rng(4)
    before, after = rng.lognormal(0, 0.1, 6).tolist(), rng.lognormal(0.05, 0.2, 6).tolist()
    compare = stats.paired_ratio if paired else stats.welch_ratio
    forth, back = compare(before, after), compare(after, before)
    assert forth is not None
    assert back is not None
    assert forth.ratio * back.ratio == pytest.approx(1, rel=1e-14)
    for a, b in [(forth.interval95, back.interval95), (forth.interval90, back.interval90)]:
        assert a.low * b.high == pytest.approx(1, rel=1e-14)
        assert a.high * b.low == pytest.approx(1, rel=1e-14)
    assert forth.p_value == pytest.approx(back.p_value, rel=1e-12)
    assert forth.df == pytest.approx(back.df, rel=1e-12)


@pytest.mark.parametrize("launch_sd", [0, 0.002, 0.005, 0.01, 0.02])
@pytest.mark.parametrize("k", [3, 5])
def test_launches_of_identical_code_differ_in_as_few_trials_as_promised(launch_sd: float, k: int) -> None:
    rng = np.random.default_rng(round(launch_sd * 1e4) + k)
    samples = 1 + launch_sd * rng.standard_normal((700, 2, k, 1)) + 0.005 * rng.standard_normal((700, 2, k, 50))
    p_values = [welch(before, after).p_value for before, after in np.median(samples, axis=3)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.08


@pytest.mark.parametrize("extra_df", [math.inf, 9])
def test_extra_variance_covers_a_drift_between_sittings(extra_df: float) -> None:
    rng = np.random.default_rng(6)
    sitting_sd, trials = 0.01, 800
    logs = sitting_sd * rng.standard_normal((trials, 2, 1)) + 0.002 * rng.standard_normal((trials, 2, 5))
    estimates = np.ones(trials) if extra_df == math.inf else rng.chisquare(extra_df, trials) / extra_df
    alarms = {"without": 0, "with": 0}
    for (before, after), estimate in zip(np.exp(logs), estimates, strict=True):
        alarms["without"] += welch(before, after).p_value < 0.05
        extra = 2 * sitting_sd**2 * float(estimate)
        alarms["with"] += welch(before, after, extra_variance=extra, extra_df=extra_df).p_value < 0.05
    assert alarms["without"] > 0.5 * trials
    assert 0.02 * trials <= alarms["with"] <= 0.08 * trials


def test_a_single_launch_rests_on_the_extra_variance_alone() -> None:
    assert stats.welch_ratio([1.0], [1.1]) is None
    assert stats.welch_ratio([1.0, 1.1], [1.1]) is None
    assert stats.welch_ratio([], [1.1, 1.2], extra_variance=1.0) is None
    ratio = stats.welch_ratio([1.0], [1.1], extra_variance=2 * 0.01**2, extra_df=4)
    assert ratio is not None
    assert ratio.df == pytest.approx(4)
    reach = 2.776445105 * math.sqrt(2) * 0.01
    assert ratio.interval95.low == pytest.approx(1.1 * math.exp(-reach))
    assert ratio.interval95.high == pytest.approx(1.1 * math.exp(reach))
    known = stats.welch_ratio([1.0], [1.1], extra_variance=2 * 0.01**2)
    assert known is not None
    assert known.df == math.inf


def test_a_slow_down_of_10_percent_is_found() -> None:
    rng = np.random.default_rng(7)
    verdicts, ratios = [], []
    for before, after in np.exp(0.01 * rng.standard_normal((300, 2, 5))):
        ratio = welch(before, 1.1 * after)
        verdicts.append((stats.verdict(ratio), stats.verdict(welch(1.1 * after, before))))
        ratios.append(ratio)
    assert set(verdicts) == {("slower", "faster")}
    assert np.median([ratio.ratio for ratio in ratios]) == pytest.approx(1.1, rel=0.002)
    assert 0.93 <= np.mean([holds(ratio.interval95, 1.1) for ratio in ratios]) <= 0.99


def test_interleaving_removes_a_drift_over_the_sitting() -> None:
    rng = np.random.default_rng(9)
    sitting = 1 + np.linspace(0, 0.02, 12) + 0.002 * rng.standard_normal((400, 12))
    one_after_the_other = [welch(row[:6], row[6:]).p_value < 0.05 for row in sitting]
    order = np.array([0, 1, 1, 0] * 3, dtype=bool)  # A B B A
    paired = [stats.paired_ratio(row[~order].tolist(), row[order].tolist()) for row in sitting]
    assert np.mean(one_after_the_other) > 0.9
    assert np.mean([ratio is not None and ratio.p_value < 0.05 for ratio in paired]) <= 0.08


def ratio_of(interval90: tuple[float, float], interval95: tuple[float, float]) -> Ratio:
    return Ratio(
        ratio=math.sqrt(interval90[0] * interval90[1]),
        interval95=Interval(low=interval95[0], high=interval95[1]),
        interval90=Interval(low=interval90[0], high=interval90[1]),
        p_value=0.5,
        df=4,
        standard_error_log=0.01,
        method="welch",
    )


@pytest.mark.parametrize(
    ("interval90", "interval95", "expected"),
    [
        ((0.995, 1.005), (0.99, 1.01), "equivalent"),
        ((1.005, 1.015), (1.004, 1.016), "equivalent"),  # real, and too small to matter
        ((1 / 1.02, 1.02), (0.97, 1.03), "equivalent"),  # the limits belong to it, and so do their mirror images
        ((0.99, 1.021), (0.98, 1.03), "inconclusive"),
        ((1.01, 1.03), (1.005, 1.035), "slower"),
        ((0.97, 0.99), (0.965, 0.995), "faster"),
        ((1.001, 1.05), (0.999, 1.06), "inconclusive"),  # 90 % is not enough to claim a difference
        ((0.8, 1.2), (0.7, 1.3), "inconclusive"),
    ],
)
def test_verdicts(interval90: tuple[float, float], interval95: tuple[float, float], expected: str) -> None:
    assert stats.verdict(ratio_of(interval90, interval95)) == expected


def test_the_threshold_decides_what_matters() -> None:
    ratio = ratio_of((1.03, 1.04), (1.02, 1.05))
    assert [stats.verdict(ratio, threshold) for threshold in (0.02, 0.05)] == ["slower", "equivalent"]


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "equivalent"), (0.01, "equivalent"), (0.05, "slower")])
def test_five_launches_of_the_usual_spread_reach_a_verdict(shift: float, expected: str) -> None:
    rng = np.random.default_rng(10)
    launches = np.exp(0.003 * rng.standard_normal((300, 2, 5)))
    verdicts = [stats.verdict(welch(before, (1 + shift) * after)) for before, after in launches]
    assert np.mean([verdict == expected for verdict in verdicts]) >= 0.98


# Many comparisons


def test_the_example_of_benjamini_and_hochberg_keeps_four() -> None:
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p_values += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert stats.benjamini_hochberg(p_values) == [True] * 4 + [False] * 11
    assert stats.benjamini_hochberg(p_values[::-1]) == [False] * 11 + [True] * 4


def test_benjamini_hochberg_steps_up_over_a_p_value_that_fails_alone() -> None:
    assert stats.benjamini_hochberg([0.04, 0.03]) == [True, True]
    assert stats.benjamini_hochberg([0.04, 0.06]) == [False, False]
    assert stats.benjamini_hochberg([]) == []


def test_the_geometric_mean_does_not_depend_on_the_reference() -> None:
    ratios = [1.1, 0.7, 2.5]
    assert stats.geometric_mean(ratios) * stats.geometric_mean([1 / ratio for ratio in ratios]) == pytest.approx(1)
    assert stats.geometric_mean([2.0, 8.0]) == pytest.approx(4)

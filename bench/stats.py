"""Statistics that small, skewed and correlated timing samples can bear.

Two levels are kept apart. The samples of one launch (a fresh process) give a median with an exact interval, and say
whether the window was steady. Whether two things differ is decided on launches alone: the samples of a launch share
what that process happened to get, so tests on them tell runs of identical code apart (Kalibera & Jones 2013).
What to report follows Hoefler & Belli (SC15), "Scientific benchmarking of parallel computing systems".

Values are finite, and results carry their unit: seconds in, seconds out. No sample is ever dropped. A statistic that
needs more samples than there are is None; an empty input where a number is promised raises ValueError.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LOCATION_NUM_BLOCKS = 10, 20  # with fewer than 10 the interval would be that of the extremes
LOCATION_BLOCK_SAMPLES = 20  # blocks grow to this before there are more than 10 of them: short ones stay correlated
DRIFT_LIMIT = 0.01  # of the median, over the window
STEP_LIMIT = 0.01  # of the median, from the first quarter to the last half
STEADY_NUM_BLOCKS = 10, 20  # one per two samples, between these
STEADY_FALSE_ALARM = 0.005  # two-sided, for each of drift and step: about 1 % of steady windows together
FAR = 10.0  # robust standard deviations from the median
MAD_TO_SD = 1.4826  # 1/Phi^-1(3/4): median absolute deviation of normal values to their standard deviation
TIED_SD = 0.01  # of the median, where over half the values are equal and the median absolute deviation is 0
NORMAL_DF = 3e5  # from here on Student's t is the normal with one correction; both ways are exact to 1e-9 there


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Closed interval, in the unit of the values."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Median of a time series and its 95 % interval, None where none exists.

    `rho1` is the lag-1 autocorrelation, None if undefined. Above 0.9 not even blocks suffice: only launches count then.
    """

    median: float
    interval: Interval | None
    method: Literal["order-statistic", "block-median"]
    rho1: float | None

    @property
    def relative_half_width(self) -> float | None:
        """Half the interval as a fraction of the median; None without an interval, or at a median of 0."""
        return None if self.interval is None or self.median == 0 else self.interval.width / 2 / abs(self.median)


@dataclass(frozen=True, kw_only=True, slots=True)
class Steadiness:
    """Whether a window held still; `drift` and `step` are signed fractions of its median. All None if untold."""

    steady: bool | None
    drift: float | None
    step: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outliers:
    """How many samples stand apart: a count, never a reason to remove them. `slow_first`: sample 0 is far, and slow."""

    mild: int
    severe: int
    far: int
    slow_first: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """After over before, judged on launches; of times, above 1 is slower.

    `standard_error_log` is that of ln(ratio). `df` is infinite where the variance is known or zero.
    """

    ratio: float
    interval95: Interval
    interval90: Interval
    p_value: float
    df: float
    standard_error_log: float
    method: Literal["welch", "paired"]


def quantile(values: Sequence[float], p: float) -> float:
    """Quantile `p` of values in any order, linear between neighbours (type 7 of Hyndman & Fan 1996)."""
    if not values or not 0 <= p <= 1:
        raise ValueError(f"a quantile needs values and 0 <= p <= 1, got {len(values)} values and p = {p}")
    ordered = sorted(values)
    below, share = divmod((len(ordered) - 1) * p, 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return low + (high - low) * share


def median(values: Sequence[float]) -> float:
    """Middle value, or the mean of the middle two."""
    if not values:
        raise ValueError("a median needs values")
    ordered, middle = sorted(values), len(values) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return ordered[middle - 1] + (ordered[middle] - ordered[middle - 1]) * 0.5


@functools.lru_cache(maxsize=4096)
def order_statistic_ranks(n: int, p: float = 0.5, confidence: float = 0.95) -> tuple[int, int] | None:
    """Ranks (1-based) of the sorted values that enclose quantile `p` most closely (Le Boudec 2010, theorem 2.1).

    Exact for independent values of any distribution: the number below the quantile is Binomial(n, p), so the values of
    ranks j and k enclose it with P(j <= Binomial < k). Of two mirror images (p = 0.5) the lower is taken, as in table
    A.1 there. None where all values lie to one side of the quantile in more than half of the error allowed, that is if
    p^n or (1 - p)^n exceeds (1 - confidence)/2: at 95 % the median needs n = 6, p90 36, p95 72 and p99 368.
    """
    if not (0 < p < 1 and 0 < confidence < 1):
        raise ValueError(f"p and confidence lie between 0 and 1, got {p} and {confidence}")
    if n < 2 or max(p, 1 - p) ** n > (1 - confidence) / 2:
        return None
    # Outward from the mode, the likelier neighbour first; by ratios of neighbours, so that mirror images tie exactly.
    odds = p / (1 - p)
    first = last = min(max(int((n + 1) * p), 1), n - 1)
    log_choices = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
    covered = math.exp(log_choices + first * math.log(p) + (n - first) * math.log1p(-p))
    below = covered * first / (n - first + 1) / odds
    above = covered * (n - last) / (last + 1) * odds
    while covered < confidence and last - first < n - 2:
        if first > 1 and (below >= above or last == n - 1):
            first -= 1
            covered += below
            below *= first / (n - first + 1) / odds
        else:
            last += 1
            covered += above
            above *= (n - last) / (last + 1) * odds
    return first, last + 1


def quantile_interval(values: Sequence[float], p: float, confidence: float = 0.95) -> Interval | None:
    """Interval of quantile `p` of independent values, by `order_statistic_ranks`; None with too few of them."""
    ranks = order_statistic_ranks(len(values), p, confidence)
    if ranks is None:
        return None
    ordered = sorted(values)
    return Interval(low=ordered[ranks[0] - 1], high=ordered[ranks[1] - 1])


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Interval of the median of independent values; None below 6 of them at 95 %."""
    return quantile_interval(values, 0.5, confidence)


def lag1_autocorrelation(values: Sequence[float]) -> float | None:
    """Correlation of each value with the next (Box & Jenkins 1970); None under 3 values, or if all are equal."""
    if len(values) < 3 or min(values) == max(values):
        return None
    mean = math.fsum(values) / len(values)
    deviations = [value - mean for value in values]
    return math.fsum(a * b for a, b in itertools.pairwise(deviations)) / math.fsum(d * d for d in deviations)


def location(values: Sequence[float]) -> Location:
    """Median of values in time order, with a 95 % interval that also holds where neighbours are alike.

    Beyond |rho1| = 1.96/sqrt(n), which white noise passes in 5 % (Bartlett 1946), it is the interval of 10 to 20 block
    medians instead, and under 20 samples there is none: blocks of one sample would remove no correlation.
    """
    center, rho1 = median(values), lag1_autocorrelation(values)
    if rho1 is None or abs(rho1) <= 1.96 / math.sqrt(len(values)):
        return Location(median=center, interval=median_interval(values), method="order-statistic", rho1=rho1)
    fewest, most = LOCATION_NUM_BLOCKS
    num_blocks = min(max(len(values) // LOCATION_BLOCK_SAMPLES, fewest), most)
    interval = median_interval(_block_medians(values, num_blocks)) if len(values) >= 2 * fewest else None
    if interval is not None:  # medians of small skewed blocks can all lie to one side of the median of all
        interval = Interval(low=min(interval.low, center), high=max(interval.high, center))
    return Location(median=center, interval=interval, method="block-median", rho1=rho1)


def steadiness(values: Sequence[float]) -> Steadiness:
    """Whether values in time order held still, by medians of 20 equal blocks (n // 2 below 40 samples, at least 10).

    Drift is the Theil-Sen slope (Sen 1968) over the window, step the last half against the first quarter. Each counts
    above 1 % if it also stands out of the noise of the blocks. A step in the first tenth or the last fifth escapes.
    That a window may never become steady, and that this is a result: Kalibera & Jones 2013, Barrett et al. 2017.
    """
    center, (fewest, most) = median(values), STEADY_NUM_BLOCKS
    if len(values) < fewest or center == 0:
        return Steadiness(steady=None, drift=None, step=None)
    blocks = _block_medians(values, min(max(len(values) // 2, fewest), most))
    num_blocks, num_first, num_last = len(blocks), len(blocks) // 4, len(blocks) // 2
    slopes = [(blocks[j] - blocks[i]) / (j - i) for i, j in itertools.combinations(range(num_blocks), 2)]
    drift = median(slopes) * (num_blocks - 1) / center
    step = (median(blocks[-num_last:]) - median(blocks[:num_first])) / center
    ramp = [block - (num_blocks - 1) / 2 for block in range(num_blocks)]
    jump = [-1 / num_first] * num_first + [0.0] * (num_blocks - num_first - num_last) + [1 / num_last] * num_last
    drifts = abs(drift) > DRIFT_LIMIT and _stands_out(blocks, ramp)
    steps = abs(step) > STEP_LIMIT and _stands_out(blocks, jump)
    return Steadiness(steady=not (drifts or steps), drift=drift, step=step)


def outliers(values: Sequence[float]) -> Outliers:
    """Counts the samples that stand apart, on either side.

    Mild lie 1.5 to 3 interquartile ranges outside the quartiles, severe further (Tukey 1977). Far lie over 10 standard
    deviations, by the median absolute deviation, from the median (Iglewicz & Hoaglin 1993, with hyperfine's limit).
    """
    q1, q3, center = quantile(values, 0.25), quantile(values, 0.75), median(values)
    outside = [max(q1 - value, value - q3) for value in values]
    severe = sum(distance > 3 * (q3 - q1) for distance in outside)
    mild = sum(distance > 1.5 * (q3 - q1) for distance in outside) - severe
    limit = FAR * (MAD_TO_SD * median([abs(value - center) for value in values]) or TIED_SD * abs(center))
    far = sum(abs(value - center) > limit for value in values)
    return Outliers(mild=mild, severe=severe, far=far, slow_first=values[0] - center > limit)


def student_t_cdf(t: float, df: float) -> float:
    """P(T <= t) of Student's t for any real df > 0, infinity included; good to 1e-10."""
    tail = _student_t_tail(abs(t), df)
    return 1 - tail if t > 0 else tail


@functools.lru_cache(maxsize=4096)
def student_t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p, for 0 < p < 1 and any real df > 0, infinity included."""
    if not (0 < p < 1 and df > 0):
        raise ValueError(f"a t quantile needs 0 < p < 1 and df > 0, got p = {p} and df = {df}")
    tail = min(p, 1 - p)
    t = -statistics.NormalDist().inv_cdf(tail)
    if df >= NORMAL_DF:
        t /= math.sqrt((1 - 1 / (4 * df)) ** 2 - t * t / (2 * df))
    else:
        # The normal's t is too small and the tail convex, so Newton's steps lead up until rounding turns one back.
        log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
        step = math.inf
        while step > 1e-15 * t:
            step = (_student_t_tail(t, df) - tail) / math.exp(log_scale - (df + 1) / 2 * math.log1p(t * t / df))
            t += step
    return t if p > 0.5 else -t


def welch_ratio(
    before: Sequence[float],
    after: Sequence[float],
    *,
    extra_variance: float = 0.0,
    extra_df: float = math.inf,
) -> Ratio | None:
    """Ratio of two sets of launches (one positive value each, its median), by Welch's t (1947) on the logarithms.

    `extra_variance` of the log difference, with its own degrees of freedom in Satterthwaite's sum, is what the launches
    do not show: drift between sittings when the sides were not interleaved, and the launch spread of a side with one
    launch (2 s^2 for one on either side, at a relative spread s).
    None if a side is empty, or has one launch and nothing else tells a spread.
    """
    fewest = min(len(before), len(after))
    if fewest == 0 or (fewest == 1 and extra_variance == 0):
        return None
    mean_before, variance_before = _mean_and_variance([math.log(value) for value in before])
    mean_after, variance_after = _mean_and_variance([math.log(value) for value in after])

    terms = [
        (variance_before / len(before), len(before) - 1),
        (variance_after / len(after), len(after) - 1),
        (extra_variance, extra_df),
    ]
    variance = math.fsum(term for term, _ in terms)
    inverse_df = math.fsum((term / variance) ** 2 / df for term, df in terms if term > 0)
    return _ratio(mean_after - mean_before, math.sqrt(variance), 1 / inverse_df if inverse_df else math.inf, "welch")


def paired_ratio(before: Sequence[float], after: Sequence[float]) -> Ratio | None:
    """Ratio of launches run in pairs, by Student's t on the logarithms of the pairs' ratios; None under 2 pairs."""
    differences = [math.log(b) - math.log(a) for a, b in zip(before, after, strict=True)]
    if len(differences) < 2:
        return None
    mean, variance = _mean_and_variance(differences)
    return _ratio(mean, math.sqrt(variance / len(differences)), len(differences) - 1, "paired")


def verdict(ratio: Ratio, threshold: float = 0.02) -> Literal["equivalent", "faster", "slower", "inconclusive"]:
    """What a ratio of times shows: no difference that matters, a difference, or too little to tell.

    Equivalent by two one-sided 5 % tests (Schuirmann 1987): the 90 % interval lies within 1/(1 + threshold) to
    1 + threshold. This comes first: a difference that is real, but too small to matter, is no news.
    """
    if 1 / (1 + threshold) <= ratio.interval90.low and ratio.interval90.high <= 1 + threshold:
        return "equivalent"
    if ratio.interval95.high < 1:
        return "faster"
    return "slower" if ratio.interval95.low > 1 else "inconclusive"


def benjamini_hochberg(p_values: Sequence[float], q: float = 0.05) -> list[bool]:
    """Which tests to keep so that at most a share `q` of those kept is expected false (Benjamini & Hochberg 1995)."""
    passing = [p for rank, p in enumerate(sorted(p_values), start=1) if p <= q * rank / len(p_values)]
    return [bool(passing) and p <= passing[-1] for p in p_values]


def geometric_mean(ratios: Sequence[float]) -> float:
    """Mean of positive ratios that is inverted when every ratio is."""
    if not ratios:
        raise ValueError("a geometric mean needs at least one ratio")
    return math.exp(math.fsum(math.log(ratio) for ratio in ratios) / len(ratios))


def _block_medians(values: Sequence[float], num_blocks: int) -> list[float]:
    """Medians of consecutive blocks; their sizes differ by one at most, so that no sample is left over."""
    edges = [len(values) * block // num_blocks for block in range(num_blocks + 1)]
    return [median(values[start:end]) for start, end in itertools.pairwise(edges)]


def _stands_out(blocks: Sequence[float], weights: Sequence[float]) -> bool:
    """Whether the weighted sum, whose weights add up to 0, is more than independent noise of the blocks explains.

    Noise is taken from successive differences, which a drift or one step hardly widens (von Neumann et al. 1941). Their
    mean size is 2/sqrt(pi) standard deviations; it bears outliers, and has about 0.6 (B - 1) degrees of freedom.
    """
    num_gaps = len(blocks) - 1
    noise = math.fsum(abs(b - a) for a, b in itertools.pairwise(blocks)) / num_gaps * math.sqrt(math.pi) / 2
    limit = student_t_quantile(1 - STEADY_FALSE_ALARM / 2, 0.6 * num_gaps) * noise * math.hypot(*weights)
    return abs(math.fsum(w * block for w, block in zip(weights, blocks, strict=True))) > limit


def _student_t_tail(t: float, df: float) -> float:
    """P(T > t) for t >= 0."""
    if not df > 0:
        raise ValueError(f"Student's t needs df > 0, got {df}")
    if df >= NORMAL_DF:  # Abramowitz & Stegun 26.7.8
        return math.erfc(t * (1 - 1 / (4 * df)) / math.sqrt(1 + t * t / (2 * df)) / math.sqrt(2)) / 2
    x, y = df / (df + t * t), t * t / (df + t * t)
    if t * t < 3:  # x > (a + 1)/(a + b + 2), more or less: the fraction converges fast for 1 - I_y(b, a) instead
        return 0.5 - _incomplete_beta(0.5, df / 2, y, x) / 2
    return _incomplete_beta(df / 2, 0.5, x, y) / 2


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Regularised I_x(a, b), given y = 1 - x with all its digits: DLMF 8.17.22, evaluated by Lentz's method (1976)."""
    if x == 0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    fraction = numerator = 1.0
    denominator = 0.0
    for m in itertools.count():
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        even = (m + 1) * (b - m - 1) * x / ((a + 2 * m + 1) * (a + 2 * m + 2))
        for coefficient in (odd, even):
            denominator = 1 / (1 + coefficient * denominator)
            numerator = 1 + coefficient / numerator
            fraction *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return math.exp(log_front) / (a * fraction)


def _mean_and_variance(logs: Sequence[float]) -> tuple[float, float]:
    """Mean and sample variance (0 of a single value), in any order the same; equal values have exactly variance 0."""
    origin = min(logs)
    mean = origin + math.fsum(value - origin for value in logs) / len(logs)
    return mean, math.fsum((value - mean) ** 2 for value in logs) / max(len(logs) - 1, 1)


def _ratio(log_ratio: float, standard_error: float, df: float, method: Literal["welch", "paired"]) -> Ratio:
    """Ratio with intervals and two-sided p; without any spread the intervals are points and p is 0 or 1."""
    reach95, reach90 = (standard_error * student_t_quantile(p, df) for p in (0.975, 0.95))
    p_value = 1.0 if log_ratio == 0 else 0.0
    if standard_error > 0:
        p_value = 2 * _student_t_tail(abs(log_ratio) / standard_error, df)
    return Ratio(
        ratio=math.exp(log_ratio),
        interval95=Interval(low=math.exp(log_ratio - reach95), high=math.exp(log_ratio + reach95)),
        interval90=Interval(low=math.exp(log_ratio - reach90), high=math.exp(log_ratio + reach90)),
        p_value=p_value,
        df=df,
        standard_error_log=standard_error,
        method=method,
    )

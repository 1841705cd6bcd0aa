"""Score: many comparisons as one ratio of times, for those who need one number, with the interval that belongs to it.

The geometric mean of the cases' ratios, over the cases that both sides have and only those. It does not depend on which
side is called the first, and it is no time of anything (Hoefler & Belli 2015, rules 3 and 4), so the sum of the times
of one step each stands beside it. Cases are no random sample of work: the interval comes from each case's own rounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench import stats

# With fewer of all cases on both sides, the mean would speak of what is left.
LEAST_SHARE = 0.8
ASSUMED_DF = 30  # of the drift that is assumed, as where it is


@dataclass(frozen=True, kw_only=True)
class Error:
    """Variance of the logarithm of one ratio: of its own rounds, and what other cases may share with it.

    A sitting's drift may be common to all cases, and how machines differ mostly is: that does not average out.
    """

    own: float
    common: float
    df: float  # of both together


@dataclass(frozen=True, kw_only=True)
class Score:
    """The geometric mean of ratios; None with the reason where too little can be compared. A reason beside a ratio is
    why it is not to be believed.
    """

    cases: int
    of_cases: int  # that either side has
    ratio: float | None = None
    interval95: tuple[float, float] | None = None
    before_s: float | None = None  # one step of each case
    after_s: float | None = None
    reason: str = ""


class Row(Protocol):
    """What is needed of a comparison."""

    @property
    def ratio(self) -> float | None: ...  # noqa: D102
    @property
    def error(self) -> Error | None: ...  # noqa: D102
    @property
    def before_s(self) -> float | None: ...  # noqa: D102
    @property
    def after_s(self) -> float | None: ...  # noqa: D102


def score(rows: Sequence[Row], of_cases: int) -> Score | None:
    """One number for all rows that have a ratio, of `of_cases` that either side has; None for fewer than two."""
    found = [(row.ratio, row.error) for row in rows if row.ratio is not None and row.error is not None]
    if len(found) < 2:
        return None
    if len(found) < LEAST_SHARE * of_cases:
        reason = f"only {len(found)} of {of_cases} cases can be compared"
        return Score(cases=len(found), of_cases=of_cases, reason=reason)
    ratio = stats.geometric_mean([value for value, _ in found])
    widest = max((error for _, error in found), key=lambda error: error.common)
    common_df = widest.df if widest.own == 0 else ASSUMED_DF
    owns = [(error.own / len(found) ** 2, error.df) for _, error in found]
    variance = widest.common + math.fsum(own for own, _ in owns)
    inverse_df = math.fsum((own / variance) ** 2 / df for own, df in [*owns, (widest.common, common_df)] if own > 0)
    reach = math.sqrt(variance) * stats.student_t_quantile(0.975, 1 / inverse_df if inverse_df else math.inf)
    return Score(
        cases=len(found),
        of_cases=of_cases,
        ratio=ratio,
        interval95=(ratio * math.exp(-reach), ratio * math.exp(reach)),
        before_s=math.fsum(row.before_s for row in rows if row.ratio is not None and row.before_s is not None),
        after_s=math.fsum(row.after_s for row in rows if row.ratio is not None and row.after_s is not None),
    )

"""Student's confidence interval of a mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95


def compute_ends(values: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of the 95% interval of the mean of one value for each seed.

    They are mean -+ t(0.975; n - 1) s / sqrt(n).

    Returns:
      The ends; NaN with fewer than two values, or if a value is NaN or infinite.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    from scipy import stats

    mean, error = statistics.fmean(values), stats.sem(values)
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)

"""Estimates an effect and its interval from one value for each seed, with scipy.

Values can be infinite: a model that diverges has a negative log perplexity of minus infinity,
and one that does not reach a quality needs infinitely many steps, so its speed-up is 0.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
# With fewer seeds, the range of infinite values is not an interval.
_SEEDS_FOR_RANGE = 5

# "difference": no effect is 0. "factor": no effect is 1, and logarithms are averaged.
Kind = Literal["difference", "factor"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An effect with its interval.

    Attributes:
      center: The mean over the seeds; for factors the geometric mean, and the median if a value
        is infinite or a factor is 0.
      low, high: The ends of the interval; infinite if there are too few seeds for one.
      seeds: The number of seeds.
      level: The coverage of the interval.
    """

    center: float
    low: float
    high: float
    seeds: int
    level: float = LEVEL

    @property
    def is_exact(self) -> bool:
        """Whether it is one number that was computed, without a seed."""
        return self.seeds == 1 and self.low == self.high


def estimate(values: Sequence[float], kind: Kind) -> Estimate | None:
    """Estimates an effect from one value for each seed; None without values.

    With finite values the interval is Student's t interval, for factors that of their
    logarithms. Otherwise it is the range of the values, which contains the median with
    probability 1 - 2^(1 - n), 94% for five seeds; with fewer seeds there is no interval.

    Args:
      values: The effect of each seed. Factors are at least 0.
      kind: What the values are.
    """
    if not values:
        return None
    import numpy as np

    with np.errstate(divide="ignore"):
        numbers = np.log(values) if kind == "factor" else np.asarray(values, float)
    back = np.exp if kind == "factor" else float
    count = len(numbers)
    unknown = (0.0 if kind == "factor" else -math.inf, math.inf)
    if np.isfinite(numbers).all():
        center = back(numbers.mean())
        if count == 1:
            return Estimate(float(center), *unknown, count)
        low, high = _student_interval(numbers)
        return Estimate(float(center), float(back(low)), float(back(high)), count)
    center = float(back(_median(numbers)))
    if count < _SEEDS_FOR_RANGE:
        return Estimate(center, *unknown, count)
    ends = (float(back(numbers.min())), float(back(numbers.max())))
    return Estimate(center, *ends, count, 1 - 2 ** (1 - count))


def _student_interval(numbers: np.ndarray) -> tuple[float, float]:
    from scipy import stats

    error = stats.sem(numbers)
    if error == 0:
        return numbers.mean(), numbers.mean()
    return stats.t.interval(LEVEL, len(numbers) - 1, loc=numbers.mean(), scale=error)


def _median(numbers: np.ndarray) -> float:
    """The median; the lower of the two middle values, because infinite ones have no mean."""
    return sorted(numbers)[(len(numbers) - 1) // 2]


def estimate_spread_factor(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Estimates the standard deviation of the first group divided by that of the second.

    The interval is that of the F test for variances, so it assumes normal values. It is unknown
    if a group has fewer than two values or a value is infinite.
    """
    seeds = min(len(first), len(second))
    if seeds < 2:
        return None
    import numpy as np
    from scipy import stats

    if not np.isfinite([*first, *second]).all():
        return Estimate(math.nan, 0.0, math.inf, seeds)
    variances = np.var(first, ddof=1), np.var(second, ddof=1)
    if min(variances) == 0:
        return Estimate(math.nan, 0.0, math.inf, seeds)
    ratio = variances[0] / variances[1]
    tail = (1 - LEVEL) / 2
    degrees = (len(first) - 1, len(second) - 1)
    low = ratio / stats.f.ppf(1 - tail, *degrees)
    high = ratio / stats.f.ppf(tail, *degrees)
    return Estimate(math.sqrt(ratio), math.sqrt(low), math.sqrt(high), seeds)


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the interval in which one more value of the same distribution lies.

    That is mean +- t s sqrt(1 + 1/n), with probability 95%; without bounds for one value.
    """
    if len(values) < 2:
        return -math.inf, math.inf
    from scipy import stats

    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * deviation
    half *= math.sqrt(1 + 1 / len(values))
    return float(mean - half), float(mean + half)


def to_data(found: Estimate) -> dict[str, Any]:
    """Returns an estimate as data for JSON, in which numbers that are not finite are texts."""
    return {
        name: value if math.isfinite(value) else str(value)
        for name, value in dataclasses.asdict(found).items()
    }


def format_number(value: float | None, digits: int) -> str:
    """Formats a number with its decimals; "" for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def format_estimate(found: Estimate, signed: bool, digits: int = 3) -> str:
    """Formats an effect with its interval, such as "+0.041 [+0.020, +0.062]"."""

    def text(value: float) -> str:
        if signed and 1e4 <= abs(value) < math.inf:
            return f"{value:+,.0f}"
        return f"{value:+.{digits}f}" if signed else f"{value:.2f}"

    if math.isnan(found.center):
        return "unknown"
    if found.is_exact:
        return text(found.center)
    if found.seeds == 1:
        return f"{text(found.center)} (1 seed)"
    if math.isinf(found.high) and found.seeds > 1 and (found.low in (0.0, -math.inf)):
        return f"{text(found.center)} (too few seeds for an interval)"
    level = "" if found.level == LEVEL else f" ({found.level:.0%})"
    return f"{text(found.center)} [{text(found.low)}, {text(found.high)}]{level}"

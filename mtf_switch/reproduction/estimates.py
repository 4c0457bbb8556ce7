"""Estimates an effect and its interval from one value for each seed, with scipy.

Values can be infinite: a model that diverges has a negative log perplexity of minus infinity,
and one that does not reach a quality needs infinitely many steps, so its speed-up is 0. NaN is
a seed without a value, such as one in which a teacher has no gain. It is left out, and counted.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mtf_switch.downstream import student_interval
from mtf_switch.downstream.student_interval import LEVEL

if TYPE_CHECKING:
    import numpy as np

# With fewer seeds, the range of infinite values is not an interval.
_SEEDS_FOR_RANGE = 5

# "difference": no effect is 0. "factor": no effect is 1, and logarithms are averaged.
Kind = Literal["difference", "factor"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An effect with its interval.

    Attributes:
      center: The mean over the seeds; for factors the geometric mean, and the median if a value
        is infinite or a factor is 0. NaN if it is unknown, for example because no seed has a
        value.
      low, high: The ends of the interval; infinite if there are too few seeds for one.
      seeds: The number of seeds that have a value.
      level: The coverage of the interval.
      left_out: The number of seeds without a value.
    """

    center: float
    low: float
    high: float
    seeds: int
    level: float = LEVEL
    left_out: int = 0

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
      values: The effect of each seed. Factors are at least 0. NaN is left out.
      kind: What the values are.
    """
    if not values:
        return None
    known = [value for value in values if not math.isnan(value)]
    unknown = (0.0 if kind == "factor" else -math.inf, math.inf)
    found = _estimate(known, kind, unknown) if known else Estimate(math.nan, *unknown, 0)
    return dataclasses.replace(found, left_out=len(values) - len(known))


def _estimate(values: Sequence[float], kind: Kind, unknown: tuple[float, float]) -> Estimate:
    """Estimates an effect from values that are not NaN.

    Args:
      values: One value or more.
      kind: What the values are.
      unknown: The ends without an interval.
    """
    import numpy as np

    with np.errstate(divide="ignore"):
        numbers = np.log(values) if kind == "factor" else np.asarray(values, float)
    back = np.exp if kind == "factor" else float
    count = len(numbers)
    if np.isfinite(numbers).all():
        ends = unknown
        if count > 1:
            ends = [float(back(end)) for end in student_interval.compute_ends(numbers.tolist())]
        return Estimate(float(back(numbers.mean())), *ends, count)
    center = float(back(_median(numbers)))
    if count < _SEEDS_FOR_RANGE:
        return Estimate(center, *unknown, count)
    ends = (float(back(numbers.min())), float(back(numbers.max())))
    return Estimate(center, *ends, count, 1 - 2 ** (1 - count))


def _median(numbers: np.ndarray) -> float:
    """The median; the lower of the two middle values, because infinite ones have no mean."""
    return sorted(numbers)[(len(numbers) - 1) // 2]


def estimate_spread_factor(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Estimates the standard deviation of the first group divided by that of the second.

    The interval is that of the F test for variances, so it assumes normal values. The factor is
    unknown if a group has one value, or if a value is NaN or infinite.

    Returns:
      The estimate; None if a group has no value.
    """
    seeds = min(len(first), len(second))
    if seeds == 0:
        return None
    if seeds == 1:
        return Estimate(math.nan, 0.0, math.inf, seeds)
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

    That is mean +- t s sqrt(1 + 1/n), with probability 95%. It has no bounds for one value, or
    if a value is NaN or infinite.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return -math.inf, math.inf
    from scipy import stats

    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * deviation
    half *= math.sqrt(1 + 1 / len(values))
    return float(mean - half), float(mean + half)


def to_data(found: Estimate) -> dict[str, Any]:
    """Returns an estimate as data for JSON."""
    return name_infinite(dataclasses.asdict(found))


def name_infinite(numbers: Mapping[str, float]) -> dict[str, float | str]:
    """Returns numbers as data for JSON, in which those that are not finite are texts."""
    return {
        name: value if math.isfinite(value) else str(value) for name, value in numbers.items()
    }


def format_number(value: float | None, digits: int) -> str:
    """Formats a number with its decimals; "" for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def format_estimate(found: Estimate, signed: bool, digits: int = 3) -> str:
    """Formats an effect with its interval, such as "+0.041 [+0.020, +0.062]".

    If seeds have no value, the number of those that have one follows: "+0.041 [+0.020, +0.062]
    (3 of 5 seeds)".
    """

    def text(value: float) -> str:
        if signed and 1e4 <= abs(value) < math.inf:
            return f"{value:+,.0f}"
        return f"{value:+.{digits}f}" if signed else f"{value:.2f}"

    every = found.seeds + found.left_out
    counted = f" ({found.seeds} of {every} seeds)" if found.left_out else ""
    if math.isnan(found.center):
        return f"unknown{counted}"
    if found.is_exact:
        return text(found.center)
    if found.seeds == 1:
        return f"{text(found.center)}{counted or ' (1 seed)'}"
    if found.seeds < _SEEDS_FOR_RANGE and math.isinf(found.high - found.low):
        return f"{text(found.center)} (too few seeds for an interval){counted}"
    level = "" if found.level == LEVEL else f" ({found.level:.0%})"
    return f"{text(found.center)} [{text(found.low)}, {text(found.high)}]{level}{counted}"

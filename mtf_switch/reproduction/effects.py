"""The effects on which claims rest, each computed from the results of every seed."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mtf_switch.downstream import gains
from mtf_switch.reproduction import estimates, metrics
from mtf_switch.reproduction.estimates import Estimate
from mtf_switch.reproduction.training_result import TrainingResult

# Name of a row -> seed -> result.
Results = Mapping[str, Mapping[int, TrainingResult]]
# Name of a row -> metric -> the paper's number.
PaperNumbers = Mapping[str, Mapping[str, float]]


class Effect(Protocol):
    """A number that compares rows.

    Attributes:
      none: Its value without an effect.
    """

    none: float

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows that it needs."""

    def estimate(self, results: Results) -> Estimate | None:
        """Estimates it; None if no seed has all the rows."""

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        """Computes it from the paper's numbers; None if the paper does not print them."""

    def describe(self) -> str:
        """Names it, for a table."""


def _by_seed(
    results: Results, rows: tuple[str, ...], compute: Callable[..., float]
) -> list[float]:
    """Computes a number for each seed that all rows have, so that rows are paired by seed.

    A seed without the metric has NaN.
    """
    found = [results.get(row, {}) for row in rows]
    seeds = set.intersection(*(set(of_row) for of_row in found))
    return [compute(*(of_row[seed] for of_row in found)) for seed in sorted(seeds)]


def _estimate_known(factors: Sequence[float]) -> Estimate | None:
    """Estimates a factor; None if no seed has it."""
    return None if all(map(math.isnan, factors)) else estimates.estimate(factors, "factor")


def _read_paper(paper: PaperNumbers, rows: tuple[str, ...], metric: str) -> list[float] | None:
    """Returns the paper's numbers of the rows; None if the paper lacks one."""
    values = [paper.get(row, {}).get(metric) for row in rows]
    return None if None in values else values


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of one row minus that of another.

    Attributes:
      first, second: Names of rows.
      metric: See `metrics.METRICS`.
    """

    first: str
    second: str
    metric: str = metrics.QUALITY
    none: float = dataclasses.field(default=0.0, init=False)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.first, self.second

    def estimate(self, results: Results) -> Estimate | None:
        return estimates.estimate(self.compute(results), "difference")

    def compute(self, results: Results) -> list[float]:
        """Returns the difference of each seed; NaN for a seed without the metric."""

        def subtract(first: TrainingResult, second: TrainingResult) -> float:
            a, b = (metrics.read(result, self.metric) for result in (first, second))
            return 0.0 if a == b else a - b

        return _by_seed(results, self.rows, subtract)

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        values = _read_paper(paper, self.rows, self.metric)
        return values and values[0] - values[1]

    def describe(self) -> str:
        return f"{metrics.METRICS[self.metric]}: {self.first} - {self.second}"


@dataclasses.dataclass(frozen=True)
class Factor:
    """A metric of one row divided by that of another.

    Attributes:
      first, second: Names of rows.
      metric: See `metrics.METRICS`; positive.
    """

    first: str
    second: str
    metric: str
    none: float = dataclasses.field(default=1.0, init=False)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.first, self.second

    def estimate(self, results: Results) -> Estimate | None:
        def divide(first: TrainingResult, second: TrainingResult) -> float:
            return metrics.read(first, self.metric) / metrics.read(second, self.metric)

        return _estimate_known(_by_seed(results, self.rows, divide))

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        values = _read_paper(paper, self.rows, self.metric)
        return values and values[0] / values[1]

    def describe(self) -> str:
        return f"{metrics.METRICS[self.metric]}: {self.first} / {self.second}"


@dataclasses.dataclass(frozen=True)
class ShareOfGain:
    """The share of a teacher's gain over a dense model that a student keeps (ruling 43).

    A seed in which the teacher is not ahead of the dense model has no gain, and is left out.

    Attributes:
      student, dense, teacher: Names of rows.
      metric: The quality, or the score on downstream tasks.
    """

    student: str
    dense: str
    teacher: str
    metric: str = metrics.QUALITY
    none: float = dataclasses.field(default=0.0, init=False)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.student, self.dense, self.teacher

    def estimate(self, results: Results) -> Estimate | None:
        return estimates.estimate(self.compute(results), "difference")

    def compute(self, results: Results) -> list[float]:
        """Returns the share of each seed.

        It is minus infinity for a student that diverged, and NaN for a seed in which the
        teacher has no gain.
        """

        def divide(*of_rows: TrainingResult) -> float:
            return self._compute([metrics.read(result, self.metric) for result in of_rows])

        return _by_seed(results, self.rows, divide)

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        values = _read_paper(paper, self.rows, self.metric)
        return values and self._compute(values)

    def _compute(self, values: Sequence[float]) -> float:
        return gains.percent_of_gain(*values) / 100

    def describe(self) -> str:
        return f"share of the gain of {self.teacher} over {self.dense}: {self.student}"


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """The last step (or second) of a row over that at which another row is as good.

    See `gains.compute_speed_up`. A row that does not reach the quality, or diverges, needs
    infinitely many steps: its speed-up is 0.

    Attributes:
      fast, slow: Names of rows.
      axis: "step" or "seconds".
    """

    fast: str
    slow: str
    axis: gains.Axis = "step"
    none: float = dataclasses.field(default=1.0, init=False)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.fast, self.slow

    def estimate(self, results: Results) -> Estimate | None:
        return _estimate_known(self.compute(results))

    def compute(self, results: Results) -> list[float]:
        """Returns the speed-up of each seed; NaN for a seed whose times are unknown."""
        return _by_seed(results, self.rows, self._divide)

    def _divide(self, fast: TrainingResult, slow: TrainingResult) -> float:
        if fast.diverged_at is not None:
            return 1.0 if slow.diverged_at is not None else 0.0
        if slow.diverged_at is not None:
            return math.inf
        # The first evaluation is that of the untrained model, at step 0.
        return gains.compute_speed_up(slow.curve, fast.curve, self.axis) or 0.0

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        return None

    def describe(self) -> str:
        unit = "steps" if self.axis == "step" else "time"
        return f"speed-up in {unit}: {self.fast} over {self.slow}"


@dataclasses.dataclass(frozen=True)
class Trend:
    """The slope of a metric against the binary logarithm of a number: the gain of a doubling.

    The metric of a row that diverged is minus infinity. The slope is then the limit for an ever
    worse metric, the same in all such rows: minus infinity if they have the larger numbers, and
    infinity if they have the smaller ones. In between there is no limit, and it is NaN.

    Attributes:
      numbers: Name of a row -> its number, such as that of its experts.
      metric: See `metrics.METRICS`.
    """

    numbers: tuple[tuple[str, float], ...]
    metric: str = metrics.QUALITY
    none: float = dataclasses.field(default=0.0, init=False)

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(row for row, _ in self.numbers)

    def estimate(self, results: Results) -> Estimate | None:
        def slope(*of_rows: TrainingResult) -> float:
            return self._slope([metrics.read(result, self.metric) for result in of_rows])

        return estimates.estimate(_by_seed(results, self.rows, slope), "difference")

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        values = _read_paper(paper, self.rows, self.metric)
        return values and self._slope(values)

    def _slope(self, values: Sequence[float]) -> float:
        from scipy import stats

        doublings = [math.log2(number) for _, number in self.numbers]
        if any(map(math.isnan, values)):
            return math.nan
        if -math.inf in values:
            # The least squares weigh a value by the distance of its x from the mean.
            mean = statistics.fmean(doublings)
            weight = sum(x - mean for x, v in zip(doublings, values) if v == -math.inf)
            return math.nan if abs(weight) < 1e-9 else -math.copysign(math.inf, weight)
        return float(stats.linregress(doublings, values).slope)

    def describe(self) -> str:
        return f"{metrics.METRICS[self.metric]}: gain of a doubling"


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two metrics over models, for each seed.

    Attributes:
      models: Names of the rows, three or more.
      first, second: See `metrics.METRICS`.
    """

    models: tuple[str, ...]
    first: str
    second: str
    none: float = dataclasses.field(default=0.0, init=False)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.models

    def estimate(self, results: Results) -> Estimate | None:
        def correlate(*of_rows: TrainingResult) -> float:
            both = ([metrics.read(r, m) for r in of_rows] for m in (self.first, self.second))
            return self._correlate(*both)

        return estimates.estimate(_by_seed(results, self.rows, correlate), "difference")

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        first, second = (_read_paper(paper, self.rows, m) for m in (self.first, self.second))
        return self._correlate(first, second) if first and second else None

    def _correlate(self, first: Sequence[float], second: Sequence[float]) -> float:
        from scipy import stats

        # Equal values have no ranks, and an unknown one has none either.
        if min(len(set(first)), len(set(second))) == 1 or any(map(math.isnan, first + second)):
            return math.nan
        return float(stats.spearmanr(first, second).statistic)

    def describe(self) -> str:
        names = (metrics.METRICS[metric] for metric in (self.first, self.second))
        return f"rank correlation over {len(self.models)} models: {' and '.join(names)}"


@dataclasses.dataclass(frozen=True)
class SpreadFactor:
    """The standard deviation of a metric over seeds of one row, divided by that of another.

    Attributes:
      first, second: Names of rows.
      metric: See `metrics.METRICS`.
    """

    first: str
    second: str
    metric: str = metrics.QUALITY
    none: float = dataclasses.field(default=1.0, init=False)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.first, self.second

    def estimate(self, results: Results) -> Estimate | None:
        groups = [
            [metrics.read(result, self.metric) for result in results.get(row, {}).values()]
            for row in self.rows
        ]
        return estimates.estimate_spread_factor(*groups)

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        values = _read_paper(paper, self.rows, f"{self.metric}_deviation")
        return values and values[0] / values[1]

    def describe(self) -> str:
        return f"standard deviation over seeds: {self.first} / {self.second}"

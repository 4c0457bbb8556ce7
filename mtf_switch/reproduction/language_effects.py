"""Two models by language, from the results of all seeds (Section 4.3, Figures 7 and 8)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from mtf_switch.downstream import language_gains
from mtf_switch.downstream.language_gains import LanguageComparison, LanguageCurves
from mtf_switch.downstream.quality_curve import QualityCurve
from mtf_switch.errors import UserError
from mtf_switch.reproduction import estimates
from mtf_switch.reproduction.effects import PaperNumbers, Results
from mtf_switch.reproduction.estimates import Estimate
from mtf_switch.reproduction.training_result import TrainingResult


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The runs of two rows that can be compared by language.

    Attributes:
      dense: Seed -> the curves of the dense row.
      sparse: Those of the sparse row, with the same seeds.
      diverged: Seed -> name of a run of it that diverged. These seeds are in neither of both.
      reason: Why no seed can be compared; "" if one can.
    """

    dense: dict[int, LanguageCurves]
    sparse: dict[int, LanguageCurves]
    diverged: dict[int, str]
    reason: str = ""

    def compare(self) -> LanguageComparison | None:
        """Compares all seeds; None if no seed can be compared."""
        if self.reason:
            return None
        return language_gains.compare(list(self.dense.values()), list(self.sparse.values()))


def pair(results: Results, sparse: str, dense: str) -> Pairs:
    """Pairs the runs of two rows by seed, and checks that they can be compared.

    Args:
      results: The results.
      sparse: Name of the sparse row.
      dense: Name of the dense row.
    """
    rows = [results.get(row, {}) for row in (dense, sparse)]
    seeds = sorted(set(rows[0]) & set(rows[1]))
    diverged = {
        seed: _name(of_row[seed])
        for of_row in rows
        for seed in seeds
        if of_row[seed].diverged_at is not None
    }
    curves = [
        {seed: _curves(of_row[seed]) for seed in seeds if seed not in diverged}
        for of_row in rows
    ]
    reason = ""
    if not curves[0]:
        reason = f"No seed has a finished run of both {dense} and {sparse}."
    else:
        try:
            language_gains.check_alike([run for of_row in curves for run in of_row.values()])
        except UserError as error:
            reason = str(error)
    return Pairs(*curves, diverged, reason)


def _name(result: TrainingResult) -> str:
    return f"{result.training}-{result.seed}"


def _curves(result: TrainingResult) -> LanguageCurves:
    def points(qualities):
        return [
            dataclasses.replace(point, neg_log_perplexity=quality)
            for point, quality in zip(result.curve, qualities)
        ]

    return {
        task: QualityCurve(
            _name(result), points(of_task.neg_log_perplexities), of_task.target_tokens
        )
        for task, of_task in result.tasks.items()
    }


@dataclasses.dataclass(frozen=True)
class _Number:
    """A number of a comparison of one seed.

    Attributes:
      compute: Computes it.
      meaning: What it is.
      none: Its value without an effect.
      best: Its value if the dense model diverges.
      worst: Its value if the sparse model diverges.
    """

    compute: Callable[[LanguageComparison], float]
    meaning: str
    none: float
    best: float
    worst: float


def _mean_speed_up(comparison: LanguageComparison) -> float:
    """Averages over all languages; a quality that is not reached is a speed-up of 0."""
    found = [result.speed_up or 0.0 for result in comparison.results]
    return sum(found) / len(found)


_NUMBERS = {
    "smallest_gain": _Number(
        lambda comparison: comparison.results[0].gain.mean,
        "smallest gain of a language",
        *(0.0, math.inf, -math.inf),
    ),
    "mean_gain": _Number(
        lambda comparison: comparison.gain.mean,
        "mean gain over languages",
        *(0.0, math.inf, -math.inf),
    ),
    "mean_speed_up": _Number(
        _mean_speed_up, "mean step speed-up over languages", *(1.0, math.inf, 0.0)
    ),
    "share": _Number(
        lambda comparison: comparison.share.mean,
        f"share of languages with a step speed-up of at least {language_gains.FACTOR:g}",
        *(0.0, 1.0, 0.0),
    ),
}


@dataclasses.dataclass(frozen=True)
class ByLanguage:
    """A number that sums up how two models differ by language; see `language_gains`.

    A gain is a difference of negative log perplexities, and a speed-up one in steps. A language
    in which the sparse model does not reach the final quality of the dense one has a speed-up
    of 0.

    Attributes:
      sparse, dense: Names of rows.
      number: "smallest_gain", "mean_gain", "mean_speed_up", or the "share" of languages with a
        speed-up of at least `language_gains.FACTOR`.
    """

    sparse: str
    dense: str
    number: Literal["smallest_gain", "mean_gain", "mean_speed_up", "share"]

    @property
    def none(self) -> float:
        """Its value without an effect."""
        return _NUMBERS[self.number].none

    @property
    def rows(self) -> tuple[str, ...]:
        return self.sparse, self.dense

    def estimate(self, results: Results) -> Estimate | None:
        return estimates.estimate(
            self.compute(results), "factor" if self.none == 1 else "difference"
        )

    def compute(self, results: Results) -> list[float]:
        """Returns the number of each seed; none if the runs cannot be compared."""
        number = _NUMBERS[self.number]
        pairs = pair(results, self.sparse, self.dense)
        values = [
            number.worst if results[self.sparse][seed].diverged_at is not None else number.best
            for seed in pairs.diverged
        ]
        if not pairs.reason:
            values += [
                number.compute(language_gains.compare([slow], [fast]))
                for slow, fast in zip(pairs.dense.values(), pairs.sparse.values())
            ]
        return values

    def find_in_paper(self, paper: PaperNumbers) -> float | None:
        return None

    def describe(self) -> str:
        return f"{_NUMBERS[self.number].meaning}: {self.sparse} over {self.dense}"

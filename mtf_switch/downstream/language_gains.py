"""Compares two models by language over several seeds, for Figures 7 and 8 (Section 4.3).

Figure 7 shows the final quality of both models in each language, sorted by the gain. Figure 8
is a histogram of the languages' speed-ups in steps.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from mtf_switch.downstream import gains, quality_curve, student_interval
from mtf_switch.downstream.gains import EvaluationPoint, SpeedUpSummary
from mtf_switch.downstream.quality_curve import QualityCurve
from mtf_switch.errors import UserError, join_first

# The task of each language -> the curve of a run.
LanguageCurves = Mapping[str, QualityCurve]

# What Section 4.3 says about 101 languages.
PAPER_MEAN_SPEED_UP = 5.0
PAPER_SHARE = 0.91
# "at least a 4x step speedup"
FACTOR = 4.0


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over seeds, and its 95% confidence interval (Student's t).

    Attributes:
      mean: The mean.
      low, high: The ends; NaN with one seed, or if a value is infinite.
    """

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class LanguageResult:
    """The two models on one language.

    Attributes:
      task: The task of the language.
      target_tokens: The number of target tokens in each evaluation.
      dense: The final negative log perplexity of the dense model, averaged over seeds.
      sparse: That of the sparse model.
      gain: sparse - dense.
      speed_up: The speed-up in steps on the curves averaged over seeds; None if the sparse
        model does not reach the final quality of the dense one.
    """

    task: str
    target_tokens: int
    dense: float
    sparse: float
    gain: Interval
    speed_up: float | None


@dataclasses.dataclass(frozen=True)
class LanguageComparison:
    """The two models on all languages.

    Attributes:
      results: A result for each language, sorted by gain.
      by_seed: For each seed, the summary of the speed-ups of its own curves.
      gain: The mean gain over the languages, with its interval over seeds.
      seeds: The number of seeds.
      last_step: The step of the last evaluation.
    """

    results: list[LanguageResult]
    by_seed: list[SpeedUpSummary]
    gain: Interval
    seeds: int
    last_step: int

    @property
    def mean_speed_up(self) -> Interval | None:
        """The mean speed-up of the languages that have one; None if a seed has none."""
        means = [summary.mean for summary in self.by_seed]
        return None if None in means else compute_interval(means)

    @property
    def share(self) -> Interval:
        """The share of languages with a speed-up of at least `FACTOR`."""
        return compute_interval([summary.share_at_least for summary in self.by_seed])

    @property
    def not_reached(self) -> Interval:
        """The number of languages in which the quality is not reached."""
        return compute_interval([float(len(s.not_reached)) for s in self.by_seed])


def compute_interval(values: Sequence[float]) -> Interval:
    """Returns the mean of one value for each seed, and its confidence interval."""
    return Interval(statistics.fmean(values), *student_interval.compute_ends(values))


def compare(
    dense: Sequence[LanguageCurves], sparse: Sequence[LanguageCurves]
) -> LanguageComparison:
    """Compares the evaluations of two models on the tasks of a mixture.

    Args:
      dense: The curves of the dense model, for each seed; at least one.
      sparse: Those of the sparse model, in the same order of seeds.

    Raises:
      UserError: In the cases of `check_alike`.
    """
    check_alike([*dense, *sparse])
    results: list[LanguageResult] = []
    of_seeds: list[dict[str, float | None]] = [{} for _ in dense]
    gains_of_seeds: list[list[float]] = [[] for _ in dense]
    for task, curve in dense[0].items():
        points = [of_run[task].points for of_run in (*dense, *sparse)]
        dense_points, sparse_points = points[: len(dense)], points[len(dense) :]
        for seed, (slow, fast) in enumerate(zip(dense_points, sparse_points)):
            of_seeds[seed][task] = gains.compute_speed_up(slow, fast)
            gain = fast[-1].neg_log_perplexity - slow[-1].neg_log_perplexity
            gains_of_seeds[seed].append(gain)
        results.append(_compare_task(curve, task, dense_points, sparse_points))
    results.sort(key=lambda result: result.gain.mean)
    return LanguageComparison(
        results,
        [gains.summarize_speed_ups(speed_ups, FACTOR) for speed_ups in of_seeds],
        compute_interval([statistics.fmean(of_seed) for of_seed in gains_of_seeds]),
        len(dense),
        curve.points[-1].step,
    )


def check_alike(runs: Sequence[LanguageCurves]) -> None:
    """Checks that the curves of all runs were measured on the same data at the same steps.

    Raises:
      UserError: If they were not, if the runs have different languages, or none.
    """
    tasks = set(runs[0])
    if not any(runs):
        raise UserError("No run has evaluations by language. Train on a mixture of languages.")
    for other in runs[1:]:
        if missing := sorted(tasks ^ set(other)):
            raise UserError(
                f"Only some of the runs have evaluations of {join_first(missing)}. Train and "
                "evaluate all of them with the same languages."
            )
    for task in runs[0]:
        _check_task(task, [of_run[task] for of_run in runs])


def _check_task(task: str, curves: Sequence[QualityCurve]) -> None:
    quality_curve.check_same_data(task, curves)
    first = curves[0]
    steps = [point.step for point in first.points]
    for curve in curves[1:]:
        if [point.step for point in curve.points] != steps:
            raise UserError(
                f"{first.run} and {curve.run} have evaluations of {task!r} at "
                "different steps. Train both with the same steps, and evaluate all checkpoints."
            )


def _compare_task(
    curve: QualityCurve,
    task: str,
    dense: Sequence[Sequence[EvaluationPoint]],
    sparse: Sequence[Sequence[EvaluationPoint]],
) -> LanguageResult:
    final = [
        (d[-1].neg_log_perplexity, s[-1].neg_log_perplexity) for d, s in zip(dense, sparse)
    ]
    return LanguageResult(
        task,
        curve.target_tokens,
        statistics.fmean(d for d, _ in final),
        statistics.fmean(s for _, s in final),
        compute_interval([s - d for d, s in final]),
        gains.compute_speed_up(_average(dense), _average(sparse)),
    )


def _average(curves: Sequence[Sequence[EvaluationPoint]]) -> list[EvaluationPoint]:
    """Averages curves with the same steps."""
    return [
        EvaluationPoint(
            points[0].step,
            statistics.fmean(point.seconds for point in points),
            statistics.fmean(point.neg_log_perplexity for point in points),
        )
        for points in zip(*curves)
    ]

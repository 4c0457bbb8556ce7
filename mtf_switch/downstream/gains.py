"""Computes the gains of one model over another, as the paper defines them.

Speed-up (Figures 4, 5, 6 and 8): the steps or the time of the dense model's last evaluation,
divided by the steps or the time after which the sparse model reaches the same quality. Figure 8
shows one speed-up for each language.

Percent of gain (Tables 6, 7 and 8): the share of the teacher's gain over the dense model that
the teacher's student keeps.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal


@dataclasses.dataclass(frozen=True)
class EvaluationPoint:
    """One evaluation during pre-training.

    Attributes:
      step: The step of the checkpoint.
      seconds: The time spent in training steps up to that step.
      neg_log_perplexity: The negative log perplexity on the validation split, in nats per
        target token.
    """

    step: int
    seconds: float
    neg_log_perplexity: float


# The unit of a speed-up: an attribute of EvaluationPoint.
Axis = Literal["step", "seconds"]


@dataclasses.dataclass(frozen=True)
class SpeedUpSummary:
    """The speed-ups of one model over another on several languages (Figure 8).

    Attributes:
      mean: The mean over the languages in which the quality is reached; None if it is reached
        in no language.
      share_at_least: The share of all languages whose speed-up is at least the given factor.
      not_reached: The languages in which the quality is not reached.
    """

    mean: float | None
    share_at_least: float
    not_reached: list[str]


def find_crossing(
    points: Sequence[EvaluationPoint], quality: float, axis: Axis = "step"
) -> float | None:
    """Finds the step, or the second, at which a model first reaches a quality.

    Between two evaluations, quality is interpolated linearly. If the first evaluation already
    has the quality, this returns the step or second of that evaluation.

    Args:
      points: Evaluations in the order of their steps.
      quality: Negative log perplexity, in nats per target token. NaN is never reached.
      axis: Whether to return a step or seconds.

    Returns:
      The step or second; None if no evaluation reaches the quality.
    """
    for before, after in zip([None, *points], points):
        # An evaluation that is NaN reaches nothing either.
        if not after.neg_log_perplexity >= quality:
            continue
        end = getattr(after, axis)
        if before is None or not math.isfinite(before.neg_log_perplexity):
            return float(end)
        start = getattr(before, axis)
        rise = after.neg_log_perplexity - before.neg_log_perplexity
        return start + (quality - before.neg_log_perplexity) / rise * (end - start)
    return None


def interpolate(
    points: Sequence[EvaluationPoint], position: float, axis: Axis = "step"
) -> float:
    """Returns the quality at a step or second, linearly between two evaluations.

    Args:
      points: Evaluations in the order of their steps.
      position: The step or second; not after the last evaluation. Before the first one, the
        quality is that of the first.
      axis: Whether the position is a step or a second.
    """
    after = next(i for i, point in enumerate(points) if getattr(point, axis) >= position)
    before, end = points[max(after - 1, 0)], points[after]
    length = getattr(end, axis) - getattr(before, axis)
    if length == 0:
        return end.neg_log_perplexity
    share = (position - getattr(before, axis)) / length
    rise = end.neg_log_perplexity - before.neg_log_perplexity
    return before.neg_log_perplexity + share * rise


def compute_speed_up(
    dense: Sequence[EvaluationPoint], sparse: Sequence[EvaluationPoint], axis: Axis = "step"
) -> float | None:
    """Divides the dense model's last step by the step at which the sparse model is as good.

    Args:
      dense: Evaluations of the dense model, in the order of their steps.
      sparse: Evaluations of the sparse model, in the order of their steps.
      axis: "step" as in Figures 4 and 8, or "seconds" as in Figures 5 and 6.

    Returns:
      The factor; None if the sparse model does not reach the dense model's final quality,
      infinity if it has that quality before training, and NaN if that quality is not finite,
      because the dense model has diverged.
    """
    final = dense[-1]
    if not math.isfinite(final.neg_log_perplexity):
        return math.nan
    crossing = find_crossing(sparse, final.neg_log_perplexity, axis)
    if crossing is None:
        return None
    return math.inf if crossing == 0 else getattr(final, axis) / crossing


def summarize_speed_ups(
    speed_ups: Mapping[str, float | None], factor: float = 4.0
) -> SpeedUpSummary:
    """Summarizes the speed-ups on several languages, as the text of Section 4.3 does.

    Args:
      speed_ups: Language -> result of `compute_speed_up`.
      factor: The factor of `SpeedUpSummary.share_at_least`.
    """
    reached = [speed_up for speed_up in speed_ups.values() if speed_up is not None]
    return SpeedUpSummary(
        mean=statistics.fmean(reached) if reached else None,
        share_at_least=sum(s >= factor for s in reached) / len(speed_ups),
        not_reached=[name for name, speed_up in speed_ups.items() if speed_up is None],
    )


def percent_of_gain(student: float, dense: float, teacher: float) -> float:
    """Returns 100 (student - dense) / (teacher - dense).

    The percentage is negative for a student that is worse than the dense model. A teacher that
    is not ahead of the dense model has no gain of which a student could keep a part: NaN.

    Args:
      student: Quality of the student, such as its negative log perplexity.
      dense: Quality of the dense model of the student's size, trained without a teacher.
      teacher: Quality of the teacher.
    """
    if not (math.isfinite(dense) and math.isfinite(teacher) and teacher > dense):
        return math.nan
    return 100 * (student - dense) / (teacher - dense)

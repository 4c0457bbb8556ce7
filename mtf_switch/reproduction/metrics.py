"""The metrics of a training result."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.reproduction.training_result import TrainingResult

QUALITY = "quality"
QUALITY_AT_HALF = "quality_at_half"
EXAMPLES_PER_SECOND = "examples_per_second"

# Metric -> its name in a table.
METRICS = {
    QUALITY: "neg. log perplexity",
    QUALITY_AT_HALF: "neg. log perplexity at half of the steps",
    EXAMPLES_PER_SECOND: "examples/s",
    "seconds": "seconds of training",
    "parameters": "parameters",
    "flops_per_token": "FLOPs per token",
    "dropped_training": "dropped in training",
    "dropped_evaluation": "dropped in evaluation",
}


def read(result: TrainingResult, metric: str) -> float:
    """Returns a metric: NaN if unknown, minus infinity for the quality of a diverged run."""
    if metric in (QUALITY, QUALITY_AT_HALF) and result.diverged_at is not None:
        return -math.inf
    if metric == QUALITY_AT_HALF:
        return _interpolate(result.curve, result.curve[-1].step / 2)
    return result.metrics.get(metric, math.nan)


def _interpolate(curve: Sequence[EvaluationPoint], step: float) -> float:
    """Returns the quality at a step within the curve, linearly between two evaluations."""
    after = next(i for i, point in enumerate(curve) if point.step >= step)
    before, end = curve[max(after - 1, 0)], curve[after]
    if end.step == before.step:
        return end.neg_log_perplexity
    share = (step - before.step) / (end.step - before.step)
    return before.neg_log_perplexity + share * (
        end.neg_log_perplexity - before.neg_log_perplexity
    )

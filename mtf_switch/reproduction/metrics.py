"""The metrics of a training result."""

from __future__ import annotations

import math

from mtf_switch.reproduction.training_result import TrainingResult

QUALITY = "quality"
EXAMPLES_PER_SECOND = "examples_per_second"

# Metric -> its name in a table.
METRICS = {
    QUALITY: "neg. log perplexity",
    EXAMPLES_PER_SECOND: "examples/s",
    "seconds": "seconds of training",
    "parameters": "parameters",
    "flops_per_token": "FLOPs per token",
    "dropped_training": "dropped in training",
    "dropped_evaluation": "dropped in evaluation",
}


def read(result: TrainingResult, metric: str) -> float:
    """Returns a metric: NaN if unknown, minus infinity for the quality of a diverged run."""
    if metric == QUALITY and result.diverged_at is not None:
        return -math.inf
    return result.metrics.get(metric, math.nan)

"""The metrics of a training result."""

from __future__ import annotations

import math

from mtf_switch.downstream import gains
from mtf_switch.reproduction.training_result import TrainingResult

QUALITY = "quality"
QUALITY_AT_HALF = "quality_at_half"
# The average over downstream tasks, each at its best checkpoint; see `scores.average_peaks`.
DOWNSTREAM = "downstream"
# The negative log perplexity of the model that is fine-tuned, before that.
UPSTREAM = "upstream"
EXAMPLES_PER_SECOND = "examples_per_second"
# See `equal_time`.
SECONDS_TO_BASELINE = "seconds_to_baseline"
QUALITY_AT_EQUAL_TIME = "quality_at_equal_time"
# Minus infinity for a run that diverged.
_QUALITIES = (QUALITY, QUALITY_AT_HALF, QUALITY_AT_EQUAL_TIME, DOWNSTREAM)
# What depends on the time of a training.
OF_SPEED = (EXAMPLES_PER_SECOND, "tokens_per_second", "seconds")

# Metric -> its name in a table.
METRICS = {
    QUALITY: "neg. log perplexity",
    QUALITY_AT_HALF: "neg. log perplexity at half of the steps",
    DOWNSTREAM: "downstream average",
    UPSTREAM: "neg. log perplexity before fine-tuning",
    EXAMPLES_PER_SECOND: "examples/s",
    "seconds": "seconds of training",
    SECONDS_TO_BASELINE: "seconds to the final quality of the baseline",
    QUALITY_AT_EQUAL_TIME: "neg. log perplexity when the first row ends",
    "parameters": "parameters",
    "flops_per_token": "FLOPs per token",
    "dropped_training": "dropped in training",
    "dropped_evaluation": "dropped in evaluation",
    # Scores of the embedded tasks, in percent.
    "embedded_package/accuracy": "package accuracy",
    "embedded_summary/rouge1": "summary rouge1",
    "embedded_module/f1": "module f1",
    # What only the paper has.
    "hours_to_quality": "hours to a quality",
    "quality_at_16_hours": "neg. log perplexity after 16 hours",
    "super_glue": "SuperGLUE",
    "squad": "SQuAD",
    "anli": "ANLI",
    "natural_questions": "Natural Questions",
    "web_questions": "Web Questions",
    "trivia_qa": "TriviaQA",
    # Of the full-size model.
    "full_parameters": "parameters at full size",
    "full_flops": "FLOPs per sequence at full size",
    # Of one core, in a training step: `plan`, and the program that the TPU's compiler makes.
    "planned_bytes": "bytes of memory, planned",
    "compiled_bytes": "bytes of memory, compiled",
    "weight_bytes": "bytes of weights",
    "sent_bytes": "bytes sent",
    "compiled_sent_bytes": "bytes sent, compiled",
    "forward_bytes": "bytes sent in the forward pass",
    "all_to_all_bytes": "bytes sent in all-to-alls",
}


def compute_rates(step_seconds: float, examples: int, tokens: int) -> dict[str, float]:
    """Computes examples and tokens per second.

    Args:
      step_seconds: The seconds of a step.
      examples: The number of examples in a batch.
      tokens: The number of tokens in an example, with padding.
    """
    return {
        EXAMPLES_PER_SECOND: examples / step_seconds,
        "tokens_per_second": examples * tokens / step_seconds,
    }


def read(result: TrainingResult, metric: str) -> float:
    """Returns a metric: NaN if unknown, minus infinity for the quality of a diverged run."""
    if metric in _QUALITIES and result.diverged_at is not None:
        return -math.inf
    if metric == QUALITY_AT_HALF:
        return gains.interpolate(result.curve, result.curve[-1].step / 2)
    return result.metrics.get(metric, math.nan)

"""The metrics of an evaluation, accumulated over its batches.

Rows of padding, which fill a batch, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch.runs import router_summaries, task_sums
from mtf_switch.runs.run import Run

# The outputs of the step that the metrics are made of.
TENSORS = ("cross_entropy", "predictions", "targets", "weights")
# The names of two of the metrics. The others have upstream's names.
EXAMPLES = "num_eval_examples"
UNKNOWN = "num_unknown_targets"


def make_all(
    run: Run,
    outputs: Mapping[str, tf.Tensor],
    router_sums: Mapping[str, tf.Tensor],
    task_numbers: tf.Tensor | None,
) -> tuple[Callable[..., dict[str, Any]], list[tf.Tensor]]:
    """Makes the metrics of `make`, those of each task of a mixture, and those of the routers.

    Args:
      run: The run.
      outputs: The outputs of a step of `inference_steps.build_evaluation`.
      router_sums: Layer -> sums over its tokens, [6 + 2 E].
      task_numbers: The feature `task_sums.TASK_NUMBER`, or None.

    Returns:
      (metric function, tensors); see `make`.
    """
    unknown_id = getattr(run.feature_vocabulary("targets"), "unk_id", None)
    tasks = task_sums.list_names(run.settings.task) if task_numbers is not None else []
    metrics = task_sums.add_to_eval_metrics(make(outputs, unknown_id), task_numbers, tasks)
    return router_summaries.add_to_eval_metrics(metrics, router_sums)


def make(
    outputs: Mapping[str, tf.Tensor], unknown_id: int | None
) -> tuple[Callable[..., dict[str, Any]], list[tf.Tensor]]:
    """Makes the `eval_metrics` of a TPUEstimatorSpec.

    Args:
      outputs: The outputs of a step of `inference_steps.build_evaluation`.
      unknown_id: The id that stands for text that the vocabulary lacks; None for none.

    Returns:
      (metric function, tensors). The function is called with the values of the tensors, which a
      TPU sends to its host, and returns (value, update) by the name of the metric.
    """

    def compute_metrics(
        cross_entropy: tf.Tensor, predictions: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
    ) -> dict[str, Any]:
        correct = tf.cast(tf.equal(predictions, targets), tf.float32) * weights
        lengths = tf.reduce_sum(weights, -1)
        is_sequence = tf.cast(tf.not_equal(lengths, 0), tf.float32)
        is_right = tf.cast(tf.equal(tf.reduce_sum(correct, -1), lengths), tf.float32)
        metrics = {
            "neg_log_perplexity": tf.metrics.mean(-cross_entropy, weights),
            "token_accuracy": tf.metrics.mean(correct, weights),
            "sequence_accuracy": tf.metrics.mean(is_right, is_sequence),
            # A checksum: two evaluations on the same data have the same mean.
            "mean_label": tf.metrics.mean(tf.cast(targets, tf.float32), weights),
            "num_eval_tokens": utils.metric_sum(weights, name="num_eval_tokens"),
            "max_targets_length": utils.metric_max(lengths, name="max_targets_length"),
            EXAMPLES: utils.metric_sum(tf.reduce_any(weights > 0, axis=-1), name=EXAMPLES),
        }
        if unknown_id is not None:
            unknown = tf.cast(tf.equal(targets, unknown_id), tf.float32) * weights
            metrics[UNKNOWN] = utils.metric_sum(unknown, name=UNKNOWN)
        return metrics

    return compute_metrics, [outputs[name] for name in TENSORS]

"""Counts the examples of an evaluation and the targets that its vocabulary lacks.

Rows of padding, which fill a batch, are not counted.
"""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

# The names of the metrics.
NAME = "num_eval_examples"
UNKNOWN = "num_unknown_targets"


def add_to_eval_metrics(eval_metrics: tuple, unknown_id: int | None) -> tuple:
    """Adds the number of examples, and of unknown targets, to Mesh TF's evaluation metrics.

    Args:
      eval_metrics: (metric function, tensors) from Mesh TF. The tensors are cross-entropy,
        predictions, targets and weights, [B, L] each. Padding has a weight of 0.
      unknown_id: The id that stands for text that the vocabulary lacks; None for none.

    Returns:
      (metric function, tensors).
    """
    metric_fn, tensors = eval_metrics

    def compute_metrics(*args: tf.Tensor) -> dict[str, Any]:
        *_, targets, weights = args
        has_targets = tf.reduce_any(tf.greater(weights, 0), axis=-1)
        counts = {NAME: has_targets}
        if unknown_id is not None:
            counts[UNKNOWN] = tf.cast(tf.equal(targets, unknown_id), tf.float32) * weights
        sums = {name: utils.metric_sum(count, name=name) for name, count in counts.items()}
        return {**metric_fn(*args), **sums}

    return compute_metrics, tensors

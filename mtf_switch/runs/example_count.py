"""Counts the examples of an evaluation, without the rows of padding that fill a batch."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

# The name of the metric.
NAME = "num_eval_examples"


def add_to_eval_metrics(eval_metrics: tuple) -> tuple:
    """Adds the number of examples to Mesh TF's evaluation metrics.

    Args:
      eval_metrics: (metric function, tensors) from Mesh TF. The tensors are cross-entropy,
        predictions, targets and weights, [B, L] each. Padding has a weight of 0.

    Returns:
      (metric function, tensors).
    """
    metric_fn, tensors = eval_metrics

    def compute_metrics(*args: tf.Tensor) -> dict[str, Any]:
        *_, weights = args
        has_targets = tf.reduce_any(tf.greater(weights, 0), axis=-1)
        return {**metric_fn(*args), NAME: utils.metric_sum(has_targets, name=NAME)}

    return compute_metrics, tensors

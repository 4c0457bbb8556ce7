"""Sums over the batches of an evaluation."""

from __future__ import annotations

import tensorflow.compat.v1 as tf


def accumulate(name: str, of_batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds up a tensor over batches, as a metric of `tf.metrics` does.

    Args:
      name: The name of the variable that holds the sums.
      of_batch: The sums of a batch, of any shape and dtype.

    Returns:
      (value, update): the sums so far, and the operation that adds a batch to them. Both have
      the shape and dtype of `of_batch`.
    """
    total = tf.get_variable(
        name,
        shape=of_batch.shape,
        dtype=of_batch.dtype,
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES],
        initializer=tf.zeros_initializer(),
    )
    return total, tf.assign_add(total, of_batch)

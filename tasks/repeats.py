"""Removes what an example repeats of itself (Lee et al., arXiv 2107.06499, within examples)."""

from __future__ import annotations

import gin
import tensorflow as tf


@gin.configurable
def remove_repeats(dataset: tf.data.Dataset, min_tokens: int = 50) -> tf.data.Dataset:
    """Drops from "targets" every run of tokens that stands earlier in the same example.

    Of two equal runs of at least `min_tokens` the first stays: the exact-substring rule of
    Lee et al. with its threshold of 50 tokens, applied to each example alone.

    Args:
      dataset: examples with int32 "targets" [tokens].
      min_tokens: length of the shortest run that counts as a repeat.
    """

    def without_repeats(example):
        tokens = example["targets"]
        kept = tf.boolean_mask(tokens, ~repeated(tokens, min_tokens))
        return {**example, "targets": kept}

    return dataset.map(without_repeats, num_parallel_calls=tf.data.experimental.AUTOTUNE)


def repeated(tokens: tf.Tensor, min_tokens: int) -> tf.Tensor:
    """Which tokens belong to a run of `min_tokens` that began at an earlier place too.

    Args:
      tokens: [n] int32.
      min_tokens: at least 1.

    Returns:
      [n] bool.
    """
    length = tf.size(tokens)
    windows = tf.maximum(length - min_tokens + 1, 0)
    starts = tf.range(windows)
    offsets = tf.range(min_tokens)[tf.newaxis]
    text = tf.strings.reduce_join(
        tf.strings.as_string(tf.gather(tokens, starts[:, tf.newaxis] + offsets)),
        axis=1,
        separator=" ",
    )
    _, group = tf.unique(text)
    first = tf.math.unsorted_segment_min(starts, group, tf.maximum(windows, 1))
    is_later = tf.cast(tf.gather(first, group) < starts, tf.int32)
    # A token is covered if a later window begins at it or up to min_tokens - 1 before it.
    begun = tf.cumsum(tf.pad(is_later, [[0, length - windows]]))
    ended = tf.pad(begun, [[min_tokens, 0]])[:length]
    return begun > ended

"""Removes text that an example repeats (Lee et al., arXiv 2107.06499, within examples)."""

from __future__ import annotations

import gin
import tensorflow as tf


@gin.configurable
def remove_repeats(dataset: tf.data.Dataset, min_tokens: int = 50) -> tf.data.Dataset:
    """Removes from "targets" every run of tokens that occurred earlier in the same example.

    It keeps the first of two equal runs with at least `min_tokens` tokens. This is the
    exact-substring rule of Lee et al. with their threshold of 50 tokens, applied to each
    example separately.

    Args:
      dataset: Examples with int32 "targets" [length].
      min_tokens: Length of the shortest run that counts as a repeat.
    """

    def without_repeats(example):
        tokens = example["targets"]
        kept = tf.boolean_mask(tokens, ~find_repeats(tokens, min_tokens))
        return {**example, "targets": kept}

    return dataset.map(without_repeats, num_parallel_calls=tf.data.experimental.AUTOTUNE)


def find_repeats(tokens: tf.Tensor, min_tokens: int) -> tf.Tensor:
    """Marks the tokens of every run of `min_tokens` tokens that occurred earlier.

    Args:
      tokens: [length] int32.
      min_tokens: At least 1.

    Returns:
      [length] bool, True for the tokens of repeats.
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
    # A token is in a repeat if one begins at it or at most min_tokens - 1 tokens before it.
    begun = tf.cumsum(tf.pad(is_later, [[0, length - windows]]))
    ended = tf.pad(begun, [[min_tokens, 0]])[:length]
    return begun > ended

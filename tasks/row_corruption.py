"""T5's span corruption of many segments at once.

`t5.data.preprocessors.span_corruption` runs some sixty operations for each segment. These
functions run them once for a matrix of segments, and return the same tokens, bit by bit, for
the same seeds. [N] is the number of segments, [S] the tokens of the longest one.
"""

from __future__ import annotations

import tensorflow as tf

from tasks import row_random
from tasks.vocabulary import EOS_ID


def corrupt_rows(
    tokens: tf.Tensor,
    lengths: tf.Tensor,
    seeds: tf.Tensor,
    first_sentinel: int,
    sequence_length: dict[str, int],
    noise_density: float,
    mean_span_length: float,
) -> dict[str, tf.Tensor]:
    """Masks spans of each segment, and replaces each span by a sentinel.

    Args:
      tokens: The segments, [N, S] int32; the values behind their ends do not matter.
      lengths: The number of tokens of each segment, at least 1, [N] int32.
      seeds: The seed of each segment, [N, 2] int64.
      first_sentinel: The id of the first sentinel, the highest one.
      sequence_length: The lengths of "inputs" and "targets", I and T.
      noise_density: The share of the tokens that is masked.
      mean_span_length: The mean number of tokens in a masked span.

    Returns:
      "inputs" [N, I] and "targets" [N, T], int32, cut to their lengths, with the end of
      sequence and padding.
    """
    in_segment = tf.sequence_mask(lengths, tf.shape(tokens)[1])
    noise = mask_spans(lengths, tf.shape(tokens)[1], seeds, noise_density, mean_span_length)
    masks = {"inputs": noise, "targets": ~noise & in_segment}
    return {
        feature: _replace_spans(
            tokens, mask, in_segment, first_sentinel, sequence_length[feature]
        )
        for feature, mask in masks.items()
    }


def mask_spans(
    lengths: tf.Tensor,
    width: tf.Tensor,
    seeds: tf.Tensor,
    noise_density: float,
    mean_span_length: float,
) -> tf.Tensor:
    """Returns the mask of `t5.data.preprocessors.random_spans_noise_mask` for each row.

    Args:
      lengths: The number of tokens of each segment, [N] int32.
      width: The columns of the mask, S.
      seeds, noise_density, mean_span_length: Those of `corrupt_rows`.

    Returns:
      [N, S] bool; False behind the end of a segment.
    """
    counted = tf.maximum(lengths, 2)
    noise = tf.cast(tf.round(tf.cast(counted, tf.float32) * noise_density), tf.int32)
    noise = tf.minimum(tf.maximum(noise, 1), counted - 1)
    spans = tf.cast(tf.round(tf.cast(noise, tf.float32) / mean_span_length), tf.int32)
    spans = tf.maximum(spans, 1)
    kept = counted - noise
    both = row_random.split_seeds(seeds, 2)
    span_of_noise = _segment_randomly(noise, spans, both[:, 0])
    span_of_kept = _segment_randomly(kept, spans, both[:, 1])

    # The i-th noise token is behind i others, and behind the kept tokens of its span and of
    # those before it.
    rows = tf.range(tf.shape(lengths)[0])[:, tf.newaxis]
    most = tf.reduce_max(spans)
    is_kept = tf.sequence_mask(kept, tf.shape(span_of_kept)[1], tf.int32)
    per_span = tf.math.unsorted_segment_sum(
        is_kept, rows * most + tf.minimum(span_of_kept, most - 1), tf.size(lengths) * most
    )
    kept_before = tf.cumsum(tf.reshape(per_span, [-1, most]), axis=1)
    columns = tf.range(tf.shape(span_of_noise)[1])[tf.newaxis]
    places = columns + tf.gather(kept_before, tf.minimum(span_of_noise, most - 1), batch_dims=1)
    is_noise = (columns < noise[:, tf.newaxis]) & (places < lengths[:, tf.newaxis])
    flat = tf.boolean_mask(rows * width + places, is_noise)
    mask = tf.scatter_nd(flat[:, tf.newaxis], tf.ones_like(flat), [tf.size(lengths) * width])
    return tf.reshape(mask > 0, [-1, width])


def _segment_randomly(items: tf.Tensor, segments: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Divides the items of each row into segments that are not empty.

    Args:
      items, segments: Their numbers, [N] int32.
      seeds: [N, 2] int64.

    Returns:
      The number of the segment of each item, [N, most items] int32.
    """
    width = tf.reduce_max(items)
    drawn = row_random.draw_mantissas(seeds, width - 1)
    # The first item of a row starts its first segment, so one item fewer is shuffled.
    last = tf.int64.max
    drawn = tf.where(tf.sequence_mask(items - 1, width - 1), drawn, last)
    order = tf.argsort(drawn, axis=1, stable=True)
    starts = tf.cast(order < segments[:, tf.newaxis] - 1, tf.int32)
    return tf.pad(tf.cumsum(starts, axis=1), [[0, 0], [1, 0]])


def _replace_spans(
    tokens: tf.Tensor,
    mask: tf.Tensor,
    in_segment: tf.Tensor,
    first_sentinel: int,
    length: int,
) -> tf.Tensor:
    """Replaces each span of a mask by a sentinel, and adds the end of sequence and padding."""
    before = tf.pad(mask[:, :-1], [[0, 0], [1, 0]])
    starts = mask & ~before
    sentinels = first_sentinel + 1 - tf.cumsum(tf.cast(starts, tokens.dtype), axis=1)
    kept = in_segment & ~(mask & before)
    places = tf.cumsum(tf.cast(kept, tf.int32), axis=1) - 1
    kept &= places < length - 1
    row_count = tf.shape(tokens)[0]
    rows = tf.range(row_count)[:, tf.newaxis]
    ids = tf.boolean_mask(tf.where(starts, sentinels, tokens), kept)
    flat = tf.boolean_mask(rows * length + places, kept)
    counts = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)
    flat = tf.concat([flat, rows[:, 0] * length + counts], axis=0)
    ids = tf.concat([ids, tf.fill([row_count], EOS_ID)], axis=0)
    result = tf.scatter_nd(flat[:, tf.newaxis], ids, [row_count * length])
    return tf.reshape(result, [row_count, length])

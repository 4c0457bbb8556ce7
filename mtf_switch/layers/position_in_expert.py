"""Positions in experts: how many earlier tokens of a group chose the same expert.

The first token of an expert is at position 0 (ruling 2 in docs/fidelity.md). Two functions
count them in different ways, with equal results. Both have the signature

    expert_index: [O, G, S] int32, the expert that each token chose,
    routed: [O, G, S] float32, 0 for padding, which is not counted,
    experts_dim: E,

and return [O, G, S] int32, with 0 for padding.
"""

from __future__ import annotations

from collections.abc import Callable

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

CountPositions = Callable[[mtf.Tensor, mtf.Tensor, mtf.Dimension], mtf.Tensor]


def count_by_cumsum(
    expert_index: mtf.Tensor, routed: mtf.Tensor, experts_dim: mtf.Dimension
) -> mtf.Tensor:
    """Counts with a cumulative sum, as in Figure 15: a product with an S x S matrix."""
    group = expert_index.shape.dims[-1]
    expert_mask = mtf.one_hot(expert_index, experts_dim, dtype=tf.float32) * routed
    before = mtf.cumsum(expert_mask, group, exclusive=True)
    return mtf.cast(mtf.reduce_sum(before * expert_mask, reduced_dim=experts_dim), tf.int32)


def count_by_sorting(
    expert_index: mtf.Tensor, routed: mtf.Tensor, experts_dim: mtf.Dimension
) -> mtf.Tensor:
    """Counts by sorting: a token's position is its sorted row minus its expert's first row.

    No tensor has both a token and an expert dimension, so the cost per token does not grow
    with the group size.
    """

    def count(expert_index, routed):  # [o, g, S] of one core
        *shape, tokens = expert_index.shape.as_list()
        groups = int(np.prod(shape))
        # One queue for each expert of each group, and one more for padding.
        first_queue = experts_dim.size * tf.range(groups)[:, None]
        queue = tf.reshape(expert_index, [groups, tokens]) + first_queue
        is_routed = tf.reshape(routed, [groups, tokens]) > 0
        queue = tf.where_v2(is_routed, queue, groups * experts_dim.size)
        queue = tf.reshape(queue, [-1])
        ones = tf.ones_like(queue)
        lengths = tf.math.unsorted_segment_sum(ones, queue, groups * experts_dim.size + 1)
        starts = tf.cumsum(lengths, exclusive=True)
        row = tf.math.invert_permutation(tf.argsort(queue, stable=True))
        position = tf.reshape(row - tf.gather(starts, queue), [groups, tokens])
        return tf.reshape(tf.where_v2(is_routed, position, 0), expert_index.shape)

    return mtf.slicewise(
        count,
        [expert_index, routed],
        output_dtype=tf.int32,
        splittable_dims=expert_index.shape.dims[:-1],
        grad_function=0,
        name="ranks_by_sorting",
    )

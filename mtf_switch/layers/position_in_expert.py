"""Positions in experts: a token's rank, by token order, among its group's tokens of an expert.

The first token of an expert has rank 0 (ruling 2). Two ways to count, with equal results; of

    expert_index: [O, G, S] int32,
    routed: [O, G, S] float32, 0 for padding, which takes no rank,
    experts: E,

each gives [O, G, S] int32, 0 for padding.
"""

from __future__ import annotations

from collections.abc import Callable

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

# Of expert_index, routed and experts.
CountPositions = Callable[[mtf.Tensor, mtf.Tensor, mtf.Dimension], mtf.Tensor]


def count_by_cumsum(
    expert_index: mtf.Tensor, routed: mtf.Tensor, experts: mtf.Dimension
) -> mtf.Tensor:
    """Sums over what comes before, as Figure 15 does: a product with an S x S matrix."""
    group = expert_index.shape.dims[-1]
    expert_mask = mtf.one_hot(expert_index, experts, dtype=tf.float32) * routed
    before = mtf.cumsum(expert_mask, group, exclusive=True)
    return mtf.cast(mtf.reduce_sum(before * expert_mask, reduced_dim=experts), tf.int32)


def count_by_sorting(
    expert_index: mtf.Tensor, routed: mtf.Tensor, experts: mtf.Dimension
) -> mtf.Tensor:
    """Sorts the tokens by expert: a place in the sorted order less the start of its expert.

    No tensor has both tokens and experts in it, and the group size does not matter.
    """

    def count(expert_index, routed):  # [o, g, S] of one core
        *shape, tokens = expert_index.shape.as_list()
        groups = int(np.prod(shape))
        # One number for each expert of each group, and a last one for padding.
        first = experts.size * tf.range(groups)[:, None]
        queue = tf.reshape(expert_index, [groups, tokens]) + first
        is_routed = tf.reshape(routed, [groups, tokens]) > 0
        queue = tf.where_v2(is_routed, queue, groups * experts.size)
        queue = tf.reshape(queue, [-1])
        ones = tf.ones_like(queue)
        lengths = tf.math.unsorted_segment_sum(ones, queue, groups * experts.size + 1)
        starts = tf.cumsum(lengths, exclusive=True)
        place = tf.math.invert_permutation(tf.argsort(queue, stable=True))
        rank = tf.reshape(place - tf.gather(starts, queue), [groups, tokens])
        return tf.reshape(tf.where_v2(is_routed, rank, 0), expert_index.shape)

    return mtf.slicewise(
        count,
        [expert_index, routed],
        output_dtype=tf.int32,
        splittable_dims=expert_index.shape.dims[:-1],
        grad_function=0,
        name="ranks_by_sorting",
    )

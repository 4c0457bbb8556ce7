"""Looks up token embeddings by gather, where Mesh TF multiplies by a one-hot.

The one-hot matmul suits a TPU's matrix unit. On other machines its cost, three times tokens x
vocabulary x d_model per step, is a large part of a small model's step.
"""

from __future__ import annotations

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers import dimensions


@gin.configurable
class GatherEmbedding(transformer.VocabEmbedding):
    """Mesh TF's VocabEmbedding, with the same variables and results, but look-up by gather.

    If the layout splits the vocabulary or d_model, it multiplies by a one-hot, as Mesh TF does.
    """

    def ids_to_embedding(self, ids: mtf.Tensor, context: transformer.Context) -> mtf.Tensor:
        """Returns the embeddings [<dims>, M] of int32 ids [<dims>].

        The embedding of an id outside the vocabulary is 0 and has no gradient.
        """
        weights = self._embedding_weights
        split = [dim for dim in weights.shape.dims if _count_cores(context, dim) > 1]
        if split or len(weights.shape.dims) != 2:
            return super().ids_to_embedding(ids, context)
        embeddings = _look_up(weights, ids, context)
        if self._scale_variable_like_classifier_weights:
            embeddings *= self._output_dim.size**0.5
        return embeddings


def _count_cores(context: transformer.Context, dim: mtf.Dimension) -> int:
    return dimensions.count_cores(context.model.layout, context.model.mesh_shape, dim)


def _look_up(weights: mtf.Tensor, ids: mtf.Tensor, context: transformer.Context) -> mtf.Tensor:
    """Returns the rows of weights [V, M] for ids [<dims>]: [<dims>, M]."""
    vocab, model = weights.shape.dims
    # Each core sums the gradients of its own tokens. One all-reduce then sums over the cores.
    parts = [mtf.Dimension(dim.name, _count_cores(context, dim)) for dim in ids.shape.dims]
    parts = [dim for dim in parts if dim.size > 1]

    def gather(weights, ids):
        known = tf.logical_and(ids >= 0, ids < vocab.size)
        rows = tf.gather(weights, tf.where(known, ids, tf.zeros_like(ids)))
        return rows * tf.cast(known, weights.dtype)[..., tf.newaxis]

    def sum_by_id(gradients, ids):
        # The sum ignores negative ids. Ids past the end become negative, to be ignored as well.
        ids = tf.where(ids < vocab.size, ids, -tf.ones_like(ids))
        sums = tf.math.unsorted_segment_sum(gradients, ids, vocab.size)
        return tf.reshape(sums, [1] * len(parts) + [vocab.size, model.size])

    def gradient(operation, gradients):
        per_core = mtf.slicewise(
            sum_by_id,
            [gradients, operation.inputs[1]],
            output_shape=mtf.Shape([*parts, vocab, model]),
            output_dtype=gradients.dtype,
            splittable_dims=ids.shape.dims,
            name="embedding_gradient",
        )
        return [mtf.reduce_sum(per_core, output_shape=weights.shape), None]

    return mtf.slicewise(
        gather,
        [weights, ids],
        output_shape=ids.shape + model,
        output_dtype=weights.dtype,
        splittable_dims=ids.shape.dims,
        grad_function=gradient,
        name="embedding_look_up",
    )

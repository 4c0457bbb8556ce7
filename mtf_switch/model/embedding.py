"""Looks up the vocabulary's embeddings by gather, where Mesh TF multiplies by a one-hot.

The product suits a TPU's matrix unit; elsewhere its cost, tokens x vocabulary x d_model three
times a step, is a large part of a small model's.
"""

from __future__ import annotations

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers import dimensions


@gin.configurable
class GatherEmbedding(transformer.VocabEmbedding):
    """Mesh TF's VocabEmbedding, same variables and results, with look-up by gather.

    Where the layout splits the vocabulary or d_model, it does what Mesh TF does.
    """

    def ids_to_embedding(self, ids: mtf.Tensor, context: transformer.Context) -> mtf.Tensor:
        """Returns embeddings [<dims of ids>, M] of int32 ids [<dims>].

        An id outside the vocabulary has the embedding 0, and no gradient.
        """
        weights = self._embedding_weights
        split = [dim for dim in weights.shape.dims if _cores(context, dim) > 1]
        if split or len(weights.shape.dims) != 2:
            return super().ids_to_embedding(ids, context)
        embeddings = _look_up(weights, ids, context)
        if self._scale_variable_like_classifier_weights:
            embeddings *= self._output_dim.size**0.5
        return embeddings


def _cores(context: transformer.Context, dim: mtf.Dimension) -> int:
    return dimensions.count_cores(context.model.layout, context.model.mesh_shape, dim)


def _look_up(weights: mtf.Tensor, ids: mtf.Tensor, context: transformer.Context) -> mtf.Tensor:
    """weights [V, M] at ids [<dims>]: [<dims>, M]."""
    vocab, model = weights.shape.dims
    # Each core adds up the gradients of its own tokens; their sum is one all-reduce.
    parts = [mtf.Dimension(dim.name, _cores(context, dim)) for dim in ids.shape.dims]
    parts = [dim for dim in parts if dim.size > 1]

    def gather(weights, ids):
        known = tf.logical_and(ids >= 0, ids < vocab.size)
        rows = tf.gather(weights, tf.where(known, ids, tf.zeros_like(ids)))
        return rows * tf.cast(known, weights.dtype)[..., tf.newaxis]

    def sum_by_id(gradients, ids):
        # Negative ids are left out; so are those past the end.
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

"""Softmax and cross-entropy by TensorFlow's softmax, which passes over the logits once.

Mesh TF composes them of exponentials, sums and differences. Each of these reads and writes all
logits, and a CPU runs them one by one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer, transformer_layers

from mtf_switch.layers import dimensions


def use(stack: transformer.Unitransformer) -> None:
    """Makes the attention layers of a stack, and `cross_entropy` with it, use the kernel.

    Results are equal except for rounding. Where a layout splits the dimension over which a
    softmax normalizes, and in other types than float32, Mesh TF's operations stay in use.
    """
    stack.uses_softmax_kernels = True
    for layer in stack.layer_stack.layers:
        if isinstance(layer, transformer_layers.SelfAttention):
            layer.call = functools.partial(_call_with_kernel, layer.call)


def _call_with_kernel(
    call: Callable[..., mtf.Tensor], context: transformer.Context, *args: Any, **kwargs: Any
) -> mtf.Tensor:
    with _replace_softmax(context):
        return call(context, *args, **kwargs)


@contextlib.contextmanager
def _replace_softmax(context: transformer.Context) -> Iterator[None]:
    """Replaces `mtf.softmax`, which upstream's attention calls, while a layer is built."""
    composed = mtf.softmax

    def softmax(x, reduced_dim, extra_logit=None, name=None):
        if extra_logit is not None or not _has_kernel(context.model, x, reduced_dim):
            return composed(x, reduced_dim, extra_logit=extra_logit, name=name)
        return mtf.slicewise(
            tf.nn.softmax,
            [x],
            output_dtype=x.dtype,
            splittable_dims=x.shape.dims[:-1],
            name=name or "softmax",
        )

    mtf.softmax = softmax
    try:
        yield
    finally:
        mtf.softmax = composed


def _has_kernel(stack: transformer.Unitransformer, x: mtf.Tensor, dim: mtf.Dimension) -> bool:
    is_whole = dimensions.count_cores(stack.layout, stack.mesh_shape, dim) == 1
    return is_whole and x.dtype == tf.float32 and x.shape.dims[-1] == dim


def cross_entropy(
    stack: transformer.Unitransformer,
    logits: mtf.Tensor,
    targets: mtf.Tensor,
    vocab_dim: mtf.Dimension,
    z_loss: float = 0.0,
) -> mtf.Tensor:
    """Computes -log softmax(logits)[target] + z_loss x (log Z)^2, Z = sum of exp(logits).

    Args:
      stack: The stack that computed the logits.
      logits: [<dims>, V] in the type of activations.
      targets: [<dims>] int32. One outside of the vocabulary has no first term.
      vocab_dim: V.
      z_loss: The factor of T5's z-loss.

    Returns:
      [<dims>] in the type of activations, in nats.
    """
    uses_kernels = getattr(stack, "uses_softmax_kernels", False)
    if not uses_kernels or not _has_kernel(stack, logits, vocab_dim):
        return mtf.layers.softmax_cross_entropy_with_logits(
            logits, targets, vocab_dim, z_loss=z_loss
        )
    return mtf.slicewise(
        functools.partial(_compute_losses, z_loss),
        [logits, targets],
        output_shape=targets.shape,
        output_dtype=logits.dtype,
        splittable_dims=targets.shape.dims,
        name="cross_entropy",
    )


def _compute_losses(z_loss: float, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Computes `cross_entropy` of the slices of one core, [<dims>, v] and [<dims>]."""
    size = logits.shape.as_list()[-1]
    targets_of_rows = tf.reshape(targets, [-1])

    @tf.custom_gradient
    def compute(logits):
        probabilities = tf.nn.softmax(logits)
        # The largest probability is at least 1 / V, so its logarithm is exact.
        log_z = tf.reduce_max(logits, -1) - tf.log(tf.reduce_max(probabilities, -1))
        is_known = tf.cast(
            tf.logical_and(targets_of_rows >= 0, targets_of_rows < size), logits.dtype
        )
        columns = tf.clip_by_value(targets_of_rows, 0, size - 1)
        places = tf.stack([tf.range(tf.size(columns)), columns], axis=-1)
        losses = is_known * (log_z - tf.gather_nd(logits, places)) + z_loss * tf.square(log_z)

        def compute_gradient(dy):
            of_log_z = dy * (is_known + 2.0 * z_loss * log_z)
            gradient = probabilities * of_log_z[:, tf.newaxis]
            return tf.tensor_scatter_nd_sub(gradient, places, dy * is_known)

        return losses, compute_gradient

    return tf.reshape(compute(tf.reshape(logits, [-1, size])), tf.shape(targets))

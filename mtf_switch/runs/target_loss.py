"""The cross-entropy that a step minimizes, and the same per real target token.

Mesh TF's training loss is a mean over all positions, padding included, plus the auxiliary
losses of the routers. Training minimizes this loss, but it cannot be compared between runs. The
progress bar and the log therefore show the cross-entropy per real target token.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers import recorded_sums
from mtf_switch.model import softmax_kernels

# The name of the recorded sums, float32: nats, real target tokens and, with a teacher, the nats
# of the cross-entropy with its probabilities.
NAME = "target_loss"


@contextlib.contextmanager
def use(model: Any, records: bool) -> Iterator[None]:
    """Makes a model compute its cross-entropy with `compute` while its graph is built.

    A `Unitransformer.loss_fn` that gin binds stays in use.

    Args:
      model: A transformer.Bitransformer or Unitransformer.
      records: Whether training records NAME in `recorded_sums`.
    """
    loss_fn = find_given(model) or compute
    if records:
        loss_fn = functools.partial(_compute_and_record, loss_fn)
    with replace(model, loss_fn):
        yield


def find_given(model: Any) -> Callable | None:
    """Returns the `Unitransformer.loss_fn` that gin binds for a model, or None."""
    return getattr(model, "decoder", model)._loss_fn


@contextlib.contextmanager
def replace(model: Any, loss_fn: Callable) -> Iterator[None]:
    """Makes a model compute another loss while its graph is built.

    Args:
      model: A transformer.Bitransformer or Unitransformer.
      loss_fn: The loss, with the arguments of `compute`.
    """
    stack = getattr(model, "decoder", model)
    given = stack._loss_fn
    # The argument `loss_fn` of Unitransformer, which is meant for this.
    stack._loss_fn = loss_fn
    try:
        yield
    finally:
        stack._loss_fn = given


def compute(
    stack: transformer.Unitransformer,
    context: transformer.Context,
    logits: mtf.Tensor,
    targets: mtf.Tensor,
    vocab_dim: mtf.Dimension,
) -> mtf.Tensor:
    """Computes T5's loss: the mean cross-entropy over all positions, with T5's z-loss.

    Padding counts as a position with a loss of 0. In microbatches, the losses add up to that of
    the batch.

    Args:
      stack: The decoder. It has label_smoothing, z_loss and loss_denominator.
      context: The context of the call. The z-loss is for training only.
      logits: [O, B, L, V] in the type of activations.
      targets: [O, B, L] int32, 0 for padding.
      vocab_dim: V.

    Returns:
      A scalar in the type of activations, in nats per position.
    """
    z_loss = stack.z_loss if context.train else 0.0
    if stack.label_smoothing:
        labels = smooth_labels(stack, context, targets, vocab_dim)
        losses = mtf.layers.softmax_cross_entropy_with_logits(
            logits, labels, vocab_dim, z_loss=z_loss
        )
    else:
        ids = mtf.maximum(targets, 0)
        losses = softmax_kernels.cross_entropy(stack, logits, ids, vocab_dim, z_loss)
    return average(stack, context, losses, targets)


def smooth_labels(
    stack: transformer.Unitransformer,
    context: transformer.Context,
    targets: mtf.Tensor,
    vocab_dim: mtf.Dimension,
) -> mtf.Tensor:
    """Returns the distribution of the labels, [O, B, L, V] in the type of activations.

    It is one-hot unless the stack has label smoothing. The arguments are those of `compute`.
    """
    off_value = stack.label_smoothing / vocab_dim.size
    return mtf.one_hot(
        mtf.maximum(targets, 0),
        vocab_dim,
        dtype=context.activation_dtype,
        on_value=1.0 - stack.label_smoothing + off_value,
        off_value=off_value,
    )


def average(
    stack: transformer.Unitransformer,
    context: transformer.Context,
    losses: mtf.Tensor,
    targets: mtf.Tensor,
) -> mtf.Tensor:
    """Averages losses over all positions; the loss of padding counts as 0.

    Args:
      stack: The decoder.
      context: The context of the call.
      losses: [O, B, L] in the type of activations.
      targets: [O, B, L] int32, 0 for padding.

    Returns:
      A scalar in the type of activations. Those of microbatches add up to that of the batch.
    """
    weights = _weigh(stack, targets, context.activation_dtype)
    positions = stack.loss_denominator(targets, context.num_microbatches)
    return mtf.reduce_sum(losses * weights) / positions


def _compute_and_record(
    loss_fn: Callable[..., mtf.Tensor],
    stack: transformer.Unitransformer,
    context: transformer.Context,
    logits: mtf.Tensor,
    targets: mtf.Tensor,
    vocab_dim: mtf.Dimension,
) -> mtf.Tensor:
    loss = loss_fn(stack, context, logits, targets, vocab_dim)
    if context.train:
        record(stack, context, loss, targets)
    return loss


def record(
    stack: transformer.Unitransformer,
    context: transformer.Context,
    loss: mtf.Tensor,
    targets: mtf.Tensor,
    teacher_loss: mtf.Tensor | None = None,
) -> None:
    """Records NAME in `recorded_sums`.

    Args:
      stack: The decoder.
      context: The context of the call.
      loss: A cross-entropy that `average` returned.
      targets: [O, B, L] int32, 0 for padding.
      teacher_loss: That with the probabilities of a teacher, or None.
    """
    positions = stack.loss_denominator(targets, context.num_microbatches)
    losses = [loss] if teacher_loss is None else [loss, teacher_loss]
    nats, *of_teacher = (mtf.cast(x, tf.float32) * positions for x in losses)
    tokens = mtf.reduce_sum(_weigh(stack, targets, tf.float32))
    sums = mtf.stack([nats, tokens, *of_teacher], NAME)
    recorded_sums.record(NAME, mtf.stop_gradient(sums))


def _weigh(
    stack: transformer.Unitransformer, targets: mtf.Tensor, dtype: tf.DType
) -> mtf.Tensor:
    """Returns the weights of targets in the loss, [O, B, L]: 0 for padding, and 1."""
    weights = mtf.cast(mtf.greater(targets, 0), dtype)
    if stack.loss_on_targets_only:
        inputs = transformer.delimited_lm_inputs_mask(targets)
        weights *= mtf.cast(mtf.logical_not(inputs), dtype)
    return weights


def nats_per_token(sums: np.ndarray | None) -> float | None:
    """Divides the values of NAME; None without them, or in a step without tokens."""
    if sums is None or not sums[1]:
        return None
    return float(sums[0]) / float(sums[1])


def teacher_nats_per_token(sums: np.ndarray | None) -> float | None:
    """Returns the cross-entropy with the teacher's probabilities; None without a teacher."""
    if sums is None or len(sums) < 3 or not sums[1]:
        return None
    return float(sums[2]) / float(sums[1])

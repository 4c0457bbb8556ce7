"""The cross-entropy that a step minimizes, and the same per real target token.

Mesh TF's training loss is a mean over all positions, padding included, plus the auxiliary
losses of the routers. Training minimizes this loss, but it cannot be compared between runs. The
progress bar and the log therefore show the cross-entropy per real target token, with the z-loss
and the label smoothing of the run, if any.

The real target tokens are those of Mesh TF's evaluation: no padding and, for a "delimited_lm",
no inputs. Whether such a model also learns to predict its inputs is another question: it does,
unless gin binds `Unitransformer.loss_on_targets_only`. Of a `Unitransformer.loss_fn` that gin
binds, only the mean over the tokens that it counts is known.
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
def use(model: Any, model_type: str, records: bool) -> Iterator[None]:
    """Makes a model compute its cross-entropy with `compute` while its graph is built.

    A `Unitransformer.loss_fn` that gin binds stays in use.

    Args:
      model: A transformer.Bitransformer or Unitransformer.
      model_type: Its type, such as "bitransformer".
      records: Whether training records NAME in `recorded_sums`.
    """
    given = find_given(model)
    loss_fn = given or compute
    if records:
        loss_fn = functools.partial(_compute_and_record, given, model_type)
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
    losses = _compute_each(stack, context, logits, targets, vocab_dim)
    return average(stack, context, losses, targets)


def _compute_each(
    stack: transformer.Unitransformer,
    context: transformer.Context,
    logits: mtf.Tensor,
    targets: mtf.Tensor,
    vocab_dim: mtf.Dimension,
) -> mtf.Tensor:
    """Computes T5's loss of each position, [O, B, L]: see `compute` for the arguments."""
    z_loss = stack.z_loss if context.train else 0.0
    if stack.label_smoothing:
        labels = smooth_labels(stack, context, targets, vocab_dim)
        return mtf.layers.softmax_cross_entropy_with_logits(
            logits, labels, vocab_dim, z_loss=z_loss
        )
    ids = mtf.maximum(targets, 0)
    return softmax_kernels.cross_entropy(stack, logits, ids, vocab_dim, z_loss)


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
    weights = _mask(targets, context.activation_dtype, stack.loss_on_targets_only)
    positions = stack.loss_denominator(targets, context.num_microbatches)
    return mtf.reduce_sum(losses * weights) / positions


def _compute_and_record(
    given: Callable[..., mtf.Tensor] | None,
    model_type: str,
    stack: transformer.Unitransformer,
    context: transformer.Context,
    logits: mtf.Tensor,
    targets: mtf.Tensor,
    vocab_dim: mtf.Dimension,
) -> mtf.Tensor:
    if given is not None:
        loss = given(stack, context, logits, targets, vocab_dim)
        if context.train:
            _record_mean(stack, context, loss, targets)
        return loss
    losses = _compute_each(stack, context, logits, targets, vocab_dim)
    if context.train:
        record(model_type, losses, targets)
    return average(stack, context, losses, targets)


def record(
    model_type: str,
    losses: mtf.Tensor,
    targets: mtf.Tensor,
    teacher_losses: mtf.Tensor | None = None,
) -> None:
    """Records NAME in `recorded_sums`.

    Args:
      model_type: The type of the model.
      losses: The cross-entropy of each position, [O, B, L] in any float type.
      targets: [O, B, L] int32, 0 for padding.
      teacher_losses: That with the probabilities of a teacher, or None.
    """
    weights = weigh_targets(targets, model_type)
    parts = [losses] if teacher_losses is None else [losses, teacher_losses]
    nats = (mtf.reduce_sum(mtf.cast(part, tf.float32) * weights) for part in parts)
    _record_sums(mtf.reduce_sum(weights), *nats)


def _record_mean(
    stack: transformer.Unitransformer,
    context: transformer.Context,
    loss: mtf.Tensor,
    targets: mtf.Tensor,
) -> None:
    """Records a loss of which only the mean is known, over the tokens that it counts."""
    positions = stack.loss_denominator(targets, context.num_microbatches)
    tokens = mtf.reduce_sum(_mask(targets, tf.float32, stack.loss_on_targets_only))
    _record_sums(tokens, mtf.cast(loss, tf.float32) * positions)


def _record_sums(tokens: mtf.Tensor, nats: mtf.Tensor, *of_teacher: mtf.Tensor) -> None:
    sums = mtf.stack([nats, tokens, *of_teacher], NAME)
    recorded_sums.record(NAME, mtf.stop_gradient(sums))


def weigh_targets(targets: mtf.Tensor, model_type: str) -> mtf.Tensor:
    """Returns the weights of targets in all that is reported, float32 like `targets`.

    Padding has a weight of 0, as have the inputs of a "delimited_lm", as in Mesh TF's
    evaluation. All others, the real target tokens, have 1.
    """
    return _mask(targets, tf.float32, without_inputs=model_type == "delimited_lm")


def _mask(targets: mtf.Tensor, dtype: tf.DType, without_inputs: bool) -> mtf.Tensor:
    """Returns 0 for padding and, if asked, for the inputs of a "delimited_lm"; else 1."""
    weights = mtf.cast(mtf.greater(targets, 0), dtype)
    if without_inputs:
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

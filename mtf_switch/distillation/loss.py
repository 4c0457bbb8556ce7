"""The loss of a student (Section 4.2 of the paper, and Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

import dataclasses

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf


@dataclasses.dataclass(frozen=True)
class StudentLosses:
    """The losses of each position, [O, B, L] in the type of the student's logits, in nats.

    Attributes:
      labels: The cross-entropy with the labels.
      teacher: The cross-entropy with the teacher's probabilities, before soft and T^2.
      total: The loss that training minimizes.
    """

    labels: mtf.Tensor
    teacher: mtf.Tensor
    total: mtf.Tensor


def compute(
    logits: mtf.Tensor,
    labels: mtf.Tensor,
    teacher_logits: mtf.Tensor,
    vocab_dim: mtf.Dimension,
    *,
    soft: float | mtf.Tensor,
    temperature: float | mtf.Tensor,
    z_loss: float = 0.0,
) -> StudentLosses:
    """Computes (1 - soft) CE(labels) + soft T^2 CE(teacher) + z-loss for each position.

    CE(teacher) is the cross-entropy of softmax(teacher's logits / T) and
    softmax(student's logits / T), in float32. T^2 keeps the size of its gradient independent of
    T. Mesh TF's StudentTeacher also scales the z-loss and the losses of routers by 1 - soft;
    here they keep the size that they have without a teacher. With soft = 0, each value and each
    gradient is that of T5's loss: to the last bit without `softmax_kernels`, which round
    differently.

    Args:
      logits: The student's, [O, B, L, V] in the type of activations.
      labels: The distribution of the labels, [O, B, L, V] in the same type.
      teacher_logits: [O, B, L, V] in any float type. They get no gradient.
      vocab_dim: V.
      soft: The share of the teacher: a number, or a float32 scalar.
      temperature: T: a number, or a float32 scalar.
      z_loss: The factor of log(z)^2, where z is the sum of the student's exponentials.
    """
    # The same operations as in mtf.layers.softmax_cross_entropy_with_logits.
    log_z = mtf.reduce_logsumexp(logits, vocab_dim)
    hard = mtf.negative(mtf.reduce_sum((logits - log_z) * labels, reduced_dim=vocab_dim))
    total = _scale(hard, 1.0 - soft)
    if z_loss != 0:
        total += z_loss * mtf.square(log_z)
    taught = _compute_soft(logits, teacher_logits, vocab_dim, temperature)
    total += mtf.cast(taught * (soft * temperature * temperature), logits.dtype)
    return StudentLosses(labels=hard, teacher=mtf.cast(taught, logits.dtype), total=total)


def _compute_soft(
    logits: mtf.Tensor,
    teacher_logits: mtf.Tensor,
    vocab_dim: mtf.Dimension,
    temperature: float | mtf.Tensor,
) -> mtf.Tensor:
    """Returns the cross-entropy with the teacher's probabilities, [O, B, L] float32."""
    teacher_logits = mtf.stop_gradient(mtf.cast(teacher_logits, tf.float32))
    probabilities = mtf.softmax(teacher_logits / temperature, vocab_dim)
    return mtf.layers.softmax_cross_entropy_with_logits(
        mtf.cast(logits, tf.float32) / temperature,
        mtf.stop_gradient(probabilities),
        vocab_dim,
    )


def _scale(x: mtf.Tensor, factor: float | mtf.Tensor) -> mtf.Tensor:
    return x * (mtf.cast(factor, x.dtype) if isinstance(factor, mtf.Tensor) else factor)

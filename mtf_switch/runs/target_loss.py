"""Records the cross-entropy of a training step per real target token, for bar and log.

Mesh TF's training loss is a mean over all positions, padding included, plus the auxiliary
losses of the routers. Training minimizes this loss, but it cannot be compared between runs.
"""

from __future__ import annotations

from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.upstream import microbatches

_COLLECTION = "target_loss_sums"


def record(model: Any) -> None:
    """Makes the training steps of a model record their cross-entropy.

    Args:
      model: A transformer.Bitransformer or Unitransformer whose graph is not built yet.
    """
    stack = getattr(model, "decoder", model)
    compute_loss = stack._compute_loss

    def compute_and_record(context, logits, targets, output_vocab_dim):
        loss = compute_loss(context, logits, targets, output_vocab_dim)
        if context.train:
            positions = stack.loss_denominator(targets, context.num_microbatches)
            nats = mtf.cast(loss, tf.float32) * positions
            sums = mtf.stack([nats, _count_tokens(stack, targets)], "target_loss")
            microbatches.deliver_sum(mtf.stop_gradient(sums), _RecordOperation)
        return loss

    stack._compute_loss = compute_and_record


def _count_tokens(stack: transformer.Unitransformer, targets: mtf.Tensor) -> mtf.Tensor:
    """Counts the tokens that have a weight in Mesh TF's loss: a float32 scalar."""
    counted = mtf.cast(mtf.greater(targets, 0), tf.float32)
    if stack.loss_on_targets_only:
        inputs = transformer.delimited_lm_inputs_mask(targets)
        counted *= mtf.cast(mtf.logical_not(inputs), tf.float32)
    return mtf.reduce_sum(counted)


class _RecordOperation(mtf.Operation):
    """Adds the lowered sums to a collection of the TensorFlow graph."""

    def __init__(self, sums: mtf.Tensor):
        super().__init__([sums], name="target_loss")
        self._outputs = [mtf.Tensor(self, sums.shape, sums.dtype)]

    def lower(self, lowering):
        # Every core holds the same values, because they are sums over all positions.
        value = lowering.tensors[self.inputs[0]].to_laid_out_tensor()
        tf.add_to_collection(_COLLECTION, value.tensor_list[0])
        lowering.set_tensor_lowering(self.outputs[0], value)


def find_sums(graph: tf.Graph) -> list[tf.Tensor]:
    """Returns a list with the recorded sums, [2] float32 (nats, tokens), or an empty list."""
    return graph.get_collection(_COLLECTION)


def nats_per_token(sums: list[np.ndarray]) -> float | None:
    """Divides the values of `find_sums`; None without them, or in a step without tokens."""
    if not sums or not sums[0][1]:
        return None
    return float(sums[0][0]) / float(sums[0][1])

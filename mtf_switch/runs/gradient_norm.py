"""The L2 norm of all gradients of a training step, for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

_COLLECTION = "gradient_norm"


def record(make_optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """Makes an optimizer record the norm of the gradients that it is given, before it clips.

    Only a step that fetches the norm computes it.

    Args:
      make_optimizer: A subclass of mtf.optimize.Optimizer.

    Returns:
      A function with the same arguments, and with a result that does the same updates.
    """

    def make(**arguments: Any) -> Any:
        optimizer = make_optimizer(**arguments)
        apply_grads = optimizer.apply_grads

        def record_and_apply(grads: list[mtf.Tensor | None], variables: Any) -> list:
            squares = [
                mtf.reduce_sum(mtf.square(mtf.to_float(grad)))
                for grad in grads
                if grad is not None
            ]
            _RecordOperation(mtf.sqrt(mtf.add_n(squares)))
            return apply_grads(grads, variables)

        optimizer.apply_grads = record_and_apply
        return optimizer

    return make


class _RecordOperation(mtf.Operation):
    """Adds the lowered norm to a collection of the TensorFlow graph."""

    def __init__(self, norm: mtf.Tensor):
        super().__init__([norm], name="record_gradient_norm")
        self._outputs = [mtf.Tensor(self, norm.shape, norm.dtype)]

    def lower(self, lowering: mtf.Lowering) -> None:
        # Every core holds the same value.
        value = lowering.tensors[self.inputs[0]].to_laid_out_tensor()
        tf.add_to_collection(_COLLECTION, value.tensor_list[0])
        lowering.set_tensor_lowering(self.outputs[0], value)


def add_summary(graph: tf.Graph) -> None:
    """Adds the recorded norm to the summaries of a graph."""
    for norm in graph.get_collection(_COLLECTION):
        tf.summary.scalar("gradient_norm", norm)

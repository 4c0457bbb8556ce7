"""The L2 norm of all gradients of a training step, for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import mesh_tensorflow as mtf


def compute(gradients: Sequence[mtf.Tensor | None]) -> mtf.Tensor:
    """Computes the norm of the gradients, before the optimizer clips.

    Only a step that fetches the norm computes it.

    Args:
      gradients: The gradients; None for a variable without influence on the loss.

    Returns:
      A float32 scalar.
    """
    squares = [
        mtf.reduce_sum(mtf.square(mtf.to_float(gradient)))
        for gradient in gradients
        if gradient is not None
    ]
    return mtf.sqrt(mtf.add_n(squares))

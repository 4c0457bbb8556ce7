"""Means of squares of stacks of matrices, such as the kernels of experts, in fewer passes.

Adafactor's means in Mesh TF make a tensor of squares, which is as large as the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow import placement_mesh_impl

# Rows that are reduced at a time. TensorFlow reads all rows of a reduction side by side, and a
# processor fetches so many in advance.
_BLOCK = 8


def is_stack(x: mtf.Tensor) -> bool:
    """Whether x is [N, P, Q] in float32."""
    return x.dtype == tf.float32 and len(x.shape) == 3


class OnOneDevice(mtf.Operation):
    """Computes tensors in another way if one device of this machine holds everything."""

    def __init__(
        self,
        function: Callable[..., tuple[tf.Tensor, ...]],
        inputs: Sequence[mtf.Tensor],
        otherwise: Sequence[mtf.Tensor],
    ):
        """Makes the operation, which has no gradient.

        Args:
          function: Maps whole tensors to whole tensors.
          inputs: The arguments of the function.
          otherwise: The same results, except for rounding, which several devices or a TPU use.
        """
        super().__init__([*inputs, *otherwise], name="on_one_device")
        self._function, self._number = function, len(inputs)
        self._outputs = [
            mtf.Tensor(self, x.shape, x.dtype, index=i) for i, x in enumerate(otherwise)
        ]

    def lower(self, lowering: mtf.Lowering) -> None:
        """Lowers the operation; operations whose results are not used never run."""
        mesh_impl = lowering.mesh_impl(self)
        tensors = [lowering.tensors[x] for x in self.inputs]
        inputs, results = tensors[: self._number], tensors[self._number :]
        is_placed = isinstance(mesh_impl, placement_mesh_impl.PlacementMeshImpl)
        if is_placed and mesh_impl.size == 1:
            results = mesh_impl.slicewise(self._function, *inputs)
        for output, result in zip(self.outputs, results):
            lowering.set_tensor_lowering(output, result)


def mean_squares(stack: tf.Tensor, axes: Sequence[int]) -> tuple[tf.Tensor, ...]:
    """Computes the means of squares over each of some axes.

    No tensor of squares is made. Adafactor reduces the two longest axes, which are the rows and
    the columns of the matrices unless there are more matrices than these.

    Args:
      stack: [N, P, Q] float32.
      axes: The axes to reduce, in the order of the results.

    Returns:
      [P, Q] for axis 0, [N, Q] for axis 1, and [N, P] for axis 2; float32.
    """
    sizes = stack.shape.as_list()
    return tuple(tf.square(_compute_norms(stack, axis)) / sizes[axis] for axis in axes)


def _compute_norms(stack: tf.Tensor, axis: int) -> tf.Tensor:
    """Computes the norms over one axis of [N, P, Q]."""
    shape = stack.shape.as_list()
    reduced, inner = shape[axis], math.prod(shape[axis + 1 :])
    if inner > 1 and reduced % _BLOCK == 0:
        blocks = tf.reshape(stack, [-1, _BLOCK, inner])
        norms = tf.raw_ops.EuclideanNorm(input=blocks, axis=1)
        stack = tf.reshape(norms, [*shape[:axis], reduced // _BLOCK, *shape[axis + 1 :]])
    return tf.raw_ops.EuclideanNorm(input=stack, axis=axis)

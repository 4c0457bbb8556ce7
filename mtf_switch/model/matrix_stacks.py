"""Adafactor's passes over stacks of matrices, such as the kernels of experts, on one device.

Each elementwise operation of Mesh TF passes over the whole stack, which no cache holds. One
matrix stays in the cache from one pass to the next. Also, the gradient of a stack is made of
the gradients of its matrices, which need not be copied into one tensor first.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow import placement_mesh_impl

# Rows that are reduced at a time. TensorFlow reads all rows of a reduction side by side, and a
# processor fetches so many in advance.
_BLOCK = 8


def is_stack(x: mtf.Tensor, reduced_dims: Sequence[mtf.Dimension]) -> bool:
    """Whether x is [N, P, Q] in float32 and P and Q are reduced."""
    return x.dtype == tf.float32 and len(x.shape) == 3 and x.shape[0] not in reduced_dims


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
    """Computes the means of squares over the rows and over the columns of each matrix.

    No tensor of squares is made.

    Args:
      stack: [N, P, Q] float32.
      axes: The axes to reduce, in the order of the results: 1 or 2.

    Returns:
      [N, Q] for axis 1, and [N, P] for axis 2; float32.
    """
    matrices = unstack(stack)
    return tuple(
        tf.square(tf.stack([_compute_norms(x, axis - 1) for x in matrices]))
        / stack.shape.as_list()[axis]
        for axis in axes
    )


def _compute_norms(matrix: tf.Tensor, axis: int) -> tf.Tensor:
    """Computes the norms of the columns (axis 0) or of the rows (axis 1) of [P, Q]."""
    rows, columns = matrix.shape.as_list()
    if axis == 0 and rows % _BLOCK == 0:
        blocks = tf.reshape(matrix, [-1, _BLOCK, columns])
        matrix = tf.raw_ops.EuclideanNorm(input=blocks, axis=1)
    return tf.raw_ops.EuclideanNorm(input=matrix, axis=axis)


def multiply(
    stack: tf.Tensor, *factors: tf.Tensor, axes: Sequence[int]
) -> tuple[tf.Tensor, ...]:
    """Multiplies each matrix by factors of its rows and columns.

    Args:
      stack: [N, P, Q].
      *factors: One for each of `axes`: [N, Q] for axis 1, and [N, P] for axis 2.
      axes: The axes over which the factors are repeated.

    Returns:
      The only result, [N, P, Q].
    """
    factors_of_matrices = [
        tf.unstack(tf.expand_dims(x, axis)) for x, axis in zip(factors, axes)
    ]
    products = [
        functools.reduce(operator.mul, x) for x in zip(unstack(stack), *factors_of_matrices)
    ]
    return (tf.stack(products),)


def unstack(stack: tf.Tensor) -> list[tf.Tensor]:
    """Returns the matrices of a stack, if possible those that it was made of."""
    if stack.op.type == "Pack" and stack.op.get_attr("axis") == 0:
        return list(stack.op.inputs)
    return tf.unstack(stack)

"""Einsums of two tensors as matrix products.

TensorFlow's einsum becomes a batched matrix product as well. But it copies tensors that a
product could read as they are. It also uses a batch of one where the plain product, which is
faster, would do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import tensorflow.compat.v1 as tf


def einsum(equation: str, *tensors: tf.Tensor) -> tf.Tensor:
    """Computes `tf.einsum`, as a matrix product if the equation describes one.

    Args:
      equation: Such as "blhd,bmhd->bhlm". No letter occurs twice in the same tensor.
      *tensors: Floating-point tensors of one dtype, with static shapes.

    Returns:
      The sum of the products, in the dtype of the tensors.
    """
    inputs, output = equation.split("->")
    operands = inputs.split(",")
    if len(operands) != 2 or not _is_matrix_product(*operands, output):
        return tf.einsum(equation, *tensors)
    left, right = operands
    sizes = {d: n for ds, x in zip(operands, tensors) for d, n in zip(ds, x.shape.as_list())}
    if next(d for d in output if d not in left or d not in right) in right:
        # The rows of the left matrix come before the columns of the right one.
        left, right, tensors = right, left, tensors[::-1]
    batch = "".join(d for d in output if d in left and d in right)
    rows = "".join(d for d in output if d not in right)
    columns = "".join(d for d in output if d not in left)
    reduced = _order_reduced(left, right, output, batch, rows)
    x, is_x_transposed = _to_matrices(tensors[0], left, (batch, rows, reduced), sizes)
    y, is_y_transposed = _to_matrices(tensors[1], right, (batch, reduced, columns), sizes)
    product = tf.matmul(x, y, transpose_a=is_x_transposed, transpose_b=is_y_transposed)
    order = batch + rows + columns
    return _reorder(tf.reshape(product, [sizes[d] for d in order]), order, output)


def _is_matrix_product(left: str, right: str, output: str) -> bool:
    """Whether there are rows, columns and reduced dimensions, and nothing else is reduced."""
    rows, columns = set(left) - set(right), set(right) - set(left)
    reduced = set(left) & set(right) - set(output)
    return bool(rows and columns and reduced) and rows | columns <= set(output)


def _order_reduced(left: str, right: str, output: str, batch: str, rows: str) -> str:
    """Returns the reduced dimensions in the order of a tensor that need not be transposed."""
    reduced = "".join(d for d in left if d not in output)
    if left in (batch + rows + reduced, batch + reduced + rows):
        return reduced
    return "".join(d for d in right if d not in output)


def _to_matrices(
    x: tf.Tensor, letters: str, parts: tuple[str, str, str], sizes: Mapping[str, int]
) -> tuple[tf.Tensor, bool]:
    """Makes matrices of a tensor, which is copied only if its dimensions are mixed.

    Args:
      x: The tensor.
      letters: Its dimensions.
      parts: The dimensions of the batch, of the rows and of the columns.
      sizes: The size of each dimension.

    Returns:
      [batch, rows, columns] and False, or [batch, columns, rows] and True. There is no first
      dimension if the batch is empty.
    """
    batch, rows, columns = parts
    order, transposed = batch + rows + columns, batch + columns + rows
    # A copy that keeps the last dimension moves whole runs of numbers.
    is_transposed = letters == transposed or (letters != order and letters[-1] in rows)
    x = _reorder(x, letters, transposed if is_transposed else order)
    groups = [batch] * bool(batch) + ([columns, rows] if is_transposed else [rows, columns])
    return tf.reshape(x, [math.prod(sizes[d] for d in g) for g in groups]), is_transposed


def _reorder(x: tf.Tensor, letters: str, order: str) -> tf.Tensor:
    return x if letters == order else tf.transpose(x, [letters.index(d) for d in order])

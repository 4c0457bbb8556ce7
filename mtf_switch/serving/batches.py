"""Applies functions for batches of fixed sizes to a batch of any size.

A Mesh TensorFlow graph has a fixed batch size. Whole batches of the largest size are computed
in turn, and the rest in the smallest one that has room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

# A function of tensors [b, ...] to one tensor [b, ...].
BatchFunction = Callable[..., tf.Tensor]


def apply(functions: Mapping[int, BatchFunction], *inputs: tf.Tensor) -> tf.Tensor:
    """Applies a function to rows.

    Args:
      functions: Batch size -> the function for batches of this size. The results for a row must
        not depend on the other rows.
      *inputs: [N, ...] each, for any N.

    Returns:
      [N, ...].
    """
    sizes = sorted(functions)
    largest = sizes[-1]
    rows = tf.shape(inputs[0])[0]
    whole = rows // largest * largest

    def apply_to_whole(batch: Sequence[tf.Tensor]) -> tf.Tensor:
        return functions[largest](*batch)

    batches = [tf.reshape(x[:whole], [-1, largest, *x.shape[1:]]) for x in inputs]
    structure = functions[largest].structured_outputs
    spec = tf.TensorSpec(structure.shape, structure.dtype)
    done = tf.map_fn(
        apply_to_whole, tuple(batches), parallel_iterations=1, fn_output_signature=spec
    )
    done = tf.reshape(done, [-1, *spec.shape[1:]])
    rest = [x[whole:] for x in inputs]
    return tf.concat([done, _apply_to_rest(functions, sizes, rest, spec)], axis=0)


def _apply_to_rest(
    functions: Mapping[int, BatchFunction],
    sizes: Sequence[int],
    rest: Sequence[tf.Tensor],
    spec: tf.TensorSpec,
) -> tf.Tensor:
    """Applies the smallest function with room for the rest, which may have no row.

    Args:
      functions: Batch size -> the function for batches of this size.
      sizes: The batch sizes, sorted.
      rest: The inputs, [R, ...] each, for an R below the largest size.
      spec: The shape and dtype of what the function of the largest size returns.

    Returns:
      [R, ...].
    """
    number = tf.shape(rest[0])[0]

    def apply_padded(size: int) -> tf.Tensor:
        padded = [
            tf.ensure_shape(
                tf.pad(x, [[0, size - number], *[[0, 0]] * (len(x.shape) - 1)]),
                [size, *x.shape[1:]],
            )
            for x in rest
        ]
        return functions[size](*padded)[:number]

    def make_branch(size: int) -> Callable[[], tf.Tensor]:
        return lambda: apply_padded(size)

    empty = tf.zeros([0, *spec.shape[1:]], spec.dtype)
    branches = [lambda: empty, *(make_branch(size) for size in sizes)]
    # 0 for no rows, 1 for those that the smallest size has room for, and so on.
    branch = tf.reduce_sum(tf.cast(number > [0, *sizes[:-1]], tf.int32))
    return tf.switch_case(branch, branches)

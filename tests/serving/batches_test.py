"""Batches of any size, computed with functions for batches of fixed sizes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtf_switch.serving import batches


@pytest.fixture(scope="module")
def apply_with() -> dict[tuple[int, ...], tf.types.experimental.GenericFunction]:
    """Sizes -> a function of any number of rows x and y, which returns x + the sum of y's row.

    Each row of its result also names the size of the function that has computed it.
    """

    def make(sizes: tuple[int, ...]):
        def wrap(size: int):
            def compute(x, y):
                return tf.stack([x + tf.reduce_sum(y, axis=1), tf.fill([size], size)], axis=1)

            specs = [tf.TensorSpec([size], tf.int32), tf.TensorSpec([size, 3], tf.int32)]
            return tf.function(compute).get_concrete_function(*specs)

        functions = {size: wrap(size) for size in sizes}
        specs = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 3], tf.int32)]
        return tf.function(lambda x, y: batches.apply(functions, x, y), input_signature=specs)

    return {sizes: make(sizes) for sizes in ((1, 4), (4, 1), (3,))}


@pytest.mark.parametrize(
    ("sizes", "rows", "of_sizes"),
    [
        ((1, 4), 1, [1]),
        ((4, 1), 3, [4] * 3),
        ((1, 4), 4, [4] * 4),
        ((1, 4), 9, [4] * 8 + [1]),
        ((4, 1), 11, [4] * 11),
        ((3,), 2, [3] * 2),
        ((3,), 7, [3] * 7),
        ((3,), 0, []),
    ],
)
def test_every_row_has_its_result_from_the_smallest_size_with_room(
    apply_with, sizes, rows, of_sizes
) -> None:
    x = np.arange(10, 10 + rows, dtype=np.int32)
    y = np.arange(3 * rows, dtype=np.int32).reshape(rows, 3)
    found = apply_with[sizes](x, y).numpy()
    assert found[:, 0].tolist() == [10 + i + 9 * i + 3 for i in range(rows)]
    assert found[:, 1].tolist() == of_sizes

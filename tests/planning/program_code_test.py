"""The size of a step's program, by hand."""

from __future__ import annotations

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
from two_matmuls import build_two_matmuls, leaky_relu

from mtf_switch.planning import program_code


def test_matmuls_count_more_than_other_operations():
    """Five matmuls: x w1, h w2, and the gradients of w1, w2 and x. That of h has no sum."""
    pod = build_two_matmuls(leaky_relu)
    matmuls, others = 5, len(pod.phases) - 5
    assert program_code.estimate_code(pod) == matmuls * 45_000 + others * 3_400


@pytest.mark.parametrize(
    ("rows", "columns", "code"),
    [
        (64, 64, 45_000),  # 2^24 multiplications
        (128, 128, 45_000),  # 2^26
        (1024, 1024, 45_000 + 6 * 48_000),  # 2^32, 6 doublings more
        (32768, 32768, 560_000),  # 2^42, beyond the largest code
    ],
)
def test_code_grows_with_the_multiplications_of_one_core_up_to_a_limit(rows, columns, code):
    """[4096, rows] x [rows, columns] on each of two cores."""
    pod = build_two_matmuls(leaky_relu)
    dims = [mtf.Dimension(*each) for each in (("batch", 8192), ("a", rows), ("b", columns))]
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        left, right = (mtf.zeros(mesh, mtf.Shape(pair)) for pair in (dims[:2], dims[1:]))
        product = mtf.einsum([left, right], mtf.Shape([dims[0], dims[2]]))
    assert program_code._estimate_matmul(pod, product.operation) == code

"""Means of squares without a tensor of squares, against NumPy loops, and when they are used.

Tolerances: a sum of up to 144 squares in float32, and its root squared again.
"""

from __future__ import annotations

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.model import matrix_stacks
from mtf_switch.model.adafactor import LeanAdafactor
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl


@pytest.mark.parametrize("shape", [(3, 16, 5), (3, 5, 16), (16, 3, 5), (1, 130, 144)])
@pytest.mark.parametrize("axes", [(1, 2), (2, 1), (0, 2), (1, 0)])
def test_means_of_squares_equal_loops(shape, axes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        means = session.run(matrix_stacks.mean_squares(tf.constant(x), axes))
    squares = x.astype(np.float64) ** 2
    for mean, axis in zip(means, axes):
        expected = sum(np.take(squares, i, axis) for i in range(shape[axis])) / shape[axis]
        np.testing.assert_allclose(mean, expected, rtol=2e-6)


def build_updates(*, devices=1, shape="experts:4 d_model:136 expert_hidden:130"):
    """Builds Adafactor's updates of one variable.

    Returns:
      The TensorFlow operations of which the updates need the results.
    """
    tf.train.get_or_create_global_step()
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    shape = mtf.convert_to_shape(shape.replace(" ", ","))
    mtf.get_variable(mesh, "w", shape, initializer=tf.zeros_initializer())
    (var,) = mesh.graph.trainable_variables
    gradient = tf.ones(shape.to_integer_list)
    updates = LeanAdafactor(learning_rate=0.1).apply_grads(
        [mtf.import_tf_tensor(mesh, gradient, shape)], [var]
    )
    cores = mtf.convert_to_shape(f"all:{devices}")
    places = [f"cpu:{i}" for i in range(devices)]
    rules = "experts:all" if devices > 1 else ""
    mesh_impl = SeededPlacementMeshImpl(cores, rules, places)
    lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
    return find_needed([lowering.lowered_operation(op) for op in updates])


def find_needed(operations):
    """Returns the operations from which the given ones get inputs, directly or not."""
    needed, found = list(operations), set(operations)
    while needed:
        op = needed.pop()
        new = {*(x.op for x in op.inputs), *op.control_inputs} - found
        found |= new
        needed.extend(new)
    return found


# With 136 experts, their number is one of the two longest axes, which Adafactor reduces.
@pytest.mark.parametrize(
    ("shape", "largest_mean"),
    [
        ("experts:4 d_model:136 expert_hidden:130", 4 * 136),
        ("experts:136 d_model:5 expert_hidden:130", 136 * 5),
    ],
)
def test_one_device_makes_no_tensor_of_squares(shape, largest_mean):
    with tf.Graph().as_default():
        needed = build_updates(shape=shape)
    assert "EuclideanNorm" in {op.type for op in needed}
    squares = [op for op in needed if op.type == "Square"]
    assert max(op.outputs[0].shape.num_elements() for op in squares) == largest_mean


@pytest.mark.parametrize("setting", [{"devices": 2}, {"shape": "d_model:136 d_ff:130"}])
def test_several_devices_and_other_variables_keep_mesh_tensorflows_operations(setting):
    with tf.Graph().as_default():
        needed = build_updates(**setting)
    assert "EuclideanNorm" not in {op.type for op in needed}

"""The lean Adafactor against Mesh TF's own, step by step, and on several devices.

The updates differ by the order of float32 operations: some units of 6e-8, relative.
"""

from __future__ import annotations

import gin
import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_tensorflow import optimize

from mtf_switch.model.adafactor import LeanAdafactor

SHAPES = {
    "factored": "experts:4 d_model:136 expert_hidden:140",
    "experts_among_the_factored": "experts:150 d_model:130 expert_hidden:8",
    "matrix": "d_model:128 d_ff:256",
    "too_small": "experts:4 d_model:6 expert_hidden:9",
    "vector": "d_model:200",
}


def dims(text):
    return [mtf.Dimension(n, int(s)) for n, s in (part.split(":") for part in text.split())]


def train(optimizer, shape, *, steps=3, devices=1, dtype=tf.float32, scale=1.0, **arguments):
    """Returns the variable and its slots after each step on random gradients, by name."""
    shape = mtf.Shape(dims(shape))
    sizes = shape.to_integer_list
    rng = np.random.default_rng(0)
    gradients = scale * rng.standard_normal((steps, *sizes))
    start = 0.1 * rng.standard_normal(sizes)
    with tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        var_dtype = mtf.VariableDType(tf.float32, dtype, dtype)
        initializer = tf.constant_initializer(start)
        mtf.get_variable(mesh, "w", shape, dtype=var_dtype, initializer=initializer)
        (var,) = mesh.graph.trainable_variables
        fed = tf.placeholder(tf.float32, sizes)
        grad = mtf.cast(mtf.import_tf_tensor(mesh, fed, shape), dtype)
        updates = optimizer(**arguments).apply_grad(grad, var)
        cores = mtf.convert_to_shape(f"all:{devices}")
        rules = mtf.convert_to_layout_rules("experts:all,d_ff:all")
        placed = [f"cpu:{i}" for i in range(devices)]
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl(cores, rules, placed)
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
        with tf.control_dependencies([lowering.lowered_operation(op) for op in updates]):
            train_op = tf.assign_add(step, 1)
        copies = lowering.copy_masters_to_slices(), lowering.copy_slices_to_masters()
        masters = {v.name: v.get_master() for v in mesh.graph.all_variables}
        results = []
        config = tf.ConfigProto(device_count={"CPU": devices}, allow_soft_placement=False)
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            session.run(copies[0])
            for gradient in gradients:
                session.run(train_op, {fed: gradient})
                session.run(copies[1])
                results.append(session.run(masters))
    return results


def assert_equal_updates(ours, theirs):
    for one, other in zip(ours, theirs):
        assert one.keys() == other.keys()
        for name, value in one.items():
            # A weight near 0 is a difference of larger ones.
            atol = 3e-7 * np.abs(value).max()
            np.testing.assert_allclose(value, other[name], rtol=2e-6, atol=atol, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"learning_rate": 0.5, "beta1": 0.9},
        {"multiply_by_parameter_scale": False, "clipping_threshold": None},
        {"exclude_from_parameter_scale": ["w"], "clipping_threshold": 0.1},
        {"factored": False, "epsilon1": 0.5, "epsilon2": 10.0},
        {"stacked_dim_names": ["experts"]},
    ],
    ids=["default", "momentum", "no scale", "excluded", "not factored", "stacked"],
)
def test_each_step_equals_mesh_tensorflows(shape, arguments):
    ours = train(LeanAdafactor, SHAPES[shape], **arguments)
    theirs = train(optimize.AdafactorOptimizer, SHAPES[shape], **arguments)
    assert_equal_updates(ours, theirs)
    # The weights change.
    assert np.abs(ours[1]["w"] - ours[0]["w"]).max() > 1e-5


def test_kernels_with_more_rows_than_columns_are_updated_as_mesh_tensorflows():
    shape = "experts:2 expert_hidden:150 d_model:130"
    ours, theirs = (train(o, shape) for o in (LeanAdafactor, optimize.AdafactorOptimizer))
    assert_equal_updates(ours, theirs)


@pytest.mark.parametrize("scale", [0.0, 1e-12])
def test_tiny_gradients_are_held_up_by_epsilon_as_upstream(scale):
    ours = train(LeanAdafactor, SHAPES["factored"], scale=scale)
    assert_equal_updates(
        ours, train(optimize.AdafactorOptimizer, SHAPES["factored"], scale=scale)
    )
    assert all(np.isfinite(value).all() for value in ours[-1].values())


@pytest.mark.parametrize("shape", ["factored", "matrix"])
@pytest.mark.parametrize("devices", [2, 4])
def test_split_variables_are_updated_as_whole_ones(shape, devices):
    one = train(LeanAdafactor, SHAPES[shape])
    assert_equal_updates(train(LeanAdafactor, SHAPES[shape], devices=devices), one)


def test_stacks_of_split_matrices_are_updated_as_whole_ones():
    shape = "copies:3 d_model:136 d_ff:140"
    one, two = (train(LeanAdafactor, shape, devices=devices) for devices in (1, 2))
    assert_equal_updates(two, one)


def test_it_takes_the_parameters_of_adafactor_optimizer_from_gin():
    gin.bind_parameter("AdafactorOptimizer.beta1", 0.5)
    (result,) = train(LeanAdafactor, SHAPES["matrix"], steps=1)
    assert "w_slot_m" in result


def test_no_tensor_of_the_squares_of_weights_or_updates_is_made():
    """Only the square of the gradient exists."""
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        shape = mtf.Shape(dims(SHAPES["factored"]))
        mtf.get_variable(mesh, "w", shape, initializer=tf.zeros_initializer())
        (var,) = mesh.graph.trainable_variables
        LeanAdafactor().apply_grad(mtf.ones(mesh, shape), var)
        squares = [
            op
            for op in mesh.graph.operations
            if "square" in op.name and op.outputs[0].shape == shape
        ]
    assert len(squares) == 1
    assert mesh_harness.M in squares[0].outputs[0].shape.dimension_names

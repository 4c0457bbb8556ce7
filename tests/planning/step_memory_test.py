"""The memory of a step on graphs of two matmuls, by hand.

On each core, x is [4, 4], h is [4, 6], w1 is [4, 6] and w2 is [6]. A TPU stores a small matrix in
one tile of 8 x 128 elements.
"""

from __future__ import annotations

import dataclasses

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
from two_matmuls import build_two_matmuls, leaky_relu

from mtf_switch.planning import kept_tensors, step_memory

TILE = 8 * 128 * 4
WEIGHTS = 4 * 6 + 6


def test_the_start_of_the_backward_pass_holds_activations_and_one_gradient():
    step = step_memory.measure_step(build_two_matmuls(leaky_relu))
    assert step.activations == 2 * TILE
    assert step.unfused == 4 * (4 * 4 + 3 * 4 * 6)
    assert (step.gradients, step.weight_copies) == (0, 0)
    assert step.workspace == 4 * 4 * 6
    assert step.gaps == int(0.03 * (step.activations + step.workspace))


def test_a_loop_of_microbatches_also_holds_sums_of_gradients_and_copies_of_weights():
    """Activations, copies and gradients are in bfloat16, the weights in float32."""
    pod = build_two_matmuls(leaky_relu, runs=3, activation_dtype=tf.bfloat16)
    step = step_memory.measure_step(pod)
    assert step.gradients == step.weight_copies == 2 * WEIGHTS
    assert step.workspace == 2 * 4 * 6
    # The cast of x depends on the batch alone. As a mask, it is kept in place of x.
    assert step.activations == 2 * TILE // 2


def test_weights_in_the_dtype_of_activations_are_not_copied():
    step = step_memory.measure_step(build_two_matmuls(leaky_relu, runs=3))
    assert step.weight_copies == 0


@pytest.mark.parametrize(("microbatches", "gradients"), [(1, 4 * 6), (3, WEIGHTS)])
def test_the_update_of_a_large_variable_can_be_the_fullest_moment(
    monkeypatch, microbatches, gradients
):
    """Without activations: the scaled gradient and the new value of w1, and its gradient.

    After a loop of microbatches, the gradients of all variables exist.
    """
    monkeypatch.setattr(kept_tensors, "find_kept", lambda pod, read: [])
    step = step_memory.measure_step(build_two_matmuls(leaky_relu, runs=microbatches))
    assert (step.activations, step.gradients) == (0, 4 * gradients)
    assert step.workspace == 2 * 4 * 4 * 6


def test_random_numbers_can_make_the_fullest_moment():
    """192 random numbers on a core take 48 rows of 512 bytes, while x and h are kept."""
    wide = mtf.Dimension("wide", 8)

    def add_noise(h):
        noise = mtf.random_uniform(h.mesh, [*h.shape, wide], dtype=tf.float32)
        return h * mtf.reduce_sum(noise, reduced_dim=wide)

    step = step_memory.measure_step(build_two_matmuls(add_noise))
    assert step.activations == 2 * TILE
    assert step.workspace == 4 * 6 * 8 // 4 * 512
    assert step.gaps == int(0.03 * (step.activations + step.workspace))


def test_few_random_numbers_leave_the_backward_pass_the_fullest_moment():
    """24 random numbers take 6 rows; x, h and they are kept."""

    def add_noise(h):
        return h * mtf.random_uniform(h.mesh, h.shape, dtype=tf.float32)

    step = step_memory.measure_step(build_two_matmuls(add_noise))
    assert step.activations == 3 * TILE
    assert step.workspace == 4 * 4 * 6


def stack_weights(pod, dtype):
    """Replaces the variables of a graph by three stacked weights [4, 6]."""
    dims = [mtf.Dimension(*each) for each in (("stacked", 3), ("d_model", 4), ("d_ff", 6))]
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        mtf.get_variable(
            mesh, "w", mtf.Shape(dims), dtype=mtf.VariableDType(tf.float32, tf.float32, dtype)
        )
    return dataclasses.replace(pod, variables=list(mesh.graph.all_variables))


def test_the_copy_of_a_stacked_variable_is_made_whole_without_a_loop_as_well():
    pod = stack_weights(build_two_matmuls(leaky_relu), tf.bfloat16)
    step = step_memory.measure_step(pod)
    assert step.weight_copies == 3 * 2 * 24
    # A gradient is that of one weight.
    assert (step.gradients, step.workspace) == (0, 2 * 24)


def test_a_loop_sums_the_gradients_of_all_stacked_weights():
    pod = stack_weights(build_two_matmuls(leaky_relu, runs=3), tf.bfloat16)
    step = step_memory.measure_step(pod)
    assert (step.gradients, step.weight_copies) == (3 * 2 * 24, 3 * 2 * 24)


def test_the_update_of_a_stacked_variable_needs_all_of_its_new_values(monkeypatch):
    """A gradient, the scaled gradient, and the new values of all three weights."""
    monkeypatch.setattr(kept_tensors, "find_kept", lambda pod, read: [])
    step = step_memory.measure_step(stack_weights(build_two_matmuls(leaky_relu), tf.bfloat16))
    assert (step.weight_copies, step.gradients) == (0, 2 * 24)
    assert step.workspace == 4 * 24 * (1 + 3)

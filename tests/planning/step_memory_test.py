"""The memory of a step on graphs of two matmuls, by hand.

On each core, x is [4, 4], h is [4, 6], w1 is [4, 6] and w2 is [6]. A TPU stores a small matrix in
one tile of 8 x 128 elements.
"""

from __future__ import annotations

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
from two_matmuls import BATCH, HIDDEN, build_two_matmuls, leaky_relu

from mtf_switch.planning import step_memory

TILE = 8 * 128 * 4
WEIGHTS = 4 * 6 + 6
EXPERT, SLOT = mtf.Dimension("expert", 16), mtf.Dimension("slot", 3)


def test_elementwise_operations_are_recomputed_in_the_backward_pass():
    """A core keeps float32 x and h. It recomputes h / 2 and their maximum."""
    step = step_memory.measure_step(build_two_matmuls(leaky_relu))
    assert step.activations == 2 * TILE
    assert step.unfused == 4 * (4 * 4 + 3 * 4 * 6)


def test_a_reshape_that_moves_data_between_cores_is_kept():
    """Its output [8, 6] is whole on each core: one tile more, in place of h."""
    moved = build_two_matmuls(
        lambda h: mtf.replace_dimensions(h, BATCH, mtf.Dimension("all", 8))
    )
    assert step_memory.measure_step(moved).activations == 2 * TILE
    # Nothing else needs h itself.
    assert [t.shape.to_integer_list for t in find_kept(moved)] == [[8, 4], [8, 6]]


def test_a_reshape_within_a_core_is_recomputed():
    pod = build_two_matmuls(
        lambda h: mtf.rename_dimension(mtf.rename_dimension(h, "d_ff", "a"), "a", "d_ff")
    )
    assert step_memory.measure_step(pod).activations == 2 * TILE


def find_kept(pod):
    kept = step_memory._find_kept(pod, step_memory._find_read(pod))
    return sorted(kept, key=lambda tensor: tensor.shape.size)


def test_a_product_without_a_sum_is_recomputed_from_its_one_hots():
    """Dispatch to [expert, slot] and back: the product [8, 6, 16, 3] is not kept."""
    kept = find_kept(build_two_matmuls(dispatch_and_combine))
    names = [tuple(dim.name for dim in tensor.shape.dims) for tensor in kept]
    assert ("batch", "d_ff", "expert") in names
    assert ("batch", "d_ff", "slot") in names
    assert max(len(name) for name in names) == 3


def dispatch_and_combine(h):
    """Multiplies h with a product of one-hots twice, as Mesh TensorFlow's dispatch does."""
    place = mtf.cast(h, tf.int32)
    one_hots = [mtf.one_hot(place, dim, dtype=h.dtype) for dim in (EXPERT, SLOT)]
    product = mtf.einsum(one_hots, mtf.Shape([BATCH, HIDDEN, EXPERT, SLOT]))
    slots = mtf.einsum([product, h], mtf.Shape([BATCH, EXPERT, SLOT]))
    return mtf.einsum([product, slots], mtf.Shape([BATCH, HIDDEN]))


def test_equal_one_hots_are_kept_once():
    """Two dispatches with the same places: XLA makes their one-hots once."""
    kept = find_kept(build_two_matmuls(dispatch_twice))
    assert (
        sum(SLOT in tensor.shape.dims and HIDDEN in tensor.shape.dims for tensor in kept) == 1
    )


def dispatch_twice(h):
    place = mtf.cast(h, tf.int32)
    for _ in range(2):
        one_hots = [mtf.one_hot(place, dim, dtype=h.dtype) for dim in (EXPERT, SLOT)]
        product = mtf.einsum(one_hots, mtf.Shape([BATCH, HIDDEN, EXPERT, SLOT]))
        slots = mtf.einsum([product, h], mtf.Shape([BATCH, EXPERT, SLOT]))
        h = mtf.einsum([product, slots], mtf.Shape([BATCH, HIDDEN]))
    return h


def test_tensors_of_the_same_weights_are_kept_once():
    """A bias [d_ff, slot] that two layers compute from w, as relative position biases are."""
    dims = mtf.Shape([HIDDEN, SLOT])

    def add_biases(h):
        weights = mtf.get_variable(h.mesh, "w", mtf.Shape([EXPERT, SLOT]))
        for _ in range(2):
            buckets = mtf.mod(mtf.range(h.mesh, HIDDEN, tf.int32), 4)
            one_hot = mtf.one_hot(buckets, EXPERT)
            bias = mtf.einsum([one_hot, weights], dims)
            h = mtf.einsum([mtf.exp(bias), h], mtf.Shape([BATCH, SLOT]))
            h = mtf.einsum([mtf.exp(bias), h], mtf.Shape([BATCH, HIDDEN]))
        return h

    kept = find_kept(build_two_matmuls(add_biases))
    assert sum(tensor.shape == dims for tensor in kept) == 1


def test_the_start_of_the_backward_pass_holds_activations_and_one_gradient():
    step = step_memory.measure_step(build_two_matmuls(leaky_relu))
    assert (step.gradients, step.weight_copies) == (0, 0)
    assert step.workspace == 4 * 4 * 6
    assert step.gaps == int(0.05 * (step.activations + step.workspace))


def test_a_loop_of_microbatches_also_holds_sums_of_gradients_and_copies_of_weights():
    """Activations, copies and gradients are in bfloat16, the weights in float32."""
    pod = build_two_matmuls(leaky_relu, runs=3, activation_dtype=tf.bfloat16)
    step = step_memory.measure_step(pod)
    assert step.gradients == step.weight_copies == 2 * WEIGHTS
    assert step.workspace == 2 * 4 * 6
    # x was given in float32, and its cast is recomputed.
    assert step.activations == TILE + TILE // 2


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
    monkeypatch.setattr(step_memory, "_find_kept", lambda pod, read: [])
    step = step_memory.measure_step(build_two_matmuls(leaky_relu, runs=microbatches))
    assert (step.activations, step.gradients) == (0, 4 * gradients)
    assert step.workspace == 2 * 4 * 4 * 6


@pytest.mark.parametrize(
    ("shape", "padded"),
    [
        ((16, 256), 16 * 256),
        ((9, 129), 16 * 256),  # both round up
        ((512, 64), 64 * 512),  # 64 columns would waste half; XLA makes 512 the columns
        ((8, 114, 32128), 8 * 114 * 32128),  # 8 x 32128 in whole tiles
        ((9, 4, 130), 4 * 16 * 256),  # rows of 4 would waste half
        ((300,), 300),
        ((1, 1, 300), 300),
    ],
)
def test_a_tensor_is_stored_in_tiles(shape, padded):
    """A tile has 8 x 128 elements."""
    dims = [mtf.Dimension(f"d{index}", size) for index, size in enumerate(shape)]
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        tensor = mtf.zeros(mesh, mtf.Shape(dims), tf.bfloat16)
        pod = build_two_matmuls(leaky_relu)
    assert step_memory._measure_padded(pod, tensor) == 2 * padded

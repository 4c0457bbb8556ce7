"""The tensors that a step keeps for its backward pass, on graphs of two matmuls, by hand.

On each core, x is [4, 4], h is [4, 6], w1 is [4, 6] and w2 is [6]. A TPU stores a small matrix in
one tile of 8 x 128 elements.
"""

from __future__ import annotations

import collections

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
from two_matmuls import BATCH, HIDDEN, build_two_matmuls, leaky_relu

from mtf_switch.planning import kept_tensors

EXPERT, SLOT = mtf.Dimension("expert", 16), mtf.Dimension("slot", 3)


def test_elementwise_operations_are_recomputed_in_the_backward_pass():
    """A core keeps float32 x and h. It recomputes h / 2 and their maximum."""
    kept = find_kept(build_two_matmuls(leaky_relu))
    assert [tensor.shape.to_integer_list for tensor in kept] == [[8, 4], [8, 6]]


def test_a_reshape_that_moves_data_between_cores_is_kept():
    """Its output [8, 6] is whole on each core, and takes the place of h."""
    moved = build_two_matmuls(
        lambda h: mtf.replace_dimensions(h, BATCH, mtf.Dimension("all", 8))
    )
    # Nothing else needs h itself.
    assert [t.shape.to_integer_list for t in find_kept(moved)] == [[8, 4], [8, 6]]


def test_a_reshape_within_a_core_is_recomputed():
    pod = build_two_matmuls(
        lambda h: mtf.rename_dimension(mtf.rename_dimension(h, "d_ff", "a"), "a", "d_ff")
    )
    assert [t.operation.name for t in find_kept(pod)] == ["import", "einsum"]


def find_kept(pod):
    kept = kept_tensors.find_kept(pod, kept_tensors.find_read(pod))
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


def test_tensors_of_the_same_weights_are_kept_once_in_two_layouts():
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
    assert sum(tensor.shape == dims for tensor in kept) == 2


def add_equal_masks(h):
    """Adds a mask of the batch in each of three layers, as attention does."""
    place = mtf.cast(h, tf.int32)
    for _ in range(3):
        h = mtf.einsum([h, mtf.cast(mtf.greater(place, 0), h.dtype)], h.shape) + dispatch_twice(
            h
        )
    return h


@pytest.mark.parametrize("change", [dispatch_twice, add_equal_masks])
def test_of_equal_tensors_the_first_is_kept_in_whatever_order_they_are_read(change):
    """Where a tensor is in the graph decides whether it exists at a moment of the step."""
    pod = build_two_matmuls(change)
    read = kept_tensors.find_read(pod)
    places = {operation: number for number, operation in enumerate(pod.phases)}
    found = {
        tuple(sorted(places[tensor.operation] for tensor in kept_tensors.find_kept(pod, order)))
        for order in (read, read[::-1], read[1::2] + read[::2])
    }
    assert len(found) == 1
    assert len(read) == len(set(read))


def test_the_stream_of_residuals_is_kept_after_each_layer():
    """h, h + h^2, and the sum of that and h^3: the last two are the stream; products are not."""

    def add_layers(h):
        first = mtf.add(h, mtf.multiply(h, h))
        second = mtf.add(first, mtf.multiply(mtf.multiply(h, h), h))
        return mtf.add(second, mtf.exp(second))

    kept = find_kept(build_two_matmuls(add_layers))
    kinds = collections.Counter(type(t.operation).__name__ for t in kept)
    # The first sum has no earlier sum in it.
    assert kinds["AddOperation"] == 2
    assert kinds["EinsumOperation"] == 1


def test_a_sum_of_another_shape_is_not_a_residual():
    """softmax adds [d_ff, slot] and [d_ff], which is recomputed."""

    def add_broadcast(h):
        first = mtf.add(h, h)
        wide = mtf.add(first, mtf.range(h.mesh, SLOT, h.dtype))
        return mtf.reduce_sum(mtf.exp(wide), reduced_dim=SLOT)

    kept = find_kept(build_two_matmuls(add_broadcast))
    assert not any(isinstance(t.operation, mtf.AddOperation) for t in kept)


def use_mask(make_mask):
    """Two layers that multiply h with masks [batch, d_ff, slot], which depend on no weight."""

    def activate(h):
        shape = mtf.Shape([BATCH, HIDDEN, SLOT])
        for _ in range(2):
            wide = mtf.multiply(mtf.exp(h), make_mask(h.mesh, shape))
            h = mtf.reduce_sum(mtf.exp(wide), reduced_dim=SLOT)
        return h

    return find_kept(build_two_matmuls(activate))


def test_the_mask_that_all_layers_read_is_kept_once():
    def make_mask(mesh, shape):
        lengths = mtf.import_tf_tensor(
            mesh, tf.placeholder(tf.float32, [8]), mtf.Shape([BATCH])
        )
        positions = mtf.range(mesh, SLOT, tf.float32)
        mask = mtf.cast(mtf.less(positions, lengths), tf.float32)
        return mtf.broadcast(mask, shape)

    names = [tuple(dim.name for dim in t.shape.dims) for t in use_mask(make_mask)]
    assert names.count(("batch", "slot")) + names.count(("slot", "batch")) == 1
    assert ("batch", "d_ff", "slot") not in names


def test_noise_is_kept_in_each_layer_and_its_mask_is_recomputed():
    """Dropout: the random numbers of both layers are kept, and not whether they are small."""

    def make_mask(mesh, shape):
        return mtf.cast(mtf.less(mtf.random_uniform(mesh, shape), 0.9), tf.float32)

    kinds = [
        type(t.operation).__name__
        for t in use_mask(make_mask)
        if t.shape.dims == [BATCH, HIDDEN, SLOT]
    ]
    assert kinds == ["RandomOperation"] * 2


def test_one_hots_of_the_batch_are_no_masks():
    """A one-hot of tokens is recomputed from the tokens."""

    def make_mask(mesh, shape):
        tokens = mtf.import_tf_tensor(mesh, tf.placeholder(tf.int32, [8]), mtf.Shape([BATCH]))
        return mtf.broadcast(mtf.one_hot(tokens, SLOT), shape)

    kept = use_mask(make_mask)
    assert not any(SLOT in t.shape.dims and t.shape.ndims < 3 for t in kept)


@pytest.mark.parametrize(
    ("shape", "padded"),
    [
        ((16, 256), 16 * 256),
        ((9, 129), 16 * 256),  # both round up
        ((512, 64), 64 * 512),  # 64 columns would waste half; XLA makes 512 the columns
        ((8, 114, 32128), 8 * 120 * 32128),  # the rows are 114, although 8 would waste nothing
        ((9, 4, 130), 4 * 16 * 256),
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
    assert kept_tensors.measure_padded(pod, tensor) == 2 * padded

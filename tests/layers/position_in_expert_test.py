"""Positions in experts against a loop over tokens, for both ways of counting."""

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st

from mtf_switch.layers import position_in_expert

WAYS = [position_in_expert.count_by_cumsum, position_in_expert.count_by_sorting]


def count(way, expert_index, routed, experts, **mesh):
    def build(mesh):
        dims = "outer_batch batch group"
        return way(
            mesh_harness.constant(mesh, expert_index, dims, tf.int32),
            mesh_harness.constant(mesh, routed, dims),
            mtf.Dimension("expert_unsplit", experts),
        )

    return mesh_harness.evaluate(build, **mesh)["value"]


def token_by_token(expert_index, routed):
    """Returns the number of earlier routed tokens of the group with the same expert."""
    position = np.zeros(expert_index.shape, int)
    for o, g, s in np.ndindex(*expert_index.shape):
        same = expert_index[o, g, :s] == expert_index[o, g, s]
        position[o, g, s] = (same & (routed[o, g, :s] > 0)).sum() if routed[o, g, s] else 0
    return position


@pytest.mark.parametrize("way", WAYS)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.sampled_from([1, 2, 7, 12])),
    experts=st.integers(1, 6),
    real=st.sampled_from([1.0, 0.7, 0.0]),
    seed=st.integers(0, 99),
)
def test_a_rank_is_how_many_came_before(way, shape, experts, real, seed):
    rng = np.random.default_rng(seed)
    expert_index = rng.integers(0, experts, shape)
    routed = (rng.random(shape) < real).astype(float)
    value = count(way, expert_index, routed, experts)
    assert value.dtype == np.int32
    np.testing.assert_array_equal(value, token_by_token(expert_index, routed))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("devices", [2, 4])
def test_cores_count_their_own_groups(way, devices):
    rng = np.random.default_rng(0)
    expert_index = rng.integers(0, 3, (2, 4, 16))
    routed = (rng.random((2, 4, 16)) < 0.8).astype(float)
    value = count(way, expert_index, routed, 3, devices=devices)
    np.testing.assert_array_equal(value, token_by_token(expert_index, routed))


def test_a_group_of_many_tokens_is_counted_exactly():
    # Beyond 2^8, where bfloat16 stops counting, and 2^11, where float16 does.
    expert_index = np.zeros((1, 1, 3000), int)
    for way in WAYS:
        value = count(way, expert_index, np.ones_like(expert_index, float), 2)
        np.testing.assert_array_equal(value.ravel(), np.arange(3000))


def test_sorting_makes_no_tensor_of_tokens_by_experts_or_by_tokens():
    tokens, experts = 64, 50
    with tf.Graph().as_default() as graph:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = "outer_batch batch group"
        index = mesh_harness.constant(mesh, np.zeros((1, 1, tokens)), dims, tf.int32)
        position_in_expert.count_by_sorting(
            index, mtf.cast(index, tf.float32), mtf.Dimension("expert_unsplit", experts)
        )
        shape = mtf.convert_to_shape("all:1")
        mtf.Lowering(
            mesh.graph,
            {mesh: mtf.placement_mesh_impl.PlacementMeshImpl(shape, "", ["cpu:0"])},
        )
        sizes = [t.shape.num_elements() for op in graph.get_operations() for t in op.outputs]
    assert max(sizes) == tokens

"""Groups of variables, and the activations and matmuls of small graphs, by hand."""

from __future__ import annotations

import types

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.planning import pod_census
from mtf_switch.planning.communication import BACKWARD, FORWARD
from mtf_switch.planning.pod_census import Matmul

BATCH, WIDTH, HIDDEN = (
    mtf.Dimension("batch", 8),
    mtf.Dimension("d_model", 4),
    mtf.Dimension("d_ff", 6),
)


def build_two_matmuls(activate, runs=1):
    """x [B, M] -> h [B, F] -> activate(h) -> [], forward and backward, B on two cores."""
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        x = mtf.import_tf_tensor(mesh, tf.zeros([8, 4]), mtf.Shape([BATCH, WIDTH]))
        w1 = mtf.get_variable(mesh, "w1", mtf.Shape([WIDTH, HIDDEN]))
        w2 = mtf.get_variable(mesh, "w2", mtf.Shape([HIDDEN]))
        hidden = mtf.einsum([x, w1], mtf.Shape([BATCH, HIDDEN]))
        activated = activate(hidden)
        loss = mtf.reduce_sum(mtf.einsum([activated, w2], activated.shape - HIDDEN))
        phases = dict.fromkeys(mesh.graph.operations, FORWARD)
        mtf.gradients([loss], [w1, w2])
        phases = {op: phases.get(op, BACKWARD) for op in mesh.graph.operations}
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl(
            mtf.convert_to_shape("data:2"), mtf.convert_to_layout_rules("batch:data"), ["", ""]
        )
    return types.SimpleNamespace(
        phases=phases, mesh_impl=mesh_impl, count_runs=lambda operation: runs
    )


def leaky_relu(h):
    return mtf.maximum(h, 0.5 * h)


def test_elementwise_operations_are_recomputed_in_the_backward_pass():
    """A core keeps float32 x [4, 4] and h [4, 6]. It recomputes h / 2 and their maximum."""
    activations = pod_census.measure_activations(build_two_matmuls(leaky_relu))
    assert activations.kept == 4 * (4 * 4 + 4 * 6)
    assert activations.unfused == 4 * (4 * 4 + 3 * 4 * 6)


def test_a_reshape_that_moves_data_between_cores_is_kept():
    """Its output [8, 6] is whole on each core."""
    pod = build_two_matmuls(lambda h: mtf.replace_dimensions(h, BATCH, mtf.Dimension("all", 8)))
    assert pod_census.measure_activations(pod).kept == 4 * (4 * 4 + 8 * 6)


def test_a_reshape_within_a_core_is_recomputed():
    pod = build_two_matmuls(
        lambda h: mtf.rename_dimension(mtf.rename_dimension(h, "d_ff", "a"), "a", "d_ff")
    )
    assert pod_census.measure_activations(pod).kept == 4 * (4 * 4 + 4 * 6)


@pytest.mark.parametrize("runs", [1, 3])
def test_matmuls_are_those_of_one_core_in_a_step(runs):
    """[4, 4] x [4, 6] -> [4, 6] has 2 x 4 x 4 x 6 FLOPs, and reads and writes 64 numbers."""
    matmuls = pod_census.count_matmuls(build_two_matmuls(leaky_relu, runs))
    first = matmuls[0]
    assert first == Matmul(FORWARD, runs * 2.0 * 4 * 4 * 6, runs * 4.0 * (16 + 24 + 24))
    # The gradient of w1 reads x and the gradient of h.
    assert Matmul(BACKWARD, first.flops, first.bytes) in matmuls


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("encoder/block_000/layer_000/SelfAttention/q", "attention"),
        ("decoder/block_000/layer_001/EncDecAttention/o", "attention"),
        ("encoder/block_000/layer_000/SelfAttention/relative_attention_bias", "attention"),
        ("encoder/block_000/layer_001/DenseReluDense/wi_0/kernel", "dense_ffn"),
        ("stacked/encoder/block_000/layer_003/SwitchFFN/wi/kernel", "experts"),
        ("encoder/block_000/layer_000/SwitchAttention/query/wi/kernel", "experts"),
        ("encoder/block_000/layer_000/SwitchAttention/key_value/wi/kernel", "experts"),
        ("encoder/block_000/layer_000/SwitchAttention/o", "attention"),
        ("encoder/block_000/layer_003/SwitchFFN/switch_gating/kernel", "router"),
        ("encoder/block_000/layer_003/SwitchFFN/wi/kernel_slot_vr", "optimizer_slots"),
        ("encoder/block_000/layer_003/rms_norm/scale", "other"),
        ("shared/embedding", "embedding"),
        ("decoder/logits/kernel", "embedding"),
    ],
)
def test_variables_are_grouped_by_their_names(name, group):
    assert pod_census.classify_variable(name) == group

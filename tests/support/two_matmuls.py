"""A graph with two matmuls, forward and backward, on two cores."""

from __future__ import annotations

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.planning.communication import BACKWARD, FORWARD
from mtf_switch.planning.lowered_graph import PodGraph

BATCH, WIDTH, HIDDEN = (
    mtf.Dimension("batch", 8),
    mtf.Dimension("d_model", 4),
    mtf.Dimension("d_ff", 6),
)


def build_two_matmuls(activate, runs=1, activation_dtype=tf.float32):
    """x [B, M] -> h [B, F] -> activate(h) -> [], forward and backward, B on two cores."""
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        batch = tf.placeholder(tf.float32, [8, 4])
        x = mtf.import_tf_tensor(mesh, batch, mtf.Shape([BATCH, WIDTH]))
        x = mtf.cast(x, activation_dtype)
        dtype = mtf.VariableDType(tf.float32, tf.float32, activation_dtype)
        w1 = mtf.get_variable(mesh, "w1", mtf.Shape([WIDTH, HIDDEN]), dtype=dtype)
        w2 = mtf.get_variable(mesh, "w2", mtf.Shape([HIDDEN]), dtype=dtype)
        hidden = mtf.einsum([x, w1], mtf.Shape([BATCH, HIDDEN]))
        activated = activate(hidden)
        loss = mtf.reduce_sum(mtf.einsum([activated, w2], activated.shape - HIDDEN))
        phases = dict.fromkeys(mesh.graph.operations, FORWARD)
        mtf.gradients([loss], [w1, w2])
        phases = {op: phases.get(op, BACKWARD) for op in mesh.graph.operations}
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl(
            mtf.convert_to_shape("data:2"), mtf.convert_to_layout_rules("batch:data"), ["", ""]
        )
    return PodGraph(
        model=None,
        tf_graph=batch.graph,
        mesh_graph=mesh.graph,
        mesh_impl=mesh_impl,
        variables=list(mesh.graph.all_variables),
        phases=phases,
        microbatches=runs,
        looped=set(mesh.graph.operations),
        train_op=None,
        features={},
        results={},
    )


def leaky_relu(h):
    return mtf.maximum(h, 0.5 * h)

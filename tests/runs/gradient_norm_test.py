from __future__ import annotations

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.runs import gradient_norm


@pytest.mark.parametrize("axis", [None, "a"])
def test_the_norm_is_that_of_all_gradients_together(axis: str | None) -> None:
    gradients = {
        "x": np.array([[3.0, 0.0], [0.0, 4.0]], np.float32),
        "y": np.float32([12.0, 0.0]),
    }
    dims = {"x": [("a", 2), ("b", 2)], "y": [("a", 2)]}
    devices = [""] if axis is None else ["", ""]
    shape, rules = ("", "") if axis is None else ("m:2", f"{axis}:m")
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        grads = [
            mtf.import_tf_tensor(
                mesh, tf.constant(value), mtf.Shape([mtf.Dimension(*d) for d in dims[name]])
            )
            for name, value in gradients.items()
        ]

        # A variable without influence on the loss has no gradient.
        norm = gradient_norm.compute([*grads, None])
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl(
            mtf.convert_to_shape(shape), mtf.convert_to_layout_rules(rules), devices
        )
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl})
        with tf.Session() as session:
            assert session.run(lowering.export_to_tf_tensor(norm)) == pytest.approx(13.0)

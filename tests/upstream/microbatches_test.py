"""Sums that layers pass out of the loop over microbatches."""

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest

from mtf_switch.layers.switch_ffn import SwitchFFN


@pytest.mark.parametrize("repaired", [False, True])
def test_metrics_can_be_fetched_from_a_step_in_microbatches(monkeypatch, repaired):
    if not repaired:
        monkeypatch.setattr(mtf, "serialize_training_step", mtf.ops.serialize_training_step)

    def build(mesh):
        def model_fn(features):
            x = features["x"]
            context = mesh_harness.make_context(mesh, x.shape.dims, num_microbatches=2)
            return {"loss": mtf.reduce_sum(SwitchFFN(2, 3).call(context, x))}

        x = mesh_harness.constant(mesh, np.ones((4, 3, 2)), "batch length d_model")
        return mtf.serialize_training_step({"x": x}, model_fn, x.shape.dims[0], 2)[1]

    if repaired:
        (sums,) = mesh_harness.evaluate(build)["metrics"].values()
        assert sums[0] == 12
    else:
        with pytest.raises(ValueError, match=r"not fetchable|not an element of this graph"):
            mesh_harness.evaluate(build)

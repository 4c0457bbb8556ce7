"""The layer has the same results on several devices as on one."""

from __future__ import annotations

import mesh_harness
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from alternate import alternate
from ffn_case import Case

from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.router import SwitchRouter


def on_mesh(case, *, loss_weight=100.0, jitter=0.0, dispatch="gather", **mesh):
    x, nonpadding, weights = case.draw()

    def make_layer():
        layer = case.layer()
        layer.dispatch_method = dispatch
        layer.router = SwitchRouter(exploration=Exploration(jitter=jitter))
        return layer

    return mesh_harness.run_layer(
        make_layer,
        x,
        nonpadding=nonpadding,
        variables=weights.variables(),
        dy=np.random.default_rng(0).standard_normal(x.shape),
        loss_weight=loss_weight,
        **mesh,
    )


def assert_same(one, other):
    """Compares outcomes, which differ in the order of float32 sums across cores."""
    np.testing.assert_array_equal(one.routing["kept"], other.routing["kept"])
    np.testing.assert_allclose(one.y, other.y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
    for name, grad in one.grads.items():
        scale = np.abs(grad).max()
        np.testing.assert_allclose(
            grad, other.grads[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )
    for layer, sums in one.metrics.items():
        np.testing.assert_allclose(sums, other.metrics[layer], rtol=1e-5)


PINNED = Case(
    (("batch", 8), ("length", 6)),
    experts=8,
    hidden=6,
    group_size=6,
    factor=1.5,
    real=0.7,
    skew=0.3,
)


@pytest.fixture(scope="module")
def on_one_device():
    return on_mesh(PINNED)


@pytest.mark.parametrize(("devices", "dispatch"), alternate([2, 4, 8], ["gather", "einsum"]))
def test_several_devices_give_what_one_gives_for_the_same_groups(
    on_one_device, devices, dispatch
):
    several = on_mesh(PINNED, devices=devices, dispatch=dispatch, trace=True)
    assert_same(on_one_device, several)
    # There really are several devices, and each computes its own share of the experts.
    ran = {name.rsplit(":", 1)[1]: ops for name, ops in several.ops_run.items()}
    assert ran.keys() == {str(i) for i in range(devices)}
    slices = {
        v.op.name: v for v in several.tf_graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)
    }
    shares = {"wi/kernel": [8 // devices, 4, 6], "wo/kernel": [8 // devices, 6, 4]}
    for kernel, share in shares.items():
        product = mesh_harness.multiplied_with(several.mesh_graph, kernel)[1].operation
        for i in range(devices):
            prefix = f"{product.name}/parallel_{i}/"
            assert any(op.startswith(prefix) for op in ran[str(i)]), (kernel, i)
            assert not any(op.startswith(prefix) for j in ran if j != str(i) for op in ran[j])
            assert slices[f"{kernel}_slice_{i}"].shape.as_list() == share


LAYOUTS = [
    ("data:2,model:2", "batch:data,experts:data,expert_hidden:model"),
    ("model:2,data:2", "batch:data,experts:data,expert_hidden:model"),
    ("data:2,model:2", "batch:data,experts:data,d_model:model"),
    ("data:4", "batch:data"),
    ("all:4", "experts:all"),
]


@pytest.mark.parametrize(("mesh", "dispatch"), alternate(LAYOUTS, ["einsum", "gather"]))
def test_other_layouts_give_what_one_device_gives(on_one_device, mesh, dispatch):
    mesh_shape, layout = mesh
    several = on_mesh(PINNED, mesh_shape=mesh_shape, layout=layout, dispatch=dispatch)
    assert_same(on_one_device, several)


def test_jitter_agrees_over_the_cores_that_share_tokens():
    layout = "batch:data,experts:data,expert_hidden:model"
    data = on_mesh(PINNED, jitter=0.3, mesh_shape="data:2", layout=layout)
    both = on_mesh(PINNED, jitter=0.3, mesh_shape="data:2,model:2", layout=layout)
    assert_same(data, both)


def test_one_group_per_core_by_default():
    case = Case((("batch", 8), ("length", 4)), experts=4)
    for devices in (1, 2, 4):
        outcome = on_mesh(case, devices=devices)
        assert outcome.routing["gate"].shape == (1, devices, 32 // devices)

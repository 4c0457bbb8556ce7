"""Switch attention on several devices: the results of one device, and communication."""

from __future__ import annotations

import gin
import mesh_harness
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from attention_case import PARTS, Case, E
from routing import STILL
from strategies import STRATEGIES

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_attention import SwitchAttention

SPLIT = {"heads": 8, "experts": 8, "hidden": 8, "d": 2, "m": 8}


def split_layer(network, dispatch):
    return SwitchAttention(
        SPLIT["experts"],
        "qkv",
        network,
        SPLIT["hidden"],
        capacity=ExpertCapacity(1.0, 1.0, 1, 6),
        router=SwitchRouter(exploration=STILL),
        dispatch=dispatch,
        num_heads=SPLIT["heads"],
        key_value_size=SPLIT["d"],
        relative_attention_type="bias",
    )


@pytest.fixture(scope="module")
def on_one_device():
    """(x, nonpadding, dy, Outcome) by network."""
    results = {}
    for network in ("linear", "ffn"):
        rng = np.random.default_rng(0)
        w_r = rng.standard_normal((SPLIT["m"], SPLIT["experts"]))
        x = oracle.tokens_with_clear_choices(rng, (8, 6, SPLIT["m"]), w_r, skew=0.3)
        nonpadding = (rng.random((8, 6)) < 0.8).astype(int)
        dy = rng.standard_normal(x.shape)
        routers = {f"{part}/switch_gating/kernel": w_r for part in PARTS["qkv"]}
        outcome = mesh_harness.run_layer(
            lambda network=network: split_layer(network, "einsum"),
            x,
            nonpadding=nonpadding,
            dy=dy,
            loss_weight=100.0,
            variables=routers,
        )
        results[network] = x, nonpadding, dy, outcome
    return results


def parse_layout(strategy):
    gin_config.parse([f"layouts/{strategy}.gin"], ["MIXTURE_NAME = 'x'", "num_layers = 1"])
    layout = bound_settings.read_settings().layout
    gin.clear_config()  # of dropout, say
    return {"mesh_shape": layout.mesh_shape, "layout": layout.layout_rules}


def _on_8_devices():
    """Yields strategies, networks and dispatches."""
    for strategy in STRATEGIES:
        for network in ("linear", "ffn"):
            for dispatch in ("gather", "einsum"):
                yield strategy, network, dispatch


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "network", "dispatch"), _on_8_devices())
def test_every_strategy_gives_what_one_device_gives(on_one_device, strategy, network, dispatch):
    x, nonpadding, dy, one = on_one_device[network]
    several = mesh_harness.run_layer(
        lambda: split_layer(network, dispatch),
        x,
        nonpadding=nonpadding,
        dy=dy,
        loss_weight=100.0,
        variables=one.variables,
        **parse_layout(strategy),
    )
    np.testing.assert_allclose(several.y, one.y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(several.losses, one.losses, rtol=1e-5)
    for name, sums in one.metrics.items():
        np.testing.assert_allclose(several.metrics[name], sums, rtol=1e-5, err_msg=name)
    assert several.grads.keys() == one.grads.keys()
    for name, grad in one.grads.items():
        scale = np.abs(grad).max()
        assert scale > 0.001, name
        np.testing.assert_allclose(
            several.grads[name], grad, rtol=1e-5, atol=2e-5 * scale, err_msg=name
        )
    if strategy == "expert_model_data":
        # 4 x 2 cores: experts are split over 4, and heads (or hidden units) over 2.
        variables = several.tf_graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)
        slices = {v.op.name: v.shape.as_list() for v in variables}
        heads = SPLIT["heads"] * SPLIT["d"]
        kernel = {"linear": ("w", [2, 8, heads // 2]), "ffn": ("wo", [2, 4, heads])}[network]
        for part in PARTS["qkv"]:
            assert slices[f"{part}/{kernel[0]}/kernel_slice_0"] == kernel[1]


# ---- bfloat16


@pytest.mark.parametrize("network", ["linear", "ffn"])
@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
def test_what_crosses_cores_is_bfloat16_and_the_routers_areround_to_float32(network, dispatch):
    case = Case(network=network, dispatch=dispatch, factor=float(E))
    low, full = (case.run(activation_dtype=d) for d in (tf.bfloat16, tf.float32))
    tensors = [t for op in low.mesh_graph.operations for t in op.outputs]
    slots = [
        t
        for t in tensors
        if {"experts", "expert_capacity"} <= set(t.shape.dimension_names)
        or {"expert_unsplit", "expert_capacity", "d_model"} <= set(t.shape.dimension_names)
    ]
    assert len(slots) >= 6
    assert {t.dtype for t in slots} == {tf.bfloat16}
    for part in PARTS["qkv"]:
        kernel = f"{part}/switch_gating/kernel"
        router = mesh_harness.multiplied_with(low.mesh_graph, kernel)
        assert {t.dtype for t in router} == {tf.float32}
    # 8 bits for projections of the order of 3, for attention, and for its output.
    scale = np.abs(full.y).max()
    np.testing.assert_allclose(low.y, full.y, atol=0.05 * scale)

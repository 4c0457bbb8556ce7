"""The layer in bfloat16: its rounding errors, and the dtype at every boundary."""

from __future__ import annotations

import mesh_harness
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from ffn_case import GATED, RELU, Case
from routing import DISPATCHES

from mtf_switch.layers.switch_ffn import SwitchFFN


def bfloat16(array):
    """Rounds an array to the nearest bfloat16 numbers."""
    return array.astype(tf.bfloat16.as_numpy_dtype).astype(np.float64)


@pytest.mark.parametrize("activations", [RELU, ("linear", "linear")])
def test_bfloat16_stays_within_its_rounding_errors_of_float32(activations):
    case = Case(
        (("batch", 4), ("length", 16)),
        model=8,
        hidden=16,
        group_size=32,
        activations=activations,
    )
    x, _, weights = case.draw()
    # Numbers that bfloat16 holds exactly, so that both layers get the same ones. The router's
    # weights can be any, because it never rounds them.
    x = bfloat16(x)
    weights = oracle.Weights(
        weights.w_r, tuple(bfloat16(kernel) for kernel in weights.wi), bfloat16(weights.wo)
    )
    logits = np.sort(x @ weights.w_r, -1)
    assert np.min(logits[..., -1] - logits[..., -2]) > 1e-4
    low, full = (
        mesh_harness.run_layer(
            case.layer,
            x,
            activation_dtype=dtype,
            variables=weights.variables(),
            differentiate=False,
        )
        for dtype in (tf.bfloat16, tf.float32)
    )
    np.testing.assert_array_equal(low.routing["kept"], full.routing["kept"])
    np.testing.assert_array_equal(low.routing["expert_index"], full.routing["expert_index"])
    np.testing.assert_allclose(low.routing["gate"], full.routing["gate"], rtol=1e-5)
    # Each rounding to bfloat16 (8 bits) is within 2^-8, relative: of every hidden unit (one
    # per factor and one for their product), of the expert's output, of the gate, and of
    # their product. Their sum over the hidden units is at most that share of the sum of
    # absolute values.
    factors = len(activations)
    roundings = (1 if factors == 1 else factors + 1) + 3
    bound = np.zeros_like(x).reshape(-1, 8)
    routing = {k: v.reshape(-1) for k, v in full.routing.items()}
    for s, token in enumerate(np.abs(x).reshape(-1, 8)):
        if routing["kept"][s]:
            e = routing["expert_index"][s]
            hidden = np.prod([token @ np.abs(kernel[e]) for kernel in weights.wi], 0)
            bound[s] = routing["gate"][s] * (hidden @ np.abs(weights.wo[e]))
    error = np.abs(low.y - full.y).reshape(-1, 8)
    assert np.all(error <= roundings * 1.05 * 2.0**-8 * bound)
    # The outputs are not just those of float32.
    assert error.max() > 2.0**-12


class KeepsOutput:
    """A layer that keeps the Mesh TF tensors of its output and losses."""

    def __init__(self, layer):
        self.layer = layer
        self.router = layer.router

    def call(self, context, x):
        self.layer.router = self.router
        self.y = self.layer.call(context, x)
        self.losses = context.losses
        return self.y


@pytest.mark.parametrize("mode", ["train", "eval", "incremental"])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32])
@pytest.mark.parametrize("dispatch", ["einsum", "gather"])
def test_dtypes_at_every_boundary(mode, dtype, dispatch):
    kept = []

    def make_layer():
        by, on_tpu = DISPATCHES[dispatch]
        layer = SwitchFFN(4, 8, list(GATED), expert_dropout_rate=0.1, dispatch=by)
        layer.set_target(on_tpu=on_tpu)
        kept.append(KeepsOutput(layer))
        return kept[0]

    outcome = mesh_harness.run_layer(
        make_layer,
        np.random.default_rng(0).standard_normal((2, 8, 4)),
        nonpadding=np.ones((2, 8), int),
        mode=mode,
        activation_dtype=dtype,
        seed=1,
    )
    (layer,) = kept
    graph = outcome.mesh_graph
    router_input, logits = mesh_harness.multiplied_with(graph, "switch_gating/kernel")
    kernel = next(v for v in graph.trainable_variables if v.name == "switch_gating/kernel")
    routing = layer.router.routing
    in_float32 = [router_input, logits, kernel.outputs[0], routing.gate, routing.kept]
    in_float32 += [routing.aux_loss, routing.sums]
    assert {t.dtype for t in in_float32} == {tf.float32}
    # All tensors from the router's input to the gate are float32, except indices.
    for tensor in between(router_input, routing.gate):
        assert tensor.dtype == tf.float32, tensor
    for name in ("wi_0/kernel", "wi_1/kernel", "wo/kernel"):
        taken, given_ = mesh_harness.multiplied_with(graph, name)
        assert taken.dtype == given_.dtype == dtype, name
    assert layer.y.dtype == dtype
    assert [loss.dtype for loss in layer.losses] == [dtype]
    # Every tensor with a capacity dimension is in the activation dtype, except comparisons:
    # dispatch and combine, experts and both all-to-alls, forward and backward.
    slots = [
        tensor
        for operation in graph.operations
        for tensor in operation.outputs
        if "expert_capacity" in tensor.shape.dimension_names
        and tensor.dtype.is_floating
        and {"group", "batch", "batch_unsplit"} & set(tensor.shape.dimension_names)
    ]
    assert len(slots) > 20
    wrong = [tensor for tensor in slots if tensor.dtype != dtype]
    if mode == "train":
        # Dropout draws and compares noise.
        wrong = [tensor for tensor in wrong if "dropout" not in tensor.name]
    assert not wrong


def between(start, end):
    """All floating tensors on the paths from one tensor to another."""
    reached, ways = {start}, []
    for operation in start.graph.operations:
        if reached & set(operation.inputs):
            reached |= set(operation.outputs)
    needed = {end}
    for operation in reversed(start.graph.operations):
        if needed & set(operation.outputs):
            ways += [t for t in operation.outputs if t in reached and t.dtype.is_floating]
            needed |= set(operation.inputs)
    return ways

"""Softmax and cross-entropy by TensorFlow's softmax, against loops and Mesh TF's operations."""

from __future__ import annotations

import types
from unittest import mock

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_run
from mesh_tensorflow.transformer import transformer_layers
from tiny_run import FEW_LAYERS, INPUTS, TARGETS

from mtf_switch.model import softmax_kernels, switch_transformer

ROWS, VOCAB, Z_LOSS = 5, 7, 0.1
# The fourth row is far from 0, and two targets are outside of the vocabulary.
LOGITS = np.random.default_rng(0).standard_normal((ROWS, VOCAB)) * 3
LOGITS[3] += 500
TARGETS_OF_ROWS = np.array([2, 0, VOCAB, 6, -1])
DY = np.random.default_rng(1).standard_normal(ROWS)


def losses_by_loop(logits: np.ndarray) -> np.ndarray:
    """The cross-entropy with z-loss in float64, row by row."""
    losses = []
    for row, target in zip(logits, TARGETS_OF_ROWS):
        log_z = row.max() + np.log(np.exp(row - row.max()).sum())
        loss = log_z - row[target] if 0 <= target < VOCAB else 0.0
        losses.append(loss + Z_LOSS * log_z**2)
    return np.array(losses)


def run_cross_entropy(layout="batch:all", devices=1, dtype=tf.float32, uses_kernels=True):
    """Returns the result of mesh_harness.evaluate: losses, and the gradient of the logits."""
    stack = types.SimpleNamespace(
        layout=mtf.convert_to_layout_rules(layout),
        mesh_shape=mtf.convert_to_shape(f"all:{devices}"),
        uses_softmax_kernels=uses_kernels,
    )

    def build(mesh):
        logits = mesh_harness.constant(mesh, LOGITS, "batch vocab", dtype)
        targets = mesh_harness.constant(mesh, TARGETS_OF_ROWS, "batch", tf.int32)
        dy = mesh_harness.constant(mesh, DY, "batch", dtype)
        losses = softmax_kernels.cross_entropy(
            stack, logits, targets, logits.shape.dims[-1], z_loss=Z_LOSS
        )
        (gradient,) = mtf.gradients([mtf.reduce_sum(losses * dy)], [logits])
        return losses, gradient

    return mesh_harness.evaluate(build, layout=layout, devices=devices)


def kinds(graph: tf.Graph) -> set[str]:
    return {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("devices", [1, 5])
def test_cross_entropy_and_its_gradient_equal_loops_and_difference_quotients(devices):
    result = run_cross_entropy(devices=devices)
    losses, gradient = result["value"]
    assert "Softmax" in kinds(result["tf_graph"])
    # The z-loss of the fourth row is 0.1 x 506^2, of which float32 keeps 7 digits.
    np.testing.assert_allclose(losses, losses_by_loop(LOGITS), rtol=1e-6)
    step = 1e-5
    for place in np.ndindex(LOGITS.shape):
        change = np.zeros_like(LOGITS)
        change[place] = step
        difference = losses_by_loop(LOGITS + change) - losses_by_loop(LOGITS - change)
        expected = (difference / (2 * step)) @ DY
        np.testing.assert_allclose(gradient[place], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "case",
    [
        {"layout": "vocab:all", "devices": 7},
        {"dtype": tf.bfloat16},
        {"uses_kernels": False},
    ],
)
def test_mesh_tensorflows_operations_stay_in_use_where_the_kernel_cannot_be(case):
    result = run_cross_entropy(**case)
    assert "Softmax" not in kinds(result["tf_graph"])
    # bfloat16 has 8 bits.
    tolerance = {"rtol": 0.05, "atol": 0.3} if "dtype" in case else {"rtol": 1e-6}
    np.testing.assert_allclose(result["value"][0], losses_by_loop(LOGITS), **tolerance)


def run_attention(layout: str, devices: int, **options):
    """Runs self-attention of 2 x 4 positions with the kernel."""

    def make_layer():
        layer = transformer_layers.SelfAttention(
            num_heads=2, key_value_size=3, relative_attention_type="bias", **options
        )
        stack = types.SimpleNamespace(layer_stack=types.SimpleNamespace(layers=[layer]))
        softmax_kernels.use(stack)
        return layer

    x = np.random.default_rng(0).standard_normal((2, 4, 6))
    return mesh_harness.run_layer(make_layer, x, devices=devices, layout=layout)


def test_attention_whose_memory_is_split_or_that_has_another_logit_uses_no_kernel():
    whole = run_attention("batch:all", 2)
    assert "Softmax" in kinds(whole.tf_graph)
    split = run_attention("memory_length:all", 2)
    assert "Softmax" not in kinds(split.tf_graph)
    # Sums of at most 12 float32 numbers of about 1.
    np.testing.assert_allclose(split.y, whole.y, rtol=1e-5, atol=1e-6)
    more = run_attention("batch:all", 1, attention_kwargs={"extra_logit": 0.0})
    assert "Softmax" not in kinds(more.tf_graph)
    assert not np.allclose(more.y, whole.y, rtol=1e-3)


def test_mesh_tensorflows_softmax_is_back_after_a_layer_even_if_it_fails():
    composed = mtf.softmax
    layer = transformer_layers.SelfAttention()
    stack = types.SimpleNamespace(layer_stack=types.SimpleNamespace(layers=[layer]))
    with mock.patch.object(layer, "call", side_effect=KeyError):
        softmax_kernels.use(stack)
        with pytest.raises(KeyError):
            layer.call(context=None)
    assert mtf.softmax is composed


def test_a_model_computes_the_same_with_the_kernels(tiny):
    settings, vocabulary = tiny.parse(FEW_LAYERS)
    ids = np.random.default_rng(0).integers(2, 300, (2, INPUTS), np.int32)
    batch = {"inputs": ids, "targets": ids[:, :TARGETS]}
    ours = tiny_run.run_model(None, settings, vocabulary, [batch])[0]
    with mock.patch.object(softmax_kernels, "use"):
        upstreams = tiny_run.run_model(None, settings, vocabulary, [batch])[0]
    # The logits are about 1, and the products have at most 64 terms of float32.
    np.testing.assert_allclose(ours.logits, upstreams.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "uses"), [({}, True), ({"on_tpu": True}, False), ({"compiled": True}, False)]
)
def test_xla_keeps_mesh_tensorflows_operations(tiny, target, uses):
    settings, vocabulary = tiny.parse(FEW_LAYERS)
    model = switch_transformer.build(settings, vocabulary, **target)
    stacks = list(switch_transformer.stacks(model))
    assert [getattr(stack, "uses_softmax_kernels", False) for stack in stacks] == [uses] * 2
    layers = [layer for stack in stacks for layer in stack.layer_stack.layers]
    assert any("call" in vars(layer) for layer in layers) == uses

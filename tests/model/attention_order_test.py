"""Heads before positions: the same attention, in another order of dimensions."""

from __future__ import annotations

import re
from unittest import mock

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_run
from mesh_tensorflow.transformer import transformer_layers
from tiny_run import FEW_LAYERS, INPUTS, TARGETS

from mtf_switch.model import attention_order, switch_transformer

BATCH, LENGTH, MODEL, HEADS, D_KV = 2, 5, 6, 3, 4
VARIABLE_DTYPE = mtf.VariableDType(tf.float32, tf.float32, tf.float32)


# The last positions of the second example are padding, which attends to padding only.
NONPADDING = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def attend(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Self-attention in float64: a loop over examples, heads and positions."""
    q, k, v = (
        (x @ weights[name]).reshape(BATCH, LENGTH, HEADS, D_KV) for name in ("q", "k", "v")
    )
    outputs = np.zeros((BATCH, LENGTH, HEADS, D_KV))
    # T5 has a bucket for each distance below 8, and 16 buckets in each direction.
    memory = np.arange(LENGTH)
    for example, head, place in np.ndindex(BATCH, HEADS, LENGTH):
        bucket = np.abs(memory - place) + 16 * (memory > place)
        bias = weights["relative_attention_bias"][head, bucket]
        bias = bias - 1e9 * (NONPADDING[example] != NONPADDING[example, place])
        logits = k[example, :, head] @ q[example, place, head] + bias
        attention = np.exp(logits) / np.exp(logits).sum()
        outputs[example, place, head] = attention @ v[example, :, head]
    return outputs.reshape(BATCH, LENGTH, HEADS * D_KV) @ weights["o"]


def difference_quotients(fn, at: np.ndarray) -> np.ndarray:
    """The gradient of a scalar function by central differences, exact to about 1e-9."""
    gradient = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        step = np.zeros(at.shape)
        step[index] = 1e-5
        gradient[index] = (fn(at + step) - fn(at - step)) / 2e-5
    return gradient


def make_layer() -> transformer_layers.SelfAttention:
    layer = transformer_layers.SelfAttention(
        num_heads=HEADS, key_value_size=D_KV, relative_attention_type="bias"
    )
    attention_order.put_heads_first([layer])
    return layer


@pytest.mark.parametrize("devices", [1, 2])
def test_attention_and_its_gradients_equal_loops_and_difference_quotients(devices):
    chooser = np.random.default_rng(0)
    x, dy = chooser.standard_normal((2, BATCH, LENGTH, MODEL))
    shapes = dict.fromkeys("qkv", (MODEL, HEADS * D_KV)) | {"o": (HEADS * D_KV, MODEL)}
    shapes["relative_attention_bias"] = (HEADS, 32)
    weights = {name: chooser.standard_normal(shape) / 2 for name, shape in shapes.items()}
    outcome = mesh_harness.run_layer(
        make_layer,
        x,
        dy=dy,
        nonpadding=NONPADDING,
        variables=weights,
        devices=devices,
        layout="batch:all",
    )
    # Sums of fewer than 60 float32 products, whose terms are at most about 10.
    tolerance = {"rtol": 1e-5, "atol": 2e-5}
    np.testing.assert_allclose(outcome.y, attend(x, weights), **tolerance)
    gradient = difference_quotients(lambda x: np.sum(attend(x, weights) * dy), x)
    np.testing.assert_allclose(outcome.grads["x"], gradient, **tolerance)
    for name in weights:
        gradient = difference_quotients(
            lambda value, name=name: np.sum(attend(x, weights | {name: value}) * dy),
            weights[name],
        )
        np.testing.assert_allclose(outcome.grads[name], gradient, **tolerance, err_msg=name)


@pytest.mark.parametrize("nonpadding", [None, NONPADDING])
def test_neither_logits_nor_their_bias_are_transposed(nonpadding):
    x = np.ones((BATCH, LENGTH, MODEL))
    graph = mesh_harness.run_layer(make_layer, x, nonpadding=nonpadding).tf_graph
    logits = [BATCH, HEADS, LENGTH, LENGTH]
    transposed = [
        op.name
        for op in graph.get_operations()
        if op.type == "Transpose" and sorted(op.outputs[0].shape) == sorted(logits)
    ]
    assert not transposed


def test_a_model_computes_the_same_with_the_same_noise(tiny):
    settings, vocabulary = tiny.parse(FEW_LAYERS)
    ids = np.random.default_rng(0).integers(2, 300, (BATCH, INPUTS), np.int32)
    batch = {"inputs": ids, "targets": ids[:, :TARGETS]}

    def run():
        return tiny_run.run_model(None, settings, vocabulary, [batch], mode="train")[0]

    ours = run()
    with mock.patch.object(attention_order, "put_heads_first"):
        upstreams = run()
    assert tiny.parse(FEW_LAYERS)[0].seed == settings.seed
    # The logits are about 1, and the products have at most 64 terms of float32.
    np.testing.assert_allclose(ours.logits, upstreams.logits, rtol=1e-5, atol=1e-5)
    for name, sums in upstreams.router_sums.items():
        np.testing.assert_allclose(ours.router_sums[name], sums, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("target", "order"),
    [
        ({}, ["batch", "heads", "length", "memory_length"]),
        ({"on_tpu": True}, ["batch", "length", "heads", "memory_length"]),
        ({"compiled": True}, ["batch", "length", "heads", "memory_length"]),
    ],
)
def test_xla_keeps_mesh_tensorflows_order(tiny, target, order):
    settings, vocabulary = tiny.parse(FEW_LAYERS)
    model = switch_transformer.build(settings, vocabulary, **target)
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        inputs, targets = (
            mesh_harness.constant(mesh, np.ones((2, length)), "batch length", tf.int32)
            for length in (INPUTS, TARGETS)
        )
        model.call_simple(
            inputs, targets, compute_loss=True, mode="eval", variable_dtype=VARIABLE_DTYPE
        )
    # Mesh TF's softmax ends with an exponential.
    softmax = [
        op
        for op in mesh.graph.operations
        if re.search("Attention/.*softmax/exp|Attention/softmax(_.)?$", op.name)
    ]
    orders = [op.outputs[0].shape.dimension_names for op in softmax]
    assert orders
    assert all(names == order for names in orders)

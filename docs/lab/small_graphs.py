"""Graphs of a few layers, which `switch_lab` builds, lowers to one CPU and runs.

T is the number of tokens; the other letters are those of `mtf_switch/layers/dimensions.py`.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers import initialization, recorded_sums


def build_loss(
    mesh: mtf.Mesh, x: tf.Tensor, y: tf.Tensor, layers: Sequence[Any], init_scale: float
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Builds the loss of a stack of layers.

    Args:
      mesh: The mesh.
      x: [T, M] float32, the tokens.
      y: [T, M] float32, the targets.
      layers: The layers. Each but the first is applied with a residual connection.
      init_scale: s of the initial weights (Section 2.4).

    Returns:
      The mean squared error, and that plus the losses of the routers; [] each.
    """
    getter = initialization.make_scaled_getter(init_scale)
    h = import_tokens(mesh, x)
    targets = import_tokens(mesh, y)
    losses = []
    with tf.variable_scope("stack", custom_getter=getter):
        for number, layer in enumerate(layers):
            context = make_context(h, f"layer_{number}")
            with tf.variable_scope(f"layer_{number}"):
                outputs = layer.call(context, h)
            h = outputs if number == 0 else h + outputs
            losses += context.losses
    error = mtf.reduce_mean(mtf.square(h - targets))
    return error, mtf.add_n([error, *losses])


def build_updates(
    mesh: mtf.Mesh, loss: mtf.Tensor, learning_rate: float
) -> list[mtf.Operation]:
    """Builds a step of Adam for all variables."""
    variables = mesh.graph.trainable_variables
    gradients = mtf.gradients([loss], [v.outputs[0] for v in variables])
    optimizer = mtf.optimize.AdamWeightDecayOptimizer(learning_rate, weight_decay_rate=0.0)
    return optimizer.apply_grads(gradients, variables)


def import_tokens(mesh: mtf.Mesh, x: tf.Tensor) -> mtf.Tensor:
    """Imports [T, M] as the batch [T, 1, M] of a Transformer."""
    tokens, width = x.shape.as_list()
    dims = (("batch", tokens), ("length", 1), ("d_model", width))
    shape = mtf.Shape([mtf.Dimension(*dim) for dim in dims])
    return mtf.import_tf_tensor(mesh, tf.reshape(x, shape.to_integer_list), shape)


def make_context(x: mtf.Tensor, name: str = "layer") -> transformer.Context:
    """Makes the context that Mesh TF's Transformer passes to a layer in training."""
    batch, length, model = x.shape.dims
    stack = types.SimpleNamespace(
        name="lab",
        layout=None,
        mesh_shape=None,
        model_dim=model,
        ensemble_dim=None,
        ensemble_dims=[],
    )
    context = transformer.Context(
        model=stack,
        mesh=x.mesh,
        batch_dims=[batch],
        length_dim=length,
        variable_dtype=mtf.VariableDType(tf.float32),
        mode="train",
        losses=[],
        num_microbatches=1,
    )
    context.current_layer = types.SimpleNamespace(name=name)
    return context


def export_sums(mesh: mtf.Mesh, lowering: mtf.Lowering) -> list[tf.Tensor]:
    """Returns the vector of sums of each Switch layer, from which RouterMetrics are made."""
    return [lowering.export_to_tf_tensor(t) for t in recorded_sums.take(mesh.graph).values()]


def lower(mesh: mtf.Mesh) -> mtf.Lowering:
    """Lowers a graph to one CPU."""
    mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl("", "", [""])
    return mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)


def start_session(
    lowering: mtf.Lowering, weights: dict[str, np.ndarray] | None = None
) -> tf.Session:
    """Starts a session in which all variables have values."""
    copy = lowering.copy_masters_to_slices()
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    for name, value in (weights or {}).items():
        variables[name].load(value, session)
    session.run(copy)
    return session

"""Builds the forward and backward pass of one feed-forward layer, to be timed."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import sizes
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import moe, transformer, transformer_layers

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl

# The length of the sequences into which the tokens are divided.
_LENGTH = 256


def make_layer(competitor: str, setting: sizes.Layer) -> Any:
    """Makes the layer of a competitor, for Mesh TF's Transformer."""
    if competitor == "dense":
        return transformer_layers.DenseReluDense(hidden_size=setting.d_ff)
    if competitor == "upstream":
        return moe.MoE1D(
            num_experts=setting.experts,
            hidden_size=setting.d_ff,
            group_size=setting.group_size,
            capacity_factor_train=setting.capacity_factor,
            moe_gating="switch",
            switch_jitter=0.0,
        )
    return SwitchFFN(
        num_experts=setting.experts,
        hidden_size=setting.d_ff,
        capacity=ExpertCapacity(
            capacity_factor_train=setting.capacity_factor, group_size=setting.group_size
        ),
        router=SwitchRouter(exploration=Exploration("argmax")),
        dispatch=competitor,
    )


def build_step(
    competitor: str, setting: sizes.Layer
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Builds a layer's forward and backward pass.

    The loss is the mean square of the output plus the layer's own losses. Gradients are
    computed for the input and for every variable. Each step has new random tokens.

    Returns:
      A function that runs one step, and one that releases its resources.
    """
    length = min(_LENGTH, setting.tokens)
    shape = (setting.tokens // length, length, setting.d_model)
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(0)
        tf.train.get_or_create_global_step()
        tokens = tf.placeholder(tf.float32, shape)
        fetches, initialize = _lower(make_layer(competitor, setting), tokens, setting)
        session = tf.Session(graph=graph)
        session.run(tf.global_variables_initializer())
        session.run(initialize)
    rng = np.random.default_rng(0)

    def run():
        session.run(fetches, {tokens: rng.standard_normal(shape, np.float32)})

    return run, session.close


def _lower(layer: Any, tokens: tf.Tensor, setting: sizes.Layer) -> tuple[list, tf.Operation]:
    """Lowers a step. Returns the operations of each step, and one to run before the first."""
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    cores, rules = mtf.convert_to_shape(""), mtf.convert_to_layout_rules("")
    names = ("batch", "length", "d_model")
    shape = mtf.Shape([mtf.Dimension(*dim) for dim in zip(names, tokens.shape.as_list())])
    dtype = tf.as_dtype(setting.dtype)
    x = mtf.import_tf_tensor(mesh, tokens, shape)
    context = _make_context(mesh, shape, dtype, cores, rules)
    y = layer.call(context, mtf.cast(x, dtype))
    loss = mtf.reduce_mean(mtf.square(mtf.cast(y, tf.float32)))
    loss = mtf.add_n([loss, *(mtf.cast(own, tf.float32) for own in context.losses)])
    variables = [variable.outputs[0] for variable in mesh.graph.trainable_variables]
    results = [loss, *mtf.gradients([loss], [*variables, x])]
    mesh_impl = SeededPlacementMeshImpl(cores, rules, [""])
    lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
    # A session that fetches the operations computes the tensors without copying them.
    fetches = [lowering.export_to_tf_tensor(result).op for result in results]
    return fetches, lowering.copy_masters_to_slices()


def _make_context(
    mesh: mtf.Mesh,
    shape: mtf.Shape,
    dtype: tf.DType,
    cores: mtf.Shape,
    rules: mtf.LayoutRules,
) -> transformer.Context:
    """Makes the context that Mesh TF's Unitransformer passes to a layer in training."""
    batch, length, model = shape.dims
    stack = types.SimpleNamespace(
        name="encoder",
        layout=rules,
        mesh_shape=cores,
        model_dim=model,
        ensemble_dim=None,
        ensemble_dims=[],
    )
    context = transformer.Context(
        model=stack,
        mesh=mesh,
        batch_dims=[batch],
        length_dim=length,
        variable_dtype=mtf.VariableDType(tf.float32, tf.float32, dtype),
        mode=tf.estimator.ModeKeys.TRAIN,
        losses=[],
        num_microbatches=1,
        sequence_id=mtf.ones(mesh, [batch, length], tf.int32),
    )
    context.current_layer = types.SimpleNamespace(name="layer")
    return context

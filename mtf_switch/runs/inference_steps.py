"""The steps that train nothing: evaluation, scoring of given targets, and decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer, utils

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.layers import recorded_sums
from mtf_switch.model import softmax_kernels
from mtf_switch.model.batch import batch_dimensions
from mtf_switch.runs import model_call, target_loss

# A feature of prediction, [B] int32: the number of the batch. The step does not read it.
BATCH_NUMBER = "batch_number"


@dataclasses.dataclass(frozen=True)
class InferenceStep:
    """A lowered step without updates.

    Attributes:
      outputs: Its results by name; each builder lists them.
      router_sums: Layer -> sums over its tokens, [6 + 2 E] float32; see `router_metrics`.
      lowering: The lowered Mesh TF graph, with the slices of each variable.
    """

    outputs: Mapping[str, tf.Tensor]
    router_sums: Mapping[str, tf.Tensor]
    lowering: mtf.Lowering


def build_evaluation(
    model: Any,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    mesh_impl: Any,
    variable_placer: mtf.utils.BalancedVariablePlacer | None = None,
) -> InferenceStep:
    """Builds a step that evaluates a model on given targets, teacher-forced.

    Args:
      model: The model that `switch_transformer.build` made.
      settings: The settings of the run.
      features: The batch; see `model_call.import_features`.
      mesh_impl, variable_placer: See `training_step.build`.

    Returns:
      The step. Its outputs are "loss", a float32 scalar like that of a training step;
      "cross_entropy", nats, and "weights", 0 for padding, [O, B, L] float32; "predictions", the
      most likely tokens, and "targets", [O, B, L] int32.

    Raises:
      UserError: If the model cannot be built as configured.
    """
    with model_call.build_graph():
        mesh = mtf.Mesh(mtf.Graph(), "mesh", variable_placer)
        batch_dims = batch_dimensions(settings)
        features = model_call.import_features(mesh, settings, features, batch_dims, "eval")
        with target_loss.use(model, settings.model_type, records=False):
            logits, loss = model_call.call_model(model, settings, features, "eval")
        # These are computed in the mesh, because the logits are large.
        logits = mtf.cast(logits, tf.float32)
        vocab_dim = logits.shape.dims[-1]
        stack = getattr(model, "decoder", model)
        targets = features["targets"]
        cross_entropy = softmax_kernels.cross_entropy(stack, logits, targets, vocab_dim)
        predictions = mtf.cast(mtf.argmax(logits, vocab_dim), targets.dtype)
        anonymous = mtf.anonymize(targets)
        outputs = {
            "loss": loss,
            "cross_entropy": mtf.anonymize(cross_entropy),
            "predictions": mtf.anonymize(predictions),
            "targets": anonymous,
            "weights": target_loss.weigh_targets(anonymous, settings.model_type),
        }
        step = _lower(mesh, mesh_impl, settings, outputs)
        loss = tf.cast(step.outputs["loss"], tf.float32)
    return dataclasses.replace(step, outputs={**step.outputs, "loss": loss})


def build_scoring(
    model: Any,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    mesh_impl: Any,
    variable_placer: mtf.utils.BalancedVariablePlacer | None = None,
) -> InferenceStep:
    """Builds a step that computes the log-likelihood of targets.

    Args:
      model: The model that `switch_transformer.build` made.
      settings: The settings of the run.
      features: The batch; see `model_call.import_features`.
      mesh_impl, variable_placer: See `training_step.build`.

    Returns:
      The step. Its outputs are "scores", [B] float32, the sum over a target's tokens in nats,
      and "targets", [B, L] int32, up to their first end of sequence. For a language model,
      these begin with the inputs, which the sum leaves out.

    Raises:
      UserError: If the model cannot be built as configured.
    """
    with model_call.build_graph():
        mesh = mtf.Mesh(mtf.Graph(), "mesh", variable_placer)
        batch_dims = [mtf.Dimension("batch", settings.batch_size)]
        features = model_call.import_features(mesh, settings, features, batch_dims, "score")
        targets = features["targets"]
        logits, _ = model_call.call_model(
            model, settings, features, "score", compute_loss=False
        )
        logits = mtf.cast(logits, tf.float32)
        length_dim, vocab_dim = logits.shape.dims[-2:]
        stack = getattr(model, "decoder", model)
        cross_entropy = softmax_kernels.cross_entropy(stack, logits, targets, vocab_dim)
        cross_entropy *= target_loss.weigh_targets(targets, settings.model_type)
        if settings.model_type == "lm" and "inputs" in features:
            cross_entropy *= _mask_behind(features["inputs"], targets)
        scores = -mtf.reduce_sum(cross_entropy, reduced_dim=length_dim)
        outputs = {"targets": mtf.anonymize(targets), "scores": mtf.anonymize(scores)}
        step = _lower(mesh, mesh_impl, settings, outputs)
        targets = utils.clean_decodes(step.outputs["targets"])
    return dataclasses.replace(step, outputs={**step.outputs, "targets": targets})


def _mask_behind(inputs: mtf.Tensor, targets: mtf.Tensor) -> mtf.Tensor:
    """Returns 1 behind the inputs with which targets begin, and 0 in them: [B, L] float32."""
    tokens = mtf.cast(mtf.not_equal(inputs, 0), tf.int32)
    count = mtf.reduce_sum(tokens, reduced_dim=inputs.shape.dims[-1])
    position = mtf.range(targets.mesh, targets.shape.dims[-1], tf.int32)
    return mtf.cast(mtf.greater_equal(position, count, targets.shape), tf.float32)


def build_decoding(
    model: Any,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    mesh_impl: Any,
    variable_placer: mtf.utils.BalancedVariablePlacer | None = None,
) -> InferenceStep:
    """Builds a step that decodes targets, with gin's bindings of `Bitransformer.decode`.

    Args:
      model: The model that `switch_transformer.build` made.
      settings: The settings of the run.
      features: "inputs", [B, L] integers.
      mesh_impl, variable_placer: See `training_step.build`.

    Returns:
      The step. Its outputs are "inputs" and "outputs", [B, L] int32: ids up to the end of the
      sequence, and zeros.

    Raises:
      UserError: If the model cannot be built as configured.
    """
    with model_call.build_graph():
        mesh = mtf.Mesh(mtf.Graph(), "mesh", variable_placer)
        batch_dims = [mtf.Dimension("batch", settings.batch_size)]
        features = model_call.import_features(mesh, settings, features, batch_dims, "infer")
        inputs = features["inputs"]
        variable_dtype = utils.get_variable_dtype()
        if isinstance(model, transformer.Unitransformer):
            # There must be room for the targets behind the inputs.
            inputs = mtf.pad(inputs, [0, settings.sequence_length["targets"]], "length")
            decoded = model.sample_autoregressive(
                inputs, variable_dtype=variable_dtype, remove_partial_sequences=True
            )
        else:
            decoded = model.decode(inputs, variable_dtype=variable_dtype)
        outputs = {"outputs": mtf.anonymize(decoded), "inputs": mtf.anonymize(inputs)}
        step = _lower(mesh, mesh_impl, settings, outputs)
        cleaned = {name: utils.clean_decodes(ids) for name, ids in step.outputs.items()}
    return dataclasses.replace(step, outputs=cleaned)


def _lower(
    mesh: mtf.Mesh,
    mesh_impl: Any,
    settings: RunSettings,
    outputs: Mapping[str, mtf.Tensor],
) -> InferenceStep:
    sums = recorded_sums.take(mesh.graph)
    lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=settings.autostack)
    export = lowering.export_to_tf_tensor
    return InferenceStep(
        outputs={name: export(tensor) for name, tensor in outputs.items()},
        router_sums={name: export(tensor) for name, tensor in sums.items()},
        lowering=lowering,
    )

"""Calls a model on the features of a batch: what the steps have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer, utils

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.layers import initialization
from mtf_switch.model import model_errors

Mode = Literal["train", "eval", "infer", "score"]
Features = Mapping[str, mtf.Tensor]

_LANGUAGE_MODELS = ("lm", "delimited_lm")


@contextlib.contextmanager
def build_graph() -> Iterator[None]:
    """Scales the initial values of the variables that are made, and explains Mesh TF's errors.

    Every step is built in this context.
    """
    getter = initialization.make_scaled_getter(initialization.init_scale())
    scope = tf.variable_scope(tf.get_variable_scope(), custom_getter=getter)
    with scope, model_errors.convert_value_errors():
        yield


def import_features(
    mesh: mtf.Mesh,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    batch_dims: Sequence[mtf.Dimension],
    mode: Mode,
) -> Features:
    """Imports the features of a batch into a mesh, as a model needs them.

    Args:
      mesh: The mesh. Each of its cores gets all features.
      settings: The settings of the run.
      features: "inputs" and "targets", [B, L] integers. If examples are packed, their
        "_segmentation" and "_position" too.
      batch_dims: [O, B], or [B].
      mode: What the model is to do.

    Returns:
      The features by name, [*batch_dims, L] int32. For a "delimited_lm", and for an "lm" that
      scores targets with inputs, "targets" are inputs and targets in one sequence. In mode
      "score", "inputs" are there, too, if they were given.

    Raises:
      UserError: If a feature is missing, or must not be there.
    """
    imported = {}
    for name, ids in features.items():
        # inputs_segmentation and inputs_position are as long as inputs.
        length = mtf.Dimension("length", settings.sequence_length[name.split("_")[0]])
        shape = mtf.Shape([*batch_dims, length])
        ids = tf.reshape(tf.cast(ids, tf.int32), shape.to_integer_list)
        imported[name] = mtf.import_fully_replicated(mesh, ids, shape, name=name)
    return _prepare_features(imported, settings.model_type, mode)


def _prepare_features(features: Features, model_type: str, mode: Mode) -> Features:
    """Checks that all features are there that a model needs, and joins those of an LM."""
    if mode == "infer":
        _check_feature(features, "inputs", True, model_type, mode)
        return features
    if mode == "score" and model_type in _LANGUAGE_MODELS:
        joined = utils._dynamic_text2self(features) if "inputs" in features else {}
        return {**features, **joined}
    _check_feature(features, "targets", True, model_type, mode)
    _check_feature(features, "inputs", model_type != "lm", model_type, mode)
    return utils._dynamic_text2self(features) if model_type == "delimited_lm" else features


def _check_feature(
    features: Features, name: str, should_exist: bool, model_type: str, mode: Mode
) -> None:
    if should_exist == (name in features):
        return
    advice = ""
    if model_type in _LANGUAGE_MODELS:
        advice = (
            " A 'delimited_lm' is for tasks with inputs and targets, an 'lm' for tasks with "
            "targets only."
        )
    raise UserError(
        f"The model cannot be built as configured: mode={mode} model_type={model_type} "
        f"should{'' if should_exist else ' not'} have feature {name}.{advice}"
    )


def call_model(
    model: Any,
    settings: RunSettings,
    features: Features,
    mode: Mode,
    microbatches: int = 1,
    compute_loss: bool = True,
) -> tuple[mtf.Tensor, mtf.Tensor | None]:
    """Calls a model on whole sequences, and computes its loss.

    Args:
      model: A transformer.Bitransformer or Unitransformer.
      settings: The settings of the run.
      features: Those of `import_features`.
      mode: "train", "eval" or "score".
      microbatches: Microbatches per step. The loss is divided by it.
      compute_loss: Whether the loss is computed.

    Returns:
      Logits [O, B, L, V] in the type of activations, and the loss, a scalar of that type: the
      cross-entropy of `target_loss` and the auxiliary losses of the layers. Without
      `compute_loss`, it is None.
    """
    options = dict(
        targets=features["targets"],
        compute_loss=compute_loss,
        mode=mode,
        variable_dtype=utils.get_variable_dtype(),
        num_microbatches=microbatches,
    )
    if isinstance(model, transformer.Unitransformer):
        is_language_model = settings.model_type in _LANGUAGE_MODELS
        inputs = features["targets" if is_language_model else "inputs"]
        sequence_id = features.get("targets_segmentation")
        if sequence_id is None:
            sequence_id = _mark_tokens(inputs)
        if is_language_model:
            inputs = transformer.autoregressive_inputs(inputs, sequence_id)
        position = features.get("targets_position")
        return model.call_simple(
            inputs=inputs, sequence_id=sequence_id, position=position, **options
        )
    return model.call_simple(
        inputs=features["inputs"],
        encoder_sequence_id=features.get("inputs_segmentation"),
        decoder_sequence_id=features.get("targets_segmentation"),
        decoder_subsequence_id=features.get("targets_subsegmentation"),
        encoder_position=features.get("inputs_position"),
        decoder_position=features.get("targets_position"),
        **options,
    )


def _mark_tokens(ids: mtf.Tensor) -> mtf.Tensor:
    """Returns the ids of sequences in rows of one sequence each: 1, and 0 for padding, int32.

    Mesh TF makes them up for a Bitransformer only. Without them no layer knows the padding.
    """
    return mtf.cast(mtf.not_equal(ids, 0), tf.int32)

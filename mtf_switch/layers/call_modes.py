"""What a call of a layer is for, read from Mesh TF's context."""

from __future__ import annotations

import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers.capacity import CapacityMode


def sees_sequences(context: transformer.Context) -> bool:
    """Whether the call has whole sequences, or the prompts before decoding.

    It does not while decoding token by token, nor in the first part of a decoder that has an
    encoder, because Mesh TF discards the results of that part.
    """
    if context.mode == "first_part":
        return context.encoder_output is None
    return context.mode in ("train", "eval", "score", tf.estimator.ModeKeys.PREDICT)


def get_capacity_mode(context: transformer.Context) -> CapacityMode:
    """Returns the mode that selects the capacity factor of a call."""
    if context.mode == "incremental":
        return "decode"
    return "train" if context.train else "eval"

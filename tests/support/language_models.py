"""Steps of tiny language models, run once on given ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun

from mtf_switch.model import switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl

# Slots for every token in every expert: nothing is dropped.
NO_DROP = {"ExpertCapacity.capacity_factor_eval": "4.0", "ExpertCapacity.group_size": "None"}


@dataclasses.dataclass(frozen=True)
class Results:
    """What a step computed.

    Attributes:
      outputs: Its outputs by name; see its builder.
      tokens, dropped: The tokens that its one Switch layer routed, and those it dropped.
    """

    outputs: Mapping[str, np.ndarray]
    tokens: int
    dropped: int


def make_params(model_type: str, length: int) -> dict[str, str]:
    """Returns the gin values of a model with one block, and inputs and targets of one length."""
    return {
        "utils.run.model_type": repr(model_type),
        "transformer.make_layer_stack.layers": (
            "[@transformer_layers.SelfAttention, @SwitchFFN]"
        ),
        "Unitransformer.shared_embedding_and_softmax_weights": "False",
        "utils.run.sequence_length": f"{{'inputs': {length}, 'targets': {length}}}",
    }


def run_step(
    tiny: TinyRun,
    params: Mapping[str, str],
    build: Callable,
    features: Mapping[str, np.ndarray],
) -> Results:
    """Runs a step of `inference_steps` with the initial weights.

    Args:
      tiny: The run.
      params: Gin values on top of those of the tiny run.
      build: A builder of `inference_steps`.
      features: [B, L] int32 by name, which also give B.
    """
    rows = len(next(iter(features.values())))
    settings, vocabulary = tiny.parse({"utils.run.batch_size": str(rows), **params})
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        tf.train.get_or_create_global_step()
        model = switch_transformer.build(settings, vocabulary)
        batch = {name: tf.constant(ids, tf.int32) for name, ids in features.items()}
        step = build(model, settings, batch, SeededPlacementMeshImpl([], [], [""]))
        session.run(tf.global_variables_initializer())
        session.run(step.lowering.copy_masters_to_slices())
        outputs, sums = session.run([step.outputs, step.router_sums])
    ((tokens, dropped, *_),) = sums.values()
    return Results(outputs, int(tokens), int(dropped))

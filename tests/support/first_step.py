"""Runs a first training step without noise, for its loss and its routers' metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import tensorflow.compat.v1 as tf
from tiny_run import TinyRun

from mtf_switch.model import switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.runs import training_data, training_step
from mtf_switch.runs.training_step import TrainingStep

# Training without jitter and dropout.
QUIET = {
    "Exploration.jitter": "0.0",
    "dropout_rate": "0.0",
    "SwitchFFN.expert_dropout_rate": "0.0",
}


@contextlib.contextmanager
def build_first_step(
    tiny: TinyRun, params: Mapping[str, str], change_batch: Callable = lambda batch: batch
) -> Iterator[tuple[tf.Session, TrainingStep, dict[str, tf.Tensor]]]:
    """Builds the first training step of a run, with initialized variables.

    Args:
      tiny: The run.
      params: Gin values on top of QUIET.
      change_batch: Maps the features of the batch to those that the model gets.

    Yields:
      A session, the step, and the features that the model gets.
    """
    settings, vocabulary = tiny.parse(params={**QUIET, **params})
    config = tf.ConfigProto()
    # Optimizing the graph takes longer than running it once.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        tf.set_random_seed(settings.seed)
        tf.train.get_or_create_global_step()
        features = training_data.make_train_input_fn(settings, 0)({})
        batch = change_batch(tf.data.make_one_shot_iterator(features).get_next())
        model = switch_transformer.build(settings, vocabulary)
        mesh_impl = SeededPlacementMeshImpl(settings.mesh_shape, settings.layout_rules, [""])
        step = training_step.build(model, settings, batch, mesh_impl)
        session.run(tf.global_variables_initializer())
        yield session, step, batch


def run_first_step(tiny, params):
    """Runs the first training step of a run with other gin values, optimizer included.

    Returns:
      The loss in float32, and the sums of the routers by layer.
    """
    with build_first_step(tiny, params) as (session, step, _):
        loss, sums, _ = session.run([step.loss, step.router_sums, step.train_op])
        return loss, sums

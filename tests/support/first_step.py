"""Runs a first training step without noise, for its loss and its routers' metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow.compat.v1 as tf
from tiny_run import TinyRun

from mtf_switch.layers import router_metrics
from mtf_switch.runs import data, estimator
from mtf_switch.runs.run import Run

# Training without jitter and dropout.
QUIET = {
    "Exploration.jitter": "0.0",
    "dropout_rate": "0.0",
    "SwitchFFN.expert_dropout_rate": "0.0",
}


@contextlib.contextmanager
def build_first_step(
    tiny: TinyRun, params: Mapping[str, str], change_batch: Callable = lambda batch: batch
) -> Iterator[tuple[tf.Session, Any, dict[str, tf.Tensor]]]:
    """Builds the first training step of a run, with initialized variables.

    Args:
      tiny: The run.
      params: Gin values on top of QUIET.
      change_batch: Maps the features of the batch to those that the model gets.

    Yields:
      A session, the EstimatorSpec of the step, and the features that the model gets.
    """
    run = Run(*tiny.parse(params={**QUIET, **params}), model_dir="unused")
    config = tf.ConfigProto()
    # Optimizing the graph takes longer than running it once.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        tf.set_random_seed(run.settings.seed)
        tf.train.get_or_create_global_step()
        features = data.make_train_input_fn(run.settings, 0)({})
        batch = change_batch(tf.data.make_one_shot_iterator(features).get_next())
        runner = estimator.build(run)
        # A copy, as the model function may take features out.
        spec = runner._call_model_fn(dict(batch), None, "train", runner.config)
        session.run(tf.global_variables_initializer())
        yield session, spec, batch


def run_first_step(tiny, params):
    """Runs the first training step of a run with other gin values, optimizer included.

    Returns:
      The loss in float32, and the sums of the routers by layer.
    """
    with build_first_step(tiny, params) as (session, spec, _):
        sums = router_metrics.collect_sums(tf.get_default_graph())
        loss, sums, _ = session.run([spec.loss, sums, spec.train_op])
        return loss, sums

"""Makes of a step what an Estimator needs to run it: a spec with hooks and summaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from tensorflow.python.tpu import tpu_estimator

from mtf_switch.runs import eval_metrics, router_summaries, run_saver
from mtf_switch.runs.inference_steps import InferenceStep
from mtf_switch.runs.objective import ORDINARY, Objective
from mtf_switch.runs.run import Run
from mtf_switch.runs.training_step import TrainingStep

MakeHooks = Callable[[TrainingStep], list]


def make_training_spec(
    run: Run, step: TrainingStep, make_hooks: MakeHooks, objective: Objective = ORDINARY
) -> Any:
    """Makes the spec of a training step.

    Training starts from the objective's initial weights if the model_dir has no checkpoint, and
    saves the run in its model_dir.

    Args:
      run: The run.
      step: The step, in the default graph.
      make_hooks: Makes further hooks from the step, for a run on this machine. They come before
        the checkpoint saver.
      objective: The objective of the step.

    Returns:
      An EstimatorSpec, or a TPUEstimatorSpec for a run on a TPU.
    """
    with mtf.utils.outside_all_rewrites():
        if isinstance(step.learning_rate, tf.Tensor):
            tf.summary.scalar("learning_rate", step.learning_rate)
        objective.load_initial_weights(run.settings, run.model_dir)
        # The slices of variables get their values before anything is saved.
        hooks = [mtf.MtfRestoreHook(step.lowering), _make_saver_hook(run, step.lowering)]
    mode = tf.estimator.ModeKeys.TRAIN
    if run.on_tpu:
        return tpu_estimator.TPUEstimatorSpec(
            mode,
            loss=step.loss,
            train_op=step.train_op,
            host_call=router_summaries.make_host_call(run.model_dir, step.router_sums),
            training_hooks=hooks,
        )
    router_summaries.add_summaries(step.router_sums)
    tf.summary.scalar("gradient_norm", step.gradient_norm)
    return tf.estimator.EstimatorSpec(
        mode,
        loss=step.loss,
        train_op=step.train_op,
        training_chief_hooks=[*make_hooks(step), *hooks],
    )


def _make_saver_hook(run: Run, lowering: mtf.Lowering) -> tf.train.CheckpointSaverHook:
    saver = run_saver.make(run)
    # Estimator restores with the saver of this collection.
    tf.add_to_collection(tf.GraphKeys.SAVERS, saver)
    return _SaverHook(
        run.model_dir,
        save_steps=run.settings.save_checkpoints_steps,
        saver=saver,
        save_graph_def=False,
        listeners=[mtf.MtfCheckpointSaverListener(lowering)],
    )


class _SaverHook(tf.train.CheckpointSaverHook):
    """Saves the variables, and never the graph, which each command builds itself.

    TensorFlow's hook writes the graph into graph.pbtxt, into model.ckpt-N.meta, and twice into
    TensorBoard's events: 15 MB for a model of 0.8M parameters.
    """

    def begin(self) -> None:
        with tf.Graph().as_default():
            # A new writer begins with the default graph.
            tf.summary.FileWriterCache.get(self._checkpoint_dir)
        super().begin()

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        del coord
        step = session.run(self._global_step_tensor)
        self._save(session, step)
        self._timer.update_last_triggered_step(step)


def make_evaluation_spec(
    run: Run, step: InferenceStep, task_numbers: tf.Tensor | None
) -> tpu_estimator.TPUEstimatorSpec:
    """Makes the spec of a step of `inference_steps.build_evaluation`.

    Args:
      run: The run.
      step: The step.
      task_numbers: The feature `task_sums.TASK_NUMBER`, or None.
    """
    metrics = eval_metrics.make_all(run, step.outputs, step.router_sums, task_numbers)
    with mtf.utils.outside_all_rewrites():
        restore = mtf.MtfRestoreHook(step.lowering)
    return tpu_estimator.TPUEstimatorSpec(
        tf.estimator.ModeKeys.EVAL,
        loss=step.outputs["loss"],
        eval_metrics=metrics,
        evaluation_hooks=[restore],
    )


def make_prediction_spec(step: InferenceStep) -> tpu_estimator.TPUEstimatorSpec:
    """Makes the spec of a step that scores or decodes."""
    predictions = dict(step.outputs)
    if step.router_sums:
        predictions = router_summaries.add_to_predictions(predictions, step.router_sums)
    return tpu_estimator.TPUEstimatorSpec(
        tf.estimator.ModeKeys.PREDICT,
        predictions=predictions,
        prediction_hooks=[mtf.MtfRestoreHook(step.lowering)],
    )

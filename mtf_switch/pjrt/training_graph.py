"""The graph of training: the batches, the program of a step, and the master variables."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import training_util

from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.model_dirs.restoring import CheckShapesHook, SlotSkippingSaver
from mtf_switch.pjrt import step_results
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.executable import Executable
from mtf_switch.pjrt.masters import Masters
from mtf_switch.pjrt.mesh_impl import PjrtMeshImpl
from mtf_switch.programs.program import Program
from mtf_switch.runs import run_saver, step_program, training_step
from mtf_switch.runs.objective import Objective
from mtf_switch.runs.run import Run
from mtf_switch.runs.training_step import TrainingStep


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A lowered training step, which is not compiled yet.

    Attributes:
      graph: The TensorFlow graph.
      iterator: Makes the batches.
      features: The next batch, by the name of the feature.
      masters: The master variables, which have no values yet.
      program: The program of the step.
      saver: Saves and restores the master variables.
    """

    graph: tf.Graph
    iterator: tf.data.Iterator
    features: dict[str, tf.Tensor]
    masters: Masters
    program: Program
    saver: SlotSkippingSaver


@dataclasses.dataclass(frozen=True)
class TrainingGraph:
    """A compiled training step, with all that the host needs to run it.

    Attributes:
      graph: The TensorFlow graph.
      features: The next batch, by the name of the feature.
      masters: The master variables.
      executable: The compiled step.
      saver: Saves and restores the master variables.
    """

    graph: tf.Graph
    features: dict[str, tf.Tensor]
    masters: Masters
    executable: Executable
    saver: SlotSkippingSaver

    def read_batch(self) -> dict[str, np.ndarray]:
        """Reads the next batch."""
        return self.masters.session.run(self.features)

    def save(self, model_dir: str, step: int) -> None:
        """Saves the master variables, which have the values after a step."""
        with self.graph.as_default():
            self.saver.save(
                self.masters.session,
                os.path.join(model_dir, "model.ckpt"),
                global_step=step,
                write_meta_graph=False,
            )


def build(
    run: Run, model: Any, input_fn: Callable, mesh: DeviceMesh, objective: Objective
) -> TrainingGraph:
    """Builds the graph of training, compiles its step, and restores the latest checkpoint.

    Args:
      run, model, input_fn, mesh, objective: See `lower`.

    Raises:
      UserError: If the model or the checkpoint cannot be used.
    """
    latest = saved_checkpoints.find_latest_if_any(run.model_dir)
    lowered = lower(run, model, input_fn, mesh, objective, latest)
    with lowered.graph.as_default():
        _restore(lowered.masters, lowered.saver, run.model_dir, latest)
    return compile_step(lowered, mesh)


def lower(
    run: Run,
    model: Any,
    input_fn: Callable,
    mesh: DeviceMesh,
    objective: Objective,
    latest: str | None = None,
) -> LoweredStep:
    """Builds the graph of training, and lowers its step.

    The operations are made in the same order as the Estimator's, because the initial values of
    the variables depend on it.

    Args:
      run: The run.
      model: The model that `switch_transformer.build` made.
      input_fn: Makes the dataset of the batches.
      mesh: The devices.
      objective: What the step minimizes.
      latest: The checkpoint that must have the variables of the step, if any.

    Raises:
      UserError: If the model or the checkpoint cannot be used.
    """
    settings = run.settings
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(settings.seed)
        tf.train.create_global_step()
        training_util._get_or_create_global_step_read(graph)
        iterator = tf.data.make_initializable_iterator(input_fn({}))
        features = dict(iterator.get_next())
        mesh_impl = PjrtMeshImpl(settings.mesh_shape, settings.layout_rules)
        step = training_step.build(
            *(model, settings, features, mesh_impl),
            model_info_file=settings.model_info_file,
            objective=objective,
        )
        if latest:
            CheckShapesHook(latest).begin()
        objective.load_initial_weights(settings, run.model_dir)
        saver = run_saver.make(run)
        program = step_program.make_program(mesh_impl, features, _list_results(step))
        masters = Masters(step.lowering, program, mesh)
    return LoweredStep(graph, iterator, features, masters, program, saver)


def compile_step(lowered: LoweredStep, mesh: DeviceMesh) -> TrainingGraph:
    """Compiles a step for the devices, and starts its batches from the first one.

    Args:
      lowered: The step, whose master variables have values.
      mesh: The devices.

    Raises:
      UserError: If the compiler refuses the step.
    """
    lowered.masters.session.run(lowered.iterator.initializer)
    return TrainingGraph(
        *(lowered.graph, lowered.features, lowered.masters),
        *(Executable(lowered.program, mesh), lowered.saver),
    )


def _list_results(step: TrainingStep) -> dict[str, tf.Tensor]:
    """Returns the results of a lowered step."""
    results = {step_results.LOSS: step.loss, step_results.TARGET_SUMS: step.target_sums}
    results[step_results.GRADIENT_NORM] = step.gradient_norm
    if isinstance(step.learning_rate, tf.Tensor):
        results[step_results.LEARNING_RATE] = step.learning_rate
    return {
        **results,
        **{step_results.ROUTER_SUMS + name: sums for name, sums in step.router_sums.items()},
    }


def _restore(
    masters: Masters, saver: SlotSkippingSaver, model_dir: str, latest: str | None
) -> None:
    if latest is None:
        masters.initialize()
        return
    saver.restore(masters.session, latest)
    state = tf.train.get_checkpoint_state(model_dir)
    # The saver removes these in time, as if it had saved them.
    saver.recover_last_checkpoints(state.all_model_checkpoint_paths if state else [latest])

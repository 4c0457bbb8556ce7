"""Measures the loss on validation examples while a run trains."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.model import switch_transformer
from mtf_switch.runs import data, estimator, inference_steps, task_sums, validation_steps
from mtf_switch.runs.run import Run
from mtf_switch.runs.validation_steps import ValidationSteps


class Validation(ValidationSteps):
    """Measures the loss with TensorFlow.

    The graph is built once. It has its own copy of the variables.
    """

    def measure(self, read_variables: Callable[[list[str]], Mapping[str, np.ndarray]]) -> float:
        """Returns the mean cross-entropy in nats per target token.

        Args:
          read_variables: Returns the values of the variables with the given names.
        """
        program = self._program
        names = [variable.op.name for variable in program.variables]
        values = read_variables(names)
        for variable, name in zip(program.variables, names):
            variable.load(values[name], program.session)
        program.session.run(program.prepare)
        return validation_steps.compute_mean(self._run, self._run_batches(program))

    def _run_batches(self, program: _Program) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with contextlib.suppress(tf.errors.OutOfRangeError):
            while True:
                yield program.session.run(program.outputs)

    @functools.cached_property
    def _program(self) -> _Program:
        return _build(self._run)


@dataclasses.dataclass(frozen=True)
class _Program:
    """The graph of validation in its own session.

    Attributes:
      session: The session.
      variables: The variables of the model.
      prepare: Operations to run after the variables have new values.
      outputs: Cross-entropy and weight of each target position of a batch, [O, B, L] float32.
    """

    session: tf.Session
    variables: list[tf.Variable]
    prepare: list[Any]
    outputs: tuple[tf.Tensor, tf.Tensor]


def _build(run: Run) -> _Program:
    settings = run.settings
    from_memory = data.read_into_memory(validation_steps.make_input_fn(run))
    devices = estimator.assign_devices(settings.layout.size)
    with tf.Graph().as_default():
        tf.train.create_global_step()
        iterator = tf.data.make_initializable_iterator(from_memory())
        features = dict(iterator.get_next())
        features.pop(task_sums.TASK_NUMBER, None)
        model = switch_transformer.build(settings, run.vocabulary)
        mesh_impl, _ = estimator.make_mesh_impl(settings, devices)
        step = inference_steps.build_evaluation(model, settings, features, mesh_impl)
        copy_to_slices = step.lowering.copy_masters_to_slices()
        global_step = tf.train.get_global_step()
        variables = [v for v in tf.global_variables() if v is not global_step]
        session = tf.Session(config=estimator.session_config(False, devices))
        session.run(tf.global_variables_initializer())
        outputs = (step.outputs["cross_entropy"], step.outputs["weights"])
        return _Program(session, variables, [copy_to_slices, iterator.initializer], outputs)

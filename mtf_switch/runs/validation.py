"""Measures the loss on validation examples while a run trains."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from t5.models import mesh_transformer
from tqdm import tqdm

from mtf_switch.errors import UserError, name_program
from mtf_switch.model import switch_transformer
from mtf_switch.runs import data, estimator, inference_steps, task_sums
from mtf_switch.runs.run import Run

SPLIT = "validation"


class Validation:
    """Measures the loss at every n-th step and at the last one, on the same examples.

    The examples are the first batches of the validation split, as `eval --eval_batches` reads
    them. Their graph is built once. It has its own copy of the variables.
    """

    def __init__(self, run: Run):
        """Prepares the validation of a run, which `run_config.eval_every_steps` configures.

        Raises:
          UserError: If the run is on a TPU, or its task has no validation split.
        """
        self._run = run
        self._every = run.settings.eval_every_steps
        if not self._every:
            return
        if run.on_tpu:
            raise UserError(
                f"run_config.eval_every_steps is {self._every}, but a run on a TPU does not "
                "stop to validate. Set it to 0, and evaluate its checkpoints in another "
                f"process: {name_program()} eval --follow."
            )
        cached = data.is_cached(mesh_transformer.mesh_eval_dataset_fn)
        data.check_readable(run.settings.task, SPLIT, cached)

    def is_due(self, step: int) -> bool:
        """Whether the loss is to be measured after a step."""
        if not self._every:
            return False
        # A run that is shorter than one interval is not validated.
        is_last = step == self._run.settings.train_steps > self._every
        return is_last or step % self._every == 0

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
        nats = tokens = 0.0
        bar = tqdm(desc="validation", unit="batch", leave=False, dynamic_ncols=True)
        with bar, contextlib.suppress(tf.errors.OutOfRangeError):
            while True:
                entropy, weights = program.session.run(program.outputs)
                nats += float(np.sum(entropy * weights, dtype=np.float64))
                tokens += float(np.sum(weights, dtype=np.float64))
                bar.update()
        return nats / max(tokens, 1.0)

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
    read = data.make_eval_input_fn(settings, SPLIT, settings.eval_batches)
    from_memory = data.read_into_memory(read)
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

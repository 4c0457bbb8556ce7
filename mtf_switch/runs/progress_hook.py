"""The progress of a run that TensorFlow's Estimator trains, and its validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import tensorflow.compat.v1 as tf

from mtf_switch.model_dirs.best_checkpoint import BestCheckpoint
from mtf_switch.runs.progress import Progress, StepResults
from mtf_switch.runs.run import Run
from mtf_switch.runs.training_step import TrainingStep


class Validates(Protocol):
    """The interface of `validation.Validation`."""

    def is_due(self, step: int) -> bool:
        """Whether the loss is to be measured after a step."""

    def measure(self, read_variables: Callable[[list[str]], Mapping[str, Any]]) -> float:
        """Returns the mean cross-entropy in nats per target token."""


class ProgressHook(tf.estimator.SessionRunHook):
    """Shows the progress of the Estimator, and stops it when the loss is not finite.

    The hook also measures the validation loss, and keeps the best checkpoint if asked to.
    The hook must come before the checkpoint saver, so that a bad step is not saved.
    """

    def __init__(self, step: TrainingStep, run: Run, validation: Validates):
        """Makes the hook.

        Args:
          step: The training step, with `target_sums`.
          run: The run; see `Progress`.
          validation: Measures the validation loss; see `validation.Validation`.
        """
        self._fetches = {
            "loss": step.loss,
            "sums": step.router_sums,
            "targets": step.target_sums,
        }
        self._run = run
        # They bring the master variables up to date.
        self._copies = step.lowering.copy_slices_to_masters()
        self._validation = validation
        self._progress: Progress | None = None

    def begin(self) -> None:
        self._global_step = tf.train.get_global_step()
        self._variables = {v.op.name: v for v in tf.global_variables()}
        model_dir = self._run.model_dir
        self._best = BestCheckpoint(model_dir) if self._run.settings.keep_best else None

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        del coord
        self._progress = Progress(self._run, int(session.run(self._global_step)))

    def before_run(self, run_context: Any) -> tf.estimator.SessionRunArgs:
        del run_context
        self._began = time.perf_counter()
        return tf.estimator.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        seconds = time.perf_counter() - self._began
        fetched = run_values.results
        results = StepResults(float(fetched["loss"]), fetched["sums"], fetched["targets"])
        step, loss, is_best = self._progress.step + 1, None, False
        results.check(step)
        if self._validation.is_due(step):
            loss, is_best = self._validate(run_context.session, step)
        self._progress.add(results, seconds, loss, is_best)

    def _validate(self, session: tf.Session, step: int) -> tuple[float, bool]:
        """Measures the validation loss, and keeps the checkpoint if it is the best one."""
        session.run(self._copies)
        loss = self._validation.measure(
            lambda names: session.run({name: self._variables[name] for name in names})
        )
        return loss, self._best is not None and self._best.offer(session, step, loss)

    def end(self, session: tf.Session) -> None:
        del session
        self.close()

    def close(self) -> None:
        """Ends the progress bar at its current step, and closes the log."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

"""The progress bar of a training run, which also stops it when the loss is not finite."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from mtf_switch.errors import UserError
from mtf_switch.model_dirs.best_checkpoint import BestCheckpoint
from mtf_switch.model_dirs.train_log import TrainLog
from mtf_switch.runs import target_loss
from mtf_switch.runs.router_alarm import RouterAlarm
from mtf_switch.runs.run import Run
from mtf_switch.runs.speed_summaries import SpeedSummaries
from mtf_switch.runs.training_step import TrainingStep


class Validates(Protocol):
    """The interface of `validation.Validation`."""

    def is_due(self, step: int) -> bool:
        """Whether the loss is to be measured after a step."""

    def measure(self, read_variables: Callable[[list[str]], Mapping[str, Any]]) -> float:
        """Returns the mean cross-entropy in nats per target token."""


class ProgressHook(tf.estimator.SessionRunHook):
    """Shows step, loss, tokens/s, dropped tokens and time left, and logs each step.

    The loss on the bar is the cross-entropy in nats per real target token; see `target_loss`.
    The hook also measures the validation loss, and keeps the best checkpoint if asked to.
    The hook must come before the checkpoint saver, so that a bad step is not saved.
    """

    def __init__(self, step: TrainingStep, run: Run, validation: Validates):
        """Makes the hook.

        Args:
          step: The training step, with `target_sums`.
          run: The run, whose model_dir gets the log and names the progress bar.
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
        self._validated = ""
        self._bar: tqdm | None = None
        self._alarm = RouterAlarm()

    def begin(self) -> None:
        self._global_step = tf.train.get_global_step()
        self._variables = {v.op.name: v for v in tf.global_variables()}
        model_dir = self._run.model_dir
        self._best = BestCheckpoint(model_dir) if self._run.settings.keep_best else None

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        del coord
        start = int(session.run(self._global_step))
        self._log = TrainLog(self._run.model_dir, start)
        self._speed = SpeedSummaries(self._run, start)
        self._bar = tqdm(
            total=self._run.settings.train_steps,
            initial=start,
            desc=os.path.basename(os.path.normpath(self._run.model_dir)),
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def before_run(self, run_context: Any) -> tf.estimator.SessionRunArgs:
        del run_context
        self._began = time.perf_counter()
        return tf.estimator.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        seconds = time.perf_counter() - self._began
        loss = float(run_values.results["loss"])
        step = self._bar.n + 1
        if not math.isfinite(loss):
            raise LossIsNotFinite(step, loss)
        for sentence in self._alarm.watch(step, run_values.results["sums"]):
            tqdm.write(sentence, file=sys.stderr)
        dropped = compute_dropped_fraction(run_values.results["sums"])
        nats = target_loss.nats_per_token(run_values.results["targets"])
        measured = None
        if self._validation.is_due(step):
            measured = self._validate(run_context.session, step)
        self._log.append(step, seconds, loss, dropped, nats, measured)
        self._speed.add(step, seconds, nats, measured)
        tokens_per_second = self._run.settings.tokens_per_batch / seconds
        text = f"loss {loss if nats is None else nats:.3f}, {tokens_per_second:,.0f} tokens/s"
        if dropped is not None:
            text += f", dropped {dropped:.1%}"
        self._bar.set_postfix_str(text + self._validated, refresh=False)
        self._bar.update()

    def _validate(self, session: tf.Session, step: int) -> float:
        """Measures the validation loss, and keeps the checkpoint if it is the best one."""
        session.run(self._copies)
        loss = self._validation.measure(
            lambda names: session.run({name: self._variables[name] for name in names})
        )
        self._validated = f", validation {loss:.3f} at {step}"
        if self._best is not None and self._best.offer(session, step, loss):
            self._validated += " (best)"
        return loss

    def end(self, session: tf.Session) -> None:
        del session
        self.close()

    def close(self) -> None:
        """Ends the progress bar at its current step, and closes the log."""
        if self._bar is not None:
            self._bar.close()
            self._log.close()
            self._speed.close()
            self._bar = None


class LossIsNotFinite(UserError):
    """The training loss is NaN or infinite. The run stops before it saves the step."""

    def __init__(self, step: int, loss: float):
        super().__init__(f"The loss is {loss} at step {step}.")
        self.step = step


def compute_dropped_fraction(sums: dict[str, np.ndarray]) -> float | None:
    """Returns the share of tokens that all layers dropped; None without Switch layers.

    Args:
      sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.
    """
    if not sums:
        return None
    routed = sum(float(vector[0]) for vector in sums.values())
    return sum(float(vector[1]) for vector in sums.values()) / max(routed, 1.0)

"""What a user sees of a training run: one line, and a stop when the loss is lost."""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Optional

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from mtf_switch import router_metrics
from mtf_switch.errors import UserError


class ProgressHook(tf.estimator.SessionRunHook):
    """Shows step, loss, tokens/s, dropped share and time left, and watches the loss."""

    def __init__(
        self,
        loss: tf.Tensor,
        total_steps: int,
        tokens_per_batch: int,
        description: str = "train",
        on_step: Optional[Callable[[int, float], None]] = None,
    ):
        """Makes the hook.

        Args:
          loss: float32 scalar, the training loss: cross-entropy in nats per position plus
            auxiliary losses.
          total_steps: where the run ends.
          tokens_per_batch: positions of a step.
          description: at the start of the line.
          on_step: called with (step, loss) after each step.
        """
        self._loss = loss
        self._total_steps = total_steps
        self._tokens_per_batch = tokens_per_batch
        self._description = description
        self._on_step = on_step
        self._bar: Optional[tqdm] = None

    def begin(self) -> None:
        self._fetches = {
            "loss": self._loss,
            "step": tf.train.get_global_step(),
            "sums": router_metrics.recorded(tf.get_default_graph()),
        }

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        del coord
        self._start = int(session.run(self._fetches["step"]))
        self._started: Optional[float] = None
        self._bar = tqdm(
            total=self._total_steps, initial=self._start, desc=self._description, unit="step",
            dynamic_ncols=True, smoothing=0.1,
        )  # fmt: skip

    def before_run(self, run_context: Any) -> tf.estimator.SessionRunArgs:
        del run_context
        return tf.estimator.SessionRunArgs(self._fetches)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        del run_context
        loss = float(run_values.results["loss"])
        step = self._bar.n + 1
        if not math.isfinite(loss):
            raise LossIsNotFinite(step, loss)
        self._bar.set_postfix_str(self._postfix(step, loss, run_values.results["sums"]), False)
        self._bar.update()
        if self._on_step is not None:
            self._on_step(step, loss)

    def _postfix(self, step: int, loss: float, sums: dict[str, np.ndarray]) -> str:
        now = time.perf_counter()
        if self._started is None:
            # The first step includes the allocation of everything.
            self._started, self._first_step = now, step
            speed = ""
        else:
            tokens = (step - self._first_step) * self._tokens_per_batch
            speed = f", {tokens / (now - self._started):,.0f} tokens/s"
        dropped = dropped_fraction(sums)
        return f"loss {loss:.3f}{speed}" + ("" if dropped is None else f", dropped {dropped:.1%}")

    def end(self, session: tf.Session) -> None:
        del session
        self.close()

    def close(self) -> None:
        """Leaves the line as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LossIsNotFinite(UserError):
    """The training loss is NaN or infinite: the run stops before it is saved."""

    def __init__(self, step: int, loss: float):
        super().__init__(f"The loss is {loss} at step {step}.")
        self.step = step


def dropped_fraction(sums: dict[str, np.ndarray]) -> Optional[float]:
    """Share of all layers' tokens that were dropped; None without Switch layers."""
    if not sums:
        return None
    routed = sum(float(vector[0]) for vector in sums.values())
    return sum(float(vector[1]) for vector in sums.values()) / max(routed, 1.0)

"""The progress bar and the log of a training run."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Mapping

import numpy as np
from tqdm import tqdm

from mtf_switch.errors import UserError
from mtf_switch.model_dirs.train_log import TrainLog
from mtf_switch.runs import target_loss
from mtf_switch.runs.router_alarm import RouterAlarm
from mtf_switch.runs.run import Run
from mtf_switch.runs.speed_summaries import SpeedSummaries


@dataclasses.dataclass(frozen=True)
class StepResults:
    """The results of a training step.

    Attributes:
      loss: The training loss.
      sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.
      targets: The sums of `target_loss`, [2], or [3] with a teacher.
    """

    loss: float
    sums: Mapping[str, np.ndarray]
    targets: np.ndarray

    def check(self, step: int) -> None:
        """Checks the loss.

        Args:
          step: The number of the step.

        Raises:
          LossIsNotFinite: If the step is bad, and must not be saved.
        """
        if not math.isfinite(self.loss):
            raise LossIsNotFinite(step, self.loss)


class Progress:
    """Shows step, loss, tokens/s, dropped tokens and time left, and logs each step.

    The loss on the bar is the cross-entropy in nats per real target token; see `target_loss`.
    For a student, "teacher" is the same with the probabilities of its teacher.

    Attributes:
      step: The last step that was added.
    """

    def __init__(self, run: Run, start: int):
        """Shows the bar, and opens the log, in the graph of the run's summaries.

        Args:
          run: The run, whose model_dir gets the log and names the progress bar.
          start: The step at which the run starts.
        """
        self._tokens = run.settings.tokens_per_batch
        self._log = TrainLog(run.model_dir, start)
        self._speed = SpeedSummaries(run, start)
        self._alarm = RouterAlarm()
        self._validated = ""
        # The bar cannot tell it: a disabled one does not count.
        self.step = start
        self._bar = tqdm(
            total=run.settings.train_steps,
            initial=start,
            desc=os.path.basename(os.path.normpath(run.model_dir)),
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def add(
        self,
        results: StepResults,
        seconds: float,
        validation: float | None = None,
        is_best: bool = False,
    ) -> None:
        """Adds the next step.

        Args:
          results: Its results.
          seconds: Its time.
          validation: The validation loss after it, or None.
          is_best: Whether this is the lowest one so far, whose checkpoint is kept.
        """
        self.step = step = self.step + 1
        for sentence in self._alarm.watch(step, results.sums):
            tqdm.write(sentence, file=sys.stderr)
        if validation is not None and not math.isfinite(validation):
            tqdm.write(_describe_bad_validation(step, validation), file=sys.stderr)
        dropped = compute_dropped_fraction(results.sums)
        nats = target_loss.nats_per_token(results.targets)
        taught = target_loss.teacher_nats_per_token(results.targets)
        self._log.append(step, seconds, results.loss, dropped, nats, validation, taught)
        self._speed.add(step, seconds, nats, validation, taught)
        text = f"loss {results.loss if nats is None else nats:.3f}, "
        text += f"teacher {taught:.3f}, " if taught is not None else ""
        text += f"{self._tokens / seconds:,.0f} tokens/s"
        if dropped is not None:
            text += f", dropped {dropped:.1%}"
        if validation is not None:
            self._validated = f", validation {validation:.3f} at {step}" + " (best)" * is_best
        self._bar.set_postfix_str(text + self._validated, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Ends the progress bar at its current step, and closes the log."""
        self._bar.close()
        self._log.close()
        self._speed.close()


def _describe_bad_validation(step: int, loss: float) -> str:
    """Says what becomes of a validation loss that is NaN or infinite."""
    return (
        f"The validation loss after step {step} is {loss}: the last update has spoiled the "
        "weights, or a number was too large for its type. train_log.csv has no value for it, "
        "and no checkpoint is kept as the best one for it."
    )


class LossIsNotFinite(UserError):
    """The training loss is NaN or infinite. The run stops before it saves the step."""

    def __init__(self, step: int, loss: float):
        super().__init__(f"The loss is {loss} at step {step}.")
        self.step = step


def compute_dropped_fraction(sums: Mapping[str, np.ndarray]) -> float | None:
    """Returns the share of tokens that all layers dropped; None without Switch layers.

    Args:
      sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.
    """
    if not sums:
        return None
    routed = sum(float(vector[0]) for vector in sums.values())
    return sum(float(vector[1]) for vector in sums.values()) / max(routed, 1.0)

"""When a run that trains measures its validation loss, and on which examples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import numpy as np
from t5.models import mesh_transformer
from tqdm import tqdm

from mtf_switch.errors import UserError, name_program
from mtf_switch.runs import data
from mtf_switch.runs.run import Run

SPLIT = "validation"


class ValidationSteps:
    """The steps after which the loss is measured: every n-th one, and the last one.

    The examples are the same every time: the first batches of the validation split, as
    `eval --eval_batches` reads them.
    """

    def __init__(self, run: Run):
        """Prepares the validation of a run, which `run_config.eval_every_steps` configures.

        Raises:
          UserError: If the run is on a TPU, its task has no validation split, or the best
            checkpoint is to be kept, but the run is shorter than one interval.
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
        steps = run.settings.train_steps
        if run.settings.keep_best and steps < self._every:
            raise UserError(
                "keep_best keeps the checkpoint with the lowest validation loss, but a run of "
                f"{steps} steps ends before its first validation, which is after {self._every} "
                f"steps (--eval_every): pass --eval_every={max(1, steps // 10)}, for example."
            )
        if steps < self._every:
            print(
                f"The validation loss is not measured: the run of {steps} steps is shorter "
                f"than --eval_every={self._every}.",
                file=sys.stderr,
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


def make_input_fn(run: Run) -> Callable:
    """Makes the input function of the batches that are read each time."""
    return data.make_eval_input_fn(run.settings, SPLIT, run.settings.eval_batches)


def compute_mean(run: Run, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Returns the mean cross-entropy in nats per target token, and shows a bar.

    Args:
      run: The run.
      batches: Cross-entropy and weight of each target position of a batch, [O, B, L] float32.

    Raises:
      UserError: If they have no target token.
    """
    nats = tokens = 0.0
    with tqdm(desc="validation", unit="batch", leave=False, dynamic_ncols=True) as bar:
        for entropy, weights in batches:
            nats += float(np.sum(entropy * weights, dtype=np.float64))
            tokens += float(np.sum(weights, dtype=np.float64))
            bar.update()
    if not tokens:
        raise data.SplitIsEmpty(run.settings.task, SPLIT)
    return nats / tokens

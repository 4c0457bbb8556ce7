"""When a run that trains measures its validation loss, and on which examples."""

from __future__ import annotations

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


def make_input_fn(run: Run) -> Callable:
    """Makes the input function of the batches that are read each time."""
    return data.make_eval_input_fn(run.settings, SPLIT, run.settings.eval_batches)


def compute_mean(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Returns the mean cross-entropy in nats per target token, and shows a bar.

    Args:
      batches: Cross-entropy and weight of each target position of a batch, [O, B, L] float32.
    """
    nats = tokens = 0.0
    with tqdm(desc="validation", unit="batch", leave=False, dynamic_ncols=True) as bar:
        for entropy, weights in batches:
            nats += float(np.sum(entropy * weights, dtype=np.float64))
            tokens += float(np.sum(weights, dtype=np.float64))
            bar.update()
    return nats / max(tokens, 1.0)

"""A progress bar for the Estimator's loops other than training. Only a terminal shows it."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf
from tqdm import tqdm


class StepBar(tf.estimator.SessionRunHook):
    """Counts the steps of an evaluation, such as "eval: 12/40 batches"."""

    def __init__(self, name: str, total: int | None):
        """Makes the hook.

        Args:
          name: The text before the bar.
          total: The number of steps; None if it is unknown.
        """
        self._name = name
        self._total = total

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        del session, coord
        self._bar = tqdm(
            desc=self._name,
            total=self._total,
            unit="batch",
            leave=False,
            dynamic_ncols=True,
            disable=None,
        )

    def after_run(self, run_context: Any, run_values: Any) -> None:
        del run_context, run_values
        self._bar.update()

    def end(self, session: tf.Session) -> None:
        del session
        self._bar.close()

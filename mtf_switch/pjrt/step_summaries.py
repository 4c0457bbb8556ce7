"""TensorBoard's curves of training, with the tags that the Estimator writes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.pjrt import step_results
from mtf_switch.pjrt.step_results import GRADIENT_NORM, LEARNING_RATE, LOSS
from mtf_switch.runs import router_summaries
from mtf_switch.runs.run import Run

_SCALARS = (LOSS, LEARNING_RATE, GRADIENT_NORM)


class StepSummaries:
    """Writes the summaries of steps: of the first one of a call, and of every n-th after it."""

    def __init__(self, run: Run, start: int):
        """Continues the curves of a run at step `start`, in the default graph."""
        self._first, self._every = start + 1, run.settings.summary_steps
        self._writer = tf.summary.FileWriterCache.get(run.model_dir)
        self._session: tf.Session | None = None

    def add(self, step: int, results: Mapping[str, np.ndarray]) -> None:
        """Adds a step.

        Args:
          step: Its number.
          results: Its results; see `training_graph`.
        """
        if (step - self._first) % self._every:
            return
        if self._session is None:
            self._build(results)
        fed = {tensor: results[name] for name, tensor in self._fed.items()}
        self._writer.add_summary(self._session.run(self._merged, fed), step)

    def _build(self, results: Mapping[str, np.ndarray]) -> None:
        """Makes a graph with the summary operations of the Estimator."""
        with tf.Graph().as_default() as graph:
            self._fed = {
                name: tf.placeholder(tf.float32, value.shape) for name, value in results.items()
            }
            for name in _SCALARS:
                if name in self._fed:
                    tf.summary.scalar(name, self._fed[name])
            router_summaries.add_summaries(step_results.select_router_sums(self._fed))
            self._merged = tf.summary.merge_all()
        config = tf.ConfigProto(device_count={"GPU": 0})
        self._session = tf.Session(graph=graph, config=config)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.flush()
        if self._session is not None:
            self._session.close()

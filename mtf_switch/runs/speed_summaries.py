"""Speed and losses per token in TensorBoard, which the graph of a step cannot know."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from mtf_switch.runs.run import Run


class SpeedSummaries:
    """Writes scalars next to the summaries of the graph, at the same interval."""

    def __init__(self, run: Run, start: int):
        """Continues the curves of a run at step `start`."""
        self._tokens = run.settings.tokens_per_batch
        self._every = run.settings.summary_steps
        # Estimator's own summaries go through the same writer.
        self._writer = tf.summary.FileWriterCache.get(run.model_dir)
        self._steps, self._seconds = 0, 0.0
        self._first = start + 1

    def add(
        self,
        step: int,
        seconds: float,
        nats_per_token: float | None,
        validation: float | None,
        teacher: float | None = None,
    ) -> None:
        """Adds a step. Its speed is the mean since the last point of the curve.

        Args:
          step: Number of the step.
          seconds: Its time.
          nats_per_token: Its cross-entropy; see `target_loss`.
          validation: The validation loss after it, in nats per token, or None.
          teacher: Its cross-entropy with a teacher's probabilities, in nats per token, or None.
        """
        self._steps += 1
        self._seconds += seconds
        values = {} if validation is None else {"validation_nats_per_token": validation}
        # Estimator writes the first step of a call, and then every n-th after it.
        if (step - self._first) % self._every == 0:
            speed = self._steps / self._seconds
            values |= {"steps_per_second": speed, "tokens_per_second": speed * self._tokens}
            if nats_per_token is not None:
                values["nats_per_token"] = nats_per_token
            if teacher is not None:
                values["teacher_nats_per_token"] = teacher
            self._steps, self._seconds = 0, 0.0
        if values:
            summary = tf.Summary()
            for tag, value in values.items():
                summary.value.add(tag=tag, simple_value=value)
            self._writer.add_summary(summary, step)

    def close(self) -> None:
        """Writes what is buffered."""
        self._writer.flush()

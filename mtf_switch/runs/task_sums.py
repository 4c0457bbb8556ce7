"""Evaluates each task of a mixture on its own, within one evaluation of the mixture.

The rows of a batch are numbered by their tasks. The sums of each task are accumulated over all
batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow.compat.v1 as tf

from mtf_switch.runs import batch_sums

# A feature of evaluation, [B] int32: the index of each row's task in `list_names`.
TASK_NUMBER = "task_number"

_RESULT = "task_sums"
# The sums of a task: log-likelihood (nats), correct tokens, tokens, and examples.
_SUMS = 4


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """The evaluation of one task of a mixture.

    Attributes:
      neg_log_perplexity: Minus the mean cross-entropy, in nats per target token.
      token_accuracy: Share of target tokens that the argmax predicts, teacher-forced.
      target_tokens: Number of target tokens that were scored.
      examples: Number of examples that were scored.
    """

    neg_log_perplexity: float
    token_accuracy: float
    target_tokens: int
    examples: int


def list_names(task: str) -> list[str]:
    """Returns the names of the tasks in a task or mixture."""
    return [part.name for part in seqio.get_subtasks(seqio.get_mixture_or_task(task))]


def add_to_eval_metrics(
    eval_metrics: tuple, numbers: tf.Tensor | None, tasks: Sequence[str]
) -> tuple:
    """Adds the sums of each task to Mesh TF's evaluation metrics.

    Args:
      eval_metrics: (metric function, tensors) from Mesh TF. The tensors are cross-entropy,
        predictions, targets and weights, [..., L] each, with B rows. Padding has a weight of 0.
      numbers: TASK_NUMBER, [B] int32; None if the tasks are not evaluated on their own.
      tasks: The names of the tasks.

    Returns:
      (metric function, tensors).
    """
    metric_fn, tensors = eval_metrics
    if numbers is None:
        return eval_metrics

    def compute_metrics(*args: tf.Tensor) -> dict[str, Any]:
        *of_tokens, numbers = args
        cross_entropy, predictions, targets, weights = (
            tf.reshape(tensor, [numbers.shape[0], -1]) for tensor in of_tokens
        )
        correct = tf.cast(tf.equal(predictions, targets), tf.float32)
        has_targets = tf.reduce_any(tf.greater(weights, 0), axis=-1)
        sums = [tf.reduce_sum(x * weights, -1) for x in (-cross_entropy, correct, 1.0)]
        of_rows = tf.stack([*sums, tf.cast(has_targets, tf.float32)], axis=-1)
        of_tasks = tf.math.unsorted_segment_sum(
            tf.cast(of_rows, tf.float64), numbers, len(tasks)
        )
        return {**metric_fn(*args[:-1]), _RESULT: batch_sums.accumulate(_RESULT, of_tasks)}

    return compute_metrics, [*tensors, numbers]


def read_results(results: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, TaskResult]:
    """Reads the result of each task from the results of an Estimator's `evaluate`.

    Args:
      results: The results.
      tasks: The names of the tasks.

    Returns:
      Task -> its result. Tasks without a target, such as those without the split, are left out.
    """
    if _RESULT not in results:
        return {}
    sums = np.asarray(results[_RESULT]).reshape(len(tasks), _SUMS)
    return {
        task: TaskResult(nats / tokens, correct / tokens, int(tokens), int(examples))
        for task, (nats, correct, tokens, examples) in zip(tasks, sums.tolist())
        if tokens
    }


def write_summaries(folder: str, step: int, results: Mapping[str, TaskResult]) -> None:
    """Writes TensorBoard's curves of each task, such as neg_log_perplexity/TASK.

    Args:
      folder: The folder of the evaluation's other curves.
      step: The step of the checkpoint.
      results: Task -> its result.
    """
    if not results:
        return
    values = [
        tf.Summary.Value(tag=f"{name}/{task}", simple_value=getattr(result, name))
        for task, result in results.items()
        for name in ("neg_log_perplexity", "token_accuracy")
    ]
    with tf.Graph().as_default():  # this writer needs graph mode
        writer = tf.summary.FileWriterCache.get(folder)
    writer.add_summary(tf.Summary(value=values), step)
    writer.flush()

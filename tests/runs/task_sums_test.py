"""The sums of each task of a mixture, against a loop over rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.runs import task_sums
from mtf_switch.runs.task_sums import TaskResult

TASKS = ["a", "without_split", "b"]
NUMBERS = [0, 2, 2, 0, 0]


def test_sums_are_those_of_a_loop_over_the_rows_of_two_batches(tmp_path: Path) -> None:
    chooser = np.random.RandomState(0)
    # Mesh TF adds a dimension for the mesh before the batch.
    shape = (2, 1, 5, 3)
    cross_entropy = chooser.uniform(0.5, 4.0, shape).astype(np.float32)
    targets = chooser.randint(1, 3, shape)
    predictions = chooser.randint(1, 3, shape)
    weights = chooser.randint(0, 2, shape).astype(np.float32)
    weights[:, :, 4] = 0.0  # a row of padding
    weights[:, :, 0] = 1.0
    expected = {task: np.zeros(4) for task in TASKS}
    for batch in range(2):
        for row, number in enumerate(NUMBERS):
            sums = expected[TASKS[number]]
            at = (batch, 0, row)
            for i in range(3):
                sums[0] -= float(cross_entropy[at][i]) * weights[at][i]
                sums[1] += float(predictions[at][i] == targets[at][i]) * weights[at][i]
                sums[2] += weights[at][i]
            sums[3] += bool(weights[at].any())

    with tf.Graph().as_default(), tf.Session() as session:
        numpy_tensors = (cross_entropy, predictions, targets, weights)
        fed = [tf.placeholder(array.dtype, shape[1:]) for array in numpy_tensors]
        metric_fn, tensors = task_sums.add_to_eval_metrics(
            (lambda *tensors: {"count": len(tensors)}, fed), tf.constant(NUMBERS), TASKS
        )
        metrics = metric_fn(*tensors)
        assert metrics.pop("count") == 4
        ((name, (total, update)),) = metrics.items()
        session.run(tf.local_variables_initializer())
        for batch in range(2):
            session.run(update, {t: array[batch] for t, array in zip(fed, numpy_tensors)})
        found = task_sums.read_results({name: session.run(total)}, TASKS)
    # float32 sums of three terms.
    for task in ("a", "b"):
        nats, correct, tokens, examples = expected[task]
        assert found[task].neg_log_perplexity == pytest.approx(nats / tokens, rel=1e-6)
        assert found[task].token_accuracy == pytest.approx(correct / tokens)
        assert (found[task].target_tokens, found[task].examples) == (tokens, examples)
    assert found.keys() == {"a", "b"}


def test_tensorboard_has_curves_of_each_task(tmp_path: Path) -> None:
    results = {"a": TaskResult(-2.5, 0.25, 8, 2), "b": TaskResult(-1.5, 0.5, 8, 2)}
    task_sums.write_summaries(str(tmp_path), 200, results)
    task_sums.write_summaries(str(tmp_path / "none"), 200, {})
    assert not (tmp_path / "none").exists()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    written = {
        value.tag: (event.step, value.simple_value)
        for event in tf.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert written == {
        "neg_log_perplexity/a": (200, -2.5),
        "token_accuracy/a": (200, 0.25),
        "neg_log_perplexity/b": (200, -1.5),
        "token_accuracy/b": (200, 0.5),
    }

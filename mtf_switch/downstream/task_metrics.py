"""Computes a task's own metrics, and averages over tasks as in T5 and the paper."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seqio
from t5.evaluation import eval_utils

# Task -> metric -> value, such as {"glue_cola_v002": {"matthews_corrcoef": 51.2}, ...}.
Scores = Mapping[str, Mapping[str, float]]

# This project's name of an average -> its column in T5's table.
_T5_AVERAGES = {
    "glue_average": "Average GLUE Score",
    "super_glue_average": "Average SuperGLUE Score",
}


def compute_metrics(
    task: seqio.Task, targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
    """Computes all metrics of a task; see `compute_metric`.

    Returns:
      Metric -> value, such as {"accuracy": 71.5}.
    """
    values = {}
    for metric_fn in task.predict_metric_fns:
        values.update(compute_metric(metric_fn, targets, predictions))
    return values


def compute_metric(
    metric_fn: Callable, targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
    """Computes one metric function of a task.

    An undefined value, such as a correlation with constant predictions, counts as 0. T5 reports
    NaN, with which the task would have no average and no best checkpoint.

    Args:
      metric_fn: One of the task's metric functions.
      targets: Postprocessed targets.
      predictions: Postprocessed predictions.

    Returns:
      Metric -> value; some functions compute several metrics.
    """
    with warnings.catch_warnings():
        # SciPy and scikit-learn warn about undefined values.
        warnings.simplefilter("ignore")
        values = metric_fn(list(targets), list(predictions))
    return {name: float(np.nan_to_num(float(value))) for name, value in values.items()}


def average_metrics(values: Mapping[str, float]) -> float:
    """Averages the metrics of one task. This number decides its best checkpoint."""
    return statistics.fmean(values.values())


def average_tasks(scores: Scores) -> dict[str, float]:
    """Averages scores over tasks: the mean over tasks of the mean over a task's metrics.

    If all tasks of GLUE or SuperGLUE are present, this is the benchmark's average as T5
    computes it (`t5.evaluation.eval_utils`): MNLI's two sets count as one task.

    Returns:
      "glue_average" and "super_glue_average" if they are defined; otherwise "average", for two
      tasks or more.
    """
    values = {
        f"{task}/{metric}": value
        for task, metrics in scores.items()
        for metric, value in metrics.items()
    }
    columns = {
        eval_utils.METRIC_NAMES[tag].name: [value]
        for tag, value in values.items()
        if tag in eval_utils.METRIC_NAMES
    }
    frame = eval_utils.compute_avg_glue(pd.DataFrame(columns))
    averages = {
        name: float(frame[column].iloc[0])
        for name, column in _T5_AVERAGES.items()
        if column in frame
    }
    if not averages and len(scores) > 1:
        averages["average"] = statistics.fmean(map(average_metrics, scores.values()))
    return averages

"""Bootstrap confidence intervals over examples (Efron's percentile method)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import seqio
from rouge_score import rouge_scorer
from t5.evaluation import metrics
from tqdm import tqdm

from mtf_switch.downstream import task_metrics
from tasks import own_metrics

DRAWS = 1000
LEVEL = 0.95


def resample_metrics(
    task: seqio.Task,
    targets: Sequence[Any],
    predictions: Sequence[Sequence[Any]],
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, np.ndarray]]:
    """Computes a task's metrics on examples that are drawn with replacement.

    All models are scored on the same draws, so differences between models have intervals, too.
    If targets belong to groups (MultiRC's questions, ReCoRD's queries), whole groups are drawn.

    Args:
      task: The task, whose metrics are computed.
      targets: Postprocessed target of each example.
      predictions: For each model, the postprocessed prediction for each example.
      draws: The number of draws, each of as many examples as there are.
      seed: Seed of the draws.

    Returns:
      For each model: metric -> [draws] float64.
    """
    groups = _group_examples(targets)
    drawn = np.random.default_rng(seed).integers(len(groups), size=(draws, len(groups)))
    results: list[dict[str, np.ndarray]] = [{} for _ in predictions]
    for metric_fn in task.predict_metric_fns:
        score_fn = _SCORE_OF_EXAMPLE.get(metric_fn)
        for result, predicted in zip(results, predictions):
            result.update(
                _resample_mean(score_fn, targets, predicted, groups, drawn)
                if score_fn
                else _resample(metric_fn, targets, predicted, groups, drawn)
            )
    return results


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Returns the interval that contains the middle `level` of the values, such as 95%."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _group_examples(targets: Sequence[Any]) -> list[list[int]]:
    """Returns the indices of the examples in each group; most examples are their own group."""
    groups: dict[Any, list[int]] = {}
    for index, target in enumerate(targets):
        group = target.get("group") if isinstance(target, dict) else None
        groups.setdefault((index,) if group is None else ("group", group), []).append(index)
    return list(groups.values())


def _score_alone(metric_fn: Callable) -> Callable[[Any, Any], dict[str, float]]:
    """Turns a metric of many examples into a function that scores one example."""
    return lambda target, prediction: metric_fn([target], [prediction])


@functools.cache
def _rouge_scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(own_metrics.ROUGE_TYPES)


def score_rouge(target: str, prediction: str) -> dict[str, float]:
    """Scores one summary as `t5.evaluation.metrics.rouge` does, without its bootstrap.

    T5's function draws 1,000 times from the scores of its examples, even from a single score.

    Returns:
      "rouge1", "rouge2" and "rougeLsum" -> F-measure in percent.
    """
    texts = map(own_metrics.break_sentences, (target, prediction))
    scores = _rouge_scorer().score(*texts)
    return {name: 100 * score.fmeasure for name, score in scores.items()}


# Metric -> function that scores one example, for metrics that are means over examples. These
# score each example only once. (T5's ROUGE is the middle of 1,000 draws of that mean.)
_SCORE_OF_EXAMPLE = {
    metrics.rouge: score_rouge,
    **{
        metric_fn: _score_alone(metric_fn)
        for metric_fn in (
            metrics.accuracy,
            metrics.sequence_accuracy,
            metrics.squad,
            metrics.trivia_qa,
        )
    },
}


def _resample_mean(
    score_fn: Callable[[Any, Any], dict[str, float]],
    targets: Sequence[Any],
    predictions: Sequence[Any],
    groups: list[list[int]],
    drawn: np.ndarray,
) -> dict[str, np.ndarray]:
    """Resamples a mean over examples: scores each example once, then averages each draw."""
    scores = [
        score_fn(targets[index], predictions[index])
        for (index,) in tqdm(groups, "score", unit="example", leave=False, disable=None)
    ]
    return {
        name: np.array([score[name] for score in scores])[drawn].mean(axis=1)
        for name in scores[0]
    }


def _resample(
    metric_fn: Callable,
    targets: Sequence[Any],
    predictions: Sequence[Any],
    groups: list[list[int]],
    drawn: np.ndarray,
) -> dict[str, np.ndarray]:
    """Resamples any metric, by computing it on each draw."""
    values = []
    for draw in drawn:
        indices = [
            (number, index) for number, group in enumerate(draw) for index in groups[group]
        ]
        values.append(
            task_metrics.compute_metric(
                metric_fn,
                [_renumber_group(targets[index], number) for number, index in indices],
                [predictions[index] for _, index in indices],
            )
        )
    return {name: np.array([value[name] for value in values]) for name in values[0]}


def _renumber_group(target: Any, number: int) -> Any:
    """Makes the group of a target distinct, so that a group counts twice if drawn twice."""
    if isinstance(target, dict) and "group" in target:
        return {**target, "group": (number, target["group"])}
    return target

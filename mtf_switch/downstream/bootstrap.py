"""Bootstrap confidence intervals over examples (Efron's percentile method)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import seqio
from t5.evaluation import metrics

from mtf_switch.downstream import task_metrics

DRAWS = 1000
LEVEL = 0.95

# Metrics that are means over examples: one value for each is enough. T5's ROUGE is the middle
# of a bootstrap of its own around that mean.
_MEANS = (
    metrics.accuracy,
    metrics.sequence_accuracy,
    metrics.squad,
    metrics.trivia_qa,
    metrics.rouge,
)


def draws(
    task: seqio.Task,
    targets: Sequence[Any],
    predictions: Sequence[Sequence[Any]],
    number: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, np.ndarray]]:
    """Values of a task's metrics on examples drawn with replacement.

    All models are scored on the same draws, so that their difference has an interval, too.
    Where the targets have groups (MultiRC's questions, ReCoRD's queries), groups are drawn.

    Args:
      task: whose metrics are asked.
      targets: postprocessed.
      predictions: for each model, postprocessed.
      number: of draws.
      seed: of the draws.

    Returns:
      For each model: metric -> [number] float64.
    """
    units = _units(targets)
    chosen = np.random.default_rng(seed).integers(len(units), size=(number, len(units)))
    found: list[dict[str, np.ndarray]] = [{} for _ in predictions]
    for metric_fn in task.predict_metric_fns:
        draw = _mean_draws if metric_fn in _MEANS else _recomputed_draws
        for of_model, answers in zip(found, predictions):
            of_model.update(draw(metric_fn, targets, answers, units, chosen))
    return found


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle part of the draws that holds `level` of them."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _units(targets: Sequence[Any]) -> list[list[int]]:
    """Indices of examples that are drawn together."""
    groups: dict[Any, list[int]] = {}
    for index, target in enumerate(targets):
        group = target.get("group") if isinstance(target, dict) else None
        groups.setdefault((index,) if group is None else ("group", group), []).append(index)
    return list(groups.values())


def _mean_draws(
    metric_fn: Callable, targets: Sequence, predictions: Sequence, units: list, chosen: Any
) -> dict[str, np.ndarray]:
    each = [metric_fn([targets[i]], [predictions[i]]) for (i,) in units]
    return {
        name: np.array([one[name] for one in each])[chosen].mean(axis=1) for name in each[0]
    }


def _recomputed_draws(
    metric_fn: Callable, targets: Sequence, predictions: Sequence, units: list, chosen: Any
) -> dict[str, np.ndarray]:
    values = []
    for drawn in chosen:
        drawn_targets, drawn_predictions = [], []
        for copy, unit in enumerate(drawn):
            for index in units[unit]:
                drawn_targets.append(_copy(targets[index], copy))
                drawn_predictions.append(predictions[index])
        values.append(task_metrics.values_of(metric_fn, drawn_targets, drawn_predictions))
    return {name: np.array([value[name] for value in values]) for name in values[0]}


def _copy(target: Any, number: int) -> Any:
    """A group that is drawn twice is two groups."""
    if isinstance(target, dict) and "group" in target:
        return {**target, "group": (number, target["group"])}
    return target

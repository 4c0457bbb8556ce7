"""Scores of a task's own metrics: examples decoded, answers compared, averages taken."""

from __future__ import annotations

import dataclasses
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gin
import numpy as np
import pandas as pd
import seqio
from t5.evaluation import eval_utils
from t5.models import mesh_transformer

from mtf_switch.config import gin_config, run_settings
from mtf_switch.errors import UserError
from mtf_switch.runs import data, prediction

# {"glue_cola_v002": {"matthews_corrcoef": 51.2}, ...}
Scores = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """The examples of a task's split, with what their answers are compared to.

    Attributes:
      task: of the registry.
      inputs: [examples, length] int32 ids.
      examples: what the task's preprocessors made, with its texts.
      targets: what the metrics compare with, as the task's postprocessor gives it.
    """

    task: seqio.Task
    inputs: np.ndarray
    examples: list[dict[str, Any]]
    targets: list[Any]

    def text(self, index: int, feature: str) -> str:
        """The text of an example's inputs or targets, before it became ids."""
        example = self.examples[index]
        text = example.get(f"{feature}_pretokenized")
        if text is None:
            vocabulary = self.task.output_features[feature].vocabulary
            return vocabulary.decode([int(i) for i in example[feature]])
        return text.decode("utf-8") if isinstance(text, bytes) else str(text)

    def postprocessed(self, answers: Sequence[str]) -> list[Any]:
        """What the metrics take of decoded texts."""
        return [
            self.task.postprocess_fn(answer, example=example, is_target=False)
            for answer, example in zip(answers, self.examples)
        ]


def tasks_with_metrics(name: str) -> list[seqio.Task]:
    """The tasks of a task or mixture that have metrics of decoded text."""
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
    return [task for task in subtasks if task.predict_metric_fns]


def load(
    settings: run_settings.RunSettings, split: str, limit: int | None
) -> list[EvaluationSet]:
    """Reads the examples that a checkpoint is scored on.

    Args:
      settings: of the run: task and lengths.
      split: such as "validation".
      limit: examples of each task at most.

    Returns:
      One for each task with metrics and such a split.

    Raises:
      UserError: if there is none, or the split is not there or is empty.
    """
    scored = tasks_with_metrics(settings.task)
    if not scored:
        raise UserError(
            f"Task {settings.task!r} has no metric of its own, so there is nothing to decode "
            "for. Leave --checkpoint_steps and --follow away to get its negative log "
            "perplexity."
        )
    cached = data.is_cached(mesh_transformer.mesh_eval_dataset_fn)
    data.check_readable(settings.task, split, cached)
    return load_tasks(
        [task for task in scored if split in task.splits], settings, split, limit, cached
    )


def load_tasks(
    tasks: Iterable[seqio.Task],
    settings: run_settings.RunSettings,
    split: str,
    limit: int | None = None,
    cached: bool = False,
) -> list[EvaluationSet]:
    """Reads the examples of a split of some tasks, in the order of the data.

    Raises:
      UserError: if a split is empty.
    """
    lengths = dict(settings.sequence_length)
    # Answers are compared whole, however short the model's targets are.
    lengths.pop("targets", None)
    sets = []
    for task in tasks:
        dataset = task.get_dataset(
            {**lengths, "targets": None}, split, use_cached=cached, shuffle=False
        )
        if limit is not None:
            dataset = dataset.take(limit)
        examples = [_plain(example) for example in dataset.as_numpy_iterator()]
        if not examples:
            raise UserError(f"The split {split!r} of task {task.name!r} is empty.")
        sets.append(_evaluation_set(task, examples, lengths["inputs"]))
    if not sets:
        raise UserError(f"No task with a metric has the split {split!r} in this mixture.")
    return sets


def _plain(example: dict[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, "numpy", lambda v=value: v)() for name, value in example.items()
    }


def _evaluation_set(
    task: seqio.Task, examples: list[dict[str, Any]], length: int
) -> EvaluationSet:
    inputs = np.zeros([len(examples), length], np.int32)
    for row, example in zip(inputs, examples):
        ids = example["inputs"][:length]
        row[: len(ids)] = ids
    found = EvaluationSet(task, inputs, examples, [])
    found.targets.extend(
        task.postprocess_fn(found.text(i, "targets"), example=example, is_target=True)
        for i, example in enumerate(examples)
    )
    return found


def bind_decode_length(settings: run_settings.RunSettings) -> None:
    """Decodes as many tokens as the targets may have, unless gin says another number."""
    name = "Bitransformer.decode.max_decode_length"
    try:
        gin.query_parameter(name)
    except ValueError:
        gin_config.bind(name, settings.sequence_length["targets"])


def answers(
    sets: Sequence[EvaluationSet],
    settings: run_settings.RunSettings,
    vocabulary: Any,
    model_dir: str,
    checkpoint: str,
    cluster: Any | None = None,
) -> Iterable[str]:
    """Decodes the inputs of all sets with one checkpoint, as gin's Bitransformer.decode says.

    Yields:
      The text for each example, set by set.
    """
    inputs = np.concatenate([part.inputs for part in sets])
    decoder = prediction.vocabulary_of(vocabulary, "targets")
    results = prediction.run(
        settings, vocabulary, model_dir, checkpoint, {"inputs": inputs}, cluster
    )
    for result in results:
        yield decoder.decode([int(i) for i in result["outputs"]])


def score(task: seqio.Task, targets: Sequence[Any], predictions: Sequence[Any]) -> dict:
    """The values of a task's metrics.

    Args:
      task: whose metrics are asked.
      targets, predictions: postprocessed.

    Returns:
      {"accuracy": 71.5, ...}. What is not defined, such as the correlation with answers that
      are all the same, counts as 0: T5's nan would have no average and no peak.
    """
    found = {}
    for metric_fn in task.predict_metric_fns:
        found.update(values_of(metric_fn, targets, predictions))
    return found


def values_of(
    metric_fn: Callable, targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
    """The values of one metric function; see `score`."""
    with warnings.catch_warnings():
        # SciPy and scikit-learn warn of what is not defined.
        warnings.simplefilter("ignore")
        values = metric_fn(list(targets), list(predictions))
    return {name: float(np.nan_to_num(float(value))) for name, value in values.items()}


def averages(scores: Scores) -> dict[str, float]:
    """Averages over tasks as T5 and the paper take them.

    GLUE's and SuperGLUE's, if all of their tasks are there: the mean over tasks of the mean
    over a task's metrics, MNLI's two sets being one task (`t5.evaluation.eval_utils`). For
    any other mixture of several tasks the same mean under the name "average".

    Args:
      scores: by task and metric.
    """
    flat = {
        f"{task}/{metric}": value for task, of in scores.items() for metric, value in of.items()
    }
    known = {
        eval_utils.METRIC_NAMES[tag].name: [value]
        for tag, value in flat.items()
        if tag in eval_utils.METRIC_NAMES
    }
    frame = eval_utils.compute_avg_glue(pd.DataFrame(known))
    found = {
        name: float(frame[column].iloc[0])
        for name, column in (
            ("glue_average", "Average GLUE Score"),
            ("super_glue_average", "Average SuperGLUE Score"),
        )
        if column in frame
    }
    if not found and len(scores) > 1:
        found["average"] = statistics.fmean(task_mean(of) for of in scores.values())
    return found


def task_mean(of_task: Mapping[str, float]) -> float:
    """The mean over a task's metrics, by which its best checkpoint is chosen."""
    return statistics.fmean(of_task.values())

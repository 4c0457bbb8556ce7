"""The examples on which a checkpoint is evaluated."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import seqio
from t5.models import mesh_transformer

from mtf_switch.config import run_settings
from mtf_switch.errors import UserError
from mtf_switch.runs import data


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """The examples of one split of one task, with the values that its metrics compare.

    Attributes:
      task: The task.
      inputs: [examples, length] int32 token ids.
      examples: The preprocessed examples, including their texts.
      targets: Postprocessed target of each example.
      examples_of_split: Number of examples in the split; these are the first of them.
    """

    task: seqio.Task
    inputs: np.ndarray
    examples: list[dict[str, Any]]
    targets: list[Any]
    examples_of_split: int

    def get_text(self, index: int, feature: str) -> str:
        """Returns the text of an example's "inputs" or "targets" before tokenization."""
        example = self.examples[index]
        text = example.get(f"{feature}_pretokenized")
        if text is None:
            vocabulary = self.task.output_features[feature].vocabulary
            return vocabulary.decode([int(i) for i in example[feature]])
        return text.decode("utf-8") if isinstance(text, bytes) else str(text)

    def postprocess(self, texts: Sequence[str]) -> list[Any]:
        """Turns one decoded text per example into the values that the metrics compare."""
        return [
            self.task.postprocess_fn(text, example=example, is_target=False)
            for text, example in zip(texts, self.examples)
        ]


def tasks_with_metrics(name: str) -> list[seqio.Task]:
    """Returns the tasks in a task or mixture that have metrics for decoded text."""
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
    return [task for task in subtasks if task.predict_metric_fns]


def load_evaluation_sets(
    settings: run_settings.RunSettings, split: str, limit: int | None
) -> list[EvaluationSet]:
    """Reads the examples on which the checkpoints of a run are evaluated.

    Args:
      settings: Settings of the run, with its task and sequence lengths.
      split: Split of the task, such as "validation".
      limit: The maximum number of examples per task; None reads all.

    Returns:
      One set for each task of a mixture that has metrics and this split.

    Raises:
      UserError: If no task has metrics, or the split is absent or empty.
    """
    tasks = tasks_with_metrics(settings.task)
    if not tasks:
        raise UserError(
            f"Task {settings.task!r} has no metric of its own, so its answers cannot be "
            "scored. Omit --follow to get its negative log perplexity."
        )
    cached = data.is_cached(mesh_transformer.mesh_eval_dataset_fn)
    data.check_readable(settings.task, split, cached)
    return load_tasks(
        [task for task in tasks if split in task.splits], settings, split, limit, cached
    )


def load_tasks(
    tasks: Iterable[seqio.Task],
    settings: run_settings.RunSettings,
    split: str,
    limit: int | None = None,
    cached: bool = False,
) -> list[EvaluationSet]:
    """Reads the examples of one split of several tasks, in the order of the data.

    Inputs are truncated to the run's length. Targets are not truncated, so answers are compared
    with the full target.

    Args:
      tasks: The tasks.
      settings: Settings of the run, with its sequence lengths.
      split: Split of the tasks.
      limit: The maximum number of examples per task; None reads all.
      cached: Whether to read seqio's cache of the tasks.

    Raises:
      UserError: If `tasks` or a split is empty.
    """
    length = settings.sequence_length["inputs"]
    lengths = {**settings.sequence_length, "targets": None}
    sets = []
    for task in tasks:
        read = functools.partial(
            task.get_dataset, lengths, split, use_cached=cached, shuffle=False
        )
        dataset = data.build_quickly(read)
        iterator = dataset.as_numpy_iterator()
        examples = list(itertools.islice(iterator, limit))
        if not examples:
            raise UserError(f"The split {split!r} of task {task.name!r} is empty.")
        others = sum(1 for _ in iterator)
        sets.append(_build_evaluation_set(task, examples, length, len(examples) + others))
    if not sets:
        raise UserError(f"No task with a metric has the split {split!r} in this mixture.")
    return sets


def _build_evaluation_set(
    task: seqio.Task, examples: list[dict[str, Any]], length: int, examples_of_split: int
) -> EvaluationSet:
    inputs = np.zeros([len(examples), length], np.int32)
    for row, example in zip(inputs, examples):
        ids = example["inputs"][:length]
        row[: len(ids)] = ids
    without_targets = EvaluationSet(task, inputs, examples, [], examples_of_split)
    targets = [
        task.postprocess_fn(
            without_targets.get_text(i, "targets"), example=example, is_target=True
        )
        for i, example in enumerate(examples)
    ]
    return dataclasses.replace(without_targets, targets=targets)


def split_by_set(
    sets: Sequence[EvaluationSet], texts: Sequence[str]
) -> Iterator[tuple[EvaluationSet, Sequence[str]]]:
    """Yields each set with the texts that were decoded for its examples."""
    start = 0
    for part in sets:
        stop = start + len(part.examples)
        yield part, texts[start:stop]
        start = stop

"""The scores of a model's checkpoints on a task or mixture, and its best checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from mtf_switch import value_rules, whole_file
from mtf_switch.downstream import task_metrics
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Metric:
    """The name of a value with which checkpoints are scored.

    Attributes:
      task: The task; "" for an average over tasks.
      name: The task's metric, or the average's name.
    """

    task: str
    name: str

    @property
    def label(self) -> str:
        """TASK/METRIC, or an average's name."""
        return f"{self.task}/{self.name}" if self.task else self.name


@dataclasses.dataclass(frozen=True)
class StepScores:
    """The scores of one checkpoint, in the metrics' own units (mostly percent).

    Attributes:
      step: Step of the checkpoint.
      examples: Task -> number of examples that were scored.
      scores: Task -> metric -> value.
      averages: Averages over tasks; see `task_metrics.average_tasks`.
      examples_of_split: Task -> number of examples in the split; {} in files of earlier
        versions.
      decoding: What decides the decoded texts; see `decoding.describe_settings`. {} in files of
        earlier versions.
    """

    step: int
    examples: dict[str, int]
    scores: dict[str, dict[str, float]]
    averages: dict[str, float]
    examples_of_split: dict[str, int] = dataclasses.field(default_factory=dict)
    decoding: dict[str, str] = dataclasses.field(default_factory=dict)

    def check_types(self) -> None:
        """Raises UserError unless the fields, as read from a file, have their types."""
        value_rules.check_all("a step", _RULES, dataclasses.asdict(self))
        if self.examples.keys() != self.scores.keys():
            raise UserError(
                f"step {self.step} has scores of {', '.join(self.scores)}, but numbers of "
                f"examples of {', '.join(self.examples)}"
            )

    @property
    def metrics(self) -> list[Metric]:
        """Every metric of every task, then every average."""
        return [
            *(Metric(task, name) for task, values in self.scores.items() for name in values),
            *(Metric("", name) for name in self.averages),
        ]

    def get_value(self, metric: Metric) -> float | None:
        """Returns the value of a metric, or None if this step was not scored with it."""
        values = self.scores.get(metric.task, {}) if metric.task else self.averages
        return values.get(metric.name)


def _maps_to(rule: value_rules.Rule) -> value_rules.Rule:
    """Returns the rule for maps whose values follow a rule. In JSON, all keys are texts."""
    return value_rules.Rule(
        f"a map whose values are each {rule.meaning}",
        lambda value: isinstance(value, dict) and all(map(rule.accepts, value.values())),
    )


# NaN and infinity are among them: a correlation with equal predictions is NaN.
_VALUE = value_rules.Rule(
    "a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
)
_TEXT = value_rules.Rule("a text", lambda value: isinstance(value, str))
# The types of StepScores.
_RULES = {
    "step": value_rules.whole(0),
    "examples": _maps_to(value_rules.whole(1)),
    "scores": _maps_to(_maps_to(_VALUE)),
    "averages": _maps_to(_VALUE),
    "examples_of_split": _maps_to(value_rules.whole(1)),
    "decoding": _maps_to(_TEXT),
}


@dataclasses.dataclass(frozen=True)
class Peak:
    """The best checkpoint for one task, or for an average.

    Attributes:
      step: Step of the checkpoint.
      values: Metric -> value at that step. An average has one value, "average".
    """

    step: int
    values: dict[str, float]


def find_peaks(steps: Sequence[StepScores]) -> dict[str, Peak]:
    """Finds the best checkpoint for each task and for each average of the last step.

    A task's best checkpoint has the highest mean over the task's metrics. If several are
    equally good, the first of them is chosen.

    Args:
      steps: Scores of checkpoints in the order of their steps.

    Returns:
      Name of a task or average -> its peak.
    """
    peaks = {}
    for task in steps[-1].scores:
        scored = [step for step in steps if task in step.scores]
        means = [task_metrics.average_metrics(step.scores[task]) for step in scored]
        best = scored[means.index(max(means))]
        peaks[task] = Peak(best.step, best.scores[task])
    for name in steps[-1].averages:
        scored = [step for step in steps if name in step.averages]
        averages = [step.averages[name] for step in scored]
        best = scored[averages.index(max(averages))]
        peaks[name] = Peak(best.step, {"average": best.averages[name]})
    return peaks


def average_peaks(steps: Sequence[StepScores]) -> dict[str, float]:
    """Averages over tasks, each at its own best checkpoint, as T5 does."""
    peaks = find_peaks(steps)
    return task_metrics.average_tasks({task: peaks[task].values for task in steps[-1].scores})


def eval_folder(model_dir: str, split: str) -> str:
    """Returns the folder with the scores and answers of a split."""
    return os.path.join(model_dir, f"{split}_eval")


def scores_name(task: str, limit: int | None) -> str:
    """Returns the name of a task's score files, without their extensions.

    Scores on only the first `limit` examples go to separate files.
    """
    return task if limit is None else f"{task}-first{limit}"


def scores_file(model_dir: str, split: str, task: str, limit: int | None) -> str:
    """Returns the path of the JSON file with the scores on a task."""
    return os.path.join(eval_folder(model_dir, split), f"{scores_name(task, limit)}.json")


def find_partial_files(model_dir: str, split: str, task: str) -> list[str]:
    """Finds the files with scores on a part of a task's examples."""
    folder = eval_folder(model_dir, split)
    partial = re.compile(re.escape(task) + r"-first\d+\.json")
    names = sorted(filter(partial.fullmatch, whole_file.list_names(folder)))
    return [os.path.join(folder, name) for name in names]


def read_scores(
    model_dir: str, split: str, task: str, limit: int | None = None
) -> list[StepScores]:
    """Reads the scores that `eval` has written, in the order of their steps.

    Returns:
      The scores of each step; an empty list if there is no file.

    Raises:
      UserError: If the file is damaged.
    """
    path = scores_file(model_dir, split, task, limit)
    if not whole_file.exists(path):
        return []
    try:
        entries = json.loads(whole_file.read_text(path))["steps"]
        steps = [StepScores(**entry) for entry in entries]
        for step in steps:
            step.check_types()
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error or type(error).__name__}). Remove it; eval writes it "
            "again."
        ) from error
    return steps


def to_data(
    task: str, split: str, limit: int | None, steps: Sequence[StepScores]
) -> dict[str, Any]:
    """Returns the content of the JSON file with scores; `read_scores` reads its "steps"."""
    return {
        "task": task,
        "split": split,
        "limit": limit,
        "steps": [dataclasses.asdict(step) for step in steps],
        "peaks": {name: dataclasses.asdict(peak) for name, peak in find_peaks(steps).items()},
        "averages_of_peaks": average_peaks(steps),
    }

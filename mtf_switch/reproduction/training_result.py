"""The result of one training with one seed: the content of its JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a result depends on, besides its seed.

    Attributes:
      commit: The commit of this project, with "and changes" if files differed from it.
      configuration: SHA-256 of the bindings that the command gives, in sorted order.
      gin: SHA-256 of the resolved configuration, config.gin of the model_dir.
      lock: SHA-256 of requirements.txt; "" without a copy of the repository.
      data: SHA-256 of the versions of the text and of the vocabulary.
      versions: Package -> version.
      machine: Processor and number of cores.
      jobs: How many trainings ran at the same time, on which the speed depends.
    """

    commit: str
    configuration: str
    gin: str
    lock: str
    data: str
    versions: dict[str, str]
    machine: str
    jobs: int

    @property
    def is_clean(self) -> bool:
        """Whether the files were those of the commit."""
        return not self.commit.endswith("and changes")


@dataclasses.dataclass(frozen=True)
class TaskCurve:
    """The evaluations of a task that is a part of the mixture, such as a language.

    Attributes:
      target_tokens: The number of target tokens in each evaluation.
      neg_log_perplexities: The quality at the points of `TrainingResult.curve`, in nats per
        target token.
    """

    target_tokens: int
    neg_log_perplexities: list[float]


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The result of one training with one seed.

    Attributes:
      training: Name of the training.
      scale: Name of the scale.
      data_seed: The seed of the order of the data and of the masked spans.
      weights_seed: The seed of the initial weights and of all noise.
      commands: The command lines that give this result.
      origin: What else it depends on.
      curve: Evaluations in the order of their steps. For a run that diverged, those before; it
        can be without a point.
      metrics: Name -> number; see `metrics`. A run that diverged has no quality.
      routers: Layer -> metrics of its router, and the load of its experts, at the end.
      diverged_at: The step at which the loss was not finite; None for a run that ended well.
      tasks: Name of a task of a mixture -> its own evaluations; empty for a single task.
      tokens_per_step: The tokens of a batch, with padding; 0 if the curve is empty. In a file,
        each point of the curve has its number of tokens as well.
      scores: TASK/METRIC or the name of an average -> step -> score, for models that are scored
        on downstream tasks. In a file, steps are texts.
    """

    training: str
    scale: str
    data_seed: int
    weights_seed: int
    commands: list[str]
    origin: Origin
    curve: list[EvaluationPoint]
    metrics: dict[str, float]
    routers: dict[str, dict[str, Any]]
    diverged_at: int | None = None
    tasks: dict[str, TaskCurve] = dataclasses.field(default_factory=dict)
    scores: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    tokens_per_step: int = 0

    @property
    def seed(self) -> int:
        """The seed by which results are paired."""
        return self.weights_seed

    @property
    def signature(self) -> str:
        """One line that says what a number depends on."""
        origin = self.origin
        scored = [int(step) for of_label in self.scores.values() for step in of_label]
        steps = max([*(point.step for point in self.curve), *scored], default=0)
        seeds = f"data{self.data_seed}+weights{self.weights_seed}"
        hashes = [f"{name}:{getattr(origin, name)[:8]}" for name in ("gin", "data", "lock")]
        parts = [self.training, f"scale:{self.scale}", f"seed:{seeds}", f"steps:{steps}"]
        if self.diverged_at is not None:
            parts.append(f"diverged:{self.diverged_at}")
        return "|".join([*parts, *hashes, f"commit:{origin.commit.replace(' and ', '+')}"])

    def to_json(self) -> str:
        """Returns the content of the file.

        Raises:
          UserError: If a number is NaN or infinite, which JSON does not have.
        """
        content = {**dataclasses.asdict(self), "signature": self.signature}
        for point in content["curve"] if self.tokens_per_step else ():
            point["tokens"] = point["step"] * self.tokens_per_step
        try:
            return json.dumps(content, indent=1, allow_nan=False) + "\n"
        except ValueError as error:
            name = f"{self.training} seed {self.seed}"
            raise UserError(f"The result of {name} cannot be written: {error}.") from error


def describe_divergence(of_row: Mapping[int, TrainingResult]) -> str:
    """Says at which steps the runs of a row diverged: "diverged at step 12", "2 of 5 diverged".

    Returns:
      The text; "" if none of them diverged.
    """
    steps = sorted(r.diverged_at for r in of_row.values() if r.diverged_at is not None)
    if not steps:
        return ""
    who = f"{len(steps)} of {len(of_row)} " if len(of_row) > 1 else ""
    if steps[0] == steps[-1]:
        return f"{who}diverged at step {steps[0]:,}"
    return f"{who}diverged at steps {steps[0]:,} to {steps[-1]:,}"


# What `from_json` meets in a damaged file; OverflowError is that of an endless integer.
_DAMAGES = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


def from_json(text: str, path: str) -> TrainingResult:
    """Reads the content of a file.

    Raises:
      UserError: If it is damaged.
    """
    try:
        content = json.loads(text)
        del content["signature"]
        origin = Origin(**content.pop("origin"))
        curve = [_read_point(point) for point in content.pop("curve")]
        # Results from before there were mixtures have none.
        tasks = {name: TaskCurve(**part) for name, part in content.pop("tasks", {}).items()}
        result = TrainingResult(**content, origin=origin, curve=curve, tasks=tasks)
        _check_types(result)
        return result
    except _DAMAGES as error:
        raise UserError(f"{path} is damaged ({error}).") from error


def _read_point(content: dict[str, Any]) -> EvaluationPoint:
    # They follow from the step. Results from before they were recorded have none.
    content.pop("tokens", None)
    return EvaluationPoint(**content)


def _check_types(result: TrainingResult) -> None:
    texts = [result.training, result.scale, *result.commands]
    texts += [result.origin.commit, result.origin.configuration, result.origin.gin]
    texts += [result.origin.lock, result.origin.data, result.origin.machine]
    numbers = [
        result.data_seed,
        result.weights_seed,
        result.tokens_per_step,
        *result.metrics.values(),
    ]
    numbers += [value for point in result.curve for value in dataclasses.astuple(point)]
    for of_label in result.scores.values():
        numbers += [*map(int, of_label), *of_label.values()]
    for task in result.tasks.values():
        if len(task.neg_log_perplexities) != len(result.curve):
            raise TypeError("the curve of a task has another length")
        numbers += [task.target_tokens, *task.neg_log_perplexities]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text has another type")
    if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        raise TypeError("a number is missing or has another type")
    if not isinstance(result.diverged_at, (int, type(None))):
        raise TypeError("the step of the divergence has another type")
    steps = [point.step for point in result.curve]
    if steps != sorted(set(steps)):
        raise TypeError("the steps of the curve are not in order")
    if not result.curve and "quality" in result.metrics:
        raise TypeError("the curve is empty")

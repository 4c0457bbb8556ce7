"""The answers of a checkpoint to one task, as a file of JSON lines.

The file is `<model_dir>/<split>_eval/<task>-<step>.jsonl`, or `<task>-first<N>-<step>.jsonl` if
only the first N examples were read. Each line contains the example's input, target and
predicted text, and the two values that the metrics compare.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtf_switch import whole_file
from mtf_switch.downstream import scores
from mtf_switch.downstream.evaluation_sets import EvaluationSet
from mtf_switch.errors import UserError, name_program


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of one checkpoint to one task.

    Attributes:
      step: Step of the checkpoint.
      inputs: Input text of each example.
      targets: Postprocessed target of each example.
      predictions: Postprocessed prediction for each example.
    """

    step: int
    inputs: list[str]
    targets: list[Any]
    predictions: list[Any]


def answers_file(
    model_dir: str, split: str, task: str, step: int, limit: int | None = None
) -> str:
    """Returns the path of the file with the answers of one checkpoint to one task.

    Answers to only the first `limit` examples go to separate files.
    """
    name = f"{scores.scores_name(task, limit)}-{step}.jsonl"
    return os.path.join(scores.eval_folder(model_dir, split), name)


def write_answers(
    path: str, examples: EvaluationSet, texts: Sequence[str], predictions: Sequence[Any]
) -> None:
    """Writes one line of JSON for each example.

    Args:
      path: The file; see `answers_file`. Its folder is created if needed.
      examples: The examples.
      texts: The decoded text for each example.
      predictions: The postprocessed texts.
    """
    whole_file.make_folder(os.path.dirname(path))
    with whole_file.open_for_writing(path) as file:
        for index, (text, prediction) in enumerate(zip(texts, predictions)):
            line = {
                "inputs": examples.get_text(index, "inputs"),
                "targets": examples.get_text(index, "targets"),
                "prediction": text,
                "target_value": examples.targets[index],
                "prediction_value": prediction,
            }
            file.write(json.dumps(line, ensure_ascii=False, default=_to_json) + "\n")


def _to_json(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8")
    raise TypeError(f"{type(value)} cannot be written as JSON")


def name_command(model_dir: str, name: str, split: str, steps: int | str) -> str:
    """Returns the command that writes the scores and answers of a model.

    Args:
      model_dir: The model_dir.
      name: The task or mixture.
      split: Split of the task.
      steps: The value of --checkpoint_steps.
    """
    flags = {"model_dir": model_dir, "task": name, "split": split, "checkpoint_steps": steps}
    arguments = [f"--{flag}={value}" for flag, value in flags.items()]
    return f"{name_program()} eval {shlex.join(arguments)}"


def read_answers(
    model_dir: str, split: str, task: str, step: int, mixture: str | None = None
) -> Answers:
    """Reads the answers of one checkpoint to all examples of one task.

    Args:
      model_dir: The model_dir.
      split: Split of the task.
      task: The task.
      step: Step of the checkpoint.
      mixture: The mixture as a part of which the task was evaluated, for the message; None if
        it was evaluated alone.

    Raises:
      UserError: If the file is absent or damaged.
    """
    path = answers_file(model_dir, split, task, step)
    try:
        lines = [json.loads(line) for line in whole_file.read_text(path).split("\n") if line]
        for line in lines:
            if not isinstance(line["inputs"], str):
                raise TypeError("an input is not text")
        return Answers(
            step,
            [line["inputs"] for line in lines],
            [_with_hashable_group(line["target_value"]) for line in lines],
            [line["prediction_value"] for line in lines],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}, which holds the answers of the model's best checkpoint, cannot be read "
            f"({type(error).__name__}: {error}). Write it again: "
            f"{name_command(model_dir, mixture or task, split, step)}"
        ) from error


def list_examples(examples: EvaluationSet) -> list[tuple[str, Any]]:
    """Returns the input text and the postprocessed target of each example, as in a file."""
    targets = json.loads(json.dumps(list(examples.targets), default=_to_json))
    return [(examples.get_text(i, "inputs"), target) for i, target in enumerate(targets)]


def read_examples(path: str) -> list[tuple[str, Any]] | None:
    """Reads what `list_examples` returns from a file of answers.

    Returns:
      None if the file is absent or damaged.
    """
    try:
        lines = [json.loads(line) for line in whole_file.read_text(path).split("\n") if line]
        return [(line["inputs"], line["target_value"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _with_hashable_group(target: Any) -> Any:
    """Turns the group of a target, which is a list in JSON, back into a tuple."""
    if isinstance(target, dict) and isinstance(target.get("group"), list):
        return {**target, "group": tuple(target["group"])}
    return target

"""Checks that scores agree in their tasks, examples and decoding before they are compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from mtf_switch.downstream import answers
from mtf_switch.downstream.answers import Answers
from mtf_switch.downstream.evaluation_sets import EvaluationSet
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError


def check_same_tasks(models: Sequence[str], name: str, scored: Sequence[StepScores]) -> None:
    """Checks that all models were scored on the same subtasks, and decoded in the same way.

    Args:
      models: The model_dirs.
      name: The task or mixture.
      scored: The last scores of each model.

    Raises:
      UserError: If they were not, because their averages would be over different tasks.
    """
    first = scored[0]
    for model, found in zip(models[1:], scored[1:]):
        different = sorted(first.scores.keys() ^ found.scores.keys())
        if different:
            raise UserError(
                f"{models[0]} and {model} were scored on different tasks of {name!r}: only one "
                f"of them has scores of {', '.join(different)}. Run eval for both on the same "
                "data."
            )
        check_same_decoding(f"{models[0]} (task {name})", [first], found.decoding, model)


def check_same_decoding(
    holder: str,
    steps: Sequence[StepScores],
    decoding: Mapping[str, str],
    other: str = "this evaluation",
) -> None:
    """Checks that scores have the same decoding settings as other scores.

    Args:
      holder: The file or model that has the scores, for the message.
      steps: The scores. Scores of earlier versions do not state the settings, and pass.
      decoding: The decoding settings of the other scores; see `StepScores`.
      other: The name of the other scores, for the message.

    Raises:
      UserError: If a parameter differs, with both values.
    """
    for step in steps:
        names = step.decoding.keys() | decoding.keys() if step.decoding and decoding else ()
        for name in sorted(names):
            here, there = step.decoding.get(name), decoding.get(name)
            if here != there:
                # The parameters of the decoder have no module in front of them.
                parameter = name if "." in name else f"Bitransformer.decode.{name}"
                raise UserError(
                    f"{holder} has scores (step {step.step}) that were decoded with "
                    f"{parameter} = {here}, but {other} has {there}, so they cannot "
                    "be compared. Decode all of them in the same way, or move the earlier "
                    "scores to another folder."
                )


def check_same_data(
    file: str, sets: Sequence[EvaluationSet], split: str, step: int, limit: int | None
) -> None:
    """Checks that an evaluation reads the examples of which a file has scores already.

    Args:
      file: The file with the scores, in the folder of the answers.
      sets: The examples of the evaluation.
      split: Their split.
      step: The step of scores in the file. Those without a file of answers pass.
      limit: The maximum number of examples of each task, or None.

    Raises:
      UserError: If the examples of a task differ.
    """
    model_dir = os.path.dirname(os.path.dirname(file))
    for part in sets:
        path = answers.answers_file(model_dir, split, part.task.name, step, limit)
        found, now = answers.read_examples(path), answers.list_examples(part)
        if found is not None and found != now:
            raise UserError(
                f"{file} has scores (step {step}) on other examples of {part.task.name!r} than "
                f"this evaluation has ({len(found):,} and {len(now):,} of them), so they "
                "cannot be compared. Restore the data, evaluate --checkpoint_steps=all again, "
                "or move the earlier scores to another folder."
            )


def check_all_answered(
    model: str, split: str, name: str, task: str, scored: StepScores, found: Answers
) -> None:
    """Checks that a model has answers for all examples on which it was scored.

    Args:
      model: The model_dir.
      split: Split of the task.
      name: The task or mixture on which the model was scored, for the message.
      task: The task: `name`, or one of its subtasks.
      scored: The scores.
      found: The answers of the same step.

    Raises:
      UserError: If the numbers differ, or are below the number of examples in the split.
    """
    count, expected = len(found.inputs), scored.examples[task]
    split_size = scored.examples_of_split.get(task, expected)
    if not count == expected == split_size:
        file = answers.answers_file(model, split, task, scored.step)
        raise UserError(
            f"{file} has {count:,} answers, but the scores of step {scored.step} are of "
            f"{expected:,} examples, and the split has {split_size:,}. Evaluate it again, in "
            f"full: {answers.name_command(model, name, split, scored.step)}"
        )


def check_same_examples(models: Sequence[str], task: str, answered: Sequence[Answers]) -> None:
    """Checks that all models answered the same examples.

    Raises:
      UserError: If inputs or targets differ.
    """
    first = answered[0]
    for model, found in zip(models[1:], answered[1:]):
        if (found.inputs, found.targets) != (first.inputs, first.targets):
            raise UserError(
                f"{models[0]} and {model} were scored on different examples of {task!r} "
                f"({len(first.inputs)} and {len(found.inputs)} of them). Run eval for both on "
                "the same data, in full."
            )

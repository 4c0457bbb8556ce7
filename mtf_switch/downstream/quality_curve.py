"""Reads the quality of a run by step and by time from the files of `eval` and `train`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from mtf_switch import whole_file
from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.errors import UserError, name_program
from mtf_switch.model_dirs import train_log

# The values of a task that was evaluated as a part of a mixture; see `task_sums.TaskResult`.
_OF_A_TASK = ("neg_log_perplexity", "token_accuracy", "target_tokens", "examples")


@dataclasses.dataclass(frozen=True)
class QualityCurve:
    """The evaluations of one run on the whole split of one task.

    Attributes:
      run: The run: its folder or its name.
      points: Evaluations in the order of their steps. Seconds are NaN without a training log.
      target_tokens: The number of target tokens in each evaluation.
    """

    run: str
    points: list[EvaluationPoint]
    target_tokens: int


def read(model_dir: str, task: str, split: str) -> QualityCurve:
    """Reads the evaluations of a run on a whole split.

    Evaluations on a part of it, and with bindings that `eval` changed, are skipped.

    Args:
      model_dir: The folder of the run.
      task: Name of the task or mixture. An evaluation of a mixture is also one of its tasks.
      split: Split of the task.

    Raises:
      UserError: If there is no such evaluation, if a file is damaged, or if the evaluations
        used different data.
    """
    found = read_evaluations(model_dir, task, split)
    remedy = (
        f"Evaluate it: {name_program()} eval --model_dir={model_dir} --task={task} "
        f"--split={split} --perplexity --checkpoint_steps=all"
    )
    if not found:
        raise UserError(f"{model_dir} has no evaluation of {task!r} ({split}). {remedy}")
    counts = {data["target_tokens"] for data in found.values()}
    if len(counts) > 1:
        raise UserError(
            f"The evaluations of {task!r} ({split}) in {model_dir} used different data, with "
            f"{min(counts):,} and {max(counts):,} target tokens. {remedy}"
        )
    seconds = read_seconds(model_dir)
    points = [
        EvaluationPoint(step, seconds.get(step, math.nan), data["neg_log_perplexity"])
        for step, data in sorted(found.items())
    ]
    return QualityCurve(model_dir, points, counts.pop())


def check_same_data(task: str, curves: Sequence[QualityCurve]) -> None:
    """Checks that runs were evaluated on the same data.

    Args:
      task: The task, for the message.
      curves: The evaluations of the runs.

    Raises:
      UserError: If a run has another number of target tokens than the first one.
    """
    first = curves[0]
    for curve in curves[1:]:
        if curve.target_tokens != first.target_tokens:
            raise UserError(
                f"{first.run} and {curve.run} were evaluated on different data of "
                f"{task!r}: {first.target_tokens:,} and {curve.target_tokens:,} target tokens. "
                "Evaluate both with the same data, vocabulary and sequence lengths."
            )


def read_seconds(model_dir: str) -> dict[int, float]:
    """Reads the seconds of training up to each step; only those of step 0 without a log."""
    seconds = {logged.step: logged.seconds for logged in train_log.read(model_dir)}
    return {0: 0.0, **seconds}


def read_evaluations(
    model_dir: str,
    task: str,
    split: str,
    limit: int | None = None,
    changes: Mapping[str, str] = types.MappingProxyType({}),
    skips_damaged: bool = False,
) -> dict[int, dict[str, Any]]:
    """Reads the files of `eval` on one task or mixture; see `evaluation.Evaluation`.

    Args:
      model_dir: The folder of the run.
      task: Name of the task or mixture. If it was evaluated as a part of a mixture, its own
        values replace those of the mixture.
      split: Split of the task.
      limit: The maximum number of examples of each task; None for the whole split.
      changes: The bindings that `eval` changed; see `Evaluation.changes`.
      skips_damaged: Whether damaged files, and evaluations that are not finite, are left out
        with a message on stderr.

    Returns:
      Step -> the content of the file, and its name as "file".

    Raises:
      DivergedError: If one of these evaluations is NaN or infinite, unless `skips_damaged` is
        set. Those of other tasks, splits, limits and changes are not tested.
      UserError: If any file is damaged, unless `skips_damaged` is set.
    """
    found: dict[int, dict[str, Any]] = {}
    # If a step has two files, the one whose name ends in the step wins: it comes last.
    for name in sorted(whole_file.list_names(model_dir), reverse=True):
        if not re.fullmatch(r"eval(-.*)?\.json", name):
            continue
        try:
            data = {**read_evaluation(os.path.join(model_dir, name)), "file": name}
        except UserError as error:
            if not skips_damaged:
                raise
            print(f"Left out: {error}", file=sys.stderr)
            continue
        # A file without "limit" is from an earlier version, and may hold a part of the split.
        if (data["split"], data.get("limit", 0)) != (split, limit):
            continue
        if data.get("changes", {}) != dict(changes):
            continue
        if data["task"] == task:
            found[data["step"]] = data
        elif task in data.get("tasks", {}):
            alone = {**data, "task": task, "tasks": {}, **data["tasks"][task]}
            found.setdefault(data["step"], alone)
    for step, data in sorted(found.items()):
        try:
            check_finite(os.path.join(model_dir, data["file"]), data)
        except DivergedError as error:
            if not skips_damaged:
                raise
            print(f"Left out: {error}", file=sys.stderr)
            del found[step]
    return found


class DivergedError(UserError):
    """The evaluation of a checkpoint is NaN or infinite, so its model has diverged.

    Attributes:
      step: The step of the checkpoint.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def read_evaluation(path: str) -> dict[str, Any]:
    """Reads one file of `eval`; see `evaluation.Evaluation`. Its values may be NaN or infinite.

    Raises:
      UserError: If the file is damaged.
    """
    try:
        data = json.loads(whole_file.read_text(path))
        numbers = (data["step"], data["neg_log_perplexity"], data["target_tokens"])
        texts = (data["task"], data["split"])
        if not all(isinstance(n, (int, float)) for n in numbers):
            raise TypeError("a value has another type")
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a value has another type")
        for part in data.get("tasks", {}).values():
            if not all(isinstance(part[name], (int, float)) for name in _OF_A_TASK):
                raise TypeError("a value has another type")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove it; eval writes it again."
        ) from error
    return data


def check_finite(path: str, data: Mapping[str, Any]) -> None:
    """Checks that an evaluation, and its parts for the tasks of a mixture, are finite.

    Args:
      path: The file of the evaluation, for the message.
      data: The evaluation, from `read_evaluation`.

    Raises:
      DivergedError: If a negative log perplexity is NaN or infinite.
    """
    for quality in (of["neg_log_perplexity"] for of in (data, *data.get("tasks", {}).values())):
        if not math.isfinite(quality):
            raise DivergedError(
                f"{path}: the negative log perplexity of the checkpoint of step {data['step']} "
                f"is {quality}, so the model has diverged. Train again, for example with a "
                "lower learning rate, or remove the file to leave this checkpoint out.",
                data["step"],
            )

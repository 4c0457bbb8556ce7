"""Reads the quality of a run by step and by time from the files of `eval` and `train`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from typing import Any

from mtf_switch import whole_file
from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import train_log


@dataclasses.dataclass(frozen=True)
class QualityCurve:
    """The evaluations of one run on the whole split of one task.

    Attributes:
      model_dir: The folder of the run.
      points: Evaluations in the order of their steps. Seconds are NaN without a training log.
      target_tokens: The number of target tokens in each evaluation.
    """

    model_dir: str
    points: list[EvaluationPoint]
    target_tokens: int


def read(model_dir: str, task: str, split: str) -> QualityCurve:
    """Reads the evaluations of a run on a whole split. Evaluations on a part of it are skipped.

    Args:
      model_dir: The folder of the run.
      task: Name of the task or mixture.
      split: Split of the task.

    Raises:
      UserError: If there is no such evaluation, if a file is damaged, or if the evaluations
        used different data.
    """
    found = {}
    for name in sorted(whole_file.list_names(model_dir)):
        if not re.fullmatch(r"eval(-.*)?\.json", name):
            continue
        data = _read_evaluation(os.path.join(model_dir, name))
        # A file without "limit" is from an earlier version, and may hold a part of the split.
        if (data["task"], data["split"], data.get("limit", 0)) == (task, split, None):
            found[data["step"]] = data
    remedy = (
        f"Evaluate it: run_switch.py eval --model_dir={model_dir} --task={task} "
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
    seconds = {logged.step: logged.seconds for logged in train_log.read(model_dir)}
    seconds.setdefault(0, 0.0)
    points = [
        EvaluationPoint(step, seconds.get(step, math.nan), data["neg_log_perplexity"])
        for step, data in sorted(found.items())
    ]
    return QualityCurve(model_dir, points, counts.pop())


def _read_evaluation(path: str) -> dict[str, Any]:
    try:
        data = json.loads(whole_file.read_text(path))
        numbers = (data["step"], data["neg_log_perplexity"], data["target_tokens"])
        texts = (data["task"], data["split"])
        if not all(isinstance(n, (int, float)) for n in numbers):
            raise TypeError("a value has another type")
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a value has another type")
        return data
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove it; eval writes it again."
        ) from error

"""`run_switch.py eval` with metrics: scores every checkpoint and finds the best ones.

Files in `<model_dir>/<split>_eval/`, for a task or mixture NAME with subtasks:

    NAME.json            all scores by step, averages, peaks
    NAME.csv             the same as a table, with a row for each step
    NAME.png             metrics against steps
    SUBTASK-STEP.jsonl   a line for each example: inputs, targets, prediction
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal, Union

from tqdm import tqdm

from mtf_switch.downstream import (
    answers,
    evaluation_sets,
    scores,
    scores_report,
    task_metrics,
)
from mtf_switch.downstream.evaluation_sets import EvaluationSet
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError
from mtf_switch.runs import saved_checkpoints
from mtf_switch.runs.run import Run

# Which checkpoints to score: those of the listed steps, the latest one, or all.
Selection = Union[Literal["latest", "all"], Sequence[int]]
_SECONDS_BETWEEN_LOOKS = 10.0


def parse_selection(text: str) -> Selection:
    """Parses the value of --checkpoint_steps: "latest", "all", or steps such as "200,400".

    Raises:
      UserError: If it is neither of these.
    """
    if text in ("latest", "all"):
        return text
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(
            f"--checkpoint_steps is {text!r}, but it must be 'all', 'latest', or steps such as "
            "200,400,600."
        ) from error


def score_checkpoints(
    run: Run,
    split: str,
    selection: Selection,
    limit: int | None = None,
    follow: bool = False,
) -> list[StepScores]:
    """Scores checkpoints on the task of a run, and writes all scores after each.

    Args:
      run: The run, made from the gin configuration that is parsed.
      split: Split of the task.
      selection: Which checkpoints to score, unless `follow` is set.
      limit: The most examples to read of each task; None reads all.
      follow: Whether to score every checkpoint, and to wait for further ones until training
        has reached its last step.

    Returns:
      The scores of every step in the file, including those of earlier calls.

    Raises:
      UserError: If the task has no metrics or no data, or a step has no checkpoint.
    """
    settings, model_dir = run.settings, run.model_dir
    paths = [] if follow else select_checkpoints(model_dir, selection)
    sets = evaluation_sets.load_evaluation_sets(settings, split, limit)
    evaluation_sets.bind_decode_length(settings)
    by_step = {
        step.step: step for step in scores.read_scores(model_dir, split, settings.task, limit)
    }
    for path in _wait_for_checkpoints(model_dir, settings.train_steps) if follow else paths:
        step = saved_checkpoints.parse_step(path)
        decoded = evaluation_sets.decode(sets, run, path)
        total = sum(len(part.examples) for part in sets)
        bar = tqdm(decoded, f"step {step}", total, unit="example", leave=False, disable=None)
        by_step[step] = _score_answers(model_dir, split, step, sets, list(bar))
        in_order = [by_step[key] for key in sorted(by_step)]
        report = scores_report.make_report(settings.task, split, limit, in_order)
        report.write(scores.eval_folder(model_dir, split))
        if follow:
            tqdm.write(scores_report.format_line(by_step[step]))
    return [by_step[key] for key in sorted(by_step)]


def select_checkpoints(model_dir: str, selection: Selection) -> list[str]:
    """Returns the paths of the selected checkpoints.

    Raises:
      UserError: If there is no checkpoint, or none of a listed step.
    """
    latest = saved_checkpoints.find_latest(model_dir)
    if selection == "latest":
        return [latest]
    paths = {
        saved_checkpoints.parse_step(path): path
        for path in saved_checkpoints.list_paths(model_dir)
    }
    if selection == "all":
        return list(paths.values())
    for step in selection:
        if step not in paths:
            raise UserError(
                f"{model_dir} has no checkpoint of step {step}; it has those of "
                f"{', '.join(map(str, paths))}."
            )
    return [paths[step] for step in selection]


def _wait_for_checkpoints(model_dir: str, last_step: int) -> Iterator[str]:
    """Yields each checkpoint of a run as it appears, up to that of the last step."""
    done: set[int] = set()
    with tqdm(
        desc="waiting for checkpoints", bar_format="{desc} {elapsed}", disable=None
    ) as bar:
        while last_step not in done:
            new = [
                path
                for path in saved_checkpoints.list_paths(model_dir)
                if saved_checkpoints.parse_step(path) not in done
            ]
            for path in new:
                done.add(saved_checkpoints.parse_step(path))
                yield path
            if not new:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                bar.refresh()


def _score_answers(
    model_dir: str, split: str, step: int, sets: Sequence[EvaluationSet], texts: Sequence[str]
) -> StepScores:
    """Scores the decoded texts of one checkpoint, and writes them to files."""
    values, examples = {}, {}
    for part, part_texts in evaluation_sets.split_by_set(sets, texts):
        task = part.task.name
        predictions = part.postprocess(part_texts)
        values[task] = task_metrics.compute_metrics(part.task, part.targets, predictions)
        examples[task] = len(part_texts)
        path = answers.answers_file(model_dir, split, task, step)
        answers.write_answers(path, part, part_texts, predictions)
    return StepScores(step, examples, values, task_metrics.average_tasks(values))

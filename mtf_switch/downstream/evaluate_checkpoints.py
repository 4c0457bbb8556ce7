"""`run_switch.py eval` with metrics: scores every checkpoint and finds the best ones.

It writes these files into `<model_dir>/<split>_eval/`, for a task or mixture NAME with
subtasks:

    NAME.json            all scores by step, averages, peaks
    NAME.csv             the same as a table, with a row for each step
    NAME.png             metrics against steps
    SUBTASK-STEP.jsonl   a line for each example: inputs, targets, prediction

If only the first N examples of each task are read, the names are NAME-firstN.json, .csv and
.png, and SUBTASK-firstN-STEP.jsonl. They therefore do not replace results of the whole split.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from tqdm import tqdm

from mtf_switch.downstream import (
    agreement,
    answers,
    checkpoint_selection,
    decoding,
    evaluation_sets,
    scores,
    scores_report,
    task_metrics,
)
from mtf_switch.downstream.checkpoint_selection import Selection
from mtf_switch.downstream.evaluation_sets import EvaluationSet
from mtf_switch.downstream.scores import StepScores
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs.run import Run


def score_checkpoints(
    run: Run,
    split: str,
    selection: Selection,
    limit: int | None = None,
    follow: bool = False,
) -> list[StepScores]:
    """Scores checkpoints on the task of a run, and writes all scores after each.

    Args:
      run: The run, made from the parsed gin configuration.
      split: Split of the task.
      selection: The checkpoints to score, unless `follow` is set.
      limit: The maximum number of examples per task; None reads all.
      follow: Whether to score every checkpoint, and to wait for more until training has reached
        its last step.

    Returns:
      The scores of every step in the file, including those of earlier calls.

    Raises:
      UserError: If the task has no metrics or no data, if a step has no checkpoint, or if the
        file has scores of other steps with different decoding settings or examples.
    """
    settings, model_dir = run.settings, run.model_dir
    # `follow` scores again what still has a checkpoint, and later ones as they appear.
    paths = (
        saved_checkpoints.list_paths(model_dir)
        if follow
        else checkpoint_selection.select_checkpoints(model_dir, selection)
    )
    sets = evaluation_sets.load_evaluation_sets(settings, split, limit)
    decoding.bind_decode_length(settings)
    before = scores.read_scores(model_dir, split, settings.task, limit)
    file = scores.scores_file(model_dir, split, settings.task, limit)
    chosen = {saved_checkpoints.parse_step(path) for path in paths}
    others = [step for step in before if step.step not in chosen]
    agreement.check_same_decoding(file, others, decoding.describe_settings(model_dir))
    if others:
        agreement.check_same_data(file, sets, split, others[-1].step, limit)
    if follow:
        followed = checkpoint_selection.FollowedRun(run)
        paths = checkpoint_selection.wait_for_checkpoints(model_dir, followed)
    for path in paths:
        began = time.monotonic()
        step = saved_checkpoints.parse_step(path)
        decoded = decoding.decode(sets, run, path)
        total = sum(len(part.examples) for part in sets)
        bar = tqdm(decoded, f"step {step}", total, unit="example", leave=False, disable=None)
        scored = _score_answers(model_dir, split, step, limit, sets, list(bar))
        _write_scores(model_dir, split, settings.task, limit, scored)
        tqdm.write(
            f"wrote {file}: {total:,} examples, step {step}, "
            f"{time.monotonic() - began:.1f} seconds"
        )
        if follow:
            tqdm.write(scores_report.format_line(scored))
    return scores.read_scores(model_dir, split, settings.task, limit)


def _write_scores(
    model_dir: str, split: str, task: str, limit: int | None, scored: StepScores
) -> None:
    """Adds the scores of one checkpoint to the files with those of all."""
    # Another process may have added steps in the meantime.
    found = scores.read_scores(model_dir, split, task, limit)
    others = [other for other in found if other.step != scored.step]
    in_order = sorted([*others, scored], key=lambda one: one.step)
    name = os.path.basename(os.path.abspath(model_dir))
    report = scores_report.make_report(task, split, limit, in_order, name)
    report.write(scores.eval_folder(model_dir, split))


def _score_answers(
    model_dir: str,
    split: str,
    step: int,
    limit: int | None,
    sets: Sequence[EvaluationSet],
    texts: Sequence[str],
) -> StepScores:
    """Scores the decoded texts of one checkpoint, and writes them to files."""
    values, examples, examples_of_split = {}, {}, {}
    for part, part_texts in evaluation_sets.split_by_set(sets, texts):
        task = part.task.name
        predictions = part.postprocess(part_texts)
        values[task] = task_metrics.compute_metrics(part.task, part.targets, predictions)
        examples[task] = len(part_texts)
        examples_of_split[task] = part.examples_of_split
        path = answers.answers_file(model_dir, split, task, step, limit)
        answers.write_answers(path, part, part_texts, predictions)
    averages = task_metrics.average_tasks(values)
    decoded_with = decoding.describe_settings(model_dir)
    return StepScores(step, examples, values, averages, examples_of_split, decoded_with)

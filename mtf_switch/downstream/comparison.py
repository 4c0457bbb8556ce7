"""`run_switch.py compare`: compares models on the same examples, and with the paper.

It reads the files that `eval` has written, and decodes nothing. For each task, it takes each
model at its best checkpoint, and computes intervals.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import seqio
from tqdm import tqdm

from mtf_switch import report
from mtf_switch.downstream import (
    agreement,
    answers,
    bootstrap,
    paper_tables,
    scores,
    task_metrics,
)
from mtf_switch.downstream.scores import Metric, Peak, StepScores
from mtf_switch.errors import UserError
from mtf_switch.report import Report


@dataclasses.dataclass(frozen=True)
class Cell:
    """The value of a metric for one model.

    Attributes:
      step: Step of the checkpoint; None for an average, because each task has its own step.
      value: Value on all examples.
      interval: Its 95% interval over examples.
      difference: Difference from the first model; None for the first model itself.
      difference_interval: Its 95% interval. If 0 is outside, the models differ by more than the
        choice of examples explains. The interval does not cover other training seeds.
    """

    step: int | None
    value: float
    interval: tuple[float, float]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric of one task, or an average over tasks, for all models.

    Attributes:
      task: The task; "" for an average.
      metric: The metric, or the average's name.
      examples: Number of examples; for an average, those of all its tasks.
      cells: One cell for each model.
      paper: Title and values of the column in Table 5, in the order of `paper_tables.MODELS`;
        None if the paper does not report this metric.
    """

    task: str
    metric: str
    examples: int
    cells: list[Cell]
    paper: tuple[str, tuple[float, ...]] | None


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """All models on one task.

    Attributes:
      task: The task.
      examples: Number of examples.
      peaks: For each model, its best checkpoint and the values there.
      resampled: For each model, metric -> [draws] values on bootstrap draws.
    """

    task: str
    examples: int
    peaks: list[Peak]
    resampled: list[dict[str, np.ndarray]]


def compare_models(models: Sequence[str], tasks: Sequence[str], split: str) -> list[Row]:
    """Compares models on tasks and mixtures.

    Args:
      models: The model_dirs, which `eval` has scored. Differences are from the first one.
      tasks: Names of the tasks or mixtures that were evaluated.
      split: Split of the tasks.

    Raises:
      UserError: If a model was not scored on a task in full, or what was scored does not
        agree (see `agreement`).
    """
    rows = []
    for name in tqdm(tasks, "bootstrap", unit="task", leave=False, disable=None):
        results = _compare_on_subtasks(models, name, split)
        rows += [row for result in results for row in _build_task_rows(result)]
        rows += _build_average_rows(results)
    return rows


def _compare_on_subtasks(models: Sequence[str], name: str, split: str) -> list[TaskResult]:
    """Compares models on each subtask on which they were scored."""
    scored = [_read_scores(model, split, name) for model in models]
    agreement.check_same_tasks(models, name, [steps[-1] for steps in scored])
    return [
        _compare_on_task(models, name, task, split, scored)
        for task in seqio.get_subtasks(seqio.get_mixture_or_task(name))
        if task.name in scored[0][-1].scores
    ]


def _read_scores(model: str, split: str, name: str) -> list[StepScores]:
    steps = scores.read_scores(model, split, name)
    if not steps:
        partial = scores.find_partial_files(model, split, name)
        only = f" It has only those of a part of the examples: {partial[0]}." if partial else ""
        raise UserError(
            f"{model} has no scores of {name!r} ({split}).{only} Make them: "
            f"{answers.name_command(model, name, split, 'all')}"
        )
    return steps


def _compare_on_task(
    models: Sequence[str],
    name: str,
    task: seqio.Task,
    split: str,
    scored: Sequence[list[StepScores]],
) -> TaskResult:
    """Compares models on a task, which is the task or mixture `name` or a subtask of it."""
    peaks = [scores.find_peaks(steps)[task.name] for steps in scored]
    answered = [
        answers.read_answers(model, split, task.name, peak.step, name)
        for model, peak in zip(models, peaks)
    ]
    for model, steps, found in zip(models, scored, answered):
        (at_peak,) = (step for step in steps if step.step == found.step)
        agreement.check_all_answered(model, split, name, task.name, at_peak, found)
    agreement.check_same_examples(models, task.name, answered)
    targets = answered[0].targets
    files = [answers.answers_file(m, split, task.name, p.step) for m, p in zip(models, peaks)]
    try:
        resampled = bootstrap.resample_metrics(
            task, targets, [found.predictions for found in answered]
        )
    except Exception as error:  # metrics are other packages' and raise errors of many types
        raise UserError(
            f"The metrics of {task.name!r} cannot compare the values in {' or '.join(files)} "
            f"({type(error).__name__}: {error}). Evaluate these models again."
        ) from error
    for file, peak, draws in zip(files, peaks, resampled):
        if peak.values.keys() != draws.keys():
            raise UserError(
                f"{file} has the metrics {', '.join(draws)}, but the scores of its step have "
                f"{', '.join(peak.values)}. Evaluate the model again."
            )
    return TaskResult(task.name, len(targets), peaks, resampled)


def _build_task_rows(result: TaskResult) -> list[Row]:
    """Builds a row for each metric of a task."""
    steps = [peak.step for peak in result.peaks]
    rows = []
    for metric in result.resampled[0]:
        cells = _build_cells(
            steps,
            [peak.values[metric] for peak in result.peaks],
            [draws[metric] for draws in result.resampled],
        )
        rows.append(_build_row(result.task, metric, result.examples, cells))
    return rows


def _build_average_rows(results: Sequence[TaskResult]) -> list[Row]:
    """Builds a row for each average over tasks, each task at its own peak.

    The examples of each task are drawn independently of those of the other tasks.
    """
    examples = sum(result.examples for result in results)
    models = range(len(results[0].peaks) if results else 0)
    averages = [
        task_metrics.average_tasks({r.task: r.peaks[model].values for r in results})
        for model in models
    ]
    if not any(averages):
        return []
    resampled = [
        _average_draws({r.task: r.resampled[model] for r in results}) for model in models
    ]
    rows = []
    for name in averages[0]:
        cells = _build_cells(
            [None] * len(models),
            [values[name] for values in averages],
            [draws[name] for draws in resampled],
        )
        rows.append(_build_row("", name, examples, cells))
    return rows


def _average_draws(
    resampled: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Averages over tasks, draw by draw.

    Args:
      resampled: Task -> metric -> [draws].

    Returns:
      Average -> [draws].
    """
    averages = [
        task_metrics.average_tasks(
            {
                task: {metric: float(draws[draw]) for metric, draws in metrics.items()}
                for task, metrics in resampled.items()
            }
        )
        for draw in range(bootstrap.DRAWS)
    ]
    return {name: np.array([values[name] for values in averages]) for name in averages[0]}


def _build_cells(
    steps: Sequence[int | None], values: Sequence[float], resampled: Sequence[np.ndarray]
) -> list[Cell]:
    cells = []
    for index, (step, value, draws) in enumerate(zip(steps, values, resampled)):
        cell = Cell(step, value, bootstrap.percentile_interval(draws))
        if index:
            cell = dataclasses.replace(
                cell,
                difference=value - values[0],
                difference_interval=bootstrap.percentile_interval(draws - resampled[0]),
            )
        cells.append(cell)
    return cells


def _build_row(task: str, metric: str, examples: int, cells: list[Cell]) -> Row:
    column = paper_tables.find_column(task, metric)
    return Row(task, metric, examples, cells, column and (column.title, column.values))


def make_report(
    rows: Sequence[Row], models: Sequence[str], paper: Literal["Base", "Large"]
) -> Report:
    """Makes the report of a comparison; see `format_table`."""
    table = format_table(rows, models, paper)
    return Report(
        name="compare",
        text=table,
        data={"models": list(models), "rows": [dataclasses.asdict(row) for row in rows]},
        documents={"compare.md": table + "\n"},
    )


def format_table(
    rows: Sequence[Row], models: Sequence[str], paper: Literal["Base", "Large"]
) -> str:
    """Formats a comparison as a Markdown table.

    Args:
      rows: The rows that `compare_models` returned.
      models: The model_dirs.
      paper: Size of the paper's models whose values from Table 5 are shown.
    """
    sizes = [index for index, name in enumerate(paper_tables.MODELS) if paper in name]
    with_paper = any(row.paper for row in rows)
    first, *others = shorten_names(models)
    heads = ["", "examples", first]
    for name in others:
        heads += [name, f"{name} - {first}"]
    if with_paper:
        heads += [f"{paper_tables.MODELS[index]} in the paper" for index in sizes]
        heads.append("difference in the paper")
    cells = [
        _format_values(row) + (_format_paper(row, sizes) if with_paper else []) for row in rows
    ]
    return report.format_table(heads, cells)


def _format_values(row: Row) -> list[str]:
    cells = [Metric(row.task, row.metric).label, f"{row.examples:,}"]
    for cell in row.cells:
        cells.append(f"{cell.value:.2f} {_format_interval(cell.interval)}")
        if cell.difference is not None:
            interval = _format_interval(cell.difference_interval)
            cells.append(f"{cell.difference:+.2f} {interval}")
    return cells


def _format_paper(row: Row, sizes: Sequence[int]) -> list[str]:
    """Formats the paper's two values and their difference, or empty cells without values."""
    if row.paper is None:
        return [""] * (len(sizes) + 1)
    dense, sparse = (row.paper[1][index] for index in sizes)
    return [f"{dense:.1f}", f"{sparse:.1f}", f"{sparse - dense:+.1f}"]


def _format_interval(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def shorten_names(models: Sequence[str]) -> list[str]:
    """Returns the last part of each path, or the whole paths if the last parts repeat."""
    names = [os.path.basename(os.path.normpath(model)) for model in models]
    return names if len(set(names)) == len(names) else list(models)

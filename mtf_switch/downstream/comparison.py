"""`run_switch.py compare`: models on the same examples, with intervals, beside the paper.

What `eval` has written is read; nothing is decoded. Each model is taken at its best checkpoint
for the task.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.downstream import bootstrap, checkpoint_scores, paper_tables, task_metrics
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model's value of a metric.

    Attributes:
      step: of the checkpoint; None for an average, whose tasks are at their own steps.
      value: on all examples.
      interval: 95%, over examples.
      difference: from the first model; None for the first.
      difference_interval: 95%; if 0 is outside, the models differ on these examples by more
        than the choice of examples explains. It says nothing of another training seed.
    """

    step: int | None
    value: float
    interval: tuple[float, float]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric of one task, or an average.

    Attributes:
      task: its name; "" for an average.
      metric: its name.
      examples: how many; of an average: of all its tasks.
      cells: one for each model.
      paper: title and values of Table 5, in the order of `paper_tables.MODELS`.
    """

    task: str
    metric: str
    examples: int
    cells: list[Cell]
    paper: tuple[str, tuple[float, ...]] | None


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one checkpoint answered for one task: texts, and what the metrics compare."""

    step: int
    inputs: list[str]
    targets: list[Any]
    predictions: list[Any]


def compare(models: Sequence[str], tasks: Sequence[str], split: str) -> list[Row]:
    """Compares models on tasks and mixtures.

    Args:
      models: model_dirs that `eval` has scored; differences are from the first.
      tasks: names of tasks or mixtures, as they were evaluated.
      split: of the tasks.

    Raises:
      UserError: if a model was not scored on a task, or on other examples.
    """
    rows = []
    for name in tqdm(tasks, "bootstrap", unit="task", leave=False, disable=None):
        rows += _rows_of(models, name, split)
    return rows


def _rows_of(models: Sequence[str], name: str, split: str) -> list[Row]:
    best = {model: checkpoint_scores.peaks(_scores(model, name, split)) for model in models}
    subtasks = [task for task in seqio.get_subtasks(seqio.get_mixture_or_task(name))]
    scored = [task for task in subtasks if all(task.name in best[model] for model in models)]
    rows, values, drawn, examples = [], [{} for _ in models], [{} for _ in models], 0
    for task in scored:
        answers = [
            read_answers(model, task.name, split, best[model][task.name].step)
            for model in models
        ]
        _check_same(models, task.name, answers)
        examples += len(answers[0].targets)
        of_models = bootstrap.draws(
            task, answers[0].targets, [found.predictions for found in answers]
        )
        for index, model in enumerate(models):
            values[index][task.name] = best[model][task.name].values
            drawn[index][task.name] = of_models[index]
        for metric in of_models[0]:
            cells = _cells(
                [found.step for found in answers],
                [of[task.name][metric] for of in values],
                [of[metric] for of in of_models],
            )
            rows.append(_row(task.name, metric, len(answers[0].targets), cells))
    return rows + _average_rows(values, drawn, examples)


def _average_rows(values: list[dict], drawn: list[dict], examples: int) -> list[Row]:
    """Rows of the averages, each task at its own peak, drawn task by task."""
    of_all = [task_metrics.averages(of) for of in values]
    of_draws = [
        [task_metrics.averages(_at(of, draw)) for draw in range(bootstrap.DRAWS)] if of else []
        for of in (drawn if of_all[0] else [])
    ]
    return [
        _row(
            "",
            name,
            examples,
            _cells(
                [None] * len(values),
                [of[name] for of in of_all],
                [np.array([draw[name] for draw in of]) for of in of_draws],
            ),
        )
        for name in of_all[0]
    ]


def _at(drawn: dict[str, dict[str, np.ndarray]], draw: int) -> dict[str, dict[str, float]]:
    return {
        task: {metric: float(values[draw]) for metric, values in of.items()}
        for task, of in drawn.items()
    }


def _cells(
    steps: Sequence[int | None], values: Sequence[float], drawn: Sequence[np.ndarray]
) -> list[Cell]:
    cells = []
    for index, (step, value, draws) in enumerate(zip(steps, values, drawn)):
        cell = Cell(step, value, bootstrap.interval(draws))
        if index:
            cell = dataclasses.replace(
                cell,
                difference=value - values[0],
                difference_interval=bootstrap.interval(draws - drawn[0]),
            )
        cells.append(cell)
    return cells


def _row(task: str, metric: str, examples: int, cells: list[Cell]) -> Row:
    column = paper_tables.of(task, metric)
    return Row(task, metric, examples, cells, column and (column.title, column.values))


def _scores(model: str, name: str, split: str) -> list[checkpoint_scores.StepScores]:
    found = checkpoint_scores.read(model, split, name)
    if not found:
        raise UserError(
            f"{model} has no scores of {name!r} ({split}). Make them: run_switch.py eval "
            f"--model_dir={model} --task={name} --split={split} --checkpoint_steps=all"
        )
    return found


def read_answers(model: str, task: str, split: str, step: int) -> Answers:
    """What a checkpoint answered, as `eval` wrote it down.

    Raises:
      UserError: if the file is not there or damaged.
    """
    path = checkpoint_scores.predictions_file(
        checkpoint_scores.folder(model, split), task, step
    )
    try:
        with open(path, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        return Answers(
            step,
            [line["inputs"] for line in lines],
            [_hashable(line["target_value"]) for line in lines],
            [line["prediction_value"] for line in lines],
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}, with what the model answered at its best checkpoint, cannot be read "
            f"({type(error).__name__}). eval writes it again: run_switch.py eval "
            f"--model_dir={model} --checkpoint_steps={step}"
        ) from error


def _hashable(target: Any) -> Any:
    """JSON has made lists of tuples; a group has to be hashable."""
    if isinstance(target, dict) and isinstance(target.get("group"), list):
        return {**target, "group": tuple(target["group"])}
    return target


def _check_same(models: Sequence[str], task: str, answers: Sequence[Answers]) -> None:
    for model, found in zip(models[1:], answers[1:]):
        if found.inputs != answers[0].inputs:
            raise UserError(
                f"{models[0]} and {model} were scored on other examples of {task!r} "
                f"({len(answers[0].inputs)} and {len(found.inputs)} of them). Run eval for "
                "both on the same data, in full."
            )


def table(rows: Sequence[Row], models: Sequence[str], paper: str) -> str:
    """The comparison as a Markdown table.

    Args:
      rows: of `compare`.
      models: model_dirs.
      paper: "Base" or "Large", whose rows of Table 5 stand beside.
    """
    names = short_names(models)
    sizes = [index for index, name in enumerate(paper_tables.MODELS) if paper in name]
    heads = ["", "examples", names[0]]
    for name in names[1:]:
        heads += [name, f"{name} - {names[0]}"]
    with_paper = any(row.paper for row in rows)
    if with_paper:
        heads += [paper_tables.MODELS[index] + " in the paper" for index in sizes]
        heads.append("difference in the paper")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = ["/".join(filter(None, (row.task, row.metric))), f"{row.examples:,}"]
        for cell in row.cells:
            cells.append(f"{cell.value:.2f} {_range(cell.interval)}")
            if cell.difference is not None:
                cells.append(f"{cell.difference:+.2f} {_range(cell.difference_interval)}")
        if with_paper:
            values = [row.paper[1][index] for index in sizes] if row.paper else []
            cells += [f"{value:.1f}" for value in values] or [""] * len(sizes)
            cells.append(f"{values[1] - values[0]:+.1f}" if values else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _range(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def short_names(models: Sequence[str]) -> list[str]:
    """The last part of each path, or the whole ones if those are not distinct."""
    names = [os.path.basename(os.path.normpath(model)) for model in models]
    return names if len(set(names)) == len(names) else list(models)


def write(output_dir: str, rows: Sequence[Row], models: Sequence[str], text: str) -> None:
    """Writes `compare.json` and `compare.md`."""
    os.makedirs(output_dir, exist_ok=True)
    content = {"models": list(models), "rows": [dataclasses.asdict(row) for row in rows]}
    for name, body in (
        ("compare.json", json.dumps(content, indent=2) + "\n"),
        ("compare.md", text + "\n"),
    ):
        path = os.path.join(output_dir, name)
        with whole_file.open_for_writing(path) as file:
            file.write(body)

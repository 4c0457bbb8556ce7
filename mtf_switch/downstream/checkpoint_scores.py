"""`run_switch.py eval` with metrics: every checkpoint scored, and the peak found.

Files in `<model_dir>/<split>_eval/`, for a task or mixture NAME with subtasks:

    NAME.json       all scores by step, averages, peaks
    NAME.csv        the same as a table, a row for each step
    NAME.png        metrics against steps
    SUBTASK-STEP.jsonl   a line for each example: inputs, targets, prediction
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.config import run_settings
from mtf_switch.downstream import task_metrics
from mtf_switch.downstream.task_metrics import EvaluationSet
from mtf_switch.errors import UserError
from mtf_switch.runs import checkpoints, data

LATEST, ALL = "latest", "all"
_SECONDS_BETWEEN_LOOKS = 10.0


@dataclasses.dataclass(frozen=True)
class StepScores:
    """What one checkpoint scored, in the metrics' own units (mostly percent).

    Attributes:
      step: of the checkpoint.
      examples: how many each task was scored on.
      scores: task -> metric -> value.
      averages: see `task_metrics.averages`.
    """

    step: int
    examples: dict[str, int]
    scores: dict[str, dict[str, float]]
    averages: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Peak:
    """The best checkpoint for one task, or for an average.

    Attributes:
      step: of the checkpoint.
      values: metric -> value there.
    """

    step: int
    values: dict[str, float]


def folder(model_dir: str, split: str) -> str:
    """Where the files of a split are."""
    return os.path.join(model_dir, f"{split}_eval")


def parse_steps(text: str) -> str | list[int]:
    """What --checkpoint_steps says: "latest", "all", or steps as in "200,400".

    Raises:
      UserError: for anything else.
    """
    if text in (LATEST, ALL):
        return text
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(
            f"--checkpoint_steps is {text!r}, but it is 'all', 'latest', or steps such as "
            "200,400,600."
        ) from error


def evaluate(
    model_dir: str,
    split: str,
    steps: str | Sequence[int],
    limit: int | None = None,
    follow: bool = False,
    cluster: Any | None = None,
) -> list[StepScores]:
    """Scores checkpoints on the parsed task, and writes what it finds after each.

    Args:
      model_dir: of a training run, whose configuration is parsed.
      split: of the task.
      steps: "latest", "all" or steps.
      limit: examples of each task at most.
      follow: whether to wait for further checkpoints until training is at its end.
      cluster: a TPUClusterResolver; None evaluates on this machine.

    Returns:
      The scores of every step in the file, earlier calls' included.

    Raises:
      UserError: for a task without metrics or data, or a step without a checkpoint.
    """
    settings = run_settings.from_gin()
    vocabulary = data.prepare(settings.task)
    paths = _paths(model_dir, steps) if not follow else []
    sets = task_metrics.load(settings, split, limit)
    task_metrics.bind_decode_length(settings)
    kept = {scores.step: scores for scores in read(model_dir, split, settings.task, limit)}
    for path in _growing(model_dir, settings.train_steps) if follow else paths:
        step = checkpoints.step_of(path)
        answers = task_metrics.answers(sets, settings, vocabulary, model_dir, path, cluster)
        total = sum(len(part.examples) for part in sets)
        bar = tqdm(answers, f"step {step}", total, unit="example", leave=False, disable=None)
        kept[step] = _scored(step, sets, list(bar), folder(model_dir, split))
        in_order = [kept[key] for key in sorted(kept)]
        write(model_dir, split, settings.task, limit, in_order)
        if follow:
            tqdm.write(one_line(kept[step]))
    return [kept[key] for key in sorted(kept)]


def _paths(model_dir: str, steps: str | Sequence[int]) -> list[str]:
    latest = checkpoints.find(model_dir)
    if steps == LATEST:
        return [latest]
    paths = {checkpoints.step_of(path): path for path in checkpoints.all_of(model_dir)}
    if steps == ALL:
        return list(paths.values())
    absent = [step for step in steps if step not in paths]
    if absent:
        raise UserError(
            f"{model_dir} has no checkpoint of step {absent[0]}; it has those of "
            f"{', '.join(map(str, paths))}."
        )
    return [paths[step] for step in steps]


def _growing(model_dir: str, last_step: int) -> Iterator[str]:
    """Each checkpoint of a run as it appears, up to that of the last step."""
    done: set[int] = set()
    with tqdm(
        desc="waiting for checkpoints", bar_format="{desc} {elapsed}", disable=None
    ) as bar:
        while last_step not in done:
            new = [
                p for p in checkpoints.all_of(model_dir) if checkpoints.step_of(p) not in done
            ]
            for path in new:
                done.add(checkpoints.step_of(path))
                yield path
            if not new:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                bar.refresh()


def _scored(
    step: int, sets: Iterable[EvaluationSet], answers: list[str], to_folder: str
) -> StepScores:
    """Compares the answers of all sets, and writes them down."""
    scores, examples, start = {}, {}, 0
    for part in sets:
        texts = answers[start : start + len(part.examples)]
        start += len(part.examples)
        predictions = part.postprocessed(texts)
        scores[part.task.name] = task_metrics.score(part.task, part.targets, predictions)
        examples[part.task.name] = len(texts)
        write_predictions(
            predictions_file(to_folder, part.task.name, step), part, texts, predictions
        )
    return StepScores(step, examples, scores, task_metrics.averages(scores))


def predictions_file(in_folder: str, task: str, step: int) -> str:
    """The file with what a checkpoint answered."""
    return os.path.join(in_folder, f"{task}-{step}.jsonl")


def write_predictions(
    path: str, part: EvaluationSet, texts: Sequence[str], predictions: Sequence[Any]
) -> None:
    """Writes a line of JSON for each example, with what the metrics compare beside the text."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file.open_for_writing(path) as file:
        for index, (text, value) in enumerate(zip(texts, predictions)):
            line = {
                "inputs": part.text(index, "inputs"),
                "targets": part.text(index, "targets"),
                "prediction": text,
                "target_value": part.targets[index],
                "prediction_value": value,
            }
            file.write(json.dumps(line, ensure_ascii=False, default=_as_json) + "\n")


def _as_json(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8")
    raise TypeError(f"{type(value)} has no form in JSON")


def results_file(model_dir: str, split: str, task: str, limit: int | None) -> str:
    """The JSON file of a task's scores; those on the first examples only are kept apart."""
    part = f"-first{limit}" if limit is not None else ""
    return os.path.join(folder(model_dir, split), f"{task}{part}.json")


def read(model_dir: str, split: str, task: str, limit: int | None = None) -> list[StepScores]:
    """The scores in a file by step; none if there is no file."""
    path = results_file(model_dir, split, task, limit)
    if not os.path.exists(path):
        return []
    try:
        with open(path, encoding="utf-8") as file:
            return [StepScores(**entry) for entry in json.load(file)["steps"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove it; eval writes it again."
        ) from error


def peaks(steps: Sequence[StepScores]) -> dict[str, Peak]:
    """The best checkpoint of each task (by the mean of its metrics) and of each average.

    The first one, if several are equally good.
    """
    found = {}
    for task in steps[-1].scores:
        best = max(
            (s for s in steps if task in s.scores),
            key=lambda s, task=task: task_metrics.task_mean(s.scores[task]),
        )
        found[task] = Peak(best.step, best.scores[task])
    for name in steps[-1].averages:
        best = max(
            (s for s in steps if name in s.averages),
            key=lambda s, name=name: s.averages[name],
        )
        found[name] = Peak(best.step, {"average": best.averages[name]})
    return found


def averages_of_peaks(steps: Sequence[StepScores]) -> dict[str, float]:
    """Averages where each task is taken at its own best checkpoint, as T5 reports them."""
    at_peak = {
        task: peak.values for task, peak in peaks(steps).items() if task in steps[-1].scores
    }
    return task_metrics.averages(at_peak)


def write(
    model_dir: str, split: str, task: str, limit: int | None, steps: Sequence[StepScores]
) -> None:
    """Writes JSON, CSV and plot, each whole or not at all."""
    from mtf_switch.downstream import scores_report

    path = results_file(model_dir, split, task, limit)
    content = {
        "task": task,
        "split": split,
        "steps": [dataclasses.asdict(scores) for scores in steps],
        "peaks": {name: dataclasses.asdict(peak) for name, peak in peaks(steps).items()},
        "averages_of_peaks": averages_of_peaks(steps),
    }
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file.open_for_writing(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    root = path[: -len(".json")]
    with whole_file.open_for_writing(root + ".csv") as file:
        file.write(as_csv(steps))
    scores_report.write(root + ".png", f"{task} ({split})", steps)


def columns(steps: Sequence[StepScores]) -> list[tuple[str, str]]:
    """(task, metric) of every score, and ("", average) of every average."""
    last = steps[-1]
    of_tasks = [(task, metric) for task, of in last.scores.items() for metric in of]
    return of_tasks + [("", name) for name in last.averages]


def title(column: tuple[str, str]) -> str:
    """TASK/METRIC of a score, and the name of an average."""
    return "/".join(filter(None, column))


def value(scores: StepScores, column: tuple[str, str]) -> float | None:
    """One number of `columns`; None if the step has no such score."""
    task, metric = column
    return (scores.scores.get(task, {}) if task else scores.averages).get(metric)


def as_csv(steps: Sequence[StepScores]) -> str:
    """A row for each step."""
    names = columns(steps)
    lines = [",".join(["step", *(title(column) for column in names)])]
    for scores in steps:
        cells = [value(scores, column) for column in names]
        lines.append(
            ",".join([str(scores.step), *("" if c is None else f"{c:.3f}" for c in cells)])
        )
    return "\n".join(lines) + "\n"


def one_line(scores: StepScores) -> str:
    """A step's scores, as --follow shows them."""
    parts = [f"{title(c)} {value(scores, c):.2f}" for c in columns([scores])]
    return f"step {scores.step}: {', '.join(parts)}"


def table(steps: Sequence[StepScores], split: str) -> str:
    """Each metric at the last step and at its task's peak, as text for the screen."""
    last, best = steps[-1], peaks(steps)
    width = max(len(title(column)) for column in columns(steps))
    lines = [f"{'':{width}}  step {last.step:<8}  peak      at step"]
    for column in columns(steps):
        task, metric = column
        peak = best[task or metric]
        at_peak = peak.values[metric if task else "average"]
        name = title(column)
        lines.append(
            f"{name:{width}}  {value(last, column):<13.2f}  {at_peak:<8.2f}  {peak.step}"
        )
    for name, average in averages_of_peaks(steps).items():
        lines.append(f"{name}, each task at its own peak: {average:.2f}")
    if len(steps) > 1 and split != "test":
        lines.append(
            f"The peaks of {len(steps)} checkpoints were chosen on {split}, the data that they "
            "are reported on, as the paper does: expect less on other data."
        )
    return "\n".join(lines)

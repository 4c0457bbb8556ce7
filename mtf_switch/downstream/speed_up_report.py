"""`run_switch.py compare` for tasks without metrics: speed-ups in pre-training.

`gains` defines a speed-up, as in Figures 4, 5, 6 and 8.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from mtf_switch import report
from mtf_switch.downstream import gains, quality_curve
from mtf_switch.downstream.comparison import shorten_names
from mtf_switch.downstream.quality_curve import QualityCurve
from mtf_switch.report import Report


@dataclasses.dataclass(frozen=True)
class TaskSpeedUps:
    """The speed-ups of models over the first model on one task.

    Attributes:
      task: The task.
      curves: The evaluations of each model. The first model is the dense one.
      in_steps: The speed-up in steps of each other model; None if it does not reach the
        quality of the first model.
      in_time: The speed-up in seconds; None also if a run does not have a training log.
    """

    task: str
    curves: list[QualityCurve]
    in_steps: list[float | None]
    in_time: list[float | None]


def compare_curves(
    models: Sequence[str], tasks: Sequence[str], split: str
) -> list[TaskSpeedUps]:
    """Computes the speed-ups of all models over the first one.

    Args:
      models: The model_dirs, with the results of `eval`.
      tasks: Names of tasks or mixtures.
      split: Split of the tasks.

    Raises:
      UserError: If a model was not evaluated on a whole task, or not on the same data as the
        first model.
    """
    results = []
    for task in tasks:
        dense, *others = curves = [quality_curve.read(model, task, split) for model in models]
        quality_curve.check_same_data(task, curves)
        results.append(
            TaskSpeedUps(
                task,
                curves,
                [gains.compute_speed_up(dense.points, other.points) for other in others],
                [_compute_speed_up_in_time(dense, other) for other in others],
            )
        )
    return results


def _compute_speed_up_in_time(dense: QualityCurve, other: QualityCurve) -> float | None:
    speed_up = gains.compute_speed_up(dense.points, other.points, "seconds")
    return None if speed_up is None or math.isnan(speed_up) else speed_up


def make_report(results: Sequence[TaskSpeedUps]) -> Report:
    """Makes the report, whose files are speed_ups.json and speed_ups.md."""
    table = format_table(results)
    return Report(
        name="speed_ups",
        text=table,
        data=[_to_data(result) for result in results],
        documents={"speed_ups.md": table + "\n"},
    )


def _to_data(result: TaskSpeedUps) -> dict[str, Any]:
    """Converts a result to JSON data, in which None replaces NaN."""
    data = dataclasses.asdict(result)
    for curve in data["curves"]:
        for point in curve["points"]:
            point["seconds"] = None if math.isnan(point["seconds"]) else point["seconds"]
    return data


def format_table(results: Sequence[TaskSpeedUps]) -> str:
    """Formats a Markdown table with a row for each model and task, and a summary of tasks."""
    heads = [
        "task",
        "model",
        "last step",
        "neg. log perplexity",
        "speed-up in steps",
        "in time",
    ]
    rows = []
    for result in results:
        names = shorten_names([curve.run for curve in result.curves])
        in_steps, in_time = ["1.00", *map(_format, result.in_steps)], ["1.00"]
        in_time += [
            "no time" if steps is not None and time is None else _format(time)
            for steps, time in zip(result.in_steps, result.in_time)
        ]
        for name, curve, *speed_ups in zip(names, result.curves, in_steps, in_time):
            last = curve.points[-1]
            cells = [result.task, name, f"{last.step:,}", f"{last.neg_log_perplexity:.4f}"]
            rows.append([*cells, *speed_ups])
    summary = _summarize(results) if len(results) > 1 else []
    return "\n".join([report.format_table(heads, rows), *summary])


def _format(speed_up: float | None) -> str:
    return "not reached" if speed_up is None else f"{speed_up:.2f}"


def _summarize(results: Sequence[TaskSpeedUps]) -> list[str]:
    """Summarizes each other model over the tasks, as Section 4.3 summarizes mSwitch."""
    names = shorten_names([curve.run for curve in results[0].curves])
    lines = [""]
    for index, name in enumerate(names[1:]):
        found = gains.summarize_speed_ups({r.task: r.in_steps[index] for r in results})
        mean = "none is reached" if found.mean is None else f"mean speed-up {found.mean:.2f}"
        missing = f"; not reached: {', '.join(found.not_reached)}" if found.not_reached else ""
        lines.append(
            f"{name}: {mean}, at least 4 in {100 * found.share_at_least:.0f}% of "
            f"{len(results)} tasks{missing}."
        )
    return lines

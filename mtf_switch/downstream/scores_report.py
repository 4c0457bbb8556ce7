"""The scores of a model's checkpoints as a table, JSON, CSV and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtf_switch.downstream import scores
from mtf_switch.downstream.scores import StepScores
from mtf_switch.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The label of an axis. All metrics are from 0 to 100, or -100 to 100.
_SCORE = "score (points out of 100)"


def make_report(
    task: str, split: str, limit: int | None, steps: Sequence[StepScores], model: str
) -> Report:
    """Makes the report on a task; its files belong into `scores.eval_folder`.

    Args:
      task: Name of the task or mixture.
      split: Split on which the checkpoints were scored.
      limit: The maximum number of examples per task that were read, or None.
      steps: Scores of at least one checkpoint, in the order of their steps.
      model: The name of the model, for the title of the plot.
    """
    title = f"{model}: {task} ({split})"
    name = scores.scores_name(task, limit)
    return Report(
        name=name,
        text=format_table(split, steps),
        data=scores.to_data(task, split, limit, steps),
        documents={f"{name}.csv": format_csv(steps)},
        plots={f"{name}.png": lambda figure: draw_scores(figure, title, steps)},
    )


def format_table(split: str, steps: Sequence[StepScores]) -> str:
    """Formats each metric at the last step and at its task's best step, for the screen."""
    last, peaks = steps[-1], scores.find_peaks(steps)
    width = max(len(metric.label) for metric in last.metrics)
    lines = [f"{'':{width}}  step {last.step:<8}  peak      at step"]
    for metric in last.metrics:
        peak = peaks[metric.task or metric.name]
        at_peak = peak.values[metric.name if metric.task else "average"]
        lines.append(
            f"{metric.label:{width}}  {last.get_value(metric):<13.2f}  {at_peak:<8.2f}  "
            f"{peak.step}"
        )
    for name, average in scores.average_peaks(steps).items():
        lines.append(f"{name}, each task at its own peak: {average:.2f}")
    lines += _describe_missing_examples(last)
    if len(steps) > 1 and split != "test":
        lines.append(
            f"The peaks of {len(steps)} checkpoints were chosen on {split}, the data on which "
            "they are reported, as in the paper. Expect lower scores on other data."
        )
    return "\n".join(lines)


def _describe_missing_examples(step: StepScores) -> list[str]:
    """Says how many examples of each task were scored, unless all of them were."""
    parts = [
        f"{count:,} of {step.examples_of_split[task]:,} of {task}"
        for task, count in step.examples.items()
        if count < step.examples_of_split.get(task, count)
    ]
    return [f"Only the first examples were scored: {', '.join(parts)}."] if parts else []


def format_line(step: StepScores) -> str:
    """Formats the scores of one step as one line."""
    parts = [f"{metric.label} {step.get_value(metric):.2f}" for metric in step.metrics]
    return f"step {step.step}: {', '.join(parts)}"


def format_csv(steps: Sequence[StepScores]) -> str:
    """Formats a row for each step, and a column for each metric of the last step."""
    metrics = steps[-1].metrics
    rows = [["step", *(metric.label for metric in metrics)]]
    for step in steps:
        values = [step.get_value(metric) for metric in metrics]
        rows.append([str(step.step), *("" if v is None else f"{v:.3f}" for v in values)])
    return "".join(",".join(row) + "\n" for row in rows)


def draw_scores(figure: Figure, title: str, steps: Sequence[StepScores]) -> None:
    """Draws each metric against steps; averages are thick lines. One step gives bars."""
    figure.set_size_inches(9, 5)
    axis = figure.subplots()
    axis.set_title(title)
    axis.grid(alpha=0.3)
    if len(steps) == 1:
        _draw_bars(axis, steps[0])
        return
    for metric in steps[-1].metrics:
        scored = [step for step in steps if step.get_value(metric) is not None]
        axis.plot(
            [step.step for step in scored],
            [step.get_value(metric) for step in scored],
            marker="o",
            linewidth=1.2 if metric.task else 3,
            label=metric.label,
        )
    axis.set_xlabel("training step")
    axis.set_ylabel(_SCORE)
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_bars(axis: Axes, step: StepScores) -> None:
    metrics = [m for m in step.metrics if step.get_value(m) is not None][::-1]
    bars = axis.barh([m.label for m in metrics], [step.get_value(m) for m in metrics])
    axis.bar_label(bars, fmt="%.1f", padding=3)
    axis.margins(x=0.1)
    axis.set_axisbelow(True)
    axis.set_xlabel(f"{_SCORE} at step {step.step}")

"""The report of `make demo-finetune`: its tables, page and plot."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtf_switch import machine, report
from mtf_switch.demo.results import DENSE, FinetunedModel
from mtf_switch.downstream import answers, comparison, scores
from mtf_switch.downstream.scores import Metric, StepScores
from mtf_switch.report import Report
from tasks import embedded_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The columns of the table. The paper reports ROUGE-2; ROUGE-1 tells more at this size.
METRICS = (
    Metric(embedded_tasks.PACKAGE, "accuracy"),
    Metric(embedded_tasks.SUMMARY, "rouge1"),
    Metric(embedded_tasks.SUMMARY, "rouge2"),
    Metric(embedded_tasks.MODULE, "em"),
    Metric(embedded_tasks.MODULE, "f1"),
)
_AVERAGE = Metric("", "average")
# Steps between the points of two models in the plot.
_APART = 6

ModelScores = Mapping[FinetunedModel, Sequence[StepScores]]


def make_report(
    output_dir: str, model_scores: ModelScores, command: str, seconds: float
) -> Report:
    """Makes the report: results.json, report.md and table4.png.

    Args:
      output_dir: Folder of the demo, which holds the model_dir of each model.
      model_scores: Scores of the checkpoints of each model.
      command: The command that gave these scores.
      seconds: How long it took.
    """
    tables = format_tables(output_dir, model_scores)
    made_by = f"Made by `{command}`, which took {seconds:.0f} s, on {machine.describe()}."
    page = [
        "# Table 4 at laptop size",
        "",
        tables,
        "",
        "![curves](table4.png)",
        "",
        made_by,
        "",
    ]
    return Report(
        name="results",
        text=tables,
        data={
            model.name: [dataclasses.asdict(step) for step in steps]
            for model, steps in model_scores.items()
        },
        documents={"report.md": "\n".join(page)},
        plots={"table4.png": lambda figure: draw_scores(figure, model_scores)},
    )


def format_tables(output_dir: str, model_scores: ModelScores) -> str:
    """Formats Table 4, and the comparison of its first row with its last."""
    first, *_, last = model_scores
    dense_dir, sparse_dir = (os.path.join(output_dir, model.name) for model in (first, last))
    rows = comparison.compare_models(
        [dense_dir, sparse_dir], [embedded_tasks.MIXTURE], "validation"
    )
    final = model_scores[first][-1]
    guess = compute_majority_accuracy(dense_dir, final.step)
    examples = ", ".join(f"{count} of {task}" for task, count in final.examples.items())
    return "\n".join(
        [
            format_table_4(model_scores),
            "",
            "Each task is reported at its best checkpoint (step in brackets), which was chosen "
            f"on the same validation examples ({examples}). A model that always names the most "
            f"frequent package has an accuracy of {guess:.1f}.",
            "",
            comparison.format_table(rows, [dense_dir, sparse_dir], "Base"),
            "",
            "The brackets hold 95% bootstrap intervals over the examples (1,000 draws). They "
            "do not cover other training seeds.",
        ]
    )


def format_table_4(model_scores: ModelScores) -> str:
    """Formats a Markdown table with one row per model, and each task at its best checkpoint."""
    heads = ["", "dropout", "expert dropout"]
    heads += [f"{metric.task.split('_')[1]} {metric.name}" for metric in METRICS]
    heads += ["average", "SuperGLUE in the paper"]
    rows = []
    for model, steps in model_scores.items():
        peaks = scores.find_peaks(steps)
        rate = model.paper.expert_dropout
        cells = [
            model.pretrained.removesuffix("_tiny"),
            f"{model.paper.dropout}",
            "-" if rate is None else f"{rate}",
        ]
        for metric in METRICS:
            peak = peaks[metric.task]
            cells.append(f"{peak.values[metric.name]:.1f} ({peak.step})")
        cells.append(f"{scores.average_peaks(steps)['average']:.2f}")
        cells.append(f"{model.paper.superglue}")
        rows.append(cells)
    return report.format_table(heads, rows)


def compute_majority_accuracy(model_dir: str, step: int) -> float:
    """Returns the accuracy of a model that always names the most frequent package."""
    targets = answers.read_answers(
        model_dir, "validation", embedded_tasks.PACKAGE, step
    ).targets
    ((_, count),) = collections.Counter(targets).most_common(1)
    return 100 * count / len(targets)


def draw_scores(figure: Figure, model_scores: ModelScores) -> None:
    """Draws the average over tasks, and the accuracy for packages, against steps.

    The accuracy has intervals over the examples. Its points are moved apart, so that they can
    be told from each other.
    """
    figure.set_size_inches(12, 4.8)
    axes = figure.subplots(1, 2)
    titles = (
        "Average of the three tasks",
        "Package of a docstring: accuracy, 95% intervals over the examples",
    )
    for axis, metric, title in zip(axes, (_AVERAGE, METRICS[0]), titles):
        for number, (model, steps) in enumerate(model_scores.items()):
            style = {"color": "black", "linestyle": "--"} if model.pretrained == DENSE else {}
            values = [step.get_value(metric) for step in steps]
            points = [step.step for step in steps]
            if metric is not _AVERAGE:
                points = [point + _APART * number for point in points]
                counts = [step.examples[metric.task] for step in steps]
                style |= {"yerr": _compute_errors(values, counts), "capsize": 2}
            axis.errorbar(points, values, marker="o", label=model.name, **style)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("steps of fine-tuning")
        axis.set_ylabel("score (% of the best possible)")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle("t5_tiny and switch_tiny, fine-tuned with the dropout rates of Table 4")


def _compute_errors(accuracies: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """Computes how far below and above each accuracy its 95% interval (Wilson) reaches.

    Args:
      accuracies: Shares of correct examples, in percent.
      counts: The number of examples of each.
    """
    from scipy.stats import binomtest

    below, above = [], []
    for accuracy, count in zip(accuracies, counts):
        test = binomtest(round(accuracy / 100 * count), count)
        low, high = test.proportion_ci(method="wilson")
        below.append(max(accuracy - 100 * low, 0.0))
        above.append(max(100 * high - accuracy, 0.0))
    return [below, above]

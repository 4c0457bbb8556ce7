"""The table, plot and report of `make demo-finetune`, all from its measured results."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mtf_switch import machine
from mtf_switch.demo import finetuning
from mtf_switch.downstream import checkpoint_scores, comparison, paper_tables
from mtf_switch.downstream.checkpoint_scores import StepScores
from tasks import embedded_tasks

# (task, metric) of each column; ROUGE-2 as in the paper, ROUGE-1 as it says more at this size.
COLUMNS = (
    (embedded_tasks.PACKAGE, "accuracy"),
    (embedded_tasks.SUMMARY, "rouge1"),
    (embedded_tasks.SUMMARY, "rouge2"),
    (embedded_tasks.MODULE, "em"),
    (embedded_tasks.MODULE, "f1"),
)


def table(results: Mapping[str, Sequence[StepScores]]) -> str:
    """A row for each row of Table 4, each task at its peak, as Markdown."""
    heads = ["", "dropout", "expert dropout"]
    heads += [f"{task.split('_')[1]} {metric}" for task, metric in COLUMNS]
    heads += ["average", "SuperGLUE in the paper"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (name, steps), paper in zip(results.items(), paper_tables.TABLE_4):
        best = checkpoint_scores.peaks(steps)
        cells = [name.split("_")[0], f"{paper[1]}", "-" if paper[2] is None else f"{paper[2]}"]
        cells += [
            f"{best[task].values[metric]:.1f} ({best[task].step})" for task, metric in COLUMNS
        ]
        average = checkpoint_scores.averages_of_peaks(steps)["average"]
        cells += [f"{average:.2f}", f"{paper[3][3]}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def majority(model_dir: str, step: int) -> float:
    """Accuracy of always naming the most frequent package of the validation examples."""
    answers = comparison.read_answers(model_dir, embedded_tasks.PACKAGE, "validation", step)
    counts = collections.Counter(answers.targets)
    return 100 * counts.most_common(1)[0][1] / len(answers.targets)


def write(
    output_dir: str, results: Mapping[str, Sequence[StepScores]], command: str, took: float
) -> str:
    """Writes `report.md` and `table4.png`.

    Args:
      output_dir: of the run, with a model_dir for each result.
      results: the scores of each row's checkpoints.
      command: that made them.
      took: seconds.

    Returns:
      The tables, as they are printed.
    """
    _plot(os.path.join(output_dir, "table4.png"), results)
    names = list(results)
    models = [os.path.join(output_dir, names[0]), os.path.join(output_dir, names[-1])]
    rows = comparison.compare(models, [embedded_tasks.MIXTURE], "validation")
    last = results[names[0]][-1]
    guess = majority(models[0], last.step)
    examples = ", ".join(f"{count} of {task}" for task, count in last.examples.items())
    text = "\n".join(
        [
            table(results),
            "",
            "Each task at its best checkpoint (step in brackets), chosen on the validation "
            f"examples that it is reported on ({examples}). Always naming the most frequent "
            f"package has accuracy {guess:.1f}.",
            "",
            comparison.table(rows, models, "Base"),
            "",
            "In brackets: 95% of 1,000 bootstrap draws of the examples; another seed of the "
            "training is not in it.",
        ]
    )
    made_by = f"Made by `{command}`, which took {took:.0f} s, on {machine.describe()}."
    lines = [
        "# Table 4 at the size of a laptop",
        "",
        text,
        "",
        "![curves](table4.png)",
        "",
        made_by,
    ]
    with open(os.path.join(output_dir, "report.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return text


def _plot(path: str, results: Mapping[str, Sequence[StepScores]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    task, metric = COLUMNS[0]
    for name, steps in results.items():
        style = {"color": "black", "linestyle": "--"} if name == finetuning.ROWS[0].name else {}
        at = [scores.step for scores in steps]
        axes[0].plot(
            at, [s.averages["average"] for s in steps], marker="o", label=name, **style
        )
        axes[1].plot(at, [s.scores[task][metric] for s in steps], marker="o", **style)
    axes[0].set_title("Average of the three tasks")
    axes[1].set_title("Package of a docstring: accuracy")
    for axis in axes:
        axis.set_xlabel("steps of fine-tuning")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)

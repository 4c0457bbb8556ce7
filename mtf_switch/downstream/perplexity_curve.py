"""`run_switch.py eval` without metrics: the negative log perplexity of checkpoints by step.

It writes these files into the model_dir:

    eval.json, eval-STEP.json    everything that is known about one checkpoint
    perplexity.csv, .json        a row for each checkpoint and each task of a mixture
    perplexity.png               the curves against steps, tokens and time, for two checkpoints
                                 or more

The names of other tasks, splits, limits and bindings are longer: see `evaluation.name_files`.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mtf_switch import whole_file
from mtf_switch.config import changed_bindings
from mtf_switch.downstream import checkpoint_selection, quality_curve
from mtf_switch.downstream.checkpoint_selection import Selection
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.report import Report
from mtf_switch.runs import data, evaluation, task_sums
from mtf_switch.runs.evaluation import Evaluation
from mtf_switch.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Attribute of Row -> label of an axis of the plot.
_AXES = {
    "step": "training steps",
    "training_tokens": "training tokens (inputs and targets, with padding)",
    "training_seconds": "seconds of training",
}
# The batches of a mixture are read once for all checkpoints if they take less memory, in bytes.
_MEMORY = 2**28
# More curves than this are drawn in one colour, without names.
_NAMED_CURVES = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """The quality of one checkpoint on one task, or on a whole mixture.

    Attributes:
      step: Step of the checkpoint.
      task: Name of the task or mixture.
      split: Split of the task.
      neg_log_perplexity: Minus the mean cross-entropy, in nats per target token.
      token_accuracy: Share of target tokens that the argmax predicts, teacher-forced.
      target_tokens: Number of target tokens that were scored.
      examples: Number of examples that were scored.
      training_tokens: Positions of inputs and targets in all training steps, with padding.
      training_seconds: Seconds of all training steps; None without a training log.
    """

    step: int
    task: str
    split: str
    neg_log_perplexity: float
    token_accuracy: float
    target_tokens: int
    examples: int
    training_tokens: int
    training_seconds: float | None


def measure_checkpoints(
    run: Run,
    split: str,
    selection: Selection,
    own_task: str,
    batches: int | None = None,
    follow: bool = False,
    input_fn: Callable | None = None,
) -> Iterator[tuple[Report, Report]]:
    """Measures the perplexity of checkpoints, and writes all files after each of them.

    Args:
      run: The run, made from the parsed gin configuration.
      split: Split of the task.
      selection: The checkpoints to measure, unless `follow` is set.
      own_task: The task on which the model was trained.
      batches: Maximum number of batches of each task; None for the whole split.
      follow: Whether to measure every checkpoint, and to wait for more until training has
        reached its last step.
      input_fn: Input function that replaces that of the split; see `data.read_into_memory`.

    Yields:
      For each checkpoint, the report on it and the report on all checkpoints so far.

    Raises:
      UserError: If a step has no checkpoint, or the task has no data.
    """
    model_dir = run.model_dir
    followed = checkpoint_selection.FollowedRun(run)
    if follow:
        paths = checkpoint_selection.wait_for_checkpoints(model_dir, followed)
    else:
        paths = checkpoint_selection.select_checkpoints(model_dir, selection)
        latest_step = saved_checkpoints.parse_step(saved_checkpoints.find_latest(model_dir))
    if input_fn is None and not follow and len(paths) > 1 and _is_local_mixture(run):
        input_fn = data.read_into_memory(
            data.make_eval_input_fn(run.settings, split, batches), _MEMORY
        )
    for path in paths:
        result = evaluation.evaluate(run, split, batches, path, input_fn)
        latest = followed.last_step if follow else latest_step
        name = evaluation.report_name(result, own_task, latest)
        _keep_earlier(model_dir, name, result)
        _print_if_spoiled(path, result)
        report = evaluation.make_report(result, name)
        report.write(model_dir)
        model = os.path.basename(os.path.abspath(model_dir))
        rows = read_rows(run, result)
        curve = make_report(rows, own_task, result.limit, model, result.changes)
        curve.write(model_dir)
        yield report, curve


def _print_if_spoiled(path: str, result: Evaluation) -> None:
    if not math.isfinite(result.neg_log_perplexity):
        print(
            f"The loss of {path} is {-result.neg_log_perplexity} nats per target token: its "
            "weights are spoiled, or a number was too large for its type.",
            file=sys.stderr,
        )


def _is_local_mixture(run: Run) -> bool:
    """Returns whether the pipelines of many tasks would be built again for each checkpoint."""
    return not run.on_tpu and len(task_sums.list_names(run.settings.task)) > 1


def _keep_earlier(model_dir: str, name: str, result: Evaluation) -> None:
    """Copies the file of an earlier step whose name a new result takes: eval.json."""
    path = os.path.join(model_dir, f"{name}.json")
    if not whole_file.exists(path):
        return
    # A damaged file is replaced.
    with contextlib.suppress(UserError):
        step = quality_curve.read_evaluation(path)["step"]
        kept = os.path.join(model_dir, f"{name}-{step}.json")
        if step != result.step and not whole_file.exists(kept):
            whole_file.write_text(kept, whole_file.read_text(path))


def read_rows(run: Run, result: Evaluation) -> list[Row]:
    """Reads the rows of all evaluations with the same data and bindings as a result.

    If there are others, stderr says so.

    Args:
      run: The run.
      result: The newest result, whose file is written.

    Returns:
      The rows in the order of their steps: that of the mixture, then those of its tasks. The
      result itself is always among them.
    """
    found = quality_curve.read_evaluations(
        *(run.model_dir, result.task, result.split, result.limit, result.changes),
        skips_damaged=True,
    )
    found[result.step] = {**dataclasses.asdict(result), "file": "the newest result"}
    seconds = quality_curve.read_seconds(run.model_dir)
    rows = []
    for step, saved in sorted(found.items()):
        if saved["target_tokens"] != result.target_tokens:
            print(
                f"{saved['file']} is left out of the curve: it used different data, with "
                f"{saved['target_tokens']:,} instead of {result.target_tokens:,} target "
                "tokens.",
                file=sys.stderr,
            )
            continue
        for task, values in {result.task: saved, **saved.get("tasks", {})}.items():
            rows.append(
                Row(
                    step,
                    task,
                    result.split,
                    values["neg_log_perplexity"],
                    values["token_accuracy"],
                    values["target_tokens"],
                    values["examples"],
                    step * run.settings.tokens_per_batch,
                    seconds.get(step),
                )
            )
    return rows


def make_report(
    rows: Sequence[Row],
    own_task: str,
    limit: int | None,
    model: str,
    changes: Mapping[str, str],
) -> Report:
    """Makes the report on all checkpoints; its files belong into the model_dir.

    Args:
      rows: See `read_rows`. There is at least one.
      own_task: The task on which the model was trained.
      limit: The maximum number of examples of each task, or None.
      model: The name of the model, for the title of the plot.
      changes: The bindings that `eval` changed; see `Evaluation.changes`.
    """
    task, split = rows[0].task, rows[0].split
    name = evaluation.name_files("perplexity", task, split, limit, own_task, changes)
    title = f"{model} on {task} ({split})"
    if changes:
        title += f"\n{changed_bindings.describe(changes)}"
    has_curve = len({row.step for row in rows}) > 1
    return Report(
        name=name,
        text=format_table(rows),
        data={
            "limit": limit,
            "changes": dict(changes),
            "rows": [dataclasses.asdict(row) for row in rows],
        },
        documents={f"{name}.csv": format_csv(rows)},
        plots={f"{name}.png": lambda figure: draw(figure, rows, title)} if has_curve else {},
    )


def format_csv(rows: Sequence[Row]) -> str:
    """Formats a line for each row, below a line with the names of the columns."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    writer.writerows(dataclasses.astuple(row) for row in rows)
    return file.getvalue()


def format_table(rows: Sequence[Row]) -> str:
    """Formats each task at its best and at the last step, for the screen."""
    curves = _by_task(rows)
    width = max(map(len, curves))
    last = rows[-1].step
    lines = [f"{'neg_log_perplexity':{width}}  step {last:<8}  best      at step"]
    for task, curve in curves.items():
        best = max(curve, key=_rank)
        final = f"{curve[-1].neg_log_perplexity:.4f}" if curve[-1].step == last else "-"
        lines.append(
            f"{task:{width}}  {final:<13}  {best.neg_log_perplexity:<8.4f}  {best.step}"
        )
    return "\n".join(lines)


def _rank(row: Row) -> float:
    """Returns the quality of a row, and minus infinity for NaN, which compares with nothing."""
    return -math.inf if math.isnan(row.neg_log_perplexity) else row.neg_log_perplexity


def _by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each task in the order of their steps; the mixture comes first."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row.task, []).append(row)
    return curves


def draw(figure: Figure, rows: Sequence[Row], title: str) -> None:
    """Draws the curve of each task against steps, tokens and, with a log, time."""
    has_time = all(row.training_seconds is not None for row in rows)
    names = [name for name in _AXES if has_time or name != "training_seconds"]
    figure.set_size_inches(5.5 * len(names), 4.5)
    axes = figure.subplots(1, len(names), sharey=True)
    for axis, name in zip(axes, names):
        _draw_curves(axis, name, _by_task(rows))
    axes[0].set_ylabel("neg. log perplexity (nats per target token)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle(title)


def _draw_curves(axis: Axes, x: str, curves: dict[str, list[Row]]) -> None:
    from matplotlib.ticker import EngFormatter

    (whole, *parts) = curves
    many = len(parts) > _NAMED_CURVES
    for number, task in enumerate([*parts, whole]):
        is_whole = task == whole
        style = {"color": "black", "linewidth": 2.5} if is_whole else {"linewidth": 1.2}
        if many and not is_whole:
            style = {"color": "0.7", "linewidth": 0.8}
        label = f"its {len(parts)} tasks" if number == 0 else "_other"
        axis.plot(
            [getattr(row, x) for row in curves[task]],
            [row.neg_log_perplexity for row in curves[task]],
            marker="o",
            markersize=3,
            label=task if is_whole or not many else label,
            **style,
        )
    axis.set_xlabel(_AXES[x])
    if x == "training_tokens":
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)

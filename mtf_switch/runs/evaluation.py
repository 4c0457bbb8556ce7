"""`run_switch.py eval`: measures negative log perplexity on a split, and router metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtf_switch.config import changed_bindings, saved_config
from mtf_switch.layers import router_metrics
from mtf_switch.layers.router_metrics import RouterMetrics
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.model_dirs.restoring import CheckShapesHook
from mtf_switch.report import Report
from mtf_switch.runs import data, estimator, eval_metrics, router_summaries, task_sums
from mtf_switch.runs.run import Run
from mtf_switch.runs.step_bar import StepBar
from mtf_switch.runs.task_sums import TaskResult

VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation: the content of its JSON file; see `report_name`.

    Attributes:
      step: Step of the checkpoint.
      task: Name of the task or mixture.
      split: Split of the task.
      neg_log_perplexity: Minus the mean cross-entropy, in nats per target token.
      token_accuracy: Share of target tokens that the argmax predicts, teacher-forced.
      target_tokens: Number of target tokens that were scored.
      dropped_fraction: Share of the tokens that Switch layers dropped; 0 without such layers.
      expert_load: Layer -> for each expert, the share of tokens that chose it first.
      served: Layer -> share of tokens that were served by their first choice, by their second
        choice, and so on, up to the last choice of the router.
      router: Layer -> dropped_fraction, entropy (nats), gate, aux_loss, z_loss.
      examples: Number of examples that were scored.
      limit: The maximum number of examples of each task; None for the whole split.
      source_examples: Number of examples in the data of the split, before the task turns them
        into the model's examples; None if unknown. Span corruption turns a long document into
        several examples.
      unknown_tokens: Number of target tokens that stand for text that the vocabulary lacks. The
        model has only to predict that something unknown comes, so many of them make the
        perplexity meaningless.
      tasks: Task of a mixture -> its own result; {} for a single task.
      changes: What the command changed in the configuration of the model_dir: parameter ->
        value in gin's notation. Files of earlier versions lack it.
    """

    step: int
    task: str
    split: str
    neg_log_perplexity: float
    token_accuracy: float
    target_tokens: int
    dropped_fraction: float
    expert_load: dict[str, list[float]]
    served: dict[str, list[float]]
    router: dict[str, dict[str, float]]
    examples: int = 0
    limit: int | None = None
    source_examples: int | None = None
    unknown_tokens: int = 0
    tasks: dict[str, TaskResult] = dataclasses.field(default_factory=dict)
    changes: dict[str, str] = dataclasses.field(default_factory=dict)


def evaluate(
    run: Run,
    split: str = VALIDATION,
    batches: int | None = None,
    checkpoint: str | None = None,
    input_fn: Callable | None = None,
) -> Evaluation:
    """Evaluates a checkpoint of a run.

    Args:
      run: The run, made from the parsed gin configuration.
      split: Split of the task.
      batches: Maximum number of batches of each task; None for the whole split.
      checkpoint: Path of the checkpoint; by default, the latest.
      input_fn: Input function that replaces the task's own; see `data.read_into_memory`.

    Returns:
      The Evaluation.

    Raises:
      UserError: If the checkpoint or the split does not exist or cannot be read, or if the
        split has no target token.
    """
    checkpoint = checkpoint or saved_checkpoints.find_latest(run.model_dir)
    runner = run.runtime.make_runner(run, False, None) if run.runtime else estimator.build(run)
    task = run.settings.task
    limit = data.find_limit(run.settings, batches)
    tasks = task_sums.list_names(task)
    steps = None if batches is None else batches * len(tasks)
    # The folder of TensorBoard's curves: eval_validation for the whole split.
    changes = changed_bindings.find(run.model_dir)
    curves = "-".join(_name_data(task, split, limit, _own_task(run), changes)) or split
    input_fn = input_fn or data.make_eval_input_fn(run.settings, split, batches)
    if run.on_tpu and steps is None:
        # The loop on a TPU does not end with the data.
        steps = data.count_batches(input_fn)
        if not steps:
            raise data.SplitIsEmpty(task, split)
    with saved_checkpoints.explain_errors(run.model_dir, checkpoint=checkpoint):
        results = runner.evaluate(
            input_fn,
            steps=steps,
            hooks=[CheckShapesHook(checkpoint), StepBar(f"eval {task}", steps)],
            checkpoint_path=checkpoint,
            name=curves,
        )
    # The Estimator's means over nothing are 0, which would be a perfect model.
    if not results.get("num_eval_tokens"):
        raise data.SplitIsEmpty(task, split)
    of_tasks = task_sums.read_results(results, tasks) if len(tasks) > 1 else {}
    task_sums.write_summaries(runner.eval_dir(curves), int(results["global_step"]), of_tasks)
    routers = router_summaries.metrics_from_results(results)
    router_summaries.write(runner.eval_dir(curves), int(results["global_step"]), routers)
    result = _to_evaluation(task, split, limit, results, routers)
    return dataclasses.replace(result, tasks=of_tasks, changes=changes)


def _own_task(run: Run) -> str:
    return saved_config.read_task(run.model_dir) or run.settings.task


def _name_data(
    task: str, split: str, limit: int | None, own_task: str, changes: Mapping[str, str]
) -> list[str]:
    """Names what differs from the whole validation split of the run's own task and model."""
    parts = [task] if task != own_task else []
    parts += [split] if split != VALIDATION else []
    parts += [f"first{limit}"] if limit is not None else []
    return parts + ([changed_bindings.name_files(changes)] if changes else [])


def _to_evaluation(
    task: str,
    split: str,
    limit: int | None,
    results: Mapping[str, Any],
    routers: Mapping[str, RouterMetrics],
) -> Evaluation:
    tokens = sum(metrics.tokens for metrics in routers.values())
    dropped = sum(m.tokens * m.dropped_fraction for m in routers.values())
    return Evaluation(
        step=int(results["global_step"]),
        task=task,
        split=split,
        neg_log_perplexity=float(results["neg_log_perplexity"]),
        token_accuracy=float(results["token_accuracy"]),
        target_tokens=int(results["num_eval_tokens"]),
        dropped_fraction=dropped / max(tokens, 1.0),
        expert_load={name: m.expert_load.tolist() for name, m in routers.items()},
        served={name: np.trim_zeros(m.served, "b").tolist() for name, m in routers.items()},
        router={
            name: {mean: getattr(metrics, mean) for mean in router_metrics.MEANS}
            for name, metrics in routers.items()
        },
        examples=int(results[eval_metrics.EXAMPLES]),
        limit=limit,
        source_examples=data.count_source_examples(task, split),
        unknown_tokens=int(results.get(eval_metrics.UNKNOWN, 0)),
    )


def report_name(result: Evaluation, own_task: str, latest_step: int) -> str:
    """Names the JSON file of an evaluation, without its extension.

    "eval" is the evaluation of the latest checkpoint on the whole validation split of the run's
    own task. For other evaluations, the name states the differences, so they do not replace
    that file: `eval-TASK-SPLIT-firstN-PARAMETER=VALUE-STEP`.

    Args:
      result: The evaluation.
      own_task: The task on which the model was trained.
      latest_step: Step of the latest checkpoint.
    """
    name = name_files("eval", result.task, result.split, result.limit, own_task, result.changes)
    return name if result.step == latest_step else f"{name}-{result.step}"


def name_files(
    start: str,
    task: str,
    split: str,
    limit: int | None,
    own_task: str,
    changes: Mapping[str, str],
) -> str:
    """Names files with results: the start, and what differs from the whole validation split."""
    return "-".join([start, *_name_data(task, split, limit, own_task, changes)])


def make_report(result: Evaluation, name: str = "eval") -> Report:
    """Returns the report of an evaluation, which belongs into the model_dir.

    Args:
      result: The evaluation.
      name: Name of its JSON file; see `report_name`.
    """
    return Report(name, _format_text(result), dataclasses.asdict(result))


def _format_examples(result: Evaluation) -> str:
    if result.limit is None:
        return f"{result.examples} (all)"
    source = result.source_examples
    of = "" if source is None else f"; the split has {source} before preprocessing"
    each = " of each task" if result.tasks else ""
    return f"{result.examples} (at most {result.limit}{each} were read{of})"


def _format_text(result: Evaluation) -> str:
    lines = [
        f"task                {result.task} ({result.split})",
        f"step                {result.step}",
        f"neg_log_perplexity  {result.neg_log_perplexity:.4f} nats per target token",
        f"token_accuracy      {result.token_accuracy:.4f}",
        f"target_tokens       {result.target_tokens}",
        f"examples            {_format_examples(result)}",
    ]
    if result.changes:
        lines.append(f"changed             {changed_bindings.describe(result.changes)}")
    if result.unknown_tokens:
        share = result.unknown_tokens / result.target_tokens
        lines.append(
            f"unknown_tokens      {result.unknown_tokens} ({share:.1%} of the targets are text "
            "that the vocabulary lacks)"
        )
    if result.router:
        lines.append(f"dropped_fraction    {result.dropped_fraction:.4f}")
        lines.append("")
        width = max(map(len, result.router))
        lines.append(f"{'layer':{width}s}  dropped  entropy  gate   load min-max  served")
        for name, metrics in result.router.items():
            load = result.expert_load[name]
            served = " + ".join(f"{share:.3f}" for share in result.served[name])
            lines.append(
                f"{name:{width}s}  {metrics['dropped_fraction']:7.4f}  "
                f"{metrics['entropy']:7.3f}  {metrics['gate']:.3f}  "
                f"{min(load):.3f}-{max(load):.3f}   {served}"
            )
    return "\n".join(lines)

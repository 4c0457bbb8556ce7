"""Reads the result of a training from its model_dir."""

from __future__ import annotations

import json
import os
import re
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from mtf_switch import whole_file
from mtf_switch.config import saved_config
from mtf_switch.downstream import quality_curve, scores
from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.downstream.quality_curve import DivergedError
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import train_log
from mtf_switch.planning import communication
from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.exhibit import Training
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.training_result import Origin, TaskCurve, TrainingResult

_SPLIT = "validation"
# How `train` says that it has stopped because the loss is NaN or infinite.
_DIVERGED = re.compile(r"The loss is \S+ at step (\d+)")


def find_divergence(log: str) -> int | None:
    """Returns the step at which the loss was not finite, from the text of `train`."""
    found = _DIVERGED.search(log)
    return int(found[1]) if found else None


def collect(
    training: Training,
    seed: int,
    scale: Scale,
    model_dir: str,
    origin: Origin,
    cost: dict[str, float],
    diverged_at: int | None = None,
) -> TrainingResult:
    """Collects the result of a finished run.

    Args:
      training: The training.
      seed: The seed of its data and its weights.
      scale: The scale.
      model_dir: The folder of the run.
      origin: What it depends on.
      cost: The metrics of `cost.measure`.
      diverged_at: The step at which `train` stopped, because its loss was not finite; None if
        it did not. A run whose evaluation is not finite has diverged as well.

    Raises:
      UserError: If the run was not evaluated up to its last step, if an evaluation has no row
        in the log, or if a file is damaged.
    """
    points, evaluations, steps = [], [], []
    if training.is_scored:
        steps = scores.read_scores(model_dir, _SPLIT, saved_config.read_task(model_dir))
    elif not training.is_computed:
        points, evaluations, spoiled_at = _read_curve(training, scale, model_dir)
        diverged_at = spoiled_at if diverged_at is None else diverged_at
        if diverged_at is None:
            _check_end(training, scale, model_dir, points)
    last = evaluations[-1] if evaluations else {}
    # The last evaluation before a divergence is a point of the curve, and no result.
    at_end = {**_of_evaluation(last), **_of_scores(steps)} if diverged_at is None else {}
    commands = scale.make_commands(training, seed, "MODEL_DIR")
    return TrainingResult(
        training=training.name,
        scale=scale.label,
        data_seed=seed,
        weights_seed=seed,
        commands=[shlex.join(["run_switch.py", *command]) for command in commands],
        origin=origin,
        curve=points,
        metrics={
            **cost,
            **_of_training(model_dir, scale, training),
            **_of_source(training, seed, scale, model_dir),
            **(_of_plan(model_dir) if training.is_computed else {}),
            **at_end,
        },
        routers=_of_routers(last),
        diverged_at=diverged_at,
        tasks=_of_tasks(model_dir, evaluations),
        scores=_list_scores(steps),
        tokens_per_step=count_tokens_per_step(training, scale) if points else 0,
    )


def count_tokens_per_step(training: Training, scale: Scale) -> int:
    """Returns the number of tokens of a batch, with padding."""
    return scale.count_examples(training) * scale.count_tokens(training)


def find_spoiled_step(model_dir: str) -> int | None:
    """Returns the first step whose evaluation is NaN or infinite; None if there is none.

    A run can diverge without a message of `train`: the last update before a checkpoint spoils
    the weights, and the loss of that step was computed before.

    Raises:
      UserError: If the file of an evaluation is damaged.
    """
    steps = []
    for name in whole_file.list_names(model_dir):
        if name.startswith("eval") and name.endswith(".json"):
            path = os.path.join(model_dir, name)
            try:
                quality_curve.check_finite(path, quality_curve.read_evaluation(path))
            except DivergedError as error:
                steps.append(error.step)
    return min(steps, default=None)


def _read_curve(
    training: Training, scale: Scale, model_dir: str
) -> tuple[list[EvaluationPoint], list[dict[str, Any]], int | None]:
    """Reads the evaluations of a run before the one that is not finite, if there is one.

    Returns:
      The points of the curve, the evaluations of these points, and `find_spoiled_step`.

    Raises:
      UserError: If an evaluation has no row in the log, or if a file is damaged.
    """
    spoiled_at = find_spoiled_step(model_dir)
    found = {
        step: evaluation
        for step, evaluation in sorted(_read_evaluations(model_dir, scale, training).items())
        if spoiled_at is None or step < spoiled_at
    }
    seconds = quality_curve.read_seconds(model_dir)
    if training.command == "prune":
        # Its checkpoint has the step of its source, and was not trained.
        seconds = dict.fromkeys(found, 0.0)
    if missing := sorted(found.keys() - seconds.keys()):
        raise UserError(
            f"{model_dir} has an evaluation of step {missing[0]:,}, but its train_log.csv has "
            f"no whole row of that step, so its time is unknown. {_remedy(model_dir)}"
        )
    points = [
        EvaluationPoint(step, seconds[step], evaluation["neg_log_perplexity"])
        for step, evaluation in found.items()
    ]
    return points, list(found.values()), spoiled_at


def _check_end(
    training: Training, scale: Scale, model_dir: str, points: Sequence[EvaluationPoint]
) -> None:
    """Checks that the last evaluation is that of the last step."""
    if not points:
        raise UserError(f"{model_dir} has no evaluation. {_remedy(model_dir)}")
    last = points[-1].step
    # A pruned model has one evaluation, at the step of its source.
    steps = last if training.command == "prune" else scale.count_steps(training)
    if last != steps:
        raise UserError(
            f"{model_dir} was evaluated up to step {last:,}, and its training has {steps:,} "
            f"steps. {_remedy(model_dir)}"
        )


def _remedy(model_dir: str) -> str:
    return f"Remove {os.path.dirname(model_dir)}, and run the same command again."


def _read_evaluations(
    model_dir: str, scale: Scale, training: Training
) -> dict[int, dict[str, Any]]:
    """Reads the evaluations that are finite; stderr names the others."""
    task = saved_config.read_task(model_dir)
    batches = scale.count_eval_batches(training)
    limit = batches and batches * scale.count_examples(training)
    # `find_spoiled_step` comes first, and lets no damaged file pass.
    return quality_curve.read_evaluations(model_dir, task, _SPLIT, limit, skips_damaged=True)


def _of_routers(last: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the metrics and the load of the experts of each layer in an evaluation."""
    return {
        layer: {**values, "expert_load": last["expert_load"][layer]}
        for layer, values in last.get("router", {}).items()
    }


def _of_evaluation(last: dict[str, Any]) -> dict[str, float]:
    if not last:
        return {}
    return {
        metrics.QUALITY: last["neg_log_perplexity"],
        "token_accuracy": last["token_accuracy"],
        "target_tokens": last["target_tokens"],
        "dropped_evaluation": last["dropped_fraction"],
    }


def _of_scores(steps: Sequence[StepScores]) -> dict[str, float]:
    """Returns the average over tasks, and the scores of each task at its best checkpoint."""
    if not steps:
        return {}
    peaks = scores.find_peaks(steps)
    averages = scores.average_peaks(steps)
    of_tasks = {
        f"{task}/{name}": value
        for task in steps[-1].scores
        for name, value in peaks[task].values.items()
    }
    return {metrics.DOWNSTREAM: next(iter(averages.values())), **of_tasks}


def _list_scores(steps: Sequence[StepScores]) -> dict[str, dict[str, float]]:
    labels = dict.fromkeys(metric for step in steps for metric in step.metrics)
    return {
        metric.label: {
            str(step.step): step.get_value(metric)
            for step in steps
            if step.get_value(metric) is not None
        }
        for metric in labels
    }


def _of_source(training: Training, seed: int, scale: Scale, model_dir: str) -> dict[str, float]:
    """Returns the quality of the model that is fine-tuned, before that."""
    if training.command != "finetune":
        return {}
    *_, folder = scale.list_source_folders(training, seed, model_dir)
    if find_spoiled_step(folder) is not None:
        return {}
    found = _read_evaluations(folder, scale, training.source)
    return {metrics.UPSTREAM: found[max(found)]["neg_log_perplexity"]} if found else {}


def _of_plan(model_dir: str) -> dict[str, float]:
    """Reads the bytes of one core from the files of `plan`."""
    path = os.path.join(model_dir, "plan.json")
    try:
        plan = json.loads(whole_file.read_text(path))
        memory, sent = plan["per_core"], plan["collectives"]
        found = {
            "parameters": plan["parameters"],
            "planned_bytes": memory["total_bytes"],
            "weight_bytes": sum(memory[group] for group in plan["parameters_by_group"]),
            "sent_bytes": plan["wire_bytes_per_core"],
            "forward_bytes": sum(s["wire_bytes"] for s in sent if s["phase"] == "forward"),
            "all_to_all_bytes": sum(s["wire_bytes"] for s in sent if s["kind"] == "all_to_all"),
        }
        compiled = plan.get("compiled", {}).get("compiler")
        if compiled and compiled["bytes"]:
            found["compiled_bytes"] = compiled["bytes"]["total"]
            found["compiled_sent_bytes"] = sum(
                communication.compute_wire_bytes(
                    item["kind"], item["bytes"] * item["count"], item["cores_per_group"]
                )
                for item in compiled["collectives"]
            )
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}).") from error


def _of_tasks(model_dir: str, evaluations: Sequence[dict[str, Any]]) -> dict[str, TaskCurve]:
    """Returns the curves of the tasks of a mixture, from its evaluations in order."""
    parts = [evaluation.get("tasks", {}) for evaluation in evaluations]
    curves = {}
    for task in sorted(set().union(*parts)):
        counts = {part[task]["target_tokens"] if task in part else 0 for part in parts}
        if len(counts) > 1:
            raise UserError(
                f"The evaluations of {task!r} in {model_dir} used different data, with "
                f"{min(counts):,} and {max(counts):,} target tokens. Remove its eval*.json, "
                "and run the same command again."
            )
        qualities = [part[task]["neg_log_perplexity"] for part in parts]
        curves[task] = TaskCurve(counts.pop(), qualities)
    return curves


def measure_step(model_dir: str) -> float | None:
    """Returns the median seconds of a step; None if the log has fewer than two."""
    return _find_step(train_log.read(model_dir))


def _find_step(log: Sequence[train_log.LoggedStep]) -> float | None:
    totals = [logged.seconds for logged in log]
    if len(totals) < 2:
        return None
    return statistics.median(after - before for before, after in zip(totals, totals[1:]))


def _of_training(model_dir: str, scale: Scale, training: Training) -> dict[str, float]:
    """Measures speed by the median step, and dropped tokens in the second half of the steps."""
    log = train_log.read(model_dir)
    step = _find_step(log)
    if step is None:
        return {}
    found = {
        "seconds": log[-1].seconds,
        **metrics.compute_rates(
            step, scale.count_examples(training), scale.count_tokens(training)
        ),
    }
    late = [logged.dropped_fraction for logged in log[len(log) // 2 :]]
    if None not in late:
        found["dropped_training"] = statistics.fmean(late)
    return found

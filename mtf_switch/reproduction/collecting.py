"""Reads the result of a training from its model_dir."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Sequence
from typing import Any

from mtf_switch import whole_file
from mtf_switch.config import saved_config
from mtf_switch.downstream import quality_curve, scores
from mtf_switch.downstream.gains import EvaluationPoint
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
      diverged_at: See `TrainingResult`.

    Raises:
      UserError: If the run has no evaluation, or a file is damaged.
    """
    found, steps = {}, []
    if training.is_scored:
        steps = scores.read_scores(model_dir, _SPLIT, saved_config.read_task(model_dir))
    elif not training.is_computed:
        found = _read_evaluations(model_dir, scale, training)
    points = _list_points(training, model_dir, found)
    last = found[points[-1].step] if points else {}
    return TrainingResult(
        training=training.name,
        scale=scale.label,
        data_seed=seed,
        weights_seed=seed,
        commands=[
            " ".join(["run_switch.py", *command])
            for command in scale.make_commands(training, seed, "MODEL_DIR")
        ],
        origin=origin,
        curve=points,
        # The last evaluation before a divergence is a point of the curve, and no result.
        metrics={
            **cost,
            **_of_training(model_dir, scale, training),
            **_of_source(training, seed, scale, model_dir),
            **(_of_plan(model_dir) if training.is_computed else {}),
            **({} if diverged_at else {**_of_evaluation(last), **_of_scores(steps)}),
        },
        routers={
            layer: {**values, "expert_load": last["expert_load"][layer]}
            for layer, values in last.get("router", {}).items()
        },
        diverged_at=diverged_at,
        tasks=_of_tasks(model_dir, [found[point.step] for point in points]),
        scores=_list_scores(steps),
    )


def _list_points(
    training: Training, model_dir: str, found: dict[int, dict[str, Any]]
) -> list[EvaluationPoint]:
    seconds = quality_curve.read_seconds(model_dir)
    if training.command == "prune":
        # Its checkpoint has the step of its source, and was not trained.
        seconds = dict.fromkeys(found, 0.0)
    return [
        EvaluationPoint(step, seconds[step], data["neg_log_perplexity"])
        for step, data in sorted(found.items())
        if step in seconds
    ]


def _read_evaluations(
    model_dir: str, scale: Scale, training: Training
) -> dict[int, dict[str, Any]]:
    task = saved_config.read_task(model_dir)
    batches = scale.count_eval_batches(training)
    limit = batches and batches * scale.count_examples(training)
    return quality_curve.read_evaluations(model_dir, task, _SPLIT, limit)


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


def _of_training(model_dir: str, scale: Scale, training: Training) -> dict[str, float]:
    """Measures speed by the median step, and dropped tokens in the second half of the steps."""
    log = train_log.read(model_dir)
    if len(log) < 2:
        return {}
    totals = [logged.seconds for logged in log]
    step = statistics.median(after - before for before, after in zip(totals, totals[1:]))
    examples = scale.count_examples(training)
    found = {
        "seconds": totals[-1],
        metrics.EXAMPLES_PER_SECOND: examples / step,
        "tokens_per_second": examples * scale.count_tokens(training) / step,
    }
    late = [logged.dropped_fraction for logged in log[len(log) // 2 :]]
    if None not in late:
        found["dropped_training"] = statistics.fmean(late)
    return found

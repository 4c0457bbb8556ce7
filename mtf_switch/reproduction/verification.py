"""`reproduce --verify`: makes a result once more, and compares it with the recorded one."""

from __future__ import annotations

import dataclasses
import os

from mtf_switch.errors import UserError
from mtf_switch.reproduction import estimates, metrics, runner, temporary_folder
from mtf_switch.reproduction.exhibit import Training
from mtf_switch.reproduction.jobs import Job
from mtf_switch.reproduction.reproduce import Collection
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.training_result import TrainingResult


def verify(collection: Collection, training: Training) -> str:
    """Makes the result of the first recorded seed again, in a temporary folder.

    Args:
      collection: The recorded results, which stay as they are.
      training: The training.

    Returns:
      A sentence that says how the two results agree.

    Raises:
      UserError: If nothing is recorded, or the results do not agree.
    """
    recorded = collection.read(training)
    if not recorded:
        raise UserError(
            f"{collection.folder.path} has no result of {training.name} with the present "
            f"configuration of scale {collection.scale.label!r}. Pass the --results in which "
            "it is, or train it first."
        )
    with temporary_folder.make("verify") as folder:
        again = dataclasses.replace(
            collection,
            folder=ResultsFolder(os.path.join(folder, "results"), collection.scale.label),
        )
        again.folder.prepare()
        seed = min(recorded)
        runner.run_all(again.plan(1, keeps_model_dirs=False), [Job(training, seed)])
        result = again.folder.read(training, seed)
    return compare(recorded[seed], result, list(recorded.values()))


def compare(old: TrainingResult, new: TrainingResult, recorded: list[TrainingResult]) -> str:
    """Compares two results of one training and seed.

    On the same machine, with the same commit and packages, the curves must be equal. Elsewhere,
    the new quality must be in the prediction interval of the recorded seeds. If one of these
    diverged, there is no interval: both results must have diverged, or neither.

    Args:
      old: The recorded result.
      new: The new one.
      recorded: The recorded results of all seeds, for the interval.

    Raises:
      UserError: If the results do not agree.
    """
    name = f"{old.training} seed {old.seed}"
    if _evaluations(old) == _evaluations(new):
        return f"{name} is equal: {_describe_equal(new)}."
    differences = _list_differences(old, new)
    numbers = f"{_describe(new, old)}, and {_describe(old, old, is_recorded=True)}"
    if _is_planned(old):
        raise UserError(f"{name} differs: {numbers}. It is computed, and depends on no seed.")
    if not differences:
        raise UserError(
            f"{name} differs: {numbers}, on the same machine, commit, packages and data, where "
            "it should be equal."
        )
    where = f"here {' and '.join(differences)} differ"
    if len(recorded) < 2:
        raise UserError(
            f"{name} differs: {numbers}. Because {where}, it is compared with the interval of "
            "the recorded seeds, which needs at least two seeds."
        )
    agrees, reason = _judge(old, new, recorded)
    if not agrees:
        raise UserError(f"{name} differs: {numbers}. {reason}; {where}.")
    return f"{name} agrees: {numbers}. {reason}. It need not be equal, because {where}."


def _judge(
    old: TrainingResult, new: TrainingResult, recorded: list[TrainingResult]
) -> tuple[bool, str]:
    """Judges a result of another machine, commit or package; returns the reason as well."""
    diverged = sum(result.diverged_at is not None for result in recorded)
    if diverged:
        agrees = (old.diverged_at is None) == (new.diverged_at is None)
        what = "the same is true of both" if agrees else "the two differ in that"
        return agrees, (
            f"{diverged} of {len(recorded)} recorded seeds diverged, so there is no interval. "
            f"Only whether a run diverges is compared, and {what}"
        )
    metric, _ = _find_metric(old)
    values = [metrics.read(result, metric) for result in recorded]
    low, high = estimates.prediction_interval(values)
    agrees = low <= metrics.read(new, metric) <= high
    place = "within" if agrees else "outside of"
    return agrees, f"It is {place} the interval of the recorded seeds, [{low:.4f}, {high:.4f}]"


def _describe_equal(result: TrainingResult) -> str:
    if _is_planned(result):
        return f"all {len(_computed(result))} numbers have the same value"
    steps = {step for of_label in result.scores.values() for step in of_label}
    count = len(result.curve) or len(steps)
    if result.diverged_at is None:
        return f"all {count} evaluations have the same value"
    before = f", and the {count} evaluations before have the same value" if count else ""
    return f"it diverged at step {result.diverged_at:,} again{before}"


def _describe(result: TrainingResult, old: TrainingResult, is_recorded: bool = False) -> str:
    """Says what the number of a result is, or was, that is compared."""
    if result.diverged_at is not None:
        who = "the recorded one" if is_recorded else "it"
        return f"{who} diverged at step {result.diverged_at:,}"
    metric, title = _find_metric(old)
    value = metrics.read(result, metric)
    return f"{value:.4f} was recorded" if is_recorded else f"its {title} is {value:.4f}"


def _is_planned(result: TrainingResult) -> bool:
    return "planned_bytes" in result.metrics


def _find_metric(result: TrainingResult) -> tuple[str, str]:
    """Returns the metric that is compared, and its name in a sentence."""
    if _is_planned(result):
        return "planned_bytes", "memory in bytes"
    if result.scores:
        return metrics.DOWNSTREAM, metrics.METRICS[metrics.DOWNSTREAM]
    return metrics.QUALITY, "negative log perplexity"


def _evaluations(result: TrainingResult) -> tuple:
    curve = [(point.step, point.neg_log_perplexity) for point in result.curve]
    return curve, result.tasks, result.diverged_at, result.scores, _computed(result)


def _computed(result: TrainingResult) -> dict[str, float]:
    """Returns the numbers of a plan; {} for a training. The compiler is not everywhere."""
    if not _is_planned(result):
        return {}
    numbers = result.metrics.items()
    return {name: value for name, value in numbers if not name.startswith("compiled")}


def _list_differences(old: TrainingResult, new: TrainingResult) -> list[str]:
    names = ("machine", "commit", "lock", "data", "versions")
    return [
        {"lock": "requirements.txt"}.get(name, f"the {name}")
        for name in names
        if getattr(old.origin, name) != getattr(new.origin, name)
    ]

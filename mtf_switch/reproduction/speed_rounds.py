"""Measures the speeds of an exhibit's rows side by side.

Rows that several exhibits share are trained once, often on another day than the other rows, so
the times of these trainings do not compare. Here the rows take turns: in a round, each row is
trained for a few steps, one after the other. Round i belongs to seed i, so speeds are compared
within a round, as qualities are within a seed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from mtf_switch.reproduction import collecting, metrics, origins, runner, scales
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit, Training
from mtf_switch.reproduction.jobs import LOG
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.training_result import TrainingResult

# The steps of a row in a round; their median counts.
_STEPS = 150
_FOLDER = "speeds"


@dataclasses.dataclass(frozen=True)
class SpeedRound:
    """One turn of each row.

    Attributes:
      commit: The commit of this project.
      lock: See `Origin.lock`.
      machine: See `origins.describe_machine`.
      steps: The number of steps of each row.
      configurations: Name of a training -> see `Origin.configuration`.
      step_seconds: Name of a training -> the median seconds of its steps.
    """

    commit: str
    lock: str
    machine: str
    steps: int
    configurations: dict[str, str]
    step_seconds: dict[str, float]

    def find_step(self, training: Training, scale: Scale) -> float | None:
        """Returns the seconds of a step; None if they are not those of this configuration."""
        if self.configurations.get(training.name) != scale.hash_configuration(training):
            return None
        return self.step_seconds.get(training.name)


def read(folder: ResultsFolder, exhibit: Exhibit, number: int) -> SpeedRound | None:
    """Reads a round; None if there is none. A damaged file is named and set aside."""
    path = _file_of(folder, exhibit, number)
    if not os.path.exists(path):
        return None
    try:
        found = SpeedRound(**json.loads(whole_file.read_text(path)))
        _check(found)
        return found
    except (OSError, ValueError, TypeError, AttributeError) as error:
        aside = whole_file.set_aside(path, "damaged")
        print(f"{path} is damaged ({error}). It is now {aside}.", file=sys.stderr)
        return None


def measure(
    plan: runner.Plan,
    exhibit: Exhibit,
    trainings: Iterable[Training],
    rounds: int,
    reruns: bool,
) -> None:
    """Measures the rounds that are missing, and writes a file for each.

    Args:
      plan: How trainings are run.
      exhibit: The exhibit.
      trainings: Those of its trainings whose speeds are wanted.
      rounds: The number of rounds.
      reruns: Whether rounds of another commit or of other packages are measured again.

    Raises:
      UserError: If a training fails, or if a file cannot be written.
    """
    wanted = [training for training in exhibit.trainings if training in set(trainings)]
    missing = {}
    for number in range(rounds):
        found = read(plan.folder, exhibit, number)
        reason = _find_reason(found, wanted, plan, reruns)
        if found is None or reason:
            # What was measured before stays comparable only if it takes its turn again.
            known = found.step_seconds if found else ()
            missing[number] = [t for t in exhibit.trainings if t in wanted or t.name in known]
        if reason:
            path = _file_of(plan.folder, exhibit, number)
            aside = whole_file.set_aside(path, "stale")
            print(f"{path} is of {reason}; it is now {aside}.", file=sys.stderr)
    turns = sum(map(len, missing.values()))
    name = f"speeds of {exhibit.name}"
    with tqdm(total=turns, desc=name, unit="turn", disable=not turns) as bar:
        for number, measured in missing.items():
            _write(plan.folder, exhibit, number, _measure_round(plan, measured, number, bar))


def apply(
    exhibit: Exhibit, results: Results, rounds: Mapping[int, SpeedRound], scale: Scale
) -> dict[str, dict[int, TrainingResult]]:
    """Replaces the times of results by those of the round of their seed.

    A result without a round has no speed, and the seconds of its curve are NaN.

    Args:
      exhibit: The exhibit.
      results: The results of its rows.
      rounds: Seed -> its round.
      scale: The scale of the results.
    """
    return {
        row.name: {
            seed: _with_step(
                result,
                row.training,
                scale,
                rounds[seed].find_step(row.training, scale) if seed in rounds else None,
            )
            for seed, result in results.get(row.name, {}).items()
        }
        for row in exhibit.rows
    }


def describe(rounds: Mapping[int, SpeedRound]) -> str:
    """Says how speeds were measured, in one line for each commit and machine."""
    if not rounds:
        return "**Speeds** were not measured side by side yet."
    groups: dict[tuple, list[int]] = {}
    for number, one in sorted(rounds.items()):
        groups.setdefault((one.steps, one.commit, one.machine), []).append(number)
    return "\n".join(
        f"**Speeds** of seeds {', '.join(map(str, numbers))} are those of rounds in which the "
        f"rows took turns, {steps} steps each, at commit {commit}, on {machine}."
        for (steps, commit, machine), numbers in groups.items()
    )


def _with_step(
    result: TrainingResult, training: Training, scale: Scale, step: float | None
) -> TrainingResult:
    kept = {name: v for name, v in result.metrics.items() if name not in metrics.OF_SPEED}
    seconds = math.nan if step is None else step
    if step is not None:
        examples = scale.count_examples(training)
        kept[metrics.EXAMPLES_PER_SECOND] = examples / step
        kept["tokens_per_second"] = examples * scale.count_tokens(training) / step
        kept["seconds"] = step * scale.count_steps(training)
    curve = [dataclasses.replace(point, seconds=point.step * seconds) for point in result.curve]
    return dataclasses.replace(result, metrics=kept, curve=curve)


def _find_reason(
    found: SpeedRound | None, wanted: Sequence[Training], plan: runner.Plan, reruns: bool
) -> str:
    """Says why a round is measured again; "" if it is not, or if there is none."""
    if found is None:
        return ""
    if any(found.find_step(training, plan.scale) is None for training in wanted):
        return "other rows, or another configuration"
    if reruns and found.commit != plan.commit:
        return f"commit {found.commit}"
    if reruns and found.lock != origins.find_lock():
        return "another requirements.txt"
    return ""


def _measure_round(
    plan: runner.Plan, trainings: Sequence[Training], seed: int, bar: tqdm
) -> SpeedRound:
    full = plan.scale
    short = scales.choose(full.name, min(_STEPS, full.steps or _STEPS))
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="mtf_switch_speeds_") as folder:
        for training in trainings:
            bar.set_postfix_str(f"{training.name}, round {seed}")
            model_dir = os.path.join(folder, training.name)
            seconds[training.name] = _train(short, training, seed, model_dir)
            bar.update()
    return SpeedRound(
        commit=plan.commit,
        lock=origins.find_lock(),
        machine=origins.describe_machine(),
        steps=short.steps,
        configurations={t.name: full.hash_configuration(t) for t in trainings},
        step_seconds=seconds,
    )


def _train(scale: Scale, training: Training, seed: int, model_dir: str) -> float:
    """Trains for a few steps, and returns the median seconds of a step.

    Raises:
      UserError: If the training failed.
    """
    train, _ = scale.make_commands(training, seed, model_dir)
    log = os.path.join(os.path.dirname(model_dir), LOG)
    failure = runner.run_to_end([train], log)
    step = collecting.measure_step(model_dir)
    # A run that diverges has steps before.
    if step is None:
        raise UserError(f"The speed of {training.name} was not measured: {failure}")
    return step


def _file_of(folder: ResultsFolder, exhibit: Exhibit, number: int) -> str:
    return os.path.join(folder.path, _FOLDER, f"{exhibit.name}-{number}.json")


def _write(folder: ResultsFolder, exhibit: Exhibit, number: int, found: SpeedRound) -> None:
    path = _file_of(folder, exhibit, number)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        whole_file.write_text(path, json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from error


def _check(found: SpeedRound) -> None:
    texts = [found.commit, found.lock, found.machine, *found.configurations.values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text has another type")
    numbers = [found.steps, *found.step_seconds.values()]
    if not all(isinstance(n, (int, float)) and 0 < n < math.inf for n in numbers):
        raise TypeError("a number is not positive, or has another type")

"""The speeds of an exhibit's rows, which `speed_measurement` measures side by side in rounds.

Round i belongs to seed i, so speeds are compared within a round, as qualities within a seed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit, Training
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.training_result import TrainingResult

_FOLDER = "speeds"


@dataclasses.dataclass(frozen=True)
class SpeedRound:
    """One turn of each row.

    Attributes:
      commit: The commit of this project.
      lock: See `Origin.lock`.
      machine: See `origins.describe_machine`; "one of" says that one core was used.
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
    path = file_of(folder, exhibit, number)
    try:
        found = SpeedRound(**json.loads(whole_file.read_text(path)))
        _check(found)
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        aside = whole_file.set_aside(path, "damaged")
        print(f"{path} is damaged ({error}). It is now {aside}.", file=sys.stderr)
        return None


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


def describe(
    exhibit: Exhibit, rounds: Mapping[int, SpeedRound], scale: Scale, lock: str
) -> str:
    """Says how speeds were measured, in one line for each commit, lock and machine.

    Args:
      exhibit: The exhibit.
      rounds: Seed -> its round.
      scale: The scale of the results.
      lock: That of the present packages; see `Origin.lock`.
    """
    used = {
        number: one
        for number, one in sorted(rounds.items())
        if any(one.find_step(t, scale) is not None for t in exhibit.trainings)
    }
    lines = [] if used else ["**Speeds** were not measured side by side yet."]
    groups: dict[tuple, list[int]] = {}
    for number, one in used.items():
        groups.setdefault((one.steps, one.commit, one.lock, one.machine), []).append(number)
    for (steps, commit, lock_of, machine), numbers in groups.items():
        packages = "" if lock_of == lock else " and another requirements.txt"
        lines.append(
            f"**Speeds** of {_name_seeds(numbers)} are those of rounds in which the rows took "
            f"turns, {steps} steps each, at commit {commit}{packages}, on {machine}."
        )
    if used:
        lines.append(
            "The seconds of a training are its steps times the median step in the round."
        )
    if unused := sorted(rounds.keys() - used.keys()):
        lines.append(
            f"**Not used:** the speeds of {_name_seeds(unused)} have another gin configuration."
        )
    return "\n".join(lines)


def _name_seeds(numbers: Sequence[int]) -> str:
    unit = "seed" if len(numbers) == 1 else "seeds"
    return f"{unit} {', '.join(map(str, numbers))}"


def _with_step(
    result: TrainingResult, training: Training, scale: Scale, step: float | None
) -> TrainingResult:
    kept = {name: v for name, v in result.metrics.items() if name not in metrics.OF_SPEED}
    seconds = math.nan if step is None else step
    if step is not None:
        kept |= metrics.compute_rates(
            step, scale.count_examples(training), scale.count_tokens(training)
        )
        kept["seconds"] = step * scale.count_steps(training)
    curve = [dataclasses.replace(point, seconds=point.step * seconds) for point in result.curve]
    return dataclasses.replace(result, metrics=kept, curve=curve)


def file_of(folder: ResultsFolder, exhibit: Exhibit, number: int) -> str:
    """Returns the path of a round."""
    return os.path.join(folder.path, _FOLDER, f"{exhibit.name}-{number}.json")


def write(folder: ResultsFolder, exhibit: Exhibit, number: int, found: SpeedRound) -> None:
    """Writes a round.

    Raises:
      UserError: If its file cannot be written.
    """
    path = file_of(folder, exhibit, number)
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

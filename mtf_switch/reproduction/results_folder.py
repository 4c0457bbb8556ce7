"""A folder of results: one JSON file for each training and seed, and the model_dirs in `work`.

results.json            the scale; a folder has only one
trainings/NAME-SEED.json
work/NAME-SEED-HASH/    log, lock and model_dir of a training that is not done
table_11.md, ...        the reports
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys

from mtf_switch import whole_file
from mtf_switch.errors import UserError, join_first
from mtf_switch.reproduction import training_result
from mtf_switch.reproduction.exhibit import Training
from mtf_switch.reproduction.training_result import TrainingResult

_FOLDER_FILE = "results.json"
_FORMAT = 1
# What a folder can have before it has the file: `--list` keeps what it has measured in `work`.
_FOLDERS = {"trainings", "speeds", "work"}


@dataclasses.dataclass(frozen=True)
class ResultsFolder:
    """A folder of results of one scale.

    Attributes:
      path: The folder.
      scale: The label of the scale; see `Scale.label`.
    """

    path: str
    scale: str

    def check_scale(self) -> None:
        """Checks that the folder is new, or has results of this scale.

        Raises:
          UserError: If it has those of another scale, if its results.json is damaged, or if it
            is a folder of something else, whose README.md would be replaced.
        """
        path = os.path.join(self.path, _FOLDER_FILE)
        if not os.path.exists(path):
            if os.path.exists(self.path) and not os.path.isdir(self.path):
                raise UserError(f"--results={self.path} is not a folder. Choose another one.")
            others = sorted(set(whole_file.list_names(self.path)) - _FOLDERS)
            if others:
                raise UserError(
                    f"{self.path} has files ({join_first(others)}), but no {_FOLDER_FILE}, so "
                    "it is no folder of results. Choose another --results. "
                    f"{self._remedy(path)}"
                )
            return
        try:
            found = json.loads(whole_file.read_text(path))["scale"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}). {self._remedy(path)}") from error
        if found != self.scale:
            raise UserError(
                f"{self.path} has results of scale {found!r}, and this is scale "
                f"{self.scale!r}. Pass the same --scale and --steps, or another --results."
            )

    def _remedy(self, path: str) -> str:
        return (
            f'If all results in the folder have this scale, write {{"scale": "{self.scale}", '
            f'"format": {_FORMAT}}} into {path}.'
        )

    def prepare(self) -> None:
        """Creates the folder; `check_scale` comes first.

        Raises:
          UserError: If it cannot be written.
        """
        path = os.path.join(self.path, _FOLDER_FILE)
        try:
            os.makedirs(os.path.join(self.path, "trainings"), exist_ok=True)
            if not os.path.exists(path):
                content = {"scale": self.scale, "format": _FORMAT}
                whole_file.write_text(path, json.dumps(content) + "\n")
        except OSError as error:
            raise UserError(
                f"The folder {self.path} cannot be written ({error.strerror}). Choose another "
                "--results."
            ) from error

    def work_folder(self, training: Training, seed: int, configuration: str) -> str:
        """Returns the folder of a training that is not done; see `Origin.configuration`."""
        name = f"{training.name}-{seed}-{configuration[:8]}"
        return os.path.join(self.path, "work", name)

    def file_of(self, training: Training, seed: int) -> str:
        """Returns the path of a result."""
        return os.path.join(self.path, "trainings", f"{training.name}-{seed}.json")

    def read(self, training: Training, seed: int) -> TrainingResult | None:
        """Reads a result; None if there is none. A damaged file is named and set aside."""
        path = self.file_of(training, seed)
        try:
            result = training_result.from_json(whole_file.read_text(path), path)
            if (result.training, result.seed) != (training.name, seed):
                raise UserError(f"{path} has the result of {result.training}-{result.seed}.")
            if result.scale != self.scale:
                raise UserError(f"{path} has a result of scale {result.scale!r}.")
            return result
        except FileNotFoundError:
            return None
        except (UserError, OSError, UnicodeDecodeError) as error:
            message = str(error) if isinstance(error, UserError) else f"{path}: {error}."
            aside = whole_file.set_aside(path, "damaged")
            print(f"{message} It is now {aside}.", file=sys.stderr)
            return None

    def list_seeds(self, training: Training) -> list[int]:
        """Returns the seeds of which the folder has a file."""
        pattern = re.compile(rf"{re.escape(training.name)}-(\d+)\.json")
        names = whole_file.list_names(os.path.join(self.path, "trainings"))
        return sorted(int(found[1]) for found in map(pattern.fullmatch, names) if found)

    def write(self, result: TrainingResult, training: Training) -> None:
        """Writes a result.

        Raises:
          UserError: If it cannot be written.
        """
        path = self.file_of(training, result.seed)
        try:
            whole_file.write_text(path, result.to_json())
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}. Its training is kept, and the "
                "same command continues."
            ) from error

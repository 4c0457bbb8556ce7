"""The scales at which a training can be run, and its command lines."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
from typing import Any

from mtf_switch.config import given_bindings
from mtf_switch.reproduction.exhibit import Training

PAPER = "paper"


@dataclasses.dataclass(frozen=True)
class Scale:
    """A scale below the paper's. Its model and its run are `gin/scales/NAME*.gin`.

    Attributes:
      name: "tiny" or "small".
      meaning: For whom it is, for help texts.
      eval_batches: The number of batches of the validation split on which each checkpoint is
        evaluated.
      steps: The number of training steps; None for that of the gin files.
    """

    name: str
    meaning: str
    eval_batches: int
    steps: int | None = None

    @property
    def label(self) -> str:
        """The name, with the number of steps if it is not that of the gin files."""
        return self.name if self.steps is None else f"{self.name}, {self.steps} steps"

    @property
    def gin_file(self) -> str:
        """The gin file of the dense model and the run."""
        return f"scales/{self.name}.gin"

    def list_files(self, training: Training) -> list[str]:
        """Returns the gin files of a training, in order."""
        parts = [f"scales/{self.name}_{part}.gin" for part in training.parts]
        return [training.base_file or self.gin_file, *parts, *training.gin_files]

    def list_params(self, training: Training) -> list[str]:
        """Returns the bindings that come after the gin files."""
        if self.steps is None:
            return list(training.params)
        return [
            *training.params,
            f"utils.run.train_steps = {self.steps}",
            f"utils.run.save_checkpoints_steps = {max(1, self.steps // 10)}",
        ]

    def count_steps(self, training: Training) -> int:
        """Returns the number of training steps."""
        return self._read(training)["utils.run.train_steps"]

    def count_checkpoints(self, training: Training) -> int:
        """Returns the number of checkpoints that are evaluated, that of step 0 included."""
        every = self._read(training)["utils.run.save_checkpoints_steps"]
        return 1 + math.ceil(self.count_steps(training) / every)

    def count_examples(self, training: Training) -> int:
        """Returns the number of examples in a batch."""
        kind, number = self._read(training)["utils.run.batch_size"]
        if kind != "sequences_per_batch":
            raise ValueError(f"gin/scales must set sequences_per_batch, not {kind}")
        return number

    def count_tokens(self, training: Training) -> int:
        """Returns the number of tokens in an example: inputs and targets, with padding."""
        return sum(self._read(training)["utils.run.sequence_length"].values())

    def count_eval_batches(self, training: Training) -> int | None:
        """Returns the maximum number of batches of an evaluation; None for the whole split."""
        return None if training.evaluates_all else self.eval_batches

    def hash_configuration(self, training: Training) -> str:
        """Returns the SHA-256 of the bindings of a training, without its seed."""
        values = self._read(training)
        lines = [f"{key} = {values[key]!r}" for key in sorted(values)]
        lines.append(f"eval_batches = {self.count_eval_batches(training)}")
        if training.teacher is not None:
            lines.append(f"teacher = {self.hash_configuration(training.teacher)}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _read(self, training: Training) -> dict[str, Any]:
        return _read_bindings(
            tuple(self.list_files(training)), tuple(self.list_params(training))
        )

    def make_commands(self, training: Training, seed: int, model_dir: str) -> list[list[str]]:
        """Returns the arguments of `run_switch.py` that train, and then evaluate.

        A student first trains its teacher beside its own folder, unless another student of the
        same teacher and seed has done so.

        Args:
          training: The training.
          seed: The seed of the weights and of the data.
          model_dir: Folder of the run.
        """
        if training.teacher is None:
            return [self._train(training, seed, model_dir), self._evaluate(training, model_dir)]
        folder = self.find_teacher(training, seed, model_dir)
        _, *others = self._train(training, seed, model_dir)
        student, *others = others
        distil = ["distil", f"--teacher={folder}", student.replace("--gin_file", "--student")]
        return [
            self._train(training.teacher, seed, folder),
            [*distil, *others],
            self._evaluate(training, model_dir),
        ]

    def find_teacher(self, training: Training, seed: int, model_dir: str) -> str | None:
        """Returns the model_dir of a student's teacher; None for an ordinary training."""
        if training.teacher is None:
            return None
        version = self.hash_configuration(training.teacher)[:8]
        beside = os.path.dirname(os.path.dirname(model_dir))
        return os.path.join(beside, f"teacher_{training.teacher.name}-{seed}-{version}")

    def _train(self, training: Training, seed: int, model_dir: str) -> list[str]:
        files = [f"--gin_file={file}" for file in self.list_files(training)]
        params = [f"--gin_param={param}" for param in self.list_params(training)]
        return ["train", *files, *params, f"--seed={seed}", f"--model_dir={model_dir}"]

    def _evaluate(self, training: Training, model_dir: str) -> list[str]:
        command = ["eval", f"--model_dir={model_dir}", "--perplexity", "--checkpoint_steps=all"]
        batches = self.count_eval_batches(training)
        return command + ([f"--eval_batches={batches}"] if batches else [])


@functools.cache
def _read_bindings(files: tuple[str, ...], params: tuple[str, ...]) -> dict[str, Any]:
    """Reads each binding of gin files and parameters; later ones win."""
    return {binding.key: binding.value for binding in given_bindings.read(files, params)}


SCALES = {
    scale.name: scale
    for scale in (
        Scale("tiny", "for a laptop: minutes for each row and seed", eval_batches=40),
        Scale("small", "for one GPU, or a night on a processor", eval_batches=40),
    )
}


def choose(name: str, steps: int | None = None) -> Scale:
    """Returns a scale by its name, with another number of steps if one is given."""
    return dataclasses.replace(SCALES[name], steps=steps)

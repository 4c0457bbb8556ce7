"""The scales at which a training can be run, and its command lines."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
from typing import Any

from mtf_switch.config import given_bindings
from mtf_switch.errors import UserError
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
        """Returns the gin files that the command of a training names, in order."""
        if training.command in ("finetune", "plan"):
            return list(training.gin_files)
        parts = [f"scales/{self.name}_{part}.gin" for part in training.parts]
        return [training.base_file or self.gin_file, *parts, *training.gin_files]

    def list_params(self, training: Training) -> list[str]:
        """Returns the bindings that come after the gin files."""
        if self.steps is None or training.command in ("prune", "plan"):
            return list(training.params)
        # Decoding takes longer than measuring the perplexity.
        checkpoints = 2 if training.is_scored else 10
        return [
            *training.params,
            f"utils.run.train_steps = {self.steps}",
            f"utils.run.save_checkpoints_steps = {max(1, self.steps // checkpoints)}",
        ]

    def list_configuration(self, training: Training) -> tuple[list[str], list[str]]:
        """Returns all gin files and bindings of a training, those of its source included.

        `finetune` and `prune` take them from the folder of the source.
        """
        files, params = self.list_files(training), self.list_params(training)
        if training.command not in ("finetune", "prune"):
            return files, params
        of_source = self.list_configuration(training.source)
        if training.command == "prune":
            return of_source
        return [*of_source[0], "runs/finetune.gin", *files], [*of_source[1], *params]

    def count_steps(self, training: Training) -> int:
        """Returns the number of training steps."""
        if training.command in ("prune", "plan"):
            return 0
        return self._read(training)["utils.run.train_steps"]

    def count_checkpoints(self, training: Training) -> int:
        """Returns the number of checkpoints that are evaluated, that of step 0 included."""
        if training.command in ("prune", "plan"):
            return 1
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
        scored = "scored" if training.is_scored else self.count_eval_batches(training)
        lines.append(f"eval_batches = {scored}")
        if training.source is not None:
            role = "teacher" if training.command == "distil" else training.command
            lines.append(f"{role} = {self.hash_configuration(training.source)}")
        if training.experts is not None:
            lines.append(f"experts = {training.experts}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _read(self, training: Training) -> dict[str, Any]:
        files, params = self.list_configuration(training)
        return _read_bindings(tuple(files), tuple(params))

    def make_commands(self, training: Training, seed: int, model_dir: str) -> list[list[str]]:
        """Returns the arguments of `run_switch.py` that make a model, and then evaluate it.

        The sources of a model are made first, each in a folder beside its own. They are trained
        only once for all models of the seed that need them: a second call finds them finished.

        Args:
          training: The training.
          seed: The seed of the weights and of the data.
          model_dir: Folder of the run.
        """
        before = self.list_source_folders(training, seed, model_dir)
        made = [*training.sources, training]
        commands = [
            self._make(one, seed, folder, source)
            for one, folder, source in zip(made, [*before, model_dir], ["", *before])
        ]
        if training.command == "finetune":
            # The quality before fine-tuning.
            commands.insert(-1, self._evaluate(training.source, before[-1], "latest"))
        if not training.is_computed:
            commands.append(self._evaluate(training, model_dir, "all"))
        return commands

    def list_source_folders(self, training: Training, seed: int, model_dir: str) -> list[str]:
        """Returns the model_dirs of `Training.sources`, given the model_dir of the training."""
        return [self.source_folder(one, seed, model_dir) for one in training.sources]

    def source_folder(self, source: Training, seed: int, model_dir: str) -> str:
        """Returns the model_dir of a source, given the one of a model that starts from it."""
        work = os.path.dirname(os.path.dirname(model_dir))
        name = f"source_{source.name}-{seed}-{self.hash_configuration(source)[:8]}"
        return os.path.join(work, name, "model")

    def _make(self, training: Training, seed: int, model_dir: str, source: str) -> list[str]:
        """Returns the command that makes a model from the folder of its source."""
        files = [f"--gin_file={file}" for file in self.list_files(training)]
        others = [f"--gin_param={param}" for param in self.list_params(training)]
        own = [f"--seed={seed}", f"--model_dir={model_dir}"]
        if training.command == "plan":
            return ["plan", *files, *others, f"--output_dir={model_dir}", *_compile_flag()]
        if training.command == "prune":
            kept = f"--experts={training.experts}"
            return ["prune", f"--model_dir={source}", kept, f"--output_dir={model_dir}"]
        if training.command == "finetune":
            task = f"--task={self._read(training)['MIXTURE_NAME']}"
            return ["finetune", task, f"--init_checkpoint={source}", *files, *others, *own]
        if training.command == "distil":
            student = files.pop(0).replace("--gin_file", "--student")
            return ["distil", f"--teacher={source}", student, *files, *others, *own]
        return ["train", *files, *others, *own]

    def _evaluate(self, training: Training, model_dir: str, checkpoints: str) -> list[str]:
        command = ["eval", f"--model_dir={model_dir}", f"--checkpoint_steps={checkpoints}"]
        if training.is_scored:
            return command
        command.insert(2, "--perplexity")
        batches = self.count_eval_batches(training)
        return command + ([f"--eval_batches={batches}"] if batches else [])


def _compile_flag() -> list[str]:
    """Returns the flag that compiles a planned step, if the TPU's compiler is installed."""
    from mtf_switch.programs import tpu_compiler

    try:
        tpu_compiler.find_library()
    except UserError:
        return []
    return ["--compile"]


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

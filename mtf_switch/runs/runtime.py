"""What a runtime other than TensorFlow's Estimator offers: see `mtf_switch.pjrt`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Target:
    """What runs the graphs of a run, which decides how its Switch layers dispatch tokens.

    Attributes:
      on_tpu: Whether it is a TPU.
      compiled: Whether XLA compiles them for a CPU or GPU; see `SwitchLayer.set_target`.
    """

    on_tpu: bool
    compiled: bool = False


class Trainer(Protocol):
    """Trains a run.

    Attributes:
      writes: Whether this process writes the files of the run. One of several processes does.
    """

    writes: bool

    def wait_for_files(self) -> None:
        """Waits until the files that a run starts from are written."""

    def train(self, start: int, stop: Any) -> None:
        """Trains from the checkpoint of step `start` until the last step or a signal.

        Args:
          start: The step; 0 without a checkpoint.
          stop: A `stop_signals.StopHook`.

        Raises:
          LossIsNotFinite: If a step is bad. It is not saved.
        """

    @property
    def reached_step(self) -> int:
        """The step of the last checkpoint."""

    def close(self) -> None:
        """Closes the progress bar and the log."""


class Runner(Protocol):
    """Evaluates and scores with checkpoints. The methods are those of a TPUEstimator."""

    def evaluate(
        self,
        input_fn: Callable,
        steps: int | None,
        hooks: Sequence[Any],
        checkpoint_path: str,
        name: str,
    ) -> Mapping[str, Any]:
        """Returns the metrics over all batches, and "global_step"; {} without any batch."""

    def predict(
        self, input_fn: Callable, hooks: Sequence[Any], checkpoint_path: str
    ) -> Iterator[Mapping[str, Any]]:
        """Yields the predictions for each row of each batch."""

    def eval_dir(self, name: str) -> str:
        """Returns the folder of an evaluation's summaries."""


class BuiltStep(Protocol):
    """A training step that is built, and has not run.

    Attributes:
      runtime: The name of what makes it.
      graph: The TensorFlow graph, which has the variables of the run.
      features: The shape of each feature of a batch.
    """

    runtime: str
    graph: Any
    features: Mapping[str, list[int]]

    def start(self) -> AbstractContextManager[Callable[[], None]]:
        """Starts from initial values. The context is a function that makes the next step."""


class Runtime(Protocol):
    """Runs the steps of a run."""

    def find_target(self, run: Any) -> Target:
        """Returns what runs the graphs of a run.

        Raises:
          UserError: If there are too few devices for the mesh.
        """

    def make_trainer(self, run: Any, objective: Any) -> Trainer:
        """Makes the trainer of a run.

        Args:
          run: The run.
          objective: What it minimizes, an `objective.Objective`.

        Raises:
          UserError: If the model cannot be built, or there are too few devices for the mesh.
        """

    def build_step(self, run: Any, objective: Any) -> BuiltStep:
        """Builds a training step of a run, which neither reads nor writes its files.

        Args and Raises: See `make_trainer`.
        """

    def make_runner(self, run: Any, score: bool, inference: Any | None) -> Runner:
        """Makes what evaluates and scores with the checkpoints of a run.

        Args:
          run: The run.
          score: Whether `predict` scores targets instead of decoding.
          inference: An `InferenceCapacity`; None for that of evaluation.
        """

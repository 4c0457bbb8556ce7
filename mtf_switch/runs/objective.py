"""What a training step minimizes, and from which weights it starts.

A distillation has an objective of its own, which the callers of `training_step.build` pass on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.model_dirs import initial_weights
from mtf_switch.runs import target_loss

# The variable scope, within that of the model, of a second model that an objective calls.
TEACHER_SCOPE = "teacher"


class Objective(Protocol):
    """The loss of a training run, and the initial values of its variables."""

    def use(
        self,
        model: Any,
        settings: RunSettings,
        *,
        features: Mapping[str, mtf.Tensor],
        records: bool,
    ) -> AbstractContextManager:
        """Makes a model compute the loss while its graph is built for a batch.

        Args:
          model: A transformer.Bitransformer or Unitransformer.
          settings: The settings of the run.
          features: The features of the batch or microbatch.
          records: Whether training records `target_loss.NAME`.
        """

    def make_input_fn(self, settings: RunSettings, first_step: int) -> Callable | None:
        """Makes the input function of training.

        Args:
          settings: The settings of the run.
          first_step: The step at which training starts.

        Returns:
          The function, or None for that of `training_data.make_train_input_fn`.
        """

    def import_own(
        self,
        mesh: mtf.Mesh,
        settings: RunSettings,
        features: dict[str, tf.Tensor],
        batch_dims: Sequence[mtf.Dimension],
    ) -> dict[str, mtf.Tensor]:
        """Imports features that only the objective knows, and removes them from `features`.

        Args:
          mesh: The mesh.
          settings: The settings of the run.
          features: The features of a batch, [B, ...].
          batch_dims: [O, B].
        """

    def load_initial_weights(self, settings: RunSettings, model_dir: str) -> None:
        """Sets the initial values of a new run's variables, which are in the default graph.

        Args:
          settings: The settings of the run.
          model_dir: Its folder, which has no checkpoint if the run is new.
        """


class OrdinaryObjective:
    """T5's loss, see `target_loss`, and the weights of `utils.run.init_checkpoint`."""

    @contextlib.contextmanager
    def use(
        self,
        model: Any,
        settings: RunSettings,
        *,
        features: Mapping[str, mtf.Tensor],
        records: bool,
    ) -> Iterator[None]:
        """Makes a model compute T5's loss: see `Objective`."""
        del features
        with target_loss.use(model, settings.model_type, records):
            yield

    def make_input_fn(self, settings: RunSettings, first_step: int) -> None:
        """Leaves the data as it is: see `Objective`."""

    def import_own(self, *arguments: Any) -> dict[str, mtf.Tensor]:
        """Has no features of its own: see `Objective`."""
        del arguments
        return {}

    def load_initial_weights(self, settings: RunSettings, model_dir: str) -> None:
        """Makes the variables of a new run start from its checkpoint: see `Objective`.

        Raises:
          UserError: If the checkpoint is of another model.
        """
        initial_weights.load_if_new(settings.init_checkpoint, model_dir)


ORDINARY = OrdinaryObjective()

"""A run: one model on one task, for training, evaluation and prediction."""

from __future__ import annotations

import dataclasses
from typing import Any

from mesh_tensorflow.transformer import utils

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.runs.runtime import Runtime, Target


@dataclasses.dataclass(frozen=True)
class Run:
    """A configured run, with its data prepared.

    Attributes:
      settings: The settings that gin binds.
      vocabulary: The vocabulary of the task, or its (inputs, targets) vocabularies.
      model_dir: The folder of the run's checkpoints, summaries and results.
      cluster: The TPUClusterResolver of the TPU to run on; None for this machine.
      task_vocabulary: The vocabulary with which all tasks are registered; None for the one that
        gin configures.
      runtime: What runs the steps instead of TensorFlow's Estimator; None for the Estimator.
    """

    settings: RunSettings
    vocabulary: Any
    model_dir: str
    cluster: Any | None = None
    task_vocabulary: Any | None = None
    runtime: Runtime | None = None

    @property
    def on_tpu(self) -> bool:
        """Whether the Estimator runs on a TPU."""
        return self.cluster is not None

    @property
    def target(self) -> Target:
        """What runs the graphs of the run.

        Raises:
          UserError: If a runtime finds too few devices for the mesh.
        """
        return self.runtime.find_target(self) if self.runtime else Target(self.on_tpu)

    def feature_vocabulary(self, feature: str) -> Any:
        """Returns the vocabulary of a feature, "inputs" or "targets"."""
        if feature == "inputs":
            return utils.inputs_vocabulary(self.vocabulary)
        return utils.targets_vocabulary(self.vocabulary)

"""One model on one task: what training, evaluation and prediction have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

from mesh_tensorflow.transformer import utils

from mtf_switch.config import run_settings
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.runs import data


@dataclasses.dataclass(frozen=True)
class Run:
    """A configured run, with its data prepared.

    Attributes:
      settings: The settings that gin binds.
      vocabulary: The vocabulary of the task, or its (inputs, targets) vocabularies.
      model_dir: The folder of the run's checkpoints, summaries and results.
      cluster: The TPUClusterResolver of the TPU to run on; None for this machine.
    """

    settings: RunSettings
    vocabulary: Any
    model_dir: str
    cluster: Any | None = None

    @classmethod
    def from_gin(
        cls, model_dir: str, cluster: Any | None = None, task: str | None = None
    ) -> Run:
        """Makes the run that the parsed gin configuration describes, and prepares its data.

        Args:
          model_dir: The folder of the run.
          cluster: A TPUClusterResolver, or None for this machine.
          task: A task or mixture to use instead of the configured one.

        Raises:
          UserError: If a setting is missing or cannot be used, if there is no such task, or
            if its vocabulary cannot be read.
        """
        settings = run_settings.from_gin()
        if task is not None:
            settings = dataclasses.replace(settings, task=task)
        return cls(settings, data.prepare_task(settings.task), model_dir, cluster)

    @property
    def on_tpu(self) -> bool:
        """Whether the run is placed on a TPU."""
        return self.cluster is not None

    def feature_vocabulary(self, feature: str) -> Any:
        """Returns the vocabulary of a feature, "inputs" or "targets"."""
        if feature == "inputs":
            return utils.inputs_vocabulary(self.vocabulary)
        return utils.targets_vocabulary(self.vocabulary)

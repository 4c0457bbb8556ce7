"""Makes the run that a parsed gin configuration describes."""

from __future__ import annotations

import dataclasses
from typing import Any

from mtf_switch.config import bound_settings
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.runs import run_vocabulary
from mtf_switch.runs.run import Run
from mtf_switch.runs.runtime import Runtime


def make_run(
    model_dir: str,
    cluster: Any | None = None,
    task: str | None = None,
    *,
    reads_data: bool = True,
    settings: RunSettings | None = None,
    runtime: Runtime | None = None,
    vocabulary_of: str | None = None,
) -> Run:
    """Makes the run that the parsed gin configuration describes, and prepares its data.

    Args:
      model_dir: The folder of the run.
      cluster: A TPUClusterResolver, or None for this machine.
      task: A task or mixture to use instead of the configured one.
      reads_data: Whether the task's data is read. If not, the data and the task's own
        vocabulary are not needed if the model_dir keeps a vocabulary.
      settings: The settings of the parsed configuration, if they were read already.
      runtime: What runs the steps; None for the Estimator.
      vocabulary_of: A checkpoint whose vocabulary a new run takes; None for the one from which
        it starts.

    Raises:
      UserError: If a setting is missing or cannot be used, if there is no such task, or
        in the cases of `run_vocabulary.choose`.
    """
    settings = settings or bound_settings.read_settings()
    if task is not None:
        settings = dataclasses.replace(settings, task=task)
    chosen = run_vocabulary.choose(
        model_dir, settings.task, vocabulary_of or settings.init_checkpoint, reads_data
    )
    return Run(settings, chosen.vocabulary, model_dir, cluster, chosen.for_all_tasks, runtime)

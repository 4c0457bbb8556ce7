"""Makes the run that a parsed gin configuration describes."""

from __future__ import annotations

import dataclasses
from typing import Any

from mtf_switch.config import bound_settings
from mtf_switch.runs import registered_tasks
from mtf_switch.runs.run import Run


def make_run(model_dir: str, cluster: Any | None = None, task: str | None = None) -> Run:
    """Makes the run that the parsed gin configuration describes, and prepares its data.

    Args:
      model_dir: The folder of the run.
      cluster: A TPUClusterResolver, or None for this machine.
      task: A task or mixture to use instead of the configured one.

    Raises:
      UserError: If a setting is missing or cannot be used, if there is no such task, or
        if its vocabulary cannot be read.
    """
    settings = bound_settings.read_settings()
    if task is not None:
        settings = dataclasses.replace(settings, task=task)
    vocabulary = registered_tasks.prepare_task(settings.task)
    return Run(settings, vocabulary, model_dir, cluster)

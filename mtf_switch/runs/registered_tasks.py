"""Registers the task that a run asks for, and prepares its text and vocabulary."""

from __future__ import annotations

from typing import Any

import seqio
import tensorflow.compat.v1 as tf
from t5.models import mesh_transformer

import tasks
from mtf_switch.errors import UserError, suggest_names
from mtf_switch.runs import data


def prepare_task(task: str) -> Any:
    """Registers a task, and prepares the text and the vocabulary that it needs.

    Args:
      task: Name of a task or mixture.

    Returns:
      The task's vocabulary, or its (inputs, targets) vocabularies.

    Raises:
      UserError: If the name is unknown or the vocabulary cannot be read.
    """
    check_task_exists(task)
    tasks.prepare_text(task)
    vocabulary = mesh_transformer.get_vocabulary(task)
    for part in vocabulary if isinstance(vocabulary, tuple) else (vocabulary,):
        _check_vocabulary(task, part)
    return vocabulary


def check_task_exists(task: str) -> None:
    """Registers all tasks, and checks that `task` is one of them.

    Raises:
      UserError: If it is not; the message has the nearest names.
    """
    tasks.register()
    seqio.set_global_cache_dirs(data.task_cache())
    known = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    if task not in known:
        raise UserError(
            f"There is no task or mixture {task!r}.{suggest_names(task, known)} The command "
            "run_switch.py tasks lists all."
        )


def _check_vocabulary(task: str, vocabulary: Any) -> None:
    try:
        _ = vocabulary.vocab_size
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        file = getattr(vocabulary, "sentencepiece_model_file", "?")
        raise UserError(
            f"The vocabulary of task {task!r} cannot be read from {file}: "
            f"{str(error).splitlines()[0]}. Give --vocabulary a copy that this machine "
            "can reach: T5's default vocabulary is on Google Cloud Storage."
        ) from error

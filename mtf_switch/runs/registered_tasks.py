"""Registers the task of a run, and prepares its text and vocabulary."""

from __future__ import annotations

from typing import Any

import seqio
import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError
from t5.models import mesh_transformer

import tasks
from mtf_switch import network
from mtf_switch.errors import UserError, name_program, suggest_names
from mtf_switch.runs import data


def prepare_task(task: str, vocabulary: seqio.Vocabulary | None = None) -> Any:
    """Registers a task, and prepares the text and the vocabulary that it needs.

    Args:
      task: Name of a task or mixture.
      vocabulary: The vocabulary of all tasks; None for the one that gin configures. A task that
        other code has registered keeps its own.

    Returns:
      The task's vocabulary, or its (inputs, targets) vocabularies.

    Raises:
      UserError: If the name is unknown or the vocabulary cannot be read.
    """
    check_task_exists(task, vocabulary)
    tasks.prepare_text(task)
    found = mesh_transformer.get_vocabulary(task)
    for part in found if isinstance(found, tuple) else (found,):
        check_vocabulary(task, part)
    return found


def check_task_exists(task: str, vocabulary: seqio.Vocabulary | None = None) -> None:
    """Registers all tasks, and checks that `task` is one of them.

    Args:
      task: Name of a task or mixture.
      vocabulary: See `prepare_task`.

    Raises:
      UserError: If it is not. The message suggests similar names.
    """
    tasks.register(vocabulary)
    seqio.set_global_cache_dirs(data.task_cache())
    known = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    if task not in known:
        raise UserError(
            f"There is no task or mixture {task!r}.{suggest_names(task, known)} The command "
            f"{name_program()} tasks lists all."
        )


def check_vocabulary(task: str, vocabulary: Any) -> None:
    """Checks that the vocabulary of a task can be read.

    Raises:
      UserError: If it cannot.
    """
    file = str(getattr(vocabulary, "sentencepiece_model_file", "?"))
    remedy = (
        "Pass a copy that this machine can reach with --vocabulary. T5's default vocabulary is "
        "on Google Cloud Storage."
    )
    network.check_address(file, remedy)
    try:
        _ = vocabulary.vocab_size
    except (OSError, RuntimeError, tf.errors.OpError, DecodeError) as error:
        raise UserError(
            f"The vocabulary of task {task!r} cannot be read from {file}: "
            f"{str(error).splitlines()[0]}. {remedy}"
        ) from error

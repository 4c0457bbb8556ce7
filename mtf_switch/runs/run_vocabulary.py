"""Chooses the vocabulary with which a run reads text, preferably that of its model_dir."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import seqio

from mtf_switch.config import gin_config, saved_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary
from mtf_switch.model_dirs.kept_vocabulary import Pair, VocabularyModel
from mtf_switch.runs import registered_tasks
from mtf_switch.runs.run import Run
from tasks import pretraining, task_vocabulary
from tasks.text_vocabulary import TextVocabulary

_OTHER_TASK = "Choose another task, or a model with the vocabulary of this one."


@dataclasses.dataclass(frozen=True)
class ChosenVocabulary:
    """The vocabulary of a run.

    Attributes:
      vocabulary: The vocabulary of the task, or its (inputs, targets) vocabularies.
      for_all_tasks: The vocabulary with which all tasks are registered; None for the one that
        gin configures.
    """

    vocabulary: Any
    for_all_tasks: seqio.Vocabulary | None = None


def choose(
    model_dir: str, task: str, init_checkpoint: str | None = None, reads_data: bool = True
) -> ChosenVocabulary:
    """Chooses the vocabulary of a run, and prepares its task's data.

    This is the vocabulary that the model_dir keeps or, for a new run, that of the checkpoint
    from which it starts. If neither exists, gin configures the vocabulary of the task.

    Args:
      model_dir: The folder of the run. It need not exist.
      task: Name of the task or mixture.
      init_checkpoint: The checkpoint from which the run starts; None for none.
      reads_data: Whether the run reads the task's data. If not, a kept vocabulary is
        sufficient, without the data and the vocabulary of the task.

    Raises:
      UserError: If the user or the task asks for a vocabulary that differs from the kept one,
        if a vocabulary cannot be read, or in the cases of `registered_tasks.prepare_task`.
    """
    kept = kept_vocabulary.find(model_dir)
    if init_checkpoint and not saved_config.is_started(model_dir):
        kept = kept_vocabulary.find(os.path.dirname(init_checkpoint))
    asked = _find_asked_source(model_dir)
    if kept is None:
        return _choose_configured(model_dir, task, asked, reads_data)
    if asked is not None:
        what = f"task_vocabulary.source (--vocabulary) = {asked!r}"
        models = _identify_asked(kept)
        kept_vocabulary.check_same(kept, models, what, kept_vocabulary.USE_THE_RUNS)
    inputs, targets = (TextVocabulary(model.origin, model.sentinels) for model in kept)
    for_all_tasks = inputs if kept[0] == kept[1] else None
    vocabulary = (inputs, for_all_tasks or targets)
    if reads_data:
        found = _pair(registered_tasks.prepare_task(task, for_all_tasks))
        if any(own is not given for own, given in zip(found, vocabulary)):
            models = tuple(map(identify, found))
            kept_vocabulary.check_same(kept, models, f"Task {task!r}", _OTHER_TASK)
    return ChosenVocabulary(vocabulary, for_all_tasks)


def _choose_configured(
    model_dir: str, task: str, asked: str | None, reads_data: bool
) -> ChosenVocabulary:
    """Chooses the vocabulary in gin, with a message if the model_dir should have kept one."""
    if asked is not None and not reads_data:
        vocabulary = task_vocabulary.task_vocabulary()
        registered_tasks.check_vocabulary(task, vocabulary)
        return ChosenVocabulary((vocabulary, vocabulary))
    ignores_gin = asked is None and _is_older_run_on_text(model_dir, task)
    of_corpus = _find_corpus_vocabulary(task) if ignores_gin else None
    vocabulary = registered_tasks.prepare_task(task, of_corpus)
    if asked is not None:
        _check_is_used(asked, task, vocabulary)
    elif saved_config.is_started(model_dir):
        for model in dict.fromkeys(filter(None, map(identify, _pair(vocabulary)))):
            print(
                f"{model_dir} does not keep the vocabulary that it was trained with. The one "
                f"of task {task!r} is used: {model.origin} ({model}).",
                file=sys.stderr,
            )
    return ChosenVocabulary(vocabulary)


def _is_older_run_on_text(model_dir: str, task: str) -> bool:
    """Whether a run without a kept vocabulary was trained on this task."""
    before = saved_config.read_values(model_dir, "MIXTURE_NAME")
    return saved_config.is_started(model_dir) and before.get("") == task


def _find_corpus_vocabulary(task: str) -> seqio.Vocabulary | None:
    """Returns the vocabulary of a corpus, which earlier versions used regardless of gin."""
    corpus = pretraining.find_corpus(task)
    return pretraining.CorpusVocabulary(corpus) if corpus else None


def _check_is_used(asked: str, task: str, vocabulary: Any) -> None:
    """Checks that a task has the vocabulary that the user asks for."""
    model = identify(task_vocabulary.task_vocabulary())
    if tuple(map(identify, _pair(vocabulary))) != (model, model):
        raise UserError(
            f"task_vocabulary.source (--vocabulary) = {asked!r} has no effect: task {task!r} "
            "has its own vocabulary. Remove it."
        )


def _identify_asked(kept: Pair) -> tuple[VocabularyModel | None, ...]:
    """Identifies the vocabulary in gin. It has the run's sentinels unless gin binds them."""
    model = identify(task_vocabulary.task_vocabulary())
    if model is None or gin_config.find_value("task_vocabulary.sentinels") is not None:
        return (model, model)
    return tuple(dataclasses.replace(model, sentinels=own.sentinels) for own in kept)


def _find_asked_source(model_dir: str) -> str | None:
    """Returns the vocabulary that this command asks for, unless the model_dir asked for it."""
    source = gin_config.find_value("task_vocabulary.source")
    before = saved_config.read_values(model_dir, "task_vocabulary")
    return None if source == before.get("source") else source


def _pair(vocabulary: Any) -> tuple[Any, Any]:
    return vocabulary if isinstance(vocabulary, tuple) else (vocabulary, vocabulary)


def identify(vocabulary: seqio.Vocabulary) -> VocabularyModel | None:
    """Reads the SentencePiece model of a vocabulary.

    Returns:
      The model, or None if such a model and a number of sentinels do not describe the
      vocabulary.

    Raises:
      UserError: If the model cannot be read.
    """
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return None
    if vocabulary._normalizer_spec_overrides or not vocabulary._reverse_extra_ids:
        return None
    return kept_vocabulary.read(vocabulary.sentencepiece_model_file, vocabulary.extra_ids)


def bind(run: Run) -> Pair | None:
    """Binds the hash of a run's vocabularies for config.gin, before its first step.

    For a new run, they are those of its task. For a run that continues, they are those that
    its model_dir keeps. Nothing is written.

    Args:
      run: The run, whose lock is held.

    Returns:
      The vocabularies of inputs and targets, which are compared by their content. None if they
      have no SentencePiece model, or if an earlier version did not keep them.

    Raises:
      UserError: If the configuration has the hash of another one.
    """
    if saved_config.is_started(run.model_dir):
        models = kept_vocabulary.find(run.model_dir)
    else:
        models = tuple(map(identify, _pair(run.vocabulary)))
    if models is None or None in models:
        return None
    kept_vocabulary.bind(models)
    return models

"""The tasks and mixtures that models train on: T5's own, and those of this package.

`register` adds them to seqio's registry, where `train --task=NAME` looks them up. Importing
this package is cheap. `register` imports TensorFlow, but it neither reads nor downloads data.
Nothing here depends on a layer, a model or a run.
"""

from __future__ import annotations

from typing import Any


def register(vocabulary: Any | None = None) -> None:
    """Registers the tasks and mixtures of T5 and of this project as gin configures them now.

    Call it after gin has parsed its files. Before that, import `tasks.multilingual_corpus`,
    `tasks.own_data`, `tasks.pretraining`, `tasks.repeats`, `tasks.span_corruption`,
    `tasks.task_vocabulary` and `tasks.tfds_data`, so that gin knows their names. Another call
    applies gin's values at that time: the text of the text tasks, how it is masked, the
    vocabulary, and the folder with TFDS's data.

    Args:
      vocabulary: The vocabulary of all these tasks, such as that of an existing run; None for
        what gin configures.

    Raises:
      UserError: If gin's values describe no valid corpus, or the folder does not exist.
    """
    from tasks import (
        c4,
        closed_book,
        embedded_tasks,
        entailment,
        mc4,
        multilingual,
        multiple_choice,
        own_data,
        pretraining,
        summarization,
        t5_tasks,
        task_vocabulary,
        tfds_data,
    )

    tfds_data.use_data_dir()
    vocabulary = vocabulary or task_vocabulary.task_vocabulary()
    for kind in (
        pretraining,
        t5_tasks,
        c4,
        mc4,
        multilingual,
        summarization,
        entailment,
        multiple_choice,
        closed_book,
        embedded_tasks,
        # The user's own data comes last, because its name must differ from all others.
        own_data,
    ):
        kind.register(vocabulary)


def prepare_text(name: str) -> None:
    """Prepares the text and the vocabulary of a task or mixture, if this project makes them.

    They would also be prepared at first use. An earlier call shows the user the progress. It
    does not download TFDS's data: see `tasks.tfds_data`.

    Args:
      name: A registered task or mixture.

    Raises:
      UserError: If there is no such task or mixture, or its text cannot be prepared.
    """
    from tasks import embedded_tasks, own_data, pretraining

    pretraining.prepare_corpora(name)
    embedded_tasks.prepare_examples(name)
    own_data.prepare_examples(name)


def text_versions(name: str) -> dict[str, dict[str, str]]:
    """Returns the versions of the text of a task or mixture that uses this project's text.

    Args:
      name: A registered task or mixture.

    Returns:
      For "text_files", the user's own catalogues and labelled data, the SHA-256 of each file by
      its path; for "embedded_text" and "multilingual", the version of each package by its name.
      Other data has no entry.
    """
    import seqio

    from tasks import embedded_tasks, own_data, pretraining
    from tasks.docstrings import Docstrings

    found = {}
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
        if isinstance(task.source, pretraining.CorpusSource):
            found[task.source.corpus.name] = task.source.corpus.source.versions()
        elif isinstance(task.source, embedded_tasks.ExamplesSource):
            found[pretraining.EMBEDDED_TEXT] = Docstrings().versions()
        elif isinstance(task.source, own_data.OwnSource):
            found[task.name] = task.source.versions()
    return found

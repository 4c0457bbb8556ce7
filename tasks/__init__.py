"""Everything a model can be trained on: T5's own tasks and mixtures, and those here.

`register` makes them known to seqio, where `train --task=NAME` looks for them. Importing
this package is cheap; registering imports TensorFlow, and neither reads nor downloads data.
"""

from __future__ import annotations


def register() -> None:
    """Registers T5's tasks and mixtures and the project's, as gin configures them now.

    Call it after gin was parsed (and import `tasks.pretraining` and `tasks.text_to_text`
    before that, so that gin knows their names). A later call replaces them with what gin says
    then: the text of the text tasks, the vocabulary of all others, the folder of TFDS's data.

    Raises:
      UserError: if gin's values make no corpus, or the folder is not there.
    """
    from tasks import (
        c4,
        closed_book,
        embedded_tasks,
        entailment,
        mc4,
        multiple_choice,
        pretraining,
        summarization,
        t5_tasks,
        text_to_text,
        tfds_data,
    )

    tfds_data.use_data_dir()
    pretraining.register()
    vocabulary = text_to_text.task_vocabulary()
    for kind in (
        t5_tasks,
        c4,
        mc4,
        summarization,
        entailment,
        multiple_choice,
        closed_book,
        embedded_tasks,
    ):
        kind.register(vocabulary)


def prepare_text(name: str) -> None:
    """Makes the text and vocabulary that a task or mixture needs, if it needs any.

    They would be made at first use as well; called beforehand, the user sees the progress.
    TFDS's data is not downloaded: see `tasks.tfds_data`.

    Raises:
      UserError: if no task or mixture has that name, or its text cannot be prepared.
    """
    from tasks import embedded_tasks, pretraining

    pretraining.prepare(name)
    embedded_tasks.prepare(name)

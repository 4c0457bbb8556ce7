"""Everything a model can be trained on: T5's own tasks and mixtures, and those here.

`register` makes them known to seqio, where `train --task=NAME` looks for them. Importing
this package is cheap; registering imports TensorFlow, and neither reads nor downloads data.
"""

from __future__ import annotations


def register() -> None:
    """Registers T5's tasks and mixtures, `embedded_text`, and `text_files` if it has files.

    Call it after gin was parsed (and import `tasks.pretraining` before that, so that gin
    knows `embedded_text` and `text_files`). A later call replaces the text tasks with what
    gin says then.

    Raises:
      UserError: if gin's values make no corpus.
    """
    import t5.data.mixtures  # noqa: F401  registers by being imported

    from tasks import pretraining

    pretraining.register()


def prepare(name: str) -> None:
    """Makes the text and vocabulary that a task or mixture needs, if it needs any.

    They would be made at first use as well; called beforehand, the user sees the progress.

    Raises:
      UserError: if no task or mixture has that name, or its text cannot be prepared.
    """
    from tasks import pretraining

    pretraining.prepare(name)

"""T5's own tasks and mixtures: C4, GLUE, SuperGLUE, SQuAD, CNN/DailyMail, WMT, ...

They are used as T5 registers them, except that their vocabulary can be replaced.
"""

from __future__ import annotations

import seqio
import t5.data.mixtures  # the import registers them
import t5.data.tasks

from tasks import text_vocabulary

GLUE = "glue_v002_proportional"
SUPER_GLUE = "super_glue_v102_proportional"
SQUAD = "squad_v010_allanswers"
CNN_DAILYMAIL = "cnn_dailymail_v002"


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Replaces the vocabulary of T5's tasks.

    Args:
      vocabulary: The new vocabulary, or None for T5's.
    """
    vocabulary = vocabulary or text_vocabulary.make_t5_default()
    # All of T5's tasks share these two objects, which are frozen dataclasses.
    for feature in t5.data.tasks.DEFAULT_OUTPUT_FEATURES.values():
        object.__setattr__(feature, "vocabulary", vocabulary)

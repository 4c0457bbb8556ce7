"""T5's own tasks and mixtures: C4, GLUE, SuperGLUE, SQuAD, CNN/DailyMail, WMT, ...

They are reused as T5 registers them; only their vocabulary can be another one.
"""

from __future__ import annotations

import seqio
import t5.data
import t5.data.mixtures  # registers by being imported
import t5.data.tasks

GLUE = "glue_v002_proportional"
SUPER_GLUE = "super_glue_v102_proportional"
SQUAD = "squad_v010_allanswers"
CNN_DAILYMAIL = "cnn_dailymail_v002"


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Gives T5's tasks a vocabulary.

    Args:
      vocabulary: None is T5's.
    """
    vocabulary = vocabulary or t5.data.get_default_vocabulary()
    # T5's tasks share these two objects, which are frozen.
    for feature in t5.data.tasks.DEFAULT_OUTPUT_FEATURES.values():
        object.__setattr__(feature, "vocabulary", vocabulary)

"""XSum (Narayan et al., arXiv 1808.08745) in T5's format for summarization.

CNN/DailyMail is T5's own task `cnn_dailymail_v002`.
"""

from __future__ import annotations

import functools

import seqio
from t5.data import preprocessors as t5_preprocessors
from t5.evaluation import metrics

from tasks import text_to_text

XSUM = "xsum"


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers `xsum`, from "summarize: <document>" to a summary of one sentence.

    Args:
      vocabulary: The task's vocabulary, or None for T5's.
    """
    text_to_text.add_task(
        XSUM,
        seqio.TfdsDataSource("xsum:1.1.0", splits=["train", "validation", "test"]),
        functools.partial(
            t5_preprocessors.summarize, article_key="document", summary_key="summary"
        ),
        text_to_text.make_features(vocabulary),
        [metrics.rouge],
    )

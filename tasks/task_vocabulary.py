"""The vocabulary of all tasks, which gin configures."""

from __future__ import annotations

import gin
import seqio

from tasks import multilingual_corpus, pretraining
from tasks.text_vocabulary import TextVocabulary


# Users bind text_to_text.task_vocabulary.source, so this module name is part of the interface.
@gin.configurable(module="tasks.text_to_text")
def task_vocabulary(
    source: str | None = None, sentinels: int = pretraining.SENTINELS
) -> seqio.Vocabulary | None:
    """Returns the vocabulary of all tasks, including those that read text files.

    Args:
      source: A SentencePiece model (a path or gs:// address), or "embedded_text", "text_files"
        or "multilingual" for the vocabulary of that corpus. None selects the default of each
        task: that of its corpus for text, mT5's for mC4 and T5's for all others.
      sentinels: How many sentinels to add to a SentencePiece model. Use 0 for a model that
        already contains them, as mT5's does.

    Returns:
      The vocabulary, or None if `source` is None.

    Raises:
      UserError: For "text_files" without files.
    """
    if source is None:
        return None
    if source == multilingual_corpus.NAME:
        return pretraining.CorpusVocabulary(multilingual_corpus.multilingual())
    corpus = pretraining.find_corpus(source)
    if corpus is not None:
        return pretraining.CorpusVocabulary(corpus)
    return TextVocabulary(source, extra_ids=sentinels)

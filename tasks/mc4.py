"""mC4 as in mT5 (Xue et al., arXiv 2010.11934), for the paper's Section 4.3.

There is one task of span corruption for each of TFDS's 107 splits: 101 languages, six of them
in Latin script as well. The mixture draws a language with n documents with a probability
proportional to n^alpha, where alpha = 0.3 (Section 3.1 of the mT5 paper). That is sampling with
a temperature of 1 / alpha.
"""

from __future__ import annotations

import gin
import seqio
import tensorflow_datasets as tfds

from tasks import language_mixture, language_sampling, text_to_text
from tasks.text_vocabulary import TextVocabulary

# mT5 used version 3.0.1, which the pinned TFDS can no longer prepare.
MC4 = "c4/multilingual:3.1.0"
MIXTURE = "mc4"
VOCABULARY = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"


def languages() -> list[str]:
    """Returns 107 codes such as "de" and "ru-Latn": 101 languages, six in two scripts."""
    return list(tfds.text.c4.MC4_LANGUAGES)


def task_name(language: str) -> str:
    """Returns mT5's name for the task of a language: "mc4.ru_Latn" for "ru-Latn"."""
    return language_mixture.task_name(MIXTURE, language)


@gin.configurable
def mc4_rate(task: seqio.Task, alpha: float = language_sampling.ALPHA) -> float:
    """Returns the mixing rate of a language: n^alpha for n training documents.

    Args:
      task: The task of the language.
      alpha: 1 draws languages in proportion to their size, 0 draws them equally often.
    """
    return language_mixture.rate_by_size(task, alpha)


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the tasks of all languages and their mixture.

    Args:
      vocabulary: Their vocabulary, or None for mT5's with 250,000 pieces.
    """
    vocabulary = vocabulary or TextVocabulary(VOCABULARY, extra_ids=0)
    sources = {
        language: seqio.TfdsDataSource(
            MC4, splits={"train": language, "validation": f"{language}-validation"}
        )
        for language in languages()
    }
    features = text_to_text.make_features(vocabulary)
    language_mixture.register(MIXTURE, sources, features, mc4_rate)

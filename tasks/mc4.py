"""mC4 as mT5 has it (Xue et al., arXiv 2010.11934), for the paper's Section 4.3.

One task of span corruption for each of TFDS's 107 splits: 101 languages, six of them in Latin
script as well. The mixture draws language l with probability proportional to n_l^alpha, n_l
its number of documents and alpha = 0.3 (mT5's Section 3.1), which is a temperature of 1/alpha.
"""

from __future__ import annotations

import gin
import seqio
import tensorflow_datasets as tfds

from tasks import c4, text_to_text

# mT5 had 3.0.1, which the pinned TFDS cannot make any more.
MC4 = "c4/multilingual:3.1.0"
MIXTURE = "mc4"
VOCABULARY = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"


def languages() -> list[str]:
    """Codes such as "de" or "ru-Latn": 101 languages, 107 with their variants in script."""
    return list(tfds.text.c4.MC4_LANGUAGES)


def task_name(language: str) -> str:
    """mT5's name of the task of a language: "mc4.ru_Latn" for "ru-Latn"."""
    return f"mc4.{language.replace('-', '_')}"


@gin.configurable
def mc4_rate(task: seqio.Task, alpha: float = 0.3) -> float:
    """How often a language is drawn, up to a factor: n^alpha for n documents.

    Args:
      task: of one language.
      alpha: 1 draws in proportion to size, 0 draws all languages equally often.
    """
    return float(task.num_input_examples("train")) ** alpha


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the tasks of all languages and their mixture.

    Args:
      vocabulary: None is mT5's, of 250,000 pieces.
    """
    vocabulary = vocabulary or seqio.SentencePieceVocabulary(VOCABULARY, extra_ids=0)
    features = text_to_text.features(vocabulary)
    for language in languages():
        splits = {"train": language, "validation": f"{language}-validation"}
        source = seqio.TfdsDataSource(MC4, splits=splits)
        c4.span_corruption(task_name(language), source, features)
    rates = [(task_name(language), mc4_rate) for language in languages()]
    text_to_text.add_mixture(MIXTURE, rates)

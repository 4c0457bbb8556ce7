"""Draws languages as mT5 does (Xue et al., arXiv 2010.11934, Section 3.1).

The probability of a language with n documents is n^alpha / sum of all n^alpha. A smaller alpha
draws small languages more often. The temperature of T5's mixtures is 1 / alpha.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import sentencepiece

from tasks.vocabulary import SAMPLE_CHARACTERS

# mT5's choice.
ALPHA = 0.3

# Increase this whenever the same documents would give another sample, or vocabulary.
SAMPLING_VERSION = 2


def compute_rate(documents: int, alpha: float) -> float:
    """Returns the rate of a language, which a mixture divides by the sum of all rates.

    Args:
      documents: The number of its training documents.
      alpha: 1 draws languages in proportion to their size, 0 draws them equally often.
    """
    return float(documents) ** alpha


def sample_documents(
    documents: Mapping[str, Sequence[str]],
    alpha: float,
    characters: int = SAMPLE_CHARACTERS,
) -> list[str]:
    """Returns training documents of all languages, in the shares of the mixture.

    A language has the first of its documents. If these are too few, they repeat, as in a
    mixture.

    Args:
      documents: Language -> its training documents.
      alpha: See `compute_rate`.
      characters: The number of characters of all languages together. Each language exceeds its
        share by less than a document.
    """
    rates = {code: compute_rate(len(texts), alpha) for code, texts in documents.items()}
    total = sum(rates.values())
    sample = []
    for code, texts in documents.items():
        left = characters * rates[code] / total
        for document in itertools.cycle(texts):
            if left <= 0:
                break
            sample.append(document)
            left -= len(document)
    return sample


def measure_coverage(model: bytes, documents: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Returns the share of the characters of each language that a vocabulary has pieces for.

    Args:
      model: A SentencePiece model with byte fallback.
      documents: Language -> documents.

    Returns:
      Language -> share. The other characters are spelled in bytes.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    coverage = {}
    for code, texts in documents.items():
        total = spelled = 0
        for document in texts:
            pieces = processor.encode(document, out_type="immutable_proto").pieces
            total += len(document)
            # The surface of a character is on the last of its bytes.
            spelled += sum(len(p.surface) for p in pieces if processor.is_byte(p.id))
        coverage[code] = 1 - spelled / total
    return coverage

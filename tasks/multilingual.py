"""Many languages without a data set: the translated messages of packages, for Section 4.3.

The text is that of user interfaces: sentences and labels of web frameworks, content management
systems and a documentation tool, which volunteers translate. `make install-multilingual`
downloads it. The tasks and the mixture are made by the same code as those of mC4.
"""

from __future__ import annotations

import dataclasses
import functools

import seqio

from tasks import language_mixture, multilingual_corpus, text_to_text
from tasks.catalogue_files import Catalogues
from tasks.multilingual_corpus import NAME, MultilingualCorpus
from tasks.pretraining import CorpusSource, CorpusVocabulary
from tasks.text_cache import PreparedText


@dataclasses.dataclass(frozen=True)
class LanguageCorpus:
    """One language of a multilingual corpus, for `pretraining.CorpusSource`.

    Attributes:
      corpus: The corpus.
      language: Code of the language.
    """

    corpus: MultilingualCorpus
    language: str

    @property
    def name(self) -> str:
        """The name under which a run records the versions of its text."""
        return NAME

    @property
    def source(self) -> Catalogues:
        """Where the documents come from."""
        return self.corpus.catalogues

    @property
    def prepared_text(self) -> PreparedText:
        """The documents of the language; the first access prepares those of all languages."""
        return self.corpus.prepared_texts[self.language]

    def is_prepared(self) -> bool:
        """Returns whether the text is in the cache, without reading or making it."""
        return self.corpus.is_prepared()

    def has_catalogues(self) -> bool:
        """Returns whether the pinned wheels, or the user's catalogues, are there."""
        return self.corpus.has_catalogues()

    def describe(self) -> str:
        """Returns the size of the language and its coverage by the vocabulary, if known."""
        characters = sum(self.prepared_text.characters.values())
        coverage = self.corpus.read_coverage().get(self.language)
        covered = "" if coverage is None else f", {coverage:.2%} of them with a piece"
        return f"{characters:,} characters{covered}"


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the tasks of all languages and their mixture as gin configures them now.

    Args:
      vocabulary: Their vocabulary, or None for that of the corpus.
    """
    for name in list(seqio.TaskRegistry.names()):
        if name.startswith(f"{NAME}."):
            seqio.TaskRegistry.remove(name)
    corpus = multilingual_corpus.multilingual()
    language_mixture.register(
        NAME,
        {code: CorpusSource(LanguageCorpus(corpus, code)) for code in corpus.languages},
        text_to_text.make_features(vocabulary or CorpusVocabulary(corpus)),
        functools.partial(language_mixture.rate_by_size, alpha=corpus.alpha),
    )

"""The multilingual corpus on disk: documents in two splits for each language, and a vocabulary.

    catalogues -> documents of each language (`language_texts`)
        -> de/train.tfrecord, de/validation.tfrecord, ..., manifest.json
        -> vocabulary-KEY.model, from the sampled training splits (`language_sampling`)

As in `text_corpus`, the name of the folder ends in a hash of everything that decides its
content.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import shutil
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin

from mtf_switch import value_rules, whole_file
from mtf_switch.errors import UserError, suggest_names
from mtf_switch.value_rules import Rule
from tasks import (
    document_split,
    extraction_report,
    language_choice,
    language_sampling,
    language_texts,
    message_split,
    text_cache,
)
from tasks.catalogue_files import Catalogues
from tasks.document_split import SPLITS, Split
from tasks.text_cache import PreparedText
from tasks.vocabulary import (
    SAMPLE_CHARACTERS,
    VocabSizeError,
    check_vocab_size,
    train_vocabulary,
)

NAME = "multilingual"

# Increase this whenever the same documents would be stored differently.
FORMAT_VERSION = 1

# With less text, the validation split of a language has too few targets to mean anything.
MIN_CHARACTERS = 50_000

_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class PreparedLanguages:
    """The documents of all languages, and their vocabulary.

    Attributes:
      texts: Language -> its documents.
      vocabulary_file: A SentencePiece model without sentinels.
      coverage: Language -> share of the characters of its validation split that have pieces;
        the vocabulary spells the others in bytes.
    """

    texts: dict[str, PreparedText]
    vocabulary_file: Path
    coverage: dict[str, float]


@dataclasses.dataclass(frozen=True)
class MultilingualCorpus:
    """Text in many languages, prepared at first use.

    Attributes:
      languages: Codes of the languages; see `locale_codes`.
      catalogues: Where the text comes from.
      vocab_size: Number of SentencePiece pieces, including 256 bytes, pad, end of sequence and
        unknown, but not the 100 sentinels.
      alpha: The vocabulary is trained on languages that are drawn in proportion to
        documents^alpha, like the mixture.
      character_coverage: The share of the text whose characters get pieces.

    Raises:
      UserError: If a value is out of range, or a language is no locale.
    """

    languages: tuple[str, ...]
    catalogues: Catalogues = dataclasses.field(default_factory=Catalogues)
    vocab_size: int = 4096
    alpha: float = language_sampling.ALPHA
    character_coverage: float = 0.9995

    def __post_init__(self):
        check_vocab_size(self.vocab_size)
        if not self.languages:
            raise UserError("multilingual.languages is empty. Name at least one, such as 'de'.")
        language_choice.check_codes(self.languages)

    @property
    def name(self) -> str:
        """The name of the mixture of all languages."""
        return NAME

    @property
    def source(self) -> Catalogues:
        """Where the documents come from."""
        return self.catalogues

    @functools.cached_property
    def prepared(self) -> PreparedLanguages:
        """The prepared corpus; the first access prepares it.

        Raises:
          UserError: In the cases of `prepare_texts`, or if no vocabulary can be trained.
        """
        texts = self.prepared_texts
        folder = self._make_path()
        with text_cache.explain_errors(f"The corpus {NAME}", folder):
            file, coverage = self._ensure_vocabulary(folder, texts)
        return PreparedLanguages(texts, file, coverage)

    @functools.cached_property
    def prepared_texts(self) -> dict[str, PreparedText]:
        """The documents of each language. No vocabulary is trained for them.

        Raises:
          UserError: If the catalogues are missing, a language has too little text, or the cache
            cannot be written.
        """
        folder = self._make_path()
        with text_cache.explain_errors(f"The corpus {NAME}", folder):
            manifest = _read_valid_manifest(folder) or self._build(folder)
        found = manifest["languages"]
        self._check_enough_text(found)
        return {
            code: PreparedText(
                folder / code,
                {split: found[code][split]["documents"] for split in SPLITS},
                {split: found[code][split]["characters"] for split in SPLITS},
            )
            for code in self.languages
        }

    def is_prepared(self) -> bool:
        """Returns whether the text is in the cache, without reading or making it."""
        return self.has_catalogues() and (self._make_path() / _MANIFEST).is_file()

    def has_catalogues(self) -> bool:
        """Returns whether the pinned wheels, or the user's catalogues, are there."""
        try:
            return bool(self.catalogues.paths())
        except UserError:
            return False

    def read_coverage(self) -> dict[str, float]:
        """Returns the coverage of each language if the vocabulary is in the cache, else {}."""
        if not self.is_prepared():
            return {}
        return text_cache.get_object(text_cache.read_json(self._record_file()), "coverage")

    def _make_path(self) -> Path:
        key = text_cache.cache_key(self._identity())
        return text_cache.cache_directory() / f"{NAME}-{key}"

    def _record_file(self) -> Path:
        choice = [sorted(self.languages), self.vocab_size, self.alpha, self.character_coverage]
        version = language_sampling.SAMPLING_VERSION
        key = text_cache.cache_key({"choice": choice, "sampling": version})
        return self._make_path() / f"vocabulary-{key}.json"

    def _identity(self) -> dict:
        libraries = {name: importlib.metadata.version(name) for name in ("babel", "fonttools")}
        return {
            "format": FORMAT_VERSION,
            "extraction": language_texts.EXTRACTION_VERSION,
            "validation_percent": message_split.VALIDATION_PERCENT,
            "document_characters": language_texts.DOCUMENT_CHARACTERS,
            "sentencepiece": importlib.metadata.version("sentencepiece"),
            "unicode": unicodedata.unidata_version,
            **libraries,
            "source": self.catalogues.identity(),
        }

    def _build(self, folder: Path) -> dict:
        """Writes the splits of all languages and the manifest, and returns the manifest."""
        text_cache.print_reason(folder, f"Preparing the text of {NAME} (once) in {folder}")
        started = time.monotonic()
        temporary = text_cache.temporary_path(folder)
        try:
            temporary.mkdir(parents=True)  # first: if it is not allowed, no work is lost
            extraction = language_texts.extract(self.catalogues)
            languages = {}
            for code, splits in extraction.documents.items():
                (temporary / code).mkdir()
                languages[code] = {
                    split: text_cache.write_split(
                        temporary / code / f"{split}.tfrecord", splits[split]
                    )
                    for split in SPLITS
                }
            manifest = {
                "name": NAME,
                "identity": self._identity(),
                "licences": self.catalogues.licences(),
                "catalogues": extraction.catalogues,
                "skipped": dataclasses.asdict(extraction.skipped),
                "languages": languages,
                "seconds": round(time.monotonic() - started, 1),
            }
            text_cache.write_json(temporary / _MANIFEST, manifest)
            text_cache.install_folder(temporary, folder, _read_valid_manifest)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for line in extraction_report.summarize(NAME, manifest, MIN_CHARACTERS):
            text_cache.print_status(line)
        return manifest

    def _check_enough_text(self, found: dict) -> None:
        """Checks that every language has text in both splits."""
        for code in self.languages:
            if code not in found:
                raise UserError(
                    f"The catalogues have no text in {code!r}.{suggest_names(code, found)} "
                    "Remove it from multilingual.languages, or add catalogues."
                )
            characters = sum(found[code][split]["characters"] for split in SPLITS)
            if characters < MIN_CHARACTERS or not all(
                found[code][split]["documents"] for split in SPLITS
            ):
                raise UserError(
                    f"A language needs at least {MIN_CHARACTERS:,} characters of distinct "
                    f"text, and text in both splits; {code!r} has {characters:,} characters. "
                    "Remove it from multilingual.languages, or add catalogues."
                )

    def _ensure_vocabulary(
        self, folder: Path, texts: dict[str, PreparedText]
    ) -> tuple[Path, dict[str, float]]:
        """Returns the vocabulary's file and coverage; trains it if it is missing or damaged."""
        record_file = self._record_file()
        file = record_file.with_suffix(".model")
        record = text_cache.read_json(record_file)
        coverage = text_cache.get_object(record, "coverage")
        if text_cache.matches_fingerprint(file, record) and set(coverage) == set(
            self.languages
        ):
            return file, coverage
        text_cache.print_reason(
            file, f"Training a vocabulary of {self.vocab_size:,} pieces (once)"
        )
        started = time.monotonic()
        sample = language_sampling.sample_documents(_read(texts, "train"), self.alpha)
        try:
            model = train_vocabulary(
                sample,
                # All of it is used, although it ends with whole documents beyond the limit.
                characters=min(sum(map(len, sample)), SAMPLE_CHARACTERS),
                vocab_size=self.vocab_size,
                byte_fallback=True,
                character_coverage=self.character_coverage,
            )
        except VocabSizeError as error:
            remedy = "" if error.is_too_large else ", or multilingual.character_coverage lower"
            raise UserError(
                f"{error} Set multilingual.vocab_size accordingly{remedy}."
            ) from error
        whole_file.write_bytes(file, model)
        coverage = language_sampling.measure_coverage(model, _read(texts, "validation"))
        seconds = round(time.monotonic() - started, 1)
        fingerprint = text_cache.compute_fingerprint(file)
        text_cache.write_json(
            record_file, {**fingerprint, "seconds": seconds, "coverage": coverage}
        )
        return file, coverage


def _read(texts: dict[str, PreparedText], split: Split) -> dict[str, list[str]]:
    """Reads the documents of a split: language -> documents, in the order of the codes."""
    return {
        code: list(document_split.read_documents(text.split_file(split)))
        for code, text in sorted(texts.items())
    }


def _read_valid_manifest(folder: Path) -> dict | None:
    """Returns the manifest, or None if it or a file that it lists is missing or damaged."""
    manifest = text_cache.read_json(folder / _MANIFEST)
    languages = text_cache.get_object(manifest, "languages")
    for code, splits in languages.items():
        for split in SPLITS:
            entry = text_cache.get_object(splits, split)
            if not text_cache.matches_fingerprint(folder / code / f"{split}.tfrecord", entry):
                return None
    return manifest if languages else None


def _are_texts(value: Any) -> bool:
    texts = value if isinstance(value, (list, tuple)) else [value]
    return all(map(value_rules.text().accepts, texts))


value_rules.declare(
    "multilingual",
    languages=Rule("a code such as 'de', or a list of them", _are_texts).or_none(),
    catalogues=Rule("a path, or a list of paths", _are_texts).or_none(),
    vocab_size=value_rules.whole(1),
    alpha=value_rules.number(0),
    # SentencePiece's own limit.
    character_coverage=value_rules.number(0.98, high=1),
)


@gin.configurable
def multilingual(
    languages: str | Sequence[str] | None = None,
    catalogues: str | Sequence[str] | None = None,
    vocab_size: int = 4096,
    alpha: float = language_sampling.ALPHA,
    character_coverage: float = 0.9995,
) -> MultilingualCorpus:
    """Returns the multilingual corpus.

    Args:
      languages: Codes such as "de", "sr_Latn", "pt_BR" (see `tasks.locale_codes`); None for all
        of `language_choice.LANGUAGES`.
      catalogues: A path or glob of .po files and wheels, such as 'po/**/*.po', or a sequence of
        them; None for the wheels that requirements-multilingual.txt pins.
      vocab_size: Number of SentencePiece pieces, including 256 bytes but not the 100 sentinels.
      alpha: The mixture, and the sample for the vocabulary, draw a language with n documents in
        proportion to n^alpha.
      character_coverage: The share of the text whose characters get pieces. The vocabulary
        spells the others in bytes.
    """
    if catalogues is not None:
        catalogues = (catalogues,) if isinstance(catalogues, str) else tuple(catalogues)
    languages = language_choice.LANGUAGES if languages is None else languages
    return MultilingualCorpus(
        (languages,) if isinstance(languages, str) else tuple(languages),
        Catalogues(catalogues),
        vocab_size,
        float(alpha),
        float(character_coverage),
    )

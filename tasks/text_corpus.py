"""A text corpus on disk: documents in two splits, and a vocabulary trained on one of them.

    docstrings or text files -> documents -> without repeats -> split by hash
        -> train.tfrecord, validation.tfrecord, manifest.json
        -> vocabulary_4096.model (from the training split only)

A corpus has one folder in the cache. The folder's name ends in a hash of everything that
decides its content: package versions or the bytes of the files, and the versions of this code.
If any of them changes, the corpus gets a new folder, so a folder is never outdated.
"""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from tasks import document_split, text_cache
from tasks.docstrings import Docstrings
from tasks.document_split import SPLITS, Split
from tasks.text_cache import PreparedText
from tasks.text_files import TextFiles
from tasks.vocabulary import (
    MIN_VOCAB_SIZE,
    USUAL_VOCAB_SIZE,
    VocabSizeError,
    check_vocab_size,
    choose_vocab_size,
    train_vocabulary,
)

# With less text, neither a vocabulary nor a validation loss means anything.
MIN_CHARACTERS = 100_000

# Increase this whenever the same documents would be stored differently.
FORMAT_VERSION = 1

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PreparedCorpus(PreparedText):
    """The documents of a corpus, and its vocabulary.

    Attributes:
      vocabulary_file: A SentencePiece model without sentinels.
    """

    vocabulary_file: Path


@dataclass(frozen=True)
class TextCorpus:
    """Text for pre-training, prepared at first use.

    Attributes:
      name: The beginning of its folder's name; letters, digits and underscores.
      files: Globs of the user's own utf-8 text files, or None for the embedded corpus (the
        docstrings of the pinned packages).
      vocab_size: Number of SentencePiece pieces, including pad, end of sequence and unknown,
        but *not* the 100 sentinels: a model sees `vocab_size + 100` ids. None chooses 1,024,
        or more if the text has many distinct characters, as Chinese has.

    Raises:
      UserError: If `vocab_size` is out of range or `files` contains anything but strings.
    """

    name: str
    files: tuple[str, ...] | None = None
    vocab_size: int | None = 4096

    def __post_init__(self):
        if self.vocab_size is not None:
            check_vocab_size(self.vocab_size)
        if self.files is None:
            return
        if not self.files or not all(isinstance(file, str) for file in self.files):
            raise UserError(
                "The files of a corpus are given as a path or glob, such as 'books/*.txt', "
                f"or several; they are {self.files!r}."
            )

    @functools.cached_property
    def prepared(self) -> PreparedCorpus:
        """The prepared corpus; the first access prepares it."""
        return self.prepare()

    @functools.cached_property
    def prepared_text(self) -> PreparedText:
        """The prepared documents. No vocabulary is trained for them."""
        return self.__dict__.get("prepared") or self.prepare_text()

    @property
    def source(self) -> Docstrings | TextFiles:
        """Where the documents come from."""
        return Docstrings() if self.files is None else TextFiles(self.files)

    def prepare(self) -> PreparedCorpus:
        """Prepares the documents, as `prepare_text` does, and the vocabulary.

        Raises:
          UserError: In the cases of `prepare_text`, or if no vocabulary can be trained on the
            text.
        """
        text = self.prepare_text()
        with text_cache.explain_errors(f"The corpus {self.name}", text.folder):
            vocabulary_file = self._ensure_vocabulary(text)
        return PreparedCorpus(text.folder, text.documents, text.characters, vocabulary_file)

    def prepare_text(self) -> PreparedText:
        """Makes the missing or damaged parts of the cache, and reports this on standard error.

        It can be interrupted, and several processes can call it at once, because a file gets
        its name only when it is complete.

        Raises:
          UserError: If the text cannot be read or is too short, or if the cache cannot be
            written.
        """
        folder = self._make_path()
        with text_cache.explain_errors(f"The corpus {self.name}", folder):
            splits = (_read_valid_manifest(folder) or self._build(folder))["splits"]
        return PreparedText(
            folder=folder,
            documents={split: splits[split]["documents"] for split in SPLITS},
            characters={split: splits[split]["characters"] for split in SPLITS},
        )

    def is_prepared(self) -> bool:
        """Returns whether the text is in the cache, without reading or making it."""
        return (self._make_path() / _MANIFEST).is_file()

    def _make_path(self) -> Path:
        key = text_cache.cache_key(self._identity())
        return text_cache.cache_directory() / f"{self.name}-{key}"

    def _identity(self) -> dict:
        return {
            "format": FORMAT_VERSION,
            "validation_percent": document_split.VALIDATION_PERCENT,
            "sentencepiece": importlib.metadata.version("sentencepiece"),
            "source": self.source.identity(),
        }

    def _build(self, folder: Path) -> dict:
        """Writes both splits and the manifest, and returns the manifest."""
        text_cache.print_reason(folder, f"Preparing the text of {self.name} (once) in {folder}")
        started = time.monotonic()
        temporary = text_cache.temporary_path(folder)
        try:
            temporary.mkdir(parents=True)  # first: if it is not allowed, no work is lost
            splits = document_split.split_documents(self.source.documents())
            self._check_enough_text(splits)
            manifest = {
                "name": self.name,
                "identity": self._identity(),
                "splits": {
                    split: text_cache.write_split(
                        temporary / f"{split}.tfrecord", splits[split]
                    )
                    for split in SPLITS
                },
                "seconds": round(time.monotonic() - started, 1),
            }
            text_cache.write_json(temporary / _MANIFEST, manifest)
            text_cache.install_folder(temporary, folder, _read_valid_manifest)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        text_cache.print_status(_summarize(self.name, manifest))
        return manifest

    def _check_enough_text(self, splits: dict[Split, list[str]]) -> None:
        documents = sum(map(len, splits.values()))
        characters = sum(len(text) for texts in splits.values() for text in texts)
        if characters < MIN_CHARACTERS:
            raise UserError(
                self.source.shortage_message(
                    f"A corpus needs at least {MIN_CHARACTERS:,} characters of distinct "
                    f"text; there are {characters:,} in {documents:,} distinct documents"
                )
            )

    def _ensure_vocabulary(self, text: PreparedText) -> Path:
        """Returns the vocabulary's file, and trains it first if it is missing or damaged."""
        size = "chosen" if self.vocab_size is None else self.vocab_size
        file = text.folder / f"vocabulary_{size}.model"
        record = file.with_suffix(".json")
        if text_cache.matches_fingerprint(file, text_cache.read_json(record)):
            return file
        started = time.monotonic()
        model = self._train_vocabulary(text, file, self.vocab_size or USUAL_VOCAB_SIZE)
        whole_file.write_bytes(file, model)
        seconds = round(time.monotonic() - started, 1)
        fingerprint = text_cache.compute_fingerprint(file)
        text_cache.write_json(record, {**fingerprint, "seconds": seconds})
        return file

    def _train_vocabulary(self, text: PreparedText, file: Path, size: int) -> bytes:
        """Trains a vocabulary of `size` pieces, or of as many as fit if none are asked for."""
        text_cache.print_reason(file, f"Training a vocabulary of {size:,} pieces (once)")
        try:
            return train_vocabulary(
                document_split.read_documents(text.train_file),
                characters=text.characters["train"],
                vocab_size=size,
            )
        except VocabSizeError as error:
            chosen = choose_vocab_size(error)
            accepted = chosen if chosen >= MIN_VOCAB_SIZE else None
            flag = f"--gin_param='{self.name}.vocab_size = {accepted}'"
            if self.vocab_size is not None:
                raise UserError(f"{error} For example, pass {flag}.") from error
            if chosen == size:
                raise
            limit = "at most" if error.is_too_large else "at least"
            text_cache.print_status(f"This text needs {limit} {error.limit:,} pieces.")
            return self._train_vocabulary(text, file, chosen)


def _read_valid_manifest(folder: Path) -> dict | None:
    """Returns the manifest, or None if it or a file that it lists is missing or damaged."""
    manifest = text_cache.read_json(folder / _MANIFEST)
    splits = text_cache.get_object(manifest, "splits")
    for split in SPLITS:
        file, entry = folder / f"{split}.tfrecord", text_cache.get_object(splits, split)
        if not text_cache.matches_fingerprint(file, entry):
            return None
        if not isinstance(entry.get("characters"), int):
            return None
    return manifest


def _summarize(name: str, manifest: dict) -> str:
    counts = ", ".join(
        f"{entry['documents']:,} documents ({entry['characters']:,} characters) for {split}"
        for split, entry in manifest["splits"].items()
    )
    return f"{name}: {counts}"

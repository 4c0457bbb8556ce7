"""A text corpus on disk: documents in two splits, and a vocabulary trained on one of them.

    docstrings or text files -> documents -> duplicates out -> split by hash
        -> train.tfrecord, validation.tfrecord, manifest.json
        -> vocabulary_4096.model (from the training split only)

Everything lies in one folder below `cache_directory()`, whose name ends in a hash of all
that decides its content: package versions or the files' bytes, and the code's versions. A
change of any of them is another folder, so nothing there is ever out of date.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import secrets
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mtf_switch.errors import UserError, suggest_names
from tasks.docstrings import Docstrings
from tasks.text_files import TextFiles
from tasks.vocabulary import check_vocab_size, train_vocabulary

SPLITS = ("train", "validation")
VALIDATION_PERCENT = 2

# Below this, neither a vocabulary nor a validation loss means anything.
MIN_CHARACTERS = 100_000

# Raise this whenever the same documents would be stored differently.
FORMAT_VERSION = 1

_MANIFEST = "manifest.json"


def cache_directory() -> Path:
    """Where corpora are kept, if the environment variable MTF_SWITCH_CACHE does not say.

    That is `$XDG_CACHE_HOME/mtf_switch`, and `~/.cache/mtf_switch` where that is not set.
    Whatever lies there can be deleted; it is made again when it is next needed.
    """
    chosen = os.environ.get("MTF_SWITCH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "mtf_switch"


@dataclass(frozen=True)
class PreparedCorpus:
    """The files of a corpus that is ready for use.

    Attributes:
      folder: holds all of them, and a manifest.json that says how they came about.
      vocabulary_file: a SentencePiece model without sentinels.
      documents: number of documents for each split.
      characters: number of characters for each split.
    """

    folder: Path
    vocabulary_file: Path
    documents: dict[str, int]
    characters: dict[str, int]

    @property
    def train_file(self) -> Path:
        """TFRecord of utf-8 documents, sorted by their hash."""
        return self.split_file("train")

    @property
    def validation_file(self) -> Path:
        """Like `train_file`; no document of it is in there."""
        return self.split_file("validation")

    def split_file(self, split: str) -> Path:
        """Returns the file of one split; raises UserError if there is no such split."""
        if split not in SPLITS:
            raise UserError(
                f"A text corpus has the splits {' and '.join(SPLITS)}, not {split!r}."
                f"{suggest_names(split, SPLITS)}"
            )
        return self.folder / f"{split}.tfrecord"


@dataclass(frozen=True)
class TextCorpus:
    """Text to pre-train on, made at first use.

    Attributes:
      name: begins the name of its folder; letters, digits and underscores.
      files: globs of the user's own utf-8 text files; None for the embedded corpus (the
        docstrings of the pinned packages).
      vocab_size: SentencePiece pieces, pad, end of sequence and unknown included, but
        *not* the 100 sentinels: a model sees `vocab_size + 100` ids.

    Raises:
      UserError: if `vocab_size` is out of range or `files` holds no path or glob.
    """

    name: str
    files: tuple[str, ...] | None = None
    vocab_size: int = 4096

    def __post_init__(self):
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
        """What `prepare` returned when it was first needed."""
        return self.prepare()

    @property
    def source(self) -> Docstrings | TextFiles:
        """Where the documents come from."""
        return Docstrings() if self.files is None else TextFiles(self.files)

    def prepare(self) -> PreparedCorpus:
        """Makes what is missing or damaged in the cache, and says so on standard error.

        Safe to interrupt and to call from several processes at once: files appear under
        their names only when they are complete.

        Raises:
          UserError: if the text cannot be read or is too little, the vocabulary cannot be
            trained on it, or the cache cannot be written.
        """
        folder = cache_directory() / f"{self.name}-{hash_of(self._identity())}"
        try:
            manifest = _valid_manifest(folder) or self._build(folder)
            vocabulary_file = self._vocabulary(folder, manifest)
        except OSError as error:
            raise UserError(
                f"The corpus {self.name} cannot be kept in {folder.parent}: {error}. Set "
                "the environment variable MTF_SWITCH_CACHE to a folder that you can write."
            ) from error
        splits = manifest["splits"]
        return PreparedCorpus(
            folder=folder,
            vocabulary_file=vocabulary_file,
            documents={split: splits[split]["documents"] for split in SPLITS},
            characters={split: splits[split]["characters"] for split in SPLITS},
        )

    def is_prepared(self) -> bool:
        """Whether its text is in the cache; nothing is made or read."""
        folder = cache_directory() / f"{self.name}-{hash_of(self._identity())}"
        return (folder / _MANIFEST).is_file()

    def _identity(self) -> dict:
        return {
            "format": FORMAT_VERSION,
            "validation_percent": VALIDATION_PERCENT,
            "sentencepiece": importlib.metadata.version("sentencepiece"),
            "source": self.source.identity(),
        }

    def _build(self, folder: Path) -> dict:
        """Writes both splits and the manifest, and returns the latter."""
        _say_why(folder, f"Preparing the text of {self.name} (once) in {folder}")
        started = time.monotonic()
        temporary = _temporary(folder)
        try:
            temporary.mkdir(parents=True)  # before the work, as it may not be allowed
            splits = split_documents(self.source.documents())
            self._check_enough(splits)
            manifest = {
                "name": self.name,
                "identity": self._identity(),
                "splits": {
                    split: _write_split(temporary / f"{split}.tfrecord", splits[split])
                    for split in SPLITS
                },
                "seconds": round(time.monotonic() - started, 1),
            }
            write_json(temporary / _MANIFEST, manifest)
            _install_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        say(_summary(self.name, manifest))
        return manifest

    def _check_enough(self, splits: dict[str, list[str]]) -> None:
        documents = sum(map(len, splits.values()))
        characters = sum(len(text) for texts in splits.values() for text in texts)
        if characters < MIN_CHARACTERS:
            raise UserError(
                self.source.too_little(
                    f"A corpus needs at least {MIN_CHARACTERS:,} characters of distinct "
                    f"text; there are {characters:,} in {documents:,} distinct documents"
                )
            )

    def _vocabulary(self, folder: Path, manifest: dict) -> Path:
        """Returns the vocabulary's file, trained if it is missing or damaged."""
        file = folder / f"vocabulary_{self.vocab_size}.model"
        record = file.with_suffix(".json")
        if _matches(file, read_json(record)):
            return file
        _say_why(file, f"Training a vocabulary of {self.vocab_size:,} pieces (once)")
        started = time.monotonic()
        model = train_vocabulary(
            read_documents(folder / "train.tfrecord"),
            characters=manifest["splits"]["train"]["characters"],
            vocab_size=self.vocab_size,
        )
        replace_file(file, lambda temporary: temporary.write_bytes(model))
        seconds = round(time.monotonic() - started, 1)
        entry = {**_fingerprint(file), "seconds": seconds}
        replace_file(record, lambda temporary: write_json(temporary, entry))
        return file


def split_documents(documents: Iterable[str]) -> dict[str, list[str]]:
    """Drops empty and repeated documents and divides the others by their hash.

    Documents that differ in white space only are repeats; the first one is kept. Whether a
    document is for training depends on its text alone. Each split is sorted by hash, so
    its order has nothing to do with where the documents came from.

    Returns:
      The documents of each of `SPLITS`. Validation has about `VALIDATION_PERCENT` of them,
      and at least one if there are two.
    """
    distinct: dict[bytes, str] = {}
    for document in documents:
        if any(map(str.isalnum, document)):
            distinct.setdefault(digest_of(document), document)
    digests = sorted(distinct)
    held_out = {digest for digest in digests if is_for_validation(digest)}
    if not held_out and len(digests) > 1:
        held_out = {digests[0]}
    return {
        "train": [distinct[digest] for digest in digests if digest not in held_out],
        "validation": [distinct[digest] for digest in digests if digest in held_out],
    }


def read_documents(file: Path) -> Iterator[str]:
    """Yields the documents of a TFRecord file.

    tf.data would do, but not inside a TensorFlow 1 graph, where a corpus may first be
    needed. The files were checked against their hashes, so the checksums are skipped.
    """
    with open(file, "rb") as records:
        while True:
            header = records.read(12)  # length (8 bytes, little endian), its checksum (4)
            if not header:
                return
            (length,) = struct.unpack("<Q", header[:8])
            yield records.read(length).decode("utf-8")
            records.read(4)  # the text's checksum


def digest_of(document: str) -> bytes:
    """Hash of a document that does not see how white space is laid out."""
    return hashlib.sha256(" ".join(document.split()).encode("utf-8")).digest()


def is_for_validation(digest: bytes) -> bool:
    """Whether a document of this digest is kept from training."""
    # The end of the hash, as its beginning decides the order.
    return int.from_bytes(digest[-4:], "big") % 100 < VALIDATION_PERCENT


def _write_split(file: Path, documents: list[str]) -> dict:
    """Writes one document a record and returns the split's entry in the manifest."""
    import tensorflow as tf  # here, so that importing this module stays cheap

    with tf.io.TFRecordWriter(str(file)) as writer:
        for document in documents:
            writer.write(document.encode("utf-8"))
    characters = sum(map(len, documents))
    return {"documents": len(documents), "characters": characters, **_fingerprint(file)}


def _valid_manifest(folder: Path) -> dict | None:
    """Returns the manifest if it can be read and its files are as it says."""
    manifest = read_json(folder / _MANIFEST)
    splits = manifest.get("splits", {})
    for split in SPLITS:
        if not _matches(folder / f"{split}.tfrecord", splits.get(split, {})):
            return None
    return manifest


def _matches(file: Path, entry: dict) -> bool:
    """Whether `file` exists with the size and hash that `entry` has of it."""
    if not entry or not file.is_file() or file.stat().st_size != entry.get("bytes"):
        return False
    return _fingerprint(file)["sha256"] == entry.get("sha256")


def _fingerprint(file: Path) -> dict:
    hashed = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return {"bytes": file.stat().st_size, "sha256": hashed.hexdigest()}


def hash_of(identity: dict) -> str:
    """A name for what decides a content, for a path in the cache."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def read_json(file: Path) -> dict:
    """Returns the object in `file`, empty if it is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(file: Path, content: dict) -> None:
    """Writes an object as indented JSON."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _temporary(path: Path) -> Path:
    """Returns an unused name beside `path`, from which a rename is atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Puts what `write` writes in the place of `file` at once."""
    temporary = _temporary(file)
    try:
        write(temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _install_folder(temporary: Path, folder: Path) -> None:
    """Puts `temporary` in the place of `folder`, unless that is complete by now."""
    damaged = temporary.with_name(temporary.name + ".damaged")
    try:
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():
            raise
        if _valid_manifest(folder):
            return  # another process completed it meanwhile
        os.replace(folder, damaged)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


def _summary(name: str, manifest: dict) -> str:
    counts = ", ".join(
        f"{entry['documents']:,} documents ({entry['characters']:,} characters) for {split}"
        for split, entry in manifest["splits"].items()
    )
    return f"{name}: {counts}"


def _say_why(path: Path, otherwise: str) -> None:
    """Says that `path` is damaged, or `otherwise` if it was not there."""
    say(f"{path} is damaged: making it again" if path.exists() else otherwise)


def say(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr, flush=True)

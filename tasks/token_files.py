"""The tokens of a corpus on disk, so that a run does not tokenize its text in every epoch.

The file lies beside the text. Its name ends in a hash of everything that decides its content:
the text, the vocabulary and the version of this code. So it is never outdated, and a change of
any of them makes a new file.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tqdm

from tasks import document_split, text_cache
from tasks.document_split import Split
from tasks.text_cache import PreparedText
from tasks.text_vocabulary import TextVocabulary, without_sentinels

# Increase this whenever the same text would be stored differently.
FORMAT_VERSION = 1

# Documents that are tokenized at once.
_BATCH = 512


@dataclass(frozen=True)
class TokenFile:
    """The tokens of the documents of a split, in the order of the text.

    Attributes:
      path: A TFRecord file. A record has the ids of a document as `dtype`, little endian.
      dtype: "uint16", or "int32" for a vocabulary with more than 65,536 ids.
      shortest: The number of tokens of the shortest document.
      longest: The number of tokens of the longest document.
    """

    path: Path
    dtype: str
    shortest: int
    longest: int


def ensure_tokens(text: PreparedText, split: Split, vocabulary: TextVocabulary) -> TokenFile:
    """Returns the tokens of a split, and makes their file if it is missing or damaged.

    Args:
      text: The documents.
      split: Which of them.
      vocabulary: The vocabulary, whose `encode_tf` makes the tokens.

    Raises:
      OSError: If the file cannot be written.
    """
    identity = {
        "format": FORMAT_VERSION,
        "text": text_cache.compute_fingerprint(text.split_file(split)),
        "vocabulary": hashlib.sha256(without_sentinels(vocabulary.sp_model)).hexdigest(),
    }
    path = text.folder / f"tokens_{split}_{text_cache.cache_key(identity)}.tfrecord"
    record = path.with_suffix(".json")
    known = text_cache.read_json(record)
    if not text_cache.matches_fingerprint(path, known):
        text_cache.print_reason(path, f"Tokenizing {text.documents[split]:,} documents (once)")
        known = _write(path, text, split, vocabulary)
        text_cache.write_json(record, known)
    return TokenFile(path, known["dtype"], known["shortest"], known["longest"])


def _write(
    path: Path, text: PreparedText, split: Split, vocabulary: TextVocabulary
) -> dict[str, int | str]:
    """Writes the tokens of a split, and returns what is recorded about them."""
    dtype = "uint16" if vocabulary.vocab_size <= 1 << 16 else "int32"
    lengths = []

    temporary = text_cache.temporary_path(path)
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for ids in _tokenize(text, split, vocabulary):
                lengths.append(len(ids))
                writer.write(ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {
        **text_cache.compute_fingerprint(path),
        "dtype": dtype,
        "shortest": min(lengths),
        "longest": max(lengths),
    }


def _tokenize(
    text: PreparedText, split: Split, vocabulary: TextVocabulary
) -> Iterator[np.ndarray]:
    """Yields the ids of each document, with a bar."""
    documents = document_split.read_documents(text.split_file(split))
    # A graph of its own, because the tokens may be needed while another one is built.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        texts = tf.compat.v1.placeholder(tf.string, [None])
        ids = vocabulary.encode_tf(texts)
        session.run(tf.compat.v1.tables_initializer())
        fetches = (ids.flat_values, ids.row_splits)
        total = text.documents[split]
        with tqdm.tqdm(total=total, desc="tokenizing", unit=" documents", leave=False) as bar:
            while batch := list(itertools.islice(documents, _BATCH)):
                values, splits = session.run(fetches, {texts: batch})
                yield from np.split(values, splits[1:-1])
                bar.update(len(batch))

"""Divides documents into a training and a validation split by their hash, and stores them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)
VALIDATION_PERCENT = 2


def split_documents(documents: Iterable[str]) -> dict[Split, list[str]]:
    """Removes empty and repeated documents and divides the rest by their hash.

    Documents that differ only in white space count as repeats, and the first one is kept. A
    document's split depends only on its text. Each split is sorted by hash, so its order does
    not depend on the origin of the documents.

    Returns:
      The documents of each split. Validation has about `VALIDATION_PERCENT` percent of them,
      and at least one if there are two or more.
    """
    distinct: dict[bytes, str] = {}
    for document in documents:
        if any(map(str.isalnum, document)):
            distinct.setdefault(document_digest(document), document)
    digests = sorted(distinct)
    held_out = {digest for digest in digests if is_for_validation(digest)}
    if not held_out and len(digests) > 1:
        held_out = {digests[0]}
    return {
        "train": [distinct[digest] for digest in digests if digest not in held_out],
        "validation": [distinct[digest] for digest in digests if digest in held_out],
    }


def document_digest(document: str) -> bytes:
    """Returns the SHA-256 hash of a document, which does not depend on its white space."""
    return hashlib.sha256(" ".join(document.split()).encode("utf-8")).digest()


def is_for_validation(digest: bytes) -> bool:
    """Returns whether the document with this digest is kept out of training."""
    # The last bytes, because the first ones decide the order within a split.
    return int.from_bytes(digest[-4:], "big") % 100 < VALIDATION_PERCENT


def write_documents(file: Path, documents: Iterable[str]) -> None:
    """Writes a TFRecord file with one utf-8 document per record."""
    import tensorflow as tf  # here, so that importing this module is cheap

    with tf.io.TFRecordWriter(str(file)) as writer:
        for document in documents:
            writer.write(document.encode("utf-8"))


def read_documents(file: Path) -> Iterator[str]:
    """Yields the documents of a TFRecord file.

    tf.data cannot be used here: a corpus may first be needed inside a TensorFlow 1 graph. The
    records' checksums are skipped, because the whole file was checked against its hash.
    """
    with open(file, "rb") as records:
        while True:
            header = records.read(12)  # length (8 bytes, little endian), its checksum (4)
            if not header:
                return
            (length,) = struct.unpack("<Q", header[:8])
            yield records.read(length).decode("utf-8")
            records.read(4)  # checksum of the text

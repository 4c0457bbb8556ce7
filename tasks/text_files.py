"""A user's own text: utf-8 files, cut into documents at blank lines."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mtf_switch.errors import UserError

# Paragraphs are grouped to about this many characters (some 500 tokens): short enough that
# a single book divides into training and validation text.
DOCUMENT_CHARACTERS = 2_000

# The text is sorted in memory; this much needs about five times as much of it.
MAX_BYTES = 2 * 1024**3

# Raise this whenever the cutting changes what it yields: caches are keyed by it.
CUTTING_VERSION = 1

_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class TextFiles:
    """The text of the files that match any of some globs.

    Attributes:
      patterns: paths or globs; `**` stands for any folders.
    """

    patterns: tuple[str, ...]

    def identity(self) -> dict:
        """Everything that decides the text, for JSON: what a cache is keyed by.

        The files' contents count, not their names or dates.
        """
        return {
            "cutting": CUTTING_VERSION,
            "files": sorted(_sha256_of_file(path) for path in self.paths()),
        }

    def documents(self) -> Iterator[str]:
        """Yields documents by path and place in the file; repeats included.

        Raises:
          UserError: as `paths` does, and if a file is not utf-8.
        """
        for path in self.paths():
            yield from split_into_documents(_read_utf8(path))

    def paths(self) -> list[str]:
        """Returns the matching files, sorted.

        Raises:
          UserError: if a pattern matches no file or there is too much text for memory.
        """
        paths = sorted({path for pattern in self.patterns for path in _matches(pattern)})
        total = sum(map(os.path.getsize, paths))
        if total > MAX_BYTES:
            raise UserError(
                f"A corpus of text files is held in memory, so it may have {MAX_BYTES:,} "
                f"bytes; {len(paths):,} files have {total:,}. Give fewer files, or make a "
                "TFDS dataset of them and train on a seqio Task that reads it."
            )
        return paths

    def too_little(self, found: str) -> str:
        """The error for too little text, where `found` says how much there is."""
        patterns = ", ".join(self.patterns)
        return f"{found} in {len(self.paths()):,} files ({patterns}). Give more text."


def split_into_documents(text: str, size: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Groups paragraphs into documents of at most about `size` characters.

    A longer paragraph is cut at the end of a line, else at a space, else anywhere.

    Args:
      text: any text, with any line endings.
      size: characters in a document, the blank lines between paragraphs not counted.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    group: list[str] = []
    length = 0
    for paragraph in _BLANK_LINES.split(text):
        for piece in filter(None, _cut(paragraph.strip(), size)):
            if group and length + len(piece) > size:
                yield "\n\n".join(group)
                group, length = [], 0
            group.append(piece)
            length += len(piece)
    if length:
        yield "\n\n".join(group)


def _cut(paragraph: str, size: int) -> Iterator[str]:
    """Yields `paragraph` in pieces of at most `size` characters."""
    start = 0
    while len(paragraph) - start > size:
        end = start + size
        cut = paragraph.rfind("\n", start + 1, end)
        if cut < 0:
            cut = paragraph.rfind(" ", start + 1, end)
        if cut < 0:
            cut = end
        yield paragraph[start:cut].strip()
        start = cut
    yield paragraph[start:].strip()


def _matches(pattern: str) -> list[str]:
    """Returns the files that one pattern matches."""
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
    files = [path for path in found if os.path.isfile(path)]
    if files:
        return files
    if found:
        raise UserError(
            f"{pattern!r} matches a folder and no file. Name the files in it, for example "
            f"'{found[0].rstrip('/')}/*.txt', or '{found[0].rstrip('/')}/**/*.txt' for "
            "those in its subfolders too."
        )
    raise UserError(
        f"No file matches {pattern!r} (looked from {os.getcwd()}). Give a path or a glob "
        "of utf-8 text files, in quotes so that the shell leaves it alone."
    )


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(
            f"The text file {path} cannot be read: {error.strerror}. Mend that, or leave "
            "the file out of the pattern."
        ) from error


def _read_utf8(path: str) -> str:
    """Returns a file's text without a byte order mark."""
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding = "UTF-16" if is_utf16 else "LATIN1"
        raise UserError(
            f"{path} is not utf-8: byte 0x{content[error.start]:02x} at offset "
            f"{error.start:,} ({error.reason}). If it is {encoding}, convert it: "
            f"iconv -f {encoding} -t UTF-8 '{path}' > '{path}.utf8'."
        ) from error
    return text[1:] if text.startswith("\ufeff") else text


def _sha256_of_file(path: str) -> str:
    return hashlib.sha256(_read_bytes(path)).hexdigest()

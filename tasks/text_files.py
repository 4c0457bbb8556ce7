"""The user's own text: utf-8 files that are cut into documents at blank lines."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mtf_switch.errors import UserError, not_utf8

# Paragraphs are grouped into documents of about this many characters (some 500 tokens), which
# is short enough to divide a single book into training and validation text.
DOCUMENT_CHARACTERS = 2_000

# The text is sorted in memory, which takes about five times its size.
MAX_BYTES = 2 * 1024**3

# Increase this whenever the cutting yields something else, because it is part of cache keys.
CUTTING_VERSION = 1

_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class TextFiles:
    """The text of all files that match at least one pattern.

    Attributes:
      patterns: Paths or globs, in which `**` matches any folders.
    """

    patterns: tuple[str, ...]

    def identity(self) -> dict:
        """Returns everything that decides the text, as JSON values, to key the cache by.

        The contents of the files decide, not their names or dates.
        """
        return {"cutting": CUTTING_VERSION, "files": sorted(self.versions().values())}

    def versions(self) -> dict[str, str]:
        """Returns the SHA-256 of each file by its path."""
        return {path: _hash_file(path) for path in self.paths()}

    def documents(self) -> Iterator[str]:
        """Yields all documents, ordered by path and place in the file, including repeats.

        Raises:
          UserError: If a file is not utf-8, and in the cases of `paths`.
        """
        for path in self.paths():
            try:
                text = _read_bytes(path).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise not_utf8(path, error) from error
            yield from split_into_documents(text)

    def paths(self) -> list[str]:
        """Returns the matching files, sorted.

        Raises:
          UserError: If a pattern matches no file, or the files are too large for memory.
        """
        paths = sorted({path for pattern in self.patterns for path in _find_matches(pattern)})
        total = sum(map(os.path.getsize, paths))
        if total > MAX_BYTES:
            raise UserError(
                f"A corpus of text files must fit into memory, so it may have {MAX_BYTES:,} "
                f"bytes; {len(paths):,} files have {total:,}. Pass fewer files, or make a "
                "TFDS dataset of them and train on a seqio Task that reads it."
            )
        return paths

    def shortage_message(self, found: str) -> str:
        """Returns the error message for too little text; `found` says how much there is."""
        patterns = ", ".join(self.patterns)
        return f"{found} in {len(self.paths()):,} files ({patterns}). Add more text."


def split_into_documents(text: str, size: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Yields documents: groups of paragraphs with at most about `size` characters.

    A longer paragraph is cut at the end of a line if possible, else at a space, else anywhere.

    Args:
      text: Any text, with any line endings.
      size: Characters in a document, not counting the blank lines between paragraphs.
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


def _find_matches(pattern: str) -> list[str]:
    """Returns the files that match one pattern, or raises UserError if none does."""
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
        f"No file matches {pattern!r} (looked from {os.getcwd()}). Pass a path or a glob "
        "of utf-8 text files, in quotes so that the shell leaves it alone."
    )


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(
            f"The text file {path} cannot be read: {error.strerror}. Make it readable, or "
            "leave it out of the pattern."
        ) from error


def _hash_file(path: str) -> str:
    return hashlib.sha256(_read_bytes(path)).hexdigest()

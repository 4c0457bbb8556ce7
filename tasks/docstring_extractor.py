"""Extracts the docstrings of Python files: the script that `tasks.docstrings` runs.

It uses the standard library only and does not import the files that it reads, so a new
interpreter is ready in milliseconds. It can be started from anywhere: a program that has loaded
TensorFlow, a notebook, or a script without an `if __name__ == "__main__"`.

It reads a JSON list of paths from standard input and writes a JSON list to standard output. For
each path, that list contains the file's docstrings in order. Each docstring is a pair of the
documented name within its module ("Class.method", or "" for the module itself) and the text.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterator

# Larger files are generated tables: megabytes to parse, with hardly any docstrings.
MAX_SOURCE_BYTES = 1_500_000

# A docstring is kept if it is English prose: it has enough words, it consists mostly of letters
# rather than digits and lines, and it has the function words that lists lack.
MIN_WORDS = 20
MIN_SHARE_OF_LETTERS = 0.6
MIN_SHARE_OF_FUNCTION_WORDS = 0.1
_WORD = re.compile(r"[A-Za-z]{2,}")
_FUNCTION_WORD = re.compile(
    r"\b(an|and|are|as|be|by|for|from|if|in|is|it|not|of|on|or|that|the|this|to|with)\b",
    re.IGNORECASE,
)

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FIELDS_OF_STATEMENTS = ("body", "handlers", "orelse", "finalbody", "cases")


def extract_docstrings(source: bytes) -> list[tuple[str, str]]:
    """Returns the (name, text) pairs of a file's prose docstrings.

    The list is empty if the file is too large or is not valid Python.

    Args:
      source: The bytes of the file, in the encoding that it declares.
    """
    if len(source) > MAX_SOURCE_BYTES:
        return []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    cleaned = ((name, inspect.cleandoc(text)) for name, text in _walk_docstrings(tree))
    return [(name, text) for name, text in cleaned if is_prose(text)]


def is_prose(text: str) -> bool:
    """Returns whether `text` is English prose, judged by its words, letters, function words."""
    words = _WORD.findall(text)
    if len(words) < MIN_WORDS or not _is_encodable(text):
        return False
    letters = sum(map(len, words))
    visible = len("".join(text.split()))
    function_words = len(_FUNCTION_WORD.findall(text))
    return (
        letters >= MIN_SHARE_OF_LETTERS * visible
        and function_words >= MIN_SHARE_OF_FUNCTION_WORDS * len(words)
    )


def _walk_docstrings(node: ast.AST, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields (name, text) pairs in the order of the file, without cleaning the text.

    It visits only statements. `ast.walk` would visit every expression as well, which takes as
    long as parsing.
    """
    if isinstance(node, _DOCUMENTED):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield name, text
    for field in _FIELDS_OF_STATEMENTS:
        for child in getattr(node, field, ()):
            inner = getattr(child, "name", None) if isinstance(child, _DOCUMENTED) else None
            below = f"{name}.{inner}" if name and inner else inner or name
            yield from _walk_docstrings(child, below)


def _is_encodable(text: str) -> bool:
    """Returns False for a lone surrogate, which an escape such as "\\ud800" makes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: str) -> bytes:
    """Returns the file's bytes, or b"" if an installed package lists a file it lacks."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def main() -> None:
    """Reads one list of paths and writes the docstrings of their files."""
    warnings.simplefilter("ignore")  # other projects' invalid escapes
    gc.disable()  # parsing is 1.4x faster, and syntax trees hold few reference cycles
    paths = json.load(sys.stdin)
    json.dump([extract_docstrings(_read(path)) for path in paths], sys.stdout)


if __name__ == "__main__":
    main()

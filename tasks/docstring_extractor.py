"""Reads the docstrings out of Python files: the script that `tasks.docstrings` runs.

It needs the standard library only and imports nothing of what it reads, so that a fresh
interpreter is ready in milliseconds, wherever it is started from (a program that has loaded
TensorFlow, a notebook, a script without an `if __name__ == "__main__"`).

Standard input: a JSON list of paths. Standard output: a JSON list with, for each path, the
list of its docstrings in the order of the file, each a pair: the name in its module of what is
documented ("Class.method"; "" for the module itself), and the text.
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

# Larger files are tables written by a program: megabytes to parse, hardly a docstring.
MAX_SOURCE_BYTES = 1_500_000

# A docstring is kept if it reads as English prose: enough words, made of letters rather
# than of digits and rulers, with the small words that only sentences have.
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


def docstrings_of(source: bytes) -> list[tuple[str, str]]:
    """Returns names and prose docstrings of a file, or none if it is too large or not Python.

    Args:
      source: the file as it lies on disk; Python's own rules decide its encoding.
    """
    if len(source) > MAX_SOURCE_BYTES:
        return []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    cleaned = ((name, inspect.cleandoc(text)) for name, text in _raw_docstrings(tree))
    return [(name, text) for name, text in cleaned if is_prose(text)]


def is_prose(text: str) -> bool:
    """Whether `text` has enough English words to teach a language model something."""
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


def _raw_docstrings(node: ast.AST, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields names and docstrings in the order of the file.

    Only statements are visited: `ast.walk` would also visit every expression, which takes
    as long as parsing.
    """
    if isinstance(node, _DOCUMENTED):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield name, text
    for field in _FIELDS_OF_STATEMENTS:
        for child in getattr(node, field, ()):
            inner = getattr(child, "name", None) if isinstance(child, _DOCUMENTED) else None
            below = f"{name}.{inner}" if name and inner else inner or name
            yield from _raw_docstrings(child, below)


def _is_encodable(text: str) -> bool:
    """False for the lone surrogates that "\\ud800" in a docstring makes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: str) -> bytes:
    """Returns the file's bytes, or none for a file that the installer's record misses."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def main() -> None:
    """Answers one list of paths."""
    warnings.simplefilter("ignore")  # about other people's invalid escapes
    gc.disable()  # syntax trees hold no cycles worth a search; parsing is 1.4x faster
    paths = json.load(sys.stdin)
    json.dump([docstrings_of(_read(path)) for path in paths], sys.stdout)


if __name__ == "__main__":
    main()

"""Reads the user's gin files and bindings on the command line, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtf_switch.config import gin_files, gin_statements
from mtf_switch.config.gin_statements import Binding


def read(files: Sequence[str], params: Sequence[str]) -> list[Binding]:
    """Reads the bindings of gin files, with the files that they include, and of the flags.

    Args:
      files: Values of --gin_file.
      params: Values of --gin_param.

    Returns:
      The bindings in gin's order: the last binding of a name wins.

    Raises:
      UserError: If a text is not gin.
    """
    bindings = [binding for file in files for binding in _read_file(file)]
    for param in params:
        bindings += gin_statements.read_bindings(param, f"--gin_param={param!r}")
    return bindings


def _read_file(file: str) -> Iterator[Binding]:
    path = gin_files.find_file(file)
    if path is None:  # gin will report it
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for included in gin_statements.read_includes(text, f"The gin file {path}"):
        yield from _read_file(included)
    yield from gin_statements.read_bindings(text, f"The gin file {path}")

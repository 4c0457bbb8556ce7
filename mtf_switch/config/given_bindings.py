"""Reads the user's gin files and bindings on the command line, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mtf_switch.config import gin_files, gin_statements
from mtf_switch.config.gin_statements import Binding
from mtf_switch.errors import UserError


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
    bindings = [binding for file in files for _, binding in read_file(file)]
    for param in params:
        bindings += gin_statements.read_bindings(param, f"--gin_param={param!r}")
    return bindings


def read_file(file: str, included_by: tuple[Path, ...] = ()) -> Iterator[tuple[Path, Binding]]:
    """Yields the bindings of a gin file and of the files that it includes, in gin's order.

    Each comes with the path of the file that holds it.

    Args:
      file: Value of --gin_file, or the name in an include statement.
      included_by: The files whose include statements lead to it.

    Raises:
      UserError: If a text is not gin, or a file includes itself.
    """
    path = gin_files.find_file(file)
    if path is None:  # gin will report it
        return
    if path in included_by:
        raise UserError(
            f"The gin file {path} includes itself, directly or by way of other files. Remove "
            "that include statement."
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    for statement in gin_statements.read_in_order(text, f"The gin file {path}"):
        if isinstance(statement, Binding):
            yield path, statement
        else:
            yield from read_file(statement, (*included_by, path))

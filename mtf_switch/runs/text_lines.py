"""Text files of one input, target or result per line."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mtf_switch import whole_file
from mtf_switch.errors import UserError


def read_lines(path: str) -> list[str]:
    """Returns the lines of a utf-8 text file, without their newlines.

    Raises:
      UserError: If the file is missing, empty, or not utf-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            # str.splitlines would also split at form feeds and the like.
            lines = file.read().split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not utf-8 (byte {error.start}). Convert it: iconv -t utf-8 {path}"
        ) from error
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path} has no lines, so there is nothing to do.")
    return lines


def check_writable(path: str) -> None:
    """Checks that a file can be written, before the work whose result it gets.

    Raises:
      UserError: If its folder does not exist, or the file cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(
            f"{path} cannot be written: there is no folder {folder}. Make it first."
        )
    if not os.access(path if os.path.exists(path) else folder, os.W_OK) or os.path.isdir(path):
        raise UserError(f"{path} cannot be written. Choose another --output_file.")


def write_lines(path: str, lines: Iterable[str]) -> None:
    """Writes lines of text, all of them or none."""
    text = "".join(line + "\n" for line in lines)
    if _is_replaceable(path):
        whole_file.write_text(os.path.realpath(path), text)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def _is_replaceable(path: str) -> bool:
    """Whether a new file can take the place of `path`.

    It cannot where `path` is a pipe or a device such as /dev/stdout, or where only the file
    is writable and not its folder.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        return False
    return os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)

r"""Reads text files with one input or target per line.

A line ends at "\n". A "\r" directly before it belongs to the line end, as in Windows files. No
other character ends a line: a lone "\r", a form feed or U+2028 is a character of its line.
"""

from __future__ import annotations

import re

from mtf_switch.errors import UserError, not_utf8

_END = re.compile(r"\r?\n")


def read_lines(path: str) -> list[str]:
    """Returns the lines of a utf-8 text file, without line ends.

    Raises:
      UserError: If the file is missing, empty, or not utf-8.
    """
    try:
        # Bytes, because in a text file Python would turn each "\r" into "\n".
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        lines = _END.split(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path} has no lines, so there is nothing to do.")
    return lines


def to_one_line(text: str) -> str:
    r"""Returns a text as one line: spaces replace "\n" and "\r".

    A "\r" does not end a line, but at the end of a line it would be read as part of the end.
    """
    return re.sub(r"\r\n|[\r\n]", " ", text)

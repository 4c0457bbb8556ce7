"""Decodes the user's text files. Importing this module is cheap."""

from __future__ import annotations

import os

from mtf_switch.errors import UserError


def decode(path: str, content: bytes) -> str:
    """Decodes the content of a utf-8 file, without a byte order mark.

    Args:
      path: The path of the file, for the message.
      content: Its bytes.

    Raises:
      UserError: If it is not utf-8. The message has the line, and a command that converts it.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding = "UTF-16" if is_utf16 else "LATIN1"
        stem, ending = os.path.splitext(path)
        raise UserError(
            f"{path}, line {line}: it is not utf-8 (byte 0x{content[error.start]:02x}). If it "
            f"is {encoding}, convert it: iconv -f {encoding} -t UTF-8 '{path}' > "
            f"'{stem}.utf8{ending}'."
        ) from error

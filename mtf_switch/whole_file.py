"""Writes files that are either complete or absent, as a run can be killed at any time."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from typing import IO, Any


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file."""
    with open_for_writing(path) as file:
        file.write(text)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a binary file."""
    with open_for_writing(path, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def open_for_writing(
    path: str | os.PathLike[str], mode: str = "w", newline: str | None = None
) -> Iterator[IO[Any]]:
    """Opens a file that replaces `path` when the `with` block ends.

    Until then, and if the block raises, `path` keeps its old content. Several processes may
    write to the same path: each has its own temporary file, and the last one wins.

    Args:
      path: The file to write.
      mode: "w" for UTF-8 text, "wb" for bytes.
      newline: See `open`.
    """
    part = f"{os.fspath(path)}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part"
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(part, mode, encoding=encoding, newline=newline) as file:
            yield file
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Removes the temporary files that killed processes of this machine left in a folder.

    The name of a temporary file contains its machine's name and its process id. The files of
    other machines and of running processes stay.
    """
    part = re.compile(rf".*\.{re.escape(_host())}-(\d+)-[0-9a-f]{{8}}\.part\Z")
    for name in os.listdir(folder):
        match = part.match(name)
        if match and not is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, name))


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())


def is_alive(process: int) -> bool:
    """Returns whether a process with this id runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process of another user
        return True
    return True

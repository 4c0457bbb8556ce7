"""Writes files that are either complete or absent, because a run can be killed at any time.

Files and folders may be on this machine, or at an address such as gs://bucket/run. Only
addresses need TensorFlow, which is imported at the first use of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
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
      newline: See `open`; only for a file on this machine.
    """
    if is_address(path):
        with _open_address(os.fspath(path), mode) as file:
            yield file
        return
    part = name_part(os.fspath(path))
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(part, mode, encoding=encoding, newline=newline) as file:
            yield file
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


def name_part(path: str) -> str:
    """Names a temporary file or folder beside a path. No other call returns the same name."""
    # Processes of two containers may have the same id.
    return f"{path}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part"


def remove_leftovers(folder: str) -> None:
    """Removes the temporary files and folders that killed processes of this machine left.

    Their names contain the machine's name and the process id. Those of other machines and of
    running processes stay, and so does what cannot be listed or removed.

    Args:
      folder: The folder that contains them. It need not exist.
    """
    part = re.compile(rf".*\.{re.escape(_host())}-(\d+)-[0-9a-f]{{8}}\.part\Z")
    names = []
    with contextlib.suppress(OSError):
        names = list_names(folder)
    for name in names:
        match = part.match(name)
        if match and not is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                _remove(os.path.join(folder, name))


@contextlib.contextmanager
def temporary_folder(path: str) -> Iterator[str]:
    """Makes a temporary folder beside a path on this machine, and removes it at the end.

    Leftovers of killed processes beside it are removed first; see `remove_leftovers`.

    Args:
      path: What the folder is to become. The block renames it when it is complete.

    Yields:
      The folder.

    Raises:
      OSError: If it cannot be created.
    """
    part = name_part(os.path.abspath(path))
    remove_leftovers(os.path.dirname(part))
    os.makedirs(part)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def set_aside(path: str, reason: str) -> str:
    """Gives a file on this machine another name, so that nothing is lost.

    Another process may do so at the same time, and then has given it that name.

    Args:
      path: The file.
      reason: A word that the new name contains, such as "damaged".

    Returns:
      The new path, which did not exist before.
    """
    aside = next(
        name for i in range(1, 10_000) if not os.path.exists(name := f"{path}.{reason}-{i}")
    )
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
    return aside


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


def is_address(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is an address, which is not on this machine."""
    return "://" in os.fspath(path)


def make_absolute(path: str | os.PathLike[str]) -> str:
    """Returns the absolute path; an address as it is."""
    return os.fspath(path) if is_address(path) else os.path.abspath(path)


def make_folder(folder: str) -> None:
    """Creates a folder and those above it; existing ones stay.

    Raises:
      OSError: If it cannot be created.
    """
    if not is_address(folder):
        os.makedirs(folder, exist_ok=True)
        return
    with _as_os_errors(folder) as gfile:
        gfile.makedirs(folder)


def list_names(folder: str) -> list[str]:
    """Lists the names of the files and folders in a folder; none if there is no such folder."""
    if not is_address(folder):
        return os.listdir(folder) if os.path.isdir(folder) else []
    with _as_os_errors(folder) as gfile:
        names = gfile.listdir(folder) if gfile.isdir(folder) else []
    return [name.rstrip("/") for name in names]


def exists(path: str) -> bool:
    """Returns whether there is a file or folder of this name."""
    if not is_address(path):
        return os.path.exists(path)
    with _as_os_errors(path) as gfile:
        return gfile.exists(path)


def _remove(path: str) -> None:
    """Removes a file, or a folder with all that it contains."""
    if not is_address(path):
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        (shutil.rmtree if is_folder else os.remove)(path)
        return
    with _as_os_errors(path) as gfile:
        (gfile.rmtree if gfile.isdir(path) else gfile.remove)(path)


def read_text(path: str) -> str:
    """Reads a UTF-8 text file.

    Raises:
      OSError: If it cannot be read.
      UnicodeDecodeError: If it is not UTF-8.
    """
    if not is_address(path):
        with open(path, encoding="utf-8") as file:
            return file.read()
    return read_bytes(path).decode("utf-8")


def read_bytes(path: str) -> bytes:
    """Reads a binary file.

    Raises:
      OSError: If it cannot be read.
    """
    if not is_address(path):
        with open(path, "rb") as file:
            return file.read()
    with _as_os_errors(path) as gfile, gfile.GFile(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def _open_address(path: str, mode: str) -> Iterator[IO[Any]]:
    """Opens a file at an address that replaces the old one when the `with` block ends.

    Args:
      path: The address.
      mode: "w" for UTF-8 text, "wb" for bytes.

    Raises:
      OSError: If it cannot be written.
    """
    part = name_part(path)
    with _as_os_errors(path) as gfile:
        try:
            with gfile.GFile(part, mode) as file:
                yield file
            gfile.rename(part, path, overwrite=True)
        finally:
            if gfile.exists(part):
                gfile.remove(part)


@contextlib.contextmanager
def _as_os_errors(path: str) -> Iterator[Any]:
    """Gives TensorFlow's functions for files, and turns their errors into OSErrors."""
    import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    except tf.errors.OpError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(errno.EIO, reason, path) from error

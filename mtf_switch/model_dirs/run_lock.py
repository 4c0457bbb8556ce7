"""Keeps two training runs out of one model_dir, with a lock file that names the first run.

The operating system releases the lock when the process ends, even if it is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mtf_switch import whole_file
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError

FILE = "train.lock"


class HeldError(UserError):
    """Another process has the lock of a folder.

    Attributes:
      lock_file: The lock file, if its owner is on another machine, where it can have ended
        without having removed the file; "" if the lock ends with its owner.
    """

    def __init__(self, message: str, lock_file: str):
        super().__init__(message)
        self.lock_file = lock_file


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
      host: Name of its machine.
      process: Its id.
      boot: Identifies the running kernel, which containers of one machine share.
    """

    host: str
    process: int
    boot: str

    @classmethod
    def this_process(cls) -> Owner:
        """Describes the process that calls this."""
        boot = Path("/proc/sys/kernel/random/boot_id")
        return cls(
            socket.gethostname(), os.getpid(), boot.read_text().strip() if boot.exists() else ""
        )

    def is_on_this_machine(self) -> bool:
        """Whether the process is, or was, on this machine, where its locks can be seen."""
        here = Owner.this_process()
        return self.host == here.host or (bool(self.boot) and self.boot == here.boot)


@contextlib.contextmanager
def hold(model_dir: str) -> Iterator[None]:
    """Holds the lock of a model_dir, which is created if it does not exist.

    The lock of a dead process of this machine is taken over. Folders such as gs://... have no
    lock.

    Raises:
      HeldError: If another process trains there.
      UserError: If the folder cannot be written.
    """
    if whole_file.is_address(model_dir):
        yield
        return
    path = os.path.join(model_dir, FILE)
    with saved_config.explain_write_errors(model_dir):
        os.makedirs(model_dir, exist_ok=True)
        file = _acquire(model_dir, path)
    try:
        yield
    finally:
        # The file is removed before the lock is released, so a waiting process sees that it is
        # gone.
        with contextlib.suppress(OSError):
            os.remove(path)
        file.close()


def check_free(model_dir: str) -> None:
    """Checks that no other process trains in a model_dir, before any work is done.

    Raises:
      HeldError: If another process does.
    """
    path = os.path.join(model_dir, FILE)
    try:
        file = open(path, "r+", encoding="utf-8")  # noqa: SIM115
    # Without a lock that can be opened, `hold` decides. The run that has it may remove it.
    except OSError:
        return
    with file:
        _lock(file, model_dir)


def _acquire(model_dir: str, path: str) -> IO[str]:
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            _lock(file, model_dir)
            if _is_at(file, path):
                file.truncate(0)
                json.dump(dataclasses.asdict(Owner.this_process()), file)
                file.flush()
                return file
            # The run that held the lock removed the file in the meantime.
            file.close()
        except BaseException:
            file.close()
            raise


def _lock(file: IO[str], model_dir: str) -> None:
    """Locks an open lock file, or raises a HeldError that names its owner."""
    owner = _read_owner(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = owner is None or owner.is_on_this_machine()
    except BlockingIOError:
        free = False
    except OSError:
        # The file system has no locks, so the process id decides.
        free = owner is None or (
            owner.is_on_this_machine() and not whole_file.is_alive(owner.process)
        )
    if not free:
        who = f"Process {owner.process} on {owner.host}" if owner else "Another process"
        elsewhere = owner is not None and not owner.is_on_this_machine()
        lock_file = f"{model_dir}/{FILE}" if elsewhere else ""
        raise HeldError(
            f"{who} trains in {model_dir}: wait until it has ended or choose another "
            "--model_dir." + (f" If it has ended, remove {lock_file}." if elsewhere else ""),
            lock_file,
        )


def _read_owner(file: IO[str]) -> Owner | None:
    file.seek(0)
    try:
        return Owner(**json.load(file))
    # The process was killed before it wrote the file, or the file is damaged.
    except (ValueError, TypeError, RecursionError):
        return None


def _is_at(file: IO[str], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False

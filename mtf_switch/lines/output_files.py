"""Writes the output files of commands, such as `predict`, whose paths users choose.

A file from another program or another command is replaced only on request. The project's cache
records the path and the content of each written file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from tasks import text_cache


@dataclasses.dataclass(frozen=True)
class OutputFile:
    """A text file to write.

    Attributes:
      path: Its path. It may be a pipe or a device, such as /dev/stdout.
      command: The command that writes it, such as "predict".
      overwrite: Whether it may replace any file: the flag --overwrite.
    """

    path: str
    command: str
    overwrite: bool = False

    def check(self, inputs: Sequence[str] = ()) -> None:
        """Checks that the file can be written, before its content is computed.

        Args:
          inputs: The paths of the files that the command reads.

        Raises:
          UserError: If its folder does not exist, if it cannot be written, if it is one of the
            inputs, or if it already exists and this command did not write it.
        """
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(folder):
            raise UserError(
                f"{self.path} cannot be written: there is no folder {folder}. Create it first."
            )
        exists = os.path.exists(self.path)
        if not os.access(self.path if exists else folder, os.W_OK) or os.path.isdir(self.path):
            raise UserError(f"{self.path} cannot be written. Choose another file.")
        if not os.path.isfile(self.path):
            return
        for path in inputs:
            if os.path.exists(path) and os.path.samefile(path, self.path):
                raise UserError(
                    f"{self.path} would be overwritten: the command reads the same file as "
                    f"{path}. Choose another file for the output."
                )
        if not self.overwrite and os.path.getsize(self.path) and not self._is_remembered():
            raise UserError(
                f"{self.path} exists, and {self.command} did not write it, or it was changed "
                "since. Choose another file for the output, or pass --overwrite to replace it."
            )

    def write_lines(self, lines: Iterable[str]) -> None:
        """Writes lines of text, all of them or none."""
        self.write_text("".join(line + "\n" for line in lines))

    def write_text(self, text: str) -> None:
        """Writes a text, all of it or nothing."""
        if self._is_replaceable():
            whole_file.write_text(os.path.realpath(self.path), text)
        else:
            with open(self.path, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
        if os.path.isfile(self.path):
            self.remember()

    def _is_replaceable(self) -> bool:
        """Whether a new file can take the place of this one.

        It cannot if this is a pipe or a device, or if the file is writable but its folder is
        not.
        """
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            return False
        return os.access(os.path.dirname(os.path.realpath(self.path)), os.W_OK)

    def _record(self) -> Path:
        """Returns the file in the cache with the fingerprint of the written content."""
        identity = {"command": self.command, "path": os.path.realpath(self.path)}
        key = text_cache.cache_key(identity)
        return text_cache.cache_directory() / "outputs" / f"{key}.json"

    def remember(self) -> None:
        """Records that the command has written the file as it is now."""
        # Without a cache, the next call requires --overwrite.
        with contextlib.suppress(OSError):
            record = self._record()
            record.parent.mkdir(parents=True, exist_ok=True)
            fingerprint = text_cache.compute_fingerprint(Path(self.path))
            text_cache.write_json(record, fingerprint)

    def _is_remembered(self) -> bool:
        fingerprint = text_cache.read_json(self._record())
        return text_cache.matches_fingerprint(Path(self.path), fingerprint)

"""Prepared text in the cache: its folder, its files, their names and their fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mtf_switch import whole_file
from mtf_switch.errors import UserError, suggest_names
from tasks import document_split
from tasks.document_split import SPLITS, Split


@dataclass(frozen=True)
class PreparedText:
    """The documents of a corpus on disk, ready for use.

    Attributes:
      folder: The folder with all files, and a manifest.json that records how they were made.
      documents: split -> number of documents.
      characters: split -> number of characters.
    """

    folder: Path
    documents: dict[str, int]
    characters: dict[str, int]

    @property
    def train_file(self) -> Path:
        """TFRecord file of the training documents in utf-8, sorted by their hash."""
        return self.split_file("train")

    @property
    def validation_file(self) -> Path:
        """TFRecord file of the validation documents; none of them is in `train_file`."""
        return self.split_file("validation")

    def split_file(self, split: Split) -> Path:
        """Returns the TFRecord file of a split.

        Raises:
          UserError: If there is no such split.
        """
        if split not in SPLITS:
            raise UserError(
                f"A text corpus has the splits {' and '.join(SPLITS)}, not {split!r}."
                f"{suggest_names(split, SPLITS)}"
            )
        return self.folder / f"{split}.tfrecord"


def cache_directory() -> Path:
    """Returns the folder that holds all prepared text.

    It is `$MTF_SWITCH_CACHE` if that environment variable is set, else
    `$XDG_CACHE_HOME/mtf_switch`, else `~/.cache/mtf_switch`. You can delete any of its content,
    which is made again when it is needed.
    """
    chosen = os.environ.get("MTF_SWITCH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "mtf_switch"


def cache_key(identity: dict) -> str:
    """Returns 16 hexadecimal digits that change with `identity`, to name a file or folder.

    Args:
      identity: Everything that decides the content, as JSON values.
    """
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def compute_fingerprint(file: Path) -> dict:
    """Returns {"bytes": size, "sha256": hash} of a file."""
    hashed = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return {"bytes": file.stat().st_size, "sha256": hashed.hexdigest()}


def matches_fingerprint(file: Path, fingerprint: dict) -> bool:
    """Returns whether `file` exists with the recorded size and hash.

    Args:
      file: Any path.
      fingerprint: The result of `compute_fingerprint`. Further keys are ignored, and an empty
        fingerprint matches no file.
    """
    if not fingerprint or not file.is_file():
        return False
    if file.stat().st_size != fingerprint.get("bytes"):
        return False
    return compute_fingerprint(file)["sha256"] == fingerprint.get("sha256")


def read_json(file: Path) -> dict:
    """Returns the object in `file`, or {} if the file is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def get_object(content: dict, name: str) -> dict:
    """Returns an object in a JSON object; {} if it is missing or of another type."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def write_json(file: Path, content: dict) -> None:
    """Writes an object as indented JSON; the file is complete or absent."""
    whole_file.write_text(file, json.dumps(content, indent=2) + "\n")


def temporary_path(path: Path) -> Path:
    """Returns an unused path in the same folder, so that it can be renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


def print_status(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def print_reason(path: Path, reason_if_new: str) -> None:
    """Prints that `path` is damaged if it exists, and `reason_if_new` if it does not."""
    damaged = f"{path} is damaged: making it again"
    print_status(damaged if path.exists() else reason_if_new)


def write_split(file: Path, documents: list[str]) -> dict:
    """Writes the documents of a split, and returns its entry in a manifest."""
    document_split.write_documents(file, documents)
    return {
        "documents": len(documents),
        "characters": sum(map(len, documents)),
        **compute_fingerprint(file),
    }


def install_folder(
    temporary: Path, folder: Path, read_valid_manifest: Callable[[Path], dict | None]
) -> None:
    """Renames `temporary` to `folder`, unless another process has completed `folder` by now.

    Args:
      temporary: The complete new folder.
      folder: Its final name.
      read_valid_manifest: Returns the manifest of an undamaged folder, else None.
    """
    damaged = temporary.with_name(temporary.name + ".damaged")
    try:
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():
            raise
        if read_valid_manifest(folder):
            return
        os.replace(folder, damaged)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


@contextlib.contextmanager
def explain_errors(what: str, path: Path) -> Iterator[None]:
    """Turns an error of the file system into one that the user can fix.

    Args:
      what: What is kept in the cache, as the subject of the message.
      path: Its folder or its file in the cache.

    Raises:
      UserError: If a file cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what} cannot be kept in {path.parent}: {error}. Set the environment variable "
            "MTF_SWITCH_CACHE to a folder that you can write."
        ) from error

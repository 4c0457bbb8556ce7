"""Files in the cache of prepared text: their folder, their names and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from pathlib import Path

from mtf_switch import whole_file


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

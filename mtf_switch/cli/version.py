"""The flag --version: the versions of this project and of what it runs on."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import mtf_switch

_PACKAGE = Path(mtf_switch.__file__).parent
_OTHERS = ("tensorflow", "mesh-tensorflow", "t5", "seqio-nightly", "gin-config")


def describe() -> str:
    """Returns one line for each package, with the commit of this project."""
    own = f"mtf_switch {_find_version('mtf-switch')} (commit {find_commit()})"
    others = [f"{name} {_find_version(name)}" for name in _OTHERS]
    return "\n".join([own, f"Python {platform.python_version()}", *others])


def _find_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def find_commit() -> str:
    """Returns the commit of the code, with "and changes" if files differ from it.

    In a wheel, `setup.py` has written the commit into a file.
    """
    written = _PACKAGE / "commit.txt"
    if written.is_file():
        return written.read_text(encoding="utf-8").strip()
    if not (_PACKAGE.parent / ".git").exists():
        return "unknown"
    command = [
        "git",
        "-C",
        str(_PACKAGE.parent),
        "describe",
        "--always",
        "--dirty= and changes",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()

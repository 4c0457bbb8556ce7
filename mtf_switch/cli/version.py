"""The flag --version: the versions of this project and of what it runs on."""

from __future__ import annotations

import platform
from importlib import metadata

from mtf_switch import machine

_OTHERS = ("tensorflow", "mesh-tensorflow", "t5", "seqio-nightly", "gin-config")


def describe() -> str:
    """Returns one line for each package, with the commit of this project."""
    own = f"mtf_switch {_find_version('mtf-switch')} (commit {machine.find_commit()})"
    others = [f"{name} {_find_version(name)}" for name in _OTHERS]
    return "\n".join([own, f"Python {platform.python_version()}", *others])


def _find_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"

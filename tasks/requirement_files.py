"""Reads the requirements files that name the packages of the embedded and multilingual text."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def read_pins(path: Path) -> dict[str, str]:
    """Reads the packages that a requirements file pins for this Python and this machine.

    It skips packages whose environment marker excludes them, comments, and options of pip.

    Args:
      path: The file, in pip's format.

    Returns:
      Canonical name -> version, sorted by name.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If a line of it does not pin a package. The message has the line.
    """
    pins = {}
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        # Cut comments and options such as --hash.
        line = re.split(r"(?:^|\s)(?:#|--)", line)[0].strip()
        if not line or line.startswith("-"):
            continue
        requirement, version = _parse(line)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = version
    return dict(sorted(pins.items()))


def _parse(line: str) -> tuple[Requirement, str]:
    """Returns a requirement and the version that it pins."""
    try:
        requirement = Requirement(line)
        (pin,) = requirement.specifier
    except ValueError as error:
        raise ValueError(f"a line must read like 'name==version', not {line!r}") from error
    if pin.operator != "==":
        raise ValueError(f"a line must read like 'name==version', not {line!r}")
    return requirement, pin.version

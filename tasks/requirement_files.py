"""Reads the requirements files that name the packages of the embedded and multilingual text."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mtf_switch.errors import UserError


def read_pins(path: Path, text: str) -> dict[str, str]:
    """Reads the packages that a requirements file pins for this Python and this machine.

    It skips packages whose environment marker excludes them, comments, and options of pip.

    Args:
      path: The file, in pip's format.
      text: The text that is made from the packages, such as "embedded", for messages.

    Returns:
      Canonical name -> version, sorted by name.

    Raises:
      UserError: If the file cannot be read, or a line of it does not pin a package.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The {text} text is made from the packages in {path}, which cannot be read: "
            f"{error.strerror}. Run from a checkout of the repository."
        ) from error
    pins = {}
    for line in content.replace("\\\n", " ").splitlines():
        # Cut comments and options such as --hash.
        line = re.split(r"(?:^|\s)(?:#|--)", line)[0].strip()
        if not line or line.startswith("-"):
            continue
        requirement, version = _parse(path, line)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = version
    return dict(sorted(pins.items()))


def _parse(path: Path, line: str) -> tuple[Requirement, str]:
    """Returns a requirement and the version that it pins."""
    try:
        requirement = Requirement(line)
        (pin,) = requirement.specifier
    except (InvalidRequirement, ValueError) as error:
        reason = f": {error}" if isinstance(error, InvalidRequirement) else ""
        raise UserError(
            f"A line of {path} must read like 'name==version', not {line!r}{reason}."
        ) from error
    if pin.operator != "==":
        raise UserError(f"A line of {path} must read like 'name==version', not {line!r}.")
    return requirement, pin.version

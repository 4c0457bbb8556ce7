"""Checks the paths of a conversion, without TensorFlow."""

from __future__ import annotations

import os

from mtf_switch import whole_file
from mtf_switch.errors import UserError


def check(source: str, target: str, source_is_prefix: bool) -> None:
    """Checks that the source exists, and that the target does not.

    Args:
      source: Path of the checkpoint.
      target: Path of the folder to create.
      source_is_prefix: Whether the source may be the path of a Mesh TensorFlow checkpoint,
        without the extensions of its files.

    Raises:
      UserError: If a path is not on this machine, if the target exists, or if the source does
        not exist.
    """
    for path in (source, target):
        if whole_file.is_address(path):
            raise UserError(
                f"{path} is not on this machine. Copy it first, for example with "
                "`gsutil -m cp -r`."
            )
    if os.path.lexists(target):
        raise UserError(
            f"{target} already exists, and convert overwrites nothing. Choose a folder that "
            "does not exist yet."
        )
    is_prefix = source_is_prefix and os.path.isfile(f"{source}.index")
    if not os.path.isdir(source) and not is_prefix:
        raise UserError(f"There is no folder {source}.")

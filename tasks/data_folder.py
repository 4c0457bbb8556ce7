"""The folder with TFDS's data. This module does not import TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable

from mtf_switch.errors import UserError


def check_exists(data_dir: str, is_folder: Callable[[str], bool] = os.path.isdir) -> None:
    """Checks that a folder with TFDS's data exists.

    Args:
      data_dir: The folder.
      is_folder: Returns whether a path is a folder.

    Raises:
      UserError: If the folder does not exist.
    """
    if not is_folder(data_dir):
        raise UserError(
            f"There is no folder {data_dir}. --data_dir (tfds_data.data_dir) must name the "
            "folder with TFDS's data. Create it, or name another one."
        )
